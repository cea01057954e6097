//! A backend behind TLS: certificates made for the test, and a front that ends TLS before a scriptable origin.
//!
//! The front notes what came of each handshake. It passes the end of the origin's connection on, with or without the
//! message that says so in TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM and as they are.
pub struct Certified {
    pub cert: String,
    pub key: String,
    der: CertificateDer<'static>,
    secret: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its certificate in a file.
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, self.pem()).unwrap();
        path
    }

    /// A certificate for these names and addresses.
    pub fn certify(&self, names: &[&str]) -> Certified {
        self.certify_with(names, |_| {})
    }

    /// One that has been good for a day of the year 2001.
    pub fn certify_expired(&self, names: &[&str]) -> Certified {
        self.certify_with(names, |params| {
            (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2001, 1, 2));
        })
    }

    /// One that a client can show.
    pub fn certify_client(&self, name: &str) -> Certified {
        self.certify_with(&[name], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn certify_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let name = names.concat();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Certified { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), secret: key.serialize_der() }
    }
}

impl Certified {
    /// Both in files.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        std::fs::write(&paths.0, &self.cert).unwrap();
        std::fs::write(&paths.1, &self.key).unwrap();
        paths
    }

    /// A server that shows it.
    pub fn server(&self) -> ServerConfig {
        self.server_with(rustls::ALL_VERSIONS, None)
    }

    /// The same for some versions, asking for certificates of this authority.
    pub fn server_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.secret.clone()));
        let mut config = builder.with_single_cert(vec![self.der.clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// What came of a handshake.
#[derive(Debug, Clone)]
pub struct Handshake {
    pub sni: Option<String>,
    pub alpn: Option<String>,
    pub version: Option<ProtocolVersion>,
    pub is_resumed: bool,
    pub has_certificate: bool,
}

/// Ends TLS before an origin; it goes on drop.
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop: oneshot::Sender<()>,
}

struct Shared {
    origin: SocketAddr,
    config: Mutex<Arc<ServerConfig>>,
    /// Whether the end of a connection is said in TLS.
    says_end: bool,
    handshakes: Mutex<Vec<Handshake>>,
    failures: Mutex<Vec<String>>,
}

impl Front {
    /// One that says when a connection ends.
    pub fn start(origin: SocketAddr, config: ServerConfig) -> Self {
        Self::start_with(origin, config, true)
    }

    /// `says_end`: whether the end of a connection is said in TLS.
    pub fn start_with(origin: SocketAddr, config: ServerConfig, says_end: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let config = Mutex::new(Arc::new(config));
        let shared =
            Arc::new(Shared { origin, config, says_end, handshakes: Mutex::default(), failures: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let accepting = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, accepting) => {}
                }
            });
        });
        Self { address, shared, _stop: stop }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What new connections meet from now on.
    pub fn set(&self, config: ServerConfig) {
        *self.shared.config.lock().unwrap() = Arc::new(config);
    }

    /// Handshakes that were completed.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.shared.handshakes.lock().unwrap().clone()
    }

    /// Why others were not.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(serve(stream, shared.clone()));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let acceptor = TlsAcceptor::from(shared.config.lock().unwrap().clone());
    let tls = match acceptor.accept(stream).await {
        Ok(tls) => tls,
        Err(error) => return shared.failures.lock().unwrap().push(error.to_string()),
    };
    let session = tls.get_ref().1;
    shared.handshakes.lock().unwrap().push(Handshake {
        sni: session.server_name().map(str::to_owned),
        alpn: session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        version: session.protocol_version(),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        has_certificate: session.peer_certificates().is_some_and(|chain| !chain.is_empty()),
    });
    let Ok(origin) = TcpStream::connect(shared.origin).await else { return };
    origin.set_nodelay(true).unwrap();
    let (mut from_origin, mut to_origin) = origin.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(tls);
    let up = tokio::spawn(async move {
        let _ = copy(&mut from_client, &mut to_origin).await;
        let _ = to_origin.shutdown().await;
    });
    let _ = copy(&mut from_origin, &mut to_client).await;
    let _ = to_client.flush().await;
    if shared.says_end {
        let _ = to_client.shutdown().await;
    }
    up.abort();
}
