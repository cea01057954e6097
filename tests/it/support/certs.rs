//! Certificates for tests: authorities, and what they sign.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Pair {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    /// DER.
    pub der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for these names; the first is its subject, too.
    pub fn sign(&self, names: &[&str]) -> Pair {
        self.sign_with(names, |_| {})
    }

    /// The same, with a hand on what is signed.
    pub fn sign_with(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        edit(&mut params);
        self.sign_key(&params, &KeyPair::generate().unwrap())
    }

    /// The same with an RSA key, of which there is one.
    pub fn sign_rsa(&self, names: &[&str]) -> Pair {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(include_str!("rsa.key"), &rcgen::PKCS_RSA_SHA256).unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign_key(&CertificateParams::new(names).unwrap(), &key)
    }

    fn sign_key(&self, params: &CertificateParams, key: &KeyPair) -> Pair {
        let cert = params.signed_by(key, &self.0).unwrap();
        Pair { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone(), key_der: key.serialize_der() }
    }

    /// One that ends in so many days.
    pub fn sign_until(&self, names: &[&str], days: i64) -> Pair {
        let end = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        let end = end.to_zoned(jiff::tz::TimeZone::UTC).date();
        let month = u8::try_from(end.month()).unwrap();
        let day = u8::try_from(end.day()).unwrap();
        self.sign_with(names, |params| params.not_after = rcgen::date_time_ymd(end.year().into(), month, day))
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its own certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

impl Pair {
    /// Writes `NAME.pem` and `NAME.key`, each at once, as whoever renews certificates should; the key first.
    pub fn write(&self, directory: &Path, name: &str) {
        place(&directory.join(format!("{name}.key")), &self.key);
        place(&directory.join(format!("{name}.pem")), &self.cert);
    }

    /// For a client to show.
    pub fn identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.der.clone()], PrivateKeyDer::try_from(self.key_der.clone()).unwrap())
    }
}

/// Replaces a file that only its owner may read.
pub fn place(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let beside = PathBuf::from(format!("{}.new", path.display()));
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(beside, path).unwrap();
}
