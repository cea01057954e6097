//! A client over TLS: rustls around the raw socket of [`Client`], so that responses are read as strictly.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SignatureScheme, StreamOwned, SupportedProtocolVersion};

use super::certs::{Authority, Pair};
use super::{Client, DEADLINE};

/// The stream of a connection.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What one client has: whom it trusts, what it shows, and the tickets of its sessions.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Trusts this authority; HTTP/1.1 by ALPN; remembers sessions.
    pub fn new(authority: &Authority) -> Self {
        Self::build(authority, rustls::DEFAULT_VERSIONS, None)
    }

    /// The same, with one version only.
    pub fn with_version(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
        Self::build(authority, &[version], None)
    }

    /// The same, with a certificate of its own.
    pub fn with_identity(authority: &Authority, identity: &Pair) -> Self {
        Self::build(authority, rustls::DEFAULT_VERSIONS, Some(identity))
    }

    /// All of it.
    pub fn build(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&Pair>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match identity.map(Pair::identity) {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(64);
        Self(Arc::new(config))
    }

    /// With a hand on rustls' configuration.
    pub fn edit(self, edit: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut config = (*self.0).clone();
        edit(&mut config);
        Self(Arc::new(config))
    }

    /// For a connection of another kind.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// For a runtime.
    pub fn connector(&self) -> tokio_rustls::TlsConnector {
        Arc::clone(&self.0).into()
    }

    /// A connection whose handshake is over.
    pub fn connect(&self, addr: SocketAddr, name: &str) -> Client {
        self.try_connect(addr, name).unwrap_or_else(|e| panic!("TLS to {name} at {addr}: {e}"))
    }

    /// The same, where a refusal is an answer. In TLS 1.3 one for the lack of a certificate comes later.
    pub fn try_connect(&self, addr: SocketAddr, name: &str) -> io::Result<Client> {
        let mut stream = TcpStream::connect_timeout(&addr, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = ClientConnection::new(Arc::clone(&self.0), server).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Client::over(StreamOwned::new(session, stream), name))
    }
}

/// Has a client believe any certificate.
pub fn accept_all(config: &mut ClientConfig) {
    config.dangerous().set_certificate_verifier(Arc::new(AcceptAll::default()));
}

/// Believes any certificate.
#[derive(Debug)]
pub struct AcceptAll {
    /// What it can check.
    pub schemes: Vec<SignatureScheme>,
    /// What was stapled to the certificate that came last.
    pub staple: Mutex<Vec<u8>>,
}

impl Default for AcceptAll {
    fn default() -> Self {
        let schemes = ring::default_provider().signature_verification_algorithms.supported_schemes();
        Self { schemes, staple: Mutex::default() }
    }
}

impl rustls::client::danger::ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        *self.staple.lock().unwrap() = staple.to_vec();
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
