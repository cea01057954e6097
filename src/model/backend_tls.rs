//! TLS to backends: whom to believe, what to show, which name to ask for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::Address;

/// How a pool's backends are spoken to inside TLS. Equal: made from the same files, of the same content, and asking for
/// the same name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendTls {
    /// Whose certificates are believed, and the certificate that is shown to who asks for one. Each backend uses a copy
    /// with a memory of its own for sessions that can be resumed.
    pub client: FromFiles<ClientConfig>,
    /// The name that a backend's certificate must be for; `None`: that of the backend itself.
    pub server_name: Option<ServerName<'static>>,
    /// Whether certificates are checked at all; not where the file says `insecure`.
    pub verifies: bool,
    /// Where all of it was read.
    pub files: BackendTlsFiles,
}

/// The files of a [`BackendTls`], to be read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BackendTlsFiles {
    /// PEM, the authorities. `None`: those of the system, or nobody is asked.
    pub ca: Option<PathBuf>,
    /// PEM, the certificate that is shown.
    pub cert: Option<PathBuf>,
    /// PEM, its key.
    pub key: Option<PathBuf>,
}

impl BackendTlsFiles {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten()
    }
}

impl BackendTls {
    /// The name that the certificate of a backend must be for, which is also sent to it (SNI) if it is not an address.
    /// `None`: it has none, and no other is said.
    pub fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        self.server_name.clone().or_else(|| name_of(address))
    }
}

/// What a backend at this address is called: as the file has it, not as it was resolved.
fn name_of(address: &Address) -> Option<ServerName<'static>> {
    match address {
        Address::Ip(SocketAddr::V4(address)) => Some(ServerName::IpAddress((*address.ip()).into())),
        Address::Ip(SocketAddr::V6(address)) => Some(ServerName::IpAddress((*address.ip()).into())),
        // A dot at the end says that no search list is to be gone through; certificates don't have it.
        Address::Name(host, _) => ServerName::try_from(host.trim_end_matches('.').to_owned()).ok(),
        Address::Unix(_) => None,
    }
}

/// Whom a backend has to be, inside TLS: part of its identity, to which it does not matter where the files are.
#[derive(Debug, Clone)]
pub struct TlsTo {
    /// Its pool's settings.
    pub settings: Arc<BackendTls>,
    /// The name that its certificate must be for.
    pub name: ServerName<'static>,
}

impl TlsTo {
    fn what_counts(&self) -> (&FromFiles<ClientConfig>, Option<&ServerName<'static>>, bool, &ServerName<'static>) {
        let BackendTls { client, server_name, verifies, files: _ } = &*self.settings;
        (client, server_name.as_ref(), *verifies, &self.name)
    }
}

impl PartialEq for TlsTo {
    fn eq(&self, other: &Self) -> bool {
        self.what_counts() == other.what_counts()
    }
}

impl Eq for TlsTo {}

impl Hash for TlsTo {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.what_counts().hash(state);
    }
}

/// Something that was made from files. It can't be compared itself, and what it holds must not be printed: two are equal
/// if the files' content was.
pub struct FromFiles<T> {
    /// Of the content: 128 bits, so that no two differ by chance and have the same.
    digest: u128,
    /// What was made of it.
    pub value: Arc<T>,
}

impl<T> FromFiles<T> {
    /// Of what hashes to this.
    pub fn new(digest: u128, value: Arc<T>) -> Self {
        Self { digest, value }
    }

    /// Of the content.
    pub fn digest(&self) -> u128 {
        self.digest
    }
}

impl<T> Clone for FromFiles<T> {
    fn clone(&self) -> Self {
        Self { digest: self.digest, value: Arc::clone(&self.value) }
    }
}

impl<T> PartialEq for FromFiles<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T> Eq for FromFiles<T> {}

impl<T> Hash for FromFiles<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl<T> fmt::Debug for FromFiles<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[from files]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_backends() {
        let name = |address| name_of(&address).map(|name| name.to_str().into_owned());
        assert_eq!(name(Address::Ip("10.1.0.11:8000".parse().unwrap())).as_deref(), Some("10.1.0.11"));
        assert_eq!(name(Address::Ip("[2001:db8::1]:8000".parse().unwrap())).as_deref(), Some("2001:db8::1"));
        assert_eq!(name(Address::Name("a.internal".into(), 1)).as_deref(), Some("a.internal"));
        assert_eq!(name(Address::Name("_x._tcp.local.".into(), 1)).as_deref(), Some("_x._tcp.local"));
        assert_eq!(name(Address::Unix(std::path::Path::new("/x").into())), None);
    }
}
