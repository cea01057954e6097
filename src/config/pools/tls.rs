//! `tls`: of `[defaults]` and of a pool.
//!
//! What `[defaults]` says need not be enough for a connection (who is believed may be said by each pool), so it is kept
//! as it was said, and what pools come to is made of both.

use std::path::PathBuf;

use rustls::RootCertStore;
use rustls::pki_types::ServerName;

use super::settings::Switch;
use crate::config::context::Context;
use crate::config::decode::{Fields, boolean, expected_help, table, text};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::config::trust::Shown;
use crate::model::{BackendTls, BackendTlsFiles, FromFiles, Member};

pub(in crate::config) const KEYS: &[&str] = &["ca", "server_name", "cert", "key", "insecure"];

/// What a `tls` table says; `true` says nothing but that there is one.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::config) struct Override {
    ca: Option<(PathBuf, FromFiles<RootCertStore>)>,
    server_name: Option<ServerName<'static>>,
    certificate: Option<Shown>,
    insecure: Option<bool>,
    /// Something of it could not be read, which has been noted.
    is_faulty: bool,
    /// Where it stands.
    span: Option<Span>,
}

pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Switch<Override>> {
    match value.kind {
        Kind::Boolean(false) => Some(Switch::Off),
        Kind::Boolean(true) => Some(Switch::On(Override { span: Some(value.span), ..Override::default() })),
        Kind::Table(_) => keys(cx, value).map(Switch::On),
        _ => {
            let help = "true turns it on, a table as well, such as { ca = \"backends.pem\" }".to_owned();
            expected_help(cx, value, "a table, true or false", Some(help));
            None
        }
    }
}

fn keys(cx: &Context<'_>, value: &Value<'_>) -> Option<Override> {
    let f = Fields::new(cx, table(cx, value)?, KEYS, "a pool's `tls` table");
    let insecure = f.read("insecure", boolean);
    if let (Some(true), Some(span)) = (insecure, f.span("insecure")) {
        let fault =
            Fault::warning(span, "backends are not asked who they are: whoever answers at their address is believed");
        cx.note(fault.help("`ca` with the certificate of the authority that signs theirs, or their own"));
    }
    let said = Override {
        ca: f.read("ca", |cx, value| cx.trust.bundle(cx, value)),
        server_name: f.read("server_name", server_name),
        certificate: match (f.get("cert"), f.get("key")) {
            (Some(cert), Some(key)) => cx.trust.certificate(cx, cert, key),
            (None, None) => None,
            (cert, key) => {
                let (has, lacks) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                if let Some(span) = cert.or(key).map(|value| value.span) {
                    let fault = Fault::error(span, format!("a `{has}` without a `{lacks}`")).absence();
                    cx.note(fault.help("a certificate goes with its private key: `cert` and `key`, in the same table"));
                }
                None
            }
        },
        insecure,
        is_faulty: false,
        span: Some(value.span),
    };
    let is_missing = |key: &str, is_there: bool| f.get(key).is_some() && !is_there;
    let is_faulty = is_missing("ca", said.ca.is_some())
        || is_missing("server_name", said.server_name.is_some())
        || is_missing("cert", said.certificate.is_some())
        || is_missing("key", said.certificate.is_some());
    Some(Override { is_faulty, ..said })
}

fn server_name(cx: &Context<'_>, value: &Value<'_>) -> Option<ServerName<'static>> {
    let name = text(cx, value)?;
    let parsed = ServerName::try_from(name.to_owned()).ok();
    if parsed.is_none() {
        let fault = Fault::error(value.span, format!("`{name}` is no name that a certificate can be for"));
        cx.note(fault.help("a host name or an IP address, without a port: \"btc.internal\""));
    }
    parsed
}

/// What a pool's word comes to over what it starts from.
pub(super) fn merge(said: Option<Switch<Override>>, base: Option<&Override>) -> Option<Override> {
    let said = match said {
        None => return base.cloned(),
        Some(Switch::Off) => return None,
        Some(Switch::On(said)) => said,
    };
    let Some(base) = base else { return Some(said) };
    Some(Override {
        ca: said.ca.or_else(|| base.ca.clone()),
        server_name: said.server_name.or_else(|| base.server_name.clone()),
        certificate: said.certificate.or_else(|| base.certificate.clone()),
        insecure: said.insecure.or(base.insecure),
        is_faulty: said.is_faulty || base.is_faulty,
        span: said.span.or(base.span),
    })
}

/// What it takes to connect. `None`: it can't be had, and that has been noted.
pub(super) fn build(cx: &Context<'_>, said: &Override) -> Option<BackendTls> {
    if said.is_faulty {
        return None;
    }
    let ca = said.ca.as_ref().filter(|_| said.insecure != Some(true));
    let roots = match (said.insecure, ca) {
        (Some(true), _) => None,
        (_, Some((_, ca))) => Some(ca.clone()),
        (_, None) => Some(cx.trust.system(cx, said.span?)?),
    };
    let verifies = roots.is_some();
    let (paths, shown) = said.certificate.clone().unzip();
    let (cert, key) = paths.unzip();
    let files = BackendTlsFiles { ca: ca.map(|(path, _)| path.clone()), cert, key };
    match cx.trust.client(roots, shown) {
        Ok(client) => Some(BackendTls { client, server_name: said.server_name.clone(), verifies, files }),
        Err(error) => {
            cx.note(Fault::error(said.span?, format!("TLS can't be had: {error}")));
            None
        }
    }
}

/// Notes each member that has no name which its certificate could be for. `span`: of the pool.
pub(super) fn check_names(cx: &Context<'_>, tls: &BackendTls, members: &[Member], span: Span) {
    for member in members.iter().filter(|member| tls.name_of(&member.address).is_none()) {
        let message = format!("{} is no name that a certificate can be for, and the pool speaks TLS", member.address);
        cx.note(Fault::error(span, message).help("say which it is: `tls = { server_name = \"btc.internal\" }`"));
    }
}
