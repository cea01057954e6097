//! Certificates, keys and authorities from files: PEM (RFC 7468) to what a handshake needs, or why not, in a sentence.
//!
//! All that TLS reads from files is read here, for both sides of the proxy and for a file that changes while it is in
//! use. The parser of PEM is rustls' own; what a certificate says of itself is read by x509-parser.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use rustls::SignatureAlgorithm;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::context::Context;
use super::decode::text;
use super::diagnostic::Fault;
use super::tree::Value;

/// No certificate or bundle of authorities is larger: that of a browser is a quarter of this.
const LARGEST: u64 = 1024 * 1024;

/// Days before its end at which a certificate should have been renewed.
pub(super) const SOON: i64 = 30;

/// What a certificate says of itself.
#[derive(Debug)]
pub(super) struct Leaf {
    /// DNS names, in lower case.
    pub(super) names: Vec<String>,
    /// In Unix time.
    pub(super) not_after: i64,
    /// Its serial number, as it stands in it.
    pub(super) serial: Vec<u8>,
    not_before: i64,
}

/// A file that a value names, through one of the readers below. What is wrong with it is noted at the value.
pub(super) fn file<T>(
    cx: &Context<'_>,
    value: &Value<'_>,
    reader: impl FnOnce(&Path) -> Result<T, String>,
) -> Option<T> {
    let path = cx.resolve(value.span, text(cx, value)?);
    reader(&path).map_err(|words| cx.note(Fault::error(value.span, words))).ok()
}

/// A certificate and those that lead from it to an authority, or the authorities of a bundle; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|error| format!("{} is not PEM: {}", path.display(), words(&error)))?;
    if all.is_empty() {
        return Err(format!("{} has no certificate in it (a PEM section of the kind CERTIFICATE)", path.display()));
    }
    match all.iter().position(|der| X509Certificate::from_der(der).is_err()) {
        Some(bad) => Err(format!("certificate {} in {} is malformed", bad + 1, path.display())),
        None => Ok(all),
    }
}

/// A private key: PKCS #8, PKCS #1 or SEC 1, and not encrypted.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
        pem::Error::NoItemsFound if memchr::memmem::find(&bytes, b"ENCRYPTED PRIVATE KEY").is_some() => {
            format!("the key in {} is encrypted, which nobody could unlock at a restart: decrypt it", path.display())
        }
        pem::Error::NoItemsFound => format!("{} has no private key in it", path.display()),
        error => format!("{} is not PEM: {}", path.display(), words(&error)),
    })
}

/// Whether a key is the one that a certificate was made for, and what can be signed with it.
pub(super) fn fits(
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    path: &Path,
) -> Result<SignatureAlgorithm, String> {
    let signing = any_supported_type(key).map_err(|_| {
        format!("the key in {} is of a kind that is not supported: RSA, ECDSA or Ed25519", path.display())
    })?;
    let algorithm = signing.algorithm();
    match CertifiedKey::new(chain.to_vec(), signing).keys_match() {
        Ok(()) => Ok(algorithm),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(format!("the key in {} does not fit the certificate", path.display()))
        }
        Err(error) => Err(format!("the certificate of the key in {} can't be used: {error}", path.display())),
    }
}

/// What the first certificate of a chain says of itself.
pub(super) fn leaf(chain: &[CertificateDer<'static>], path: &Path) -> Result<Leaf, String> {
    let malformed = || format!("the certificate in {} is malformed", path.display());
    let first = chain.first().ok_or_else(malformed)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| malformed())?;
    let names = certificate.subject_alternative_name().map_err(|_| malformed())?;
    let names = names.into_iter().flat_map(|names| names.value.general_names.iter()).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let validity = certificate.validity();
    Ok(Leaf {
        names: names.collect(),
        serial: certificate.raw_serial().to_vec(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

impl Leaf {
    /// Why it can't be used any more.
    pub(super) fn expired(&self, path: &Path) -> Option<String> {
        (self.not_after < now()).then(|| format!("{} expired on {}", path.display(), date(self.not_after)))
    }

    /// Why somebody should look at it.
    pub(super) fn doubt(&self, path: &Path) -> Option<String> {
        let left = (self.not_after - now()).div_euclid(24 * 60 * 60);
        if self.not_before > now() {
            return Some(format!("{} is not valid before {}", path.display(), date(self.not_before)));
        }
        (left < SOON).then(|| format!("{} expires on {}, in {left} days", path.display(), date(self.not_after)))
    }
}

/// Why a file that holds a secret should have other rights.
pub(super) fn exposed(cx: &Context<'_>, path: &Path) -> Option<String> {
    // systemd lets the service's user in by an access control list, whose mask shows where the group's rights would be, or
    // by making it the owner (`CREDENTIALS`, systemd.exec(5)). Nobody else can enter that directory.
    if (cx.environment)("CREDENTIALS_DIRECTORY").is_some_and(|directory| path.starts_with(directory)) {
        return None;
    }
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let words = || format!("{} can be read by others than its owner (mode {:03o})", path.display(), mode & 0o777);
    (mode & 0o077 != 0).then(words)
}

pub(super) fn date(unix: i64) -> String {
    Timestamp::from_second(unix).map_or_else(|_| unix.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// Only a file: whatever else stands there might never end.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |words: String| format!("cannot read {}: {words}", path.display());
    let metadata = fs::metadata(path).map_err(|error| cannot(super::io_words(&error)))?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return Err(cannot("it is not a file of up to 1 MiB".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| cannot(super::io_words(&error)))?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|error| cannot(super::io_words(&error)))?;
    Ok(bytes)
}

/// Without what the parser quotes of the file, which may be part of a key.
fn words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it is malformed",
    }
}

/// Whether a PEM file's sections are of this kind; for a hint about files that were mixed up.
pub(super) fn holds(path: &Path, kind: SectionKind) -> bool {
    read(path)
        .is_ok_and(|bytes| <(SectionKind, Vec<u8>)>::pem_slice_iter(&bytes).flatten().any(|(found, _)| found == kind))
}
