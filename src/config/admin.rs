//! `[admin]`: the address for operators and their tools.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::address::bind;
use super::context::Context;
use super::decode::{Fields, boolean, expected_help, text};
use super::diagnostic::Fault;
use super::pem;
use super::source::Span;
use super::tls;
use super::tree::{Kind, Value};
use crate::model::{Admin, Bind, Secret};

pub(super) const KEYS: &[&str] = &["bind", "token_file", "tls", "protect_metrics", "state_file"];

/// `None`: `admin = false`. `listeners` says what is bound already.
pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>, listeners: &HashMap<Bind, Span>) -> Option<Admin> {
    let default = Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9600)));
    let mut admin = Admin {
        bind: default,
        token: None,
        token_file: None,
        tls: None,
        protect_metrics: false,
        state_file: given_by_systemd(cx),
    };
    let mut span = Span::whole_file(0);
    if let Some(value) = value {
        span = value.span;
        let table = match &value.kind {
            Kind::Boolean(false) => return None,
            Kind::Table(table) => table,
            _ => {
                let help = "`admin = false` for none, or [admin] with `bind = \"127.0.0.1:9600\"`".to_owned();
                expected_help(cx, value, "a table or false", Some(help));
                return None;
            }
        };
        let fields = Fields::new(cx, table, KEYS, "[admin]");
        if let Some(at) = fields.get("bind") {
            span = at.span;
            admin.bind = bind(cx, at).unwrap_or(admin.bind);
            if let Bind::Systemd(name) = &admin.bind {
                let fault =
                    Fault::error(at.span, format!("the admin address can't be a socket of systemd: systemd:{name}"));
                cx.note(fault.help("an address, such as \"127.0.0.1:9600\", or \"unix:/run/shardgate/admin.sock\""));
            }
        }
        if let Some((token, file)) = fields.read("token_file", token) {
            admin.token = Some(token);
            admin.token_file = Some(file);
        }
        admin.protect_metrics = fields.read("protect_metrics", boolean).unwrap_or(false);
        if let Some(file) = fields.read("state_file", state_file) {
            admin.state_file = file;
        }
        admin.tls = fields.read("tls", |cx, value| tls::decode_in(cx, value, "admin.tls"));
        if let (Some(at), Bind::Unix(_)) = (fields.span("tls"), &admin.bind) {
            let fault = Fault::error(at, "a Unix socket is this machine's own, and its admin address speaks no TLS");
            cx.note(fault.help("leave `tls` out, or bind to an address"));
        }
        // A table that is faulty is not one that is missing.
        let lets_in = fields.get("token_file").is_some() || fields.get("tls").is_some_and(asks_for_certificates);
        if admin.protect_metrics && !lets_in {
            let at = fields.span("protect_metrics").unwrap_or(span);
            cx.note(
                Fault::error(at, "`protect_metrics` needs a `token_file`, or a `client_ca` in `[admin.tls]`").absence(),
            );
        }
        let beyond = matches!(admin.bind, Bind::Tcp(address) if !address.ip().to_canonical().is_loopback());
        if beyond && !lets_in {
            let fault = Fault::warning(span, "this admin address can be reached from elsewhere, and there is no token");
            cx.note(fault.help("only /livez, /readyz and /metrics will answer; for the rest set `token_file`, or a `client_ca` in `[admin.tls]`"));
        }
    }
    let other = listeners.iter().find(|(other, _)| other.overlaps(&admin.bind));
    if let Some((other, first)) = other {
        let fault = match *other == admin.bind {
            true => Fault::error(*first, format!("{other} is the admin address, too")),
            false => Fault::error(*first, format!("{other} and the admin address {} can't both be bound", admin.bind)),
        };
        cx.note(match span.is_whole_file() {
            true => fault.help("give [admin] another `bind`, or set `admin = false`"),
            false => fault.also(span, "here"),
        });
    }
    Some(admin)
}

fn asks_for_certificates(tls: &Value<'_>) -> bool {
    matches!(&tls.kind, Kind::Table(table) if table.get("client_ca").is_some())
}

/// `"off"` is `Some(None)`.
fn state_file(cx: &Context<'_>, value: &Value<'_>) -> Option<Option<PathBuf>> {
    if matches!(value.kind, Kind::Boolean(_)) {
        expected_help(cx, value, "a string", Some("write \"off\", or the path of a file".to_owned()));
        return None;
    }
    Some(match text(cx, value)? {
        "off" => None,
        path => {
            let path = cx.resolve(value.span, path);
            cx.note_missing_directory(value.span, &path);
            Some(path)
        }
    })
}

/// systemd names the directory that `StateDirectory=` makes (`systemd.exec(5)`); of several, the first is ours.
fn given_by_systemd(cx: &Context<'_>) -> Option<PathBuf> {
    let directories = (cx.environment)("STATE_DIRECTORY")?;
    let first = std::env::split_paths(&directories).next()?;
    first.is_absolute().then(|| first.join("states.json"))
}

/// With where it was read.
fn token(cx: &Context<'_>, value: &Value<'_>) -> Option<(Secret, PathBuf)> {
    let path = cx.resolve(value.span, text(cx, value)?);
    let bytes = pem::read(&path).map_err(|words| cx.note(Fault::error(value.span, words))).ok()?;
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        // Not a byte of it: it may be the token with a typing error in it.
        let fault = Fault::error(value.span, format!("{} holds no token", path.display()));
        cx.note(fault.help("one line of visible ASCII characters, such as `openssl rand -hex 32` prints"));
        return None;
    }
    if let Some(words) = pem::exposed(cx, &path) {
        cx.note(Fault::warning(value.span, words).help(format!("chmod 600 {}", path.display())));
    }
    Some((Secret(String::from_utf8_lossy(token).into_owned()), path))
}
