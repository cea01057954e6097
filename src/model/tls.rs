//! TLS towards clients, as the operator asks for it: certificates that have been read and checked, who must show one of
//! their own, and which versions are spoken.
//!
//! What is secret is kept in types that do not print it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// `[listeners.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// At least one. A client that names none of them gets the first.
    pub certificates: Vec<Arc<Certificate>>,
    /// `None`: clients are not asked for a certificate.
    pub client_auth: Option<ClientAuth>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
}

/// `[[listeners.tls.certificates]]`: a certificate that fits its key.
#[derive(Debug, PartialEq, Eq)]
pub struct Certificate {
    /// What it is called in logs and metrics: its file, as the configuration names it.
    pub label: Arc<str>,
    /// Where it came from, to be read again when that changes.
    pub files: CertificateFiles,
    /// The certificate itself, then those that lead to an authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key, which `Debug` does not print.
    pub key: PrivateKeyDer<'static>,
    /// An OCSP response in DER that goes with it. `None`: there is no file, or what is in it is over.
    pub ocsp: Option<Vec<u8>>,
    /// When that ends, in Unix time, if it says so.
    pub ocsp_until: Option<i64>,
    /// The DNS names that it is for, in lower case; the first label may be `*`.
    pub names: Vec<String>,
    /// When it ends, in Unix time.
    pub not_after: i64,
}

impl Certificate {
    /// The same with nothing to send along.
    pub fn without_ocsp(&self) -> Self {
        Self {
            label: Arc::clone(&self.label),
            files: self.files.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            ocsp: None,
            ocsp_until: None,
            names: self.names.clone(),
            not_after: self.not_after,
        }
    }
}

/// The files of a [`Certificate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, the certificate first.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// DER.
    pub ocsp: Option<PathBuf>,
}

/// `client_ca` and `client_auth`: clients are asked for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// Where the authorities came from.
    pub file: PathBuf,
    /// The authorities that may have signed it; at least one.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Whether a client without one is turned away.
    pub is_required: bool,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V12,
    /// 1.3
    V13,
}

impl TlsVersion {
    /// The number, as the file and the log have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

impl CertificateFiles {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.cert, &self.key].into_iter().chain(&self.ocsp)
    }
}
