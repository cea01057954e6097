//! `[listeners.tls]`: the certificates of a listener, and whether clients have to show one; `[admin.tls]` is the same.
//!
//! All of it is read and checked here, so that whoever has the Plan can begin a handshake: a file that is missing, a key
//! of another certificate or a certificate whose time is over refuses the configuration, with its place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::SectionKind;

use super::context::Context;
use super::decode::{Fields, list, table, text, word};
use super::diagnostic::Fault;
use super::ocsp;
use super::pem::{self, Leaf};
use super::source::Span;
use super::tree::{Kind, Value};
use crate::model::{Certificate, CertificateFiles, ClientAuth, Tls, TlsVersion};

pub(super) const KEYS: &[&str] = &["client_ca", "client_auth", "min_version", "certificates"];
pub(super) const CERTIFICATE_KEYS: &[&str] = &["cert", "key", "ocsp"];

/// What answers for a name already: by name and kind of key, since a client that knows only one kind gets that one.
type Taken = HashMap<(String, u8), Span>;

/// `None`: something is wrong with it, which has been noted.
pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Tls> {
    decode_in(cx, value, "listeners.tls")
}

/// `section`: what the file calls the table.
pub(super) fn decode_in(cx: &Context<'_>, value: &Value<'_>, section: &str) -> Option<Tls> {
    let f = Fields::new(cx, table(cx, value)?, KEYS, &format!("[{section}]"));
    let min_version = f.read("min_version", version).unwrap_or_default();
    let client_auth = client_auth(cx, &f);
    let mut taken = Taken::new();
    let mut first = true;
    let one = |cx: &Context<'_>, item: &Value<'_>| {
        let is_first = std::mem::take(&mut first);
        certificate(cx, item, section, &mut taken, is_first)
    };
    let certificates = f.get("certificates").map(|value| (value, list(cx, value, one)));
    let missing = match &certificates {
        None => Some(value.span),
        Some((value, _)) => matches!(&value.kind, Kind::Array(items) if items.is_empty()).then_some(value.span),
    };
    if let Some(span) = missing {
        let fault = Fault::error(span, "TLS needs a certificate, and there is none").absence();
        let help = format!("[[{section}.certificates]] with `cert = \"site.pem\"` and `key = \"site.key\"`");
        cx.note(fault.help(help));
    }
    let certificates: Vec<_> = certificates.and_then(|(_, list)| list)?.into_iter().map(Arc::new).collect();
    (!certificates.is_empty()).then_some(Tls { certificates, client_auth, min_version })
}

fn version(cx: &Context<'_>, value: &Value<'_>) -> Option<TlsVersion> {
    word(cx, value, &[("1.2", TlsVersion::V12), ("1.3", TlsVersion::V13)])
}

fn client_auth(cx: &Context<'_>, f: &Fields<'_, '_, '_>) -> Option<ClientAuth> {
    let is_required = f.read("client_auth", |cx, value| word(cx, value, &[("required", true), ("optional", false)]));
    let Some(at) = f.get("client_ca") else {
        if let Some(span) = f.span("client_auth") {
            let fault = Fault::error(span, "`client_auth` needs a `client_ca`: whose certificates are good?");
            cx.note(fault.absence());
        }
        return None;
    };
    let file = cx.resolve(at.span, text(cx, at)?);
    let authorities = pem::file(cx, at, pem::certificates)?;
    Some(ClientAuth { file, authorities, is_required: is_required.unwrap_or(true) })
}

fn certificate(
    cx: &Context<'_>,
    item: &Value<'_>,
    section: &str,
    taken: &mut Taken,
    is_first: bool,
) -> Option<Certificate> {
    let f = Fields::new(cx, table(cx, item)?, CERTIFICATE_KEYS, &format!("[[{section}.certificates]]"));
    let (cert_at, key_at) = (f.get("cert"), f.get("key"));
    for (key, value) in [("cert", cert_at), ("key", key_at)] {
        if value.is_none() {
            cx.note(Fault::error(item.span, format!("this certificate has no `{key}`")).absence());
        }
    }
    let chain = cert_at.and_then(|at| pem::file(cx, at, pem::certificates).zip(path(cx, at)));
    let key = key_at.and_then(|at| key(cx, at));
    let ((chain, cert_file), (key, key_file)) = (chain?, key?);
    let (cert_at, key_at) = (cert_at?, key_at?);
    let at_cert = |words| Fault::error(cert_at.span, words);
    let leaf = pem::leaf(&chain, &cert_file).map_err(|words| cx.note(at_cert(words))).ok()?;
    let algorithm = match pem::fits(&chain, &key, &key_file) {
        Ok(algorithm) => u8::from(algorithm),
        Err(words) => {
            cx.note(Fault::error(key_at.span, words).also(cert_at.span, "the certificate"));
            return None;
        }
    };
    if let Some(words) = leaf.expired(&cert_file) {
        cx.note(at_cert(words).help("renew it; browsers and clients refuse it"));
        return None;
    }
    doubts(cx, cert_at, &leaf, &cert_file, is_first);
    for name in &leaf.names {
        if let Some(first) = taken.get(&(name.clone(), algorithm)) {
            let fault = Fault::warning(cert_at.span, format!("another certificate answers for {name} already"));
            cx.note(fault.also(*first, "this one, since it stands first").help("it is used for its other names only"));
        } else {
            taken.insert((name.clone(), algorithm), cert_at.span);
        }
    }
    let (staple, ocsp_file) = match f.get("ocsp") {
        None => (None, None),
        Some(at) => {
            let staple = pem::file(cx, at, |path| ocsp::read(path, &leaf.serial));
            let (staple, path) = (staple?, path(cx, at)?);
            if let Some(words) = staple.doubt(&path) {
                cx.note(Fault::warning(at.span, words));
            }
            (Some(staple).filter(|staple| !staple.is_over()), Some(path))
        }
    };
    let ocsp_until = staple.as_ref().and_then(|staple| staple.until);
    Some(Certificate {
        label: cert_file.display().to_string().into(),
        files: CertificateFiles { cert: cert_file, key: key_file, ocsp: ocsp_file },
        chain,
        key,
        ocsp: staple.map(|staple| staple.der),
        ocsp_until,
        names: leaf.names,
        not_after: leaf.not_after,
    })
}

fn path(cx: &Context<'_>, at: &Value<'_>) -> Option<std::path::PathBuf> {
    Some(cx.resolve(at.span, text(cx, at)?))
}

/// A key with its file. Whoever named a certificate instead hears that.
fn key(cx: &Context<'_>, at: &Value<'_>) -> Option<(rustls::pki_types::PrivateKeyDer<'static>, std::path::PathBuf)> {
    let file = path(cx, at)?;
    match pem::key(&file) {
        Ok(key) => {
            if let Some(words) = pem::exposed(cx, &file) {
                let help = format!("chmod 600 {}", file.display());
                cx.note(Fault::warning(at.span, words).help(help));
            }
            Some((key, file))
        }
        Err(words) => {
            let fault = Fault::error(at.span, words);
            cx.note(match pem::holds(&file, SectionKind::Certificate) {
                true => fault.help("there is a certificate in it: that belongs to `cert`"),
                false => fault,
            });
            None
        }
    }
}

fn doubts(cx: &Context<'_>, at: &Value<'_>, leaf: &Leaf, file: &Path, is_first: bool) {
    if let Some(words) = leaf.doubt(file) {
        cx.note(Fault::warning(at.span, words));
    }
    if leaf.names.is_empty() && !is_first {
        let fault = Fault::warning(at.span, format!("{} names no host, so nobody ever gets it", file.display()));
        cx.note(fault.help("clients look at the DNS names of `subjectAltName` only"));
    }
}

/// Reads a certificate that is in use anew, since its files have changed.
///
/// # Errors
/// Why what the files hold now can't be used, in a sentence.
pub fn reread_certificate(old: &Certificate) -> Result<Certificate, String> {
    let files = old.files.clone();
    let chain = pem::certificates(&files.cert)?;
    let key = pem::key(&files.key)?;
    let leaf = pem::leaf(&chain, &files.cert)?;
    pem::fits(&chain, &key, &files.key)?;
    if let Some(words) = leaf.expired(&files.cert) {
        return Err(words);
    }
    let Leaf { names, not_after, serial, .. } = leaf;
    let staple = files.ocsp.as_deref().map(|path| ocsp::read(path, &serial)).transpose()?;
    let staple = staple.filter(|staple| !staple.is_over());
    let ocsp_until = staple.as_ref().and_then(|staple| staple.until);
    let (label, ocsp) = (Arc::clone(&old.label), staple.map(|staple| staple.der));
    Ok(Certificate { label, files, chain, key, ocsp, ocsp_until, names, not_after })
}

/// The same for the authorities of clients.
///
/// # Errors
/// Why what the file holds now can't be used, in a sentence.
pub fn reread_authorities(old: &ClientAuth) -> Result<ClientAuth, String> {
    Ok(ClientAuth { authorities: pem::certificates(&old.file)?, ..old.clone() })
}
