//! `[[listeners]]`: where clients connect.

use std::collections::HashMap;
use std::sync::Arc;

use super::address::{bind, prefix};
use super::context::Context;
use super::decode::{Fields, boolean, list, not_supported, string, table, text};
use super::diagnostic::Fault;
use super::routes::edits::redirect;
use super::source::Span;
use super::tls;
use super::tree::Value;
use crate::model::{Bind, Listener};

pub(super) const KEYS: &[&str] = &["name", "bind", "protocols", "proxy_protocol", "trusted_proxies", "tls", "redirect"];

/// The listeners, and where each bind address stands, for whoever else wants to bind.
pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> (Vec<Listener>, HashMap<Bind, Span>) {
    let mut names: HashMap<Arc<str>, Span> = HashMap::new();
    let mut binds: HashMap<Bind, Span> = HashMap::new();
    let mut one = |cx: &Context<'_>, item: &Value<'_>| {
        let (listener, name_span, bind_span) = listener(cx, item)?;
        if let Some(first) = names.insert(listener.name.clone(), name_span).filter(|_| name_span != bind_span) {
            let fault = Fault::error(name_span, format!("the listener `{}` is there already", listener.name));
            cx.note(fault.also(first, "first here"));
        }
        // Port 0 is any free port, another one each time.
        let any_port = matches!(listener.bind, Bind::Tcp(address) if address.port() == 0);
        if let Some(first) = binds.insert(listener.bind.clone(), bind_span).filter(|_| !any_port) {
            cx.note(Fault::error(bind_span, format!("{} is bound already", listener.bind)).also(first, "first here"));
        }
        Some(listener)
    };
    let listeners = value.and_then(|value| list(cx, value, &mut one)).unwrap_or_default();
    let empty_list =
        value.is_some_and(|value| matches!(&value.kind, super::tree::Kind::Array(items) if items.is_empty()));
    if value.is_none() || empty_list {
        let span = value.map_or(Span::whole_file(0), |value| value.span);
        let fault = Fault::error(span, "there is no listener").absence();
        cx.note(fault.help("add one: [[listeners]] with `bind = \"0.0.0.0:8080\"`"));
    }
    (listeners, binds)
}

/// With the places of its name and of its address.
fn listener(cx: &Context<'_>, item: &Value<'_>) -> Option<(Listener, Span, Span)> {
    let fields = Fields::new(cx, table(cx, item)?, KEYS, "[[listeners]]");
    fields.read("proxy_protocol", |cx, value| {
        if boolean(cx, value)? {
            not_supported(cx, value.span, "the PROXY protocol");
        }
        Some(())
    });
    fields.read("protocols", protocols);
    let trusted_proxies = fields.read("trusted_proxies", |cx, value| list(cx, value, prefix)).unwrap_or_default();
    let tls = fields.read("tls", tls::decode);
    let redirect = fields.read("redirect", redirect);
    let name = fields.get("name").and_then(|value| Some((text(cx, value)?, value.span)));
    let Some(at) = fields.get("bind") else {
        let fault = Fault::error(item.span, "this listener has no `bind`").absence();
        cx.note(fault.help("such as `bind = \"0.0.0.0:8080\"`"));
        return None;
    };
    let bind = bind(cx, at)?;
    let (name, name_span) = match name {
        Some((name, span)) => (Arc::from(name), span),
        None => (Arc::from(bind.to_string()), at.span),
    };
    Some((Listener { trusted_proxies, tls, redirect, ..Listener::new(&name, bind) }, name_span, at.span))
}

fn protocols(cx: &Context<'_>, value: &Value<'_>) -> Option<()> {
    let words = list(cx, value, |cx, item| {
        match string(cx, item)? {
            "h1" => return Some(()),
            "h2" => not_supported(cx, item.span, "HTTP/2 to clients"),
            other => {
                let fault = Fault::error(item.span, format!("unknown protocol `{other}`"));
                cx.note(fault.help("\"h1\" (\"h2\" is not supported yet)"));
            }
        }
        None
    })?;
    if matches!(&value.kind, super::tree::Kind::Array(items) if items.is_empty()) {
        cx.note(Fault::error(value.span, "a listener speaks at least one protocol").help("[\"h1\"]"));
    }
    (!words.is_empty()).then_some(())
}
