//! What TLS to backends is made of: certificates to believe, certificates to show, and the library's settings.
//!
//! Pools by the thousand name the same files, so each is read once per configuration, and equal settings are one. They
//! are compared by a digest of what was read: a reload finds out by that whether a file has changed.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::context::Context;
use super::decode::text;
use super::diagnostic::Fault;
use super::pem;
use super::source::Span;
use super::tree::Value;
use crate::model::FromFiles;

/// Of what a client believes, and of what it shows.
type Digests = (Option<u128>, Option<u128>);

/// A certificate to be shown, with its file and that of its key.
pub(super) type Shown = ((PathBuf, PathBuf), FromFiles<CertifiedKey>);

/// What has been read for one configuration.
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    bundles: RefCell<HashMap<PathBuf, FromFiles<RootCertStore>>>,
    certificates: RefCell<HashMap<(PathBuf, PathBuf), FromFiles<CertifiedKey>>>,
    clients: RefCell<HashMap<Digests, FromFiles<ClientConfig>>>,
    system: OnceCell<Result<FromFiles<RootCertStore>, String>>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            bundles: RefCell::default(),
            certificates: RefCell::default(),
            clients: RefCell::default(),
            system: OnceCell::new(),
        }
    }
}

impl Trust {
    /// The certificates of a file, to be believed.
    pub(super) fn bundle(&self, cx: &Context<'_>, value: &Value<'_>) -> Option<(PathBuf, FromFiles<RootCertStore>)> {
        let path = cx.resolve(value.span, text(cx, value)?);
        let found = self.authorities(&path).map_err(|words| cx.note(Fault::error(value.span, words))).ok()?;
        Some((path, found))
    }

    /// The same, of a file that is known to have been named.
    pub(super) fn authorities(&self, path: &Path) -> Result<FromFiles<RootCertStore>, String> {
        if let Some(known) = self.bundles.borrow().get(path) {
            return Ok(known.clone());
        }
        let certificates = pem::certificates(path)?;
        let mut roots = RootCertStore::empty();
        for (number, certificate) in certificates.iter().enumerate() {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("certificate {} in {} can't be used: {error}", number + 1, path.display()))?;
        }
        let found = FromFiles::new(digest(&certificates), Arc::new(roots));
        self.bundles.borrow_mut().insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// A certificate and its key, to be shown, of files that are known to have been named.
    pub(super) fn shown(&self, cert: &Path, key: &Path) -> Result<FromFiles<CertifiedKey>, String> {
        let paths = (cert.to_owned(), key.to_owned());
        if let Some(known) = self.certificates.borrow().get(&paths) {
            return Ok(known.clone());
        }
        let (chain, secret) = (pem::certificates(cert)?, pem::key(key)?);
        pem::fits(&chain, &secret, key)?;
        let found = self.certified(chain, secret).map_err(|error| error.to_string())?;
        self.certificates.borrow_mut().insert(paths, found.clone());
        Ok(found)
    }

    fn certified(
        &self,
        chain: Vec<CertificateDer<'static>>,
        secret: PrivateKeyDer<'static>,
    ) -> Result<FromFiles<CertifiedKey>, Error> {
        let digest = digest(&(&chain, secret.secret_der()));
        Ok(FromFiles::new(digest, Arc::new(CertifiedKey::from_der(chain, secret, &self.provider)?)))
    }

    /// A certificate and its key, to be shown.
    pub(super) fn certificate(&self, cx: &Context<'_>, cert: &Value<'_>, key: &Value<'_>) -> Option<Shown> {
        let paths = (
            text(cx, cert).map(|path| cx.resolve(cert.span, path)),
            text(cx, key).map(|path| cx.resolve(key.span, path)),
        );
        let paths = (paths.0?, paths.1?);
        if let Some(known) = self.certificates.borrow().get(&paths) {
            return Some((paths, known.clone()));
        }
        let (chain, secret) = (pem::file(cx, cert, pem::certificates), pem::file(cx, key, pem::key));
        let (chain, secret) = (chain?, secret?);
        if let Err(words) = pem::fits(&chain, &secret, &paths.1) {
            cx.note(Fault::error(key.span, words).also(cert.span, "the certificate"));
            return None;
        }
        let leaf = pem::leaf(&chain, &paths.0).map_err(|words| cx.note(Fault::error(cert.span, words))).ok()?;
        if let Some(words) = leaf.expired(&paths.0).or_else(|| leaf.doubt(&paths.0)) {
            cx.note(Fault::warning(cert.span, words));
        }
        if let Some(words) = pem::exposed(cx, &paths.1) {
            cx.note(Fault::warning(key.span, words).help(format!("chmod 600 {}", paths.1.display())));
        }
        let certified = self.certified(chain, secret);
        let found = certified.map_err(|error| cx.note(Fault::error(key.span, error.to_string()))).ok()?;
        self.certificates.borrow_mut().insert(paths.clone(), found.clone());
        Some((paths, found))
    }

    /// The certificates that this system believes. `span`: where they are asked for.
    pub(super) fn system(&self, cx: &Context<'_>, span: Span) -> Option<FromFiles<RootCertStore>> {
        match self.of_system() {
            Ok(roots) => Some(roots),
            Err(message) => {
                let fault = Fault::error(span, message);
                cx.note(
                    fault.help(
                        "`ca` names a file with those that backends are to have; Debian's are in ca-certificates",
                    ),
                );
                None
            }
        }
    }

    /// The same.
    pub(super) fn of_system(&self) -> Result<FromFiles<RootCertStore>, String> {
        let found = self.system.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            // Among more than a hundred there may be one that is too odd for the library.
            let (usable, _) = roots.add_parsable_certificates(found.certs.iter().cloned());
            match (usable, found.errors.first()) {
                (0, Some(error)) => Err(format!("no authorities are found on this system: {error}")),
                (0, None) => Err("no authorities are found on this system".to_owned()),
                _ => Ok(FromFiles::new(digest(&found.certs), Arc::new(roots))),
            }
        });
        found.clone()
    }

    /// The library's settings. `roots`: whom to believe; `None`: anyone.
    ///
    /// # Errors
    /// None is known.
    pub(super) fn client(
        &self,
        roots: Option<FromFiles<RootCertStore>>,
        shown: Option<FromFiles<CertifiedKey>>,
    ) -> Result<FromFiles<ClientConfig>, Error> {
        let digests = (roots.as_ref().map(FromFiles::digest), shown.as_ref().map(FromFiles::digest));
        if let Some(known) = self.clients.borrow().get(&digests) {
            return Ok(known.clone());
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        // 1.2 and 1.3.
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = match roots {
            Some(roots) => builder.with_root_certificates(roots.value),
            None => {
                let anyone = Arc::new(Anyone(Arc::clone(&self.provider)));
                builder.dangerous().with_custom_certificate_verifier(anyone)
            }
        };
        let config = match shown {
            Some(shown) => {
                let shown: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(shown.value));
                builder.with_client_cert_resolver(shown)
            }
            None => builder.with_no_client_auth(),
        };
        let made = FromFiles::new(digest(&digests), Arc::new(config));
        self.clients.borrow_mut().insert(digests, made.clone());
        Ok(made)
    }
}

/// Of what was read. The hash needs no secret: who writes these files may do worse than to find two that it can't tell
/// apart.
fn digest(content: &impl Hash) -> u128 {
    let mut hasher = SipHasher13::new();
    content.hash(&mut hasher);
    hasher.finish128().as_u128()
}

/// Believes any certificate, as `insecure` asks. That the other side has its key is checked all the same.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
