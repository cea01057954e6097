//! Which certificate a client gets: that of the name it asks for (SNI, RFC 6066, 3), else that of the wildcard one label
//! up, else the first. Several may be for one name, with keys of different kinds; then the first that the client can
//! check is used.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use smallvec::SmallVec;

use crate::model::Certificate;

/// The certificates of a listener, by name.
#[derive(Debug)]
pub(super) struct Resolver {
    keys: Vec<Arc<CertifiedKey>>,
    /// In lower case; `*.` before what stands behind the first label. Numbers into `keys`, the first of the file first.
    names: FxHashMap<Box<str>, SmallVec<[usize; 2]>>,
}

impl Resolver {
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Result<Self, rustls::Error> {
        let mut names: FxHashMap<Box<str>, SmallVec<[usize; 2]>> = FxHashMap::default();
        let mut keys = Vec::with_capacity(certificates.len());
        for (number, certificate) in certificates.iter().enumerate() {
            let mut key = CertifiedKey::new(certificate.chain.clone(), any_supported_type(&certificate.key)?);
            key.ocsp.clone_from(&certificate.ocsp);
            keys.push(Arc::new(key));
            for name in &certificate.names {
                names.entry(name.as_str().into()).or_default().push(number);
            }
        }
        Ok(Self { keys, names })
    }

    /// The certificates for a name, the best first; `None`: the client named nothing.
    fn find(&self, name: Option<&str>) -> Option<&[usize]> {
        let name = name?.to_ascii_lowercase();
        let found = self.names.get(name.as_str()).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.names.get(format!("*.{parent}").as_str())
        });
        found.map(SmallVec::as_slice)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_check = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let found = self.find(hello.server_name());
        let of_name = found.unwrap_or_default().iter().filter_map(|number| self.keys.get(*number));
        // Where nothing fits, the handshake fails with the alert that says so.
        of_name.chain(&self.keys).find(can_check).or(self.keys.first()).cloned()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::model::CertificateFiles;

    /// A certificate of its own for these names.
    pub(crate) fn certificate(names: &[&str]) -> Arc<Certificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        Arc::new(Certificate {
            label: "x".into(),
            files: CertificateFiles { cert: "x".into(), key: "x".into(), ocsp: None },
            chain: vec![cert.der().clone()],
            key: PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
            ocsp: None,
            ocsp_until: None,
            names,
            not_after: 0,
        })
    }

    #[test]
    fn exact_then_wildcard_of_one_label_then_nothing() {
        let all = [
            certificate(&["default.test"]),
            certificate(&["*.example.com", "www.example.org"]),
            certificate(&["api.example.com", "example.com"]),
            certificate(&["api.example.com"]),
        ];
        let resolver = Resolver::new(&all).unwrap();
        let table: [(Option<&str>, Option<&[usize]>); 10] = [
            (None, None),
            (Some("default.test"), Some(&[0])),
            (Some("API.Example.COM"), Some(&[2, 3])),
            (Some("example.com"), Some(&[2])),
            (Some("a.example.com"), Some(&[1])),
            (Some("a.b.example.com"), None),
            (Some("www.example.org"), Some(&[1])),
            (Some("a.example.org"), None),
            (Some("com"), None),
            (Some(".example.com"), Some(&[1])),
        ];
        for (name, expected) in table {
            assert_eq!(resolver.find(name), expected, "{name:?}");
        }
    }
}
