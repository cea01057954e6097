//! `[[listeners]]`: where clients connect.

use std::collections::HashMap;
use std::sync::Arc;

use super::address::{bind, prefix};
use super::context::Context;
use super::decode::{Fields, boolean, integer, list, string, table, text};
use super::diagnostic::Fault;
use super::routes::edits::redirect;
use super::source::Span;
use super::tls;
use super::tree::{Kind, Value};
use crate::model::{Bind, Listener, Protocols};

pub(super) const KEYS: &[&str] =
    &["name", "bind", "protocols", "proxy_protocol", "trusted_proxies", "max_connections", "tls", "redirect"];

/// The listeners, and where each bind address stands, for whoever else wants to bind.
pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> (Vec<Listener>, HashMap<Bind, Span>) {
    let mut names: HashMap<Arc<str>, Span> = HashMap::new();
    let mut binds: HashMap<Bind, Span> = HashMap::new();
    let mut one = |cx: &Context<'_>, item: &Value<'_>| {
        let (listener, name_span, bind_span) = listener(cx, item)?;
        let first = names.insert(listener.name.clone(), name_span);
        // Of two that have their address for a name it is said below that it is the same.
        let is_said = name_span == bind_span && binds.keys().any(|other| other.overlaps(&listener.bind));
        if let Some(first) = first.filter(|_| !is_said) {
            let fault = Fault::error(name_span, format!("the listener `{}` is there already", listener.name));
            cx.note(fault.also(first, "first here"));
        }
        if let Some((other, first)) = binds.iter().find(|(other, _)| other.overlaps(&listener.bind)) {
            let fault = match *other == listener.bind {
                true => Fault::error(bind_span, format!("{other} is bound already")).also(*first, "first here"),
                false => Fault::error(bind_span, format!("{} and {other} can't both be bound", listener.bind))
                    .also(*first, "the other")
                    .help("an address of all interfaces takes the port on each of them; `[::]` takes IPv4, too"),
            };
            cx.note(fault);
        }
        binds.insert(listener.bind.clone(), bind_span);
        Some(listener)
    };
    let listeners = value.and_then(|value| list(cx, value, &mut one)).unwrap_or_default();
    let empty_list = value.is_some_and(|value| matches!(&value.kind, Kind::Array(items) if items.is_empty()));
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
    let proxy_protocol = fields.read("proxy_protocol", boolean).unwrap_or(false);
    let protocols = fields.read("protocols", protocols).unwrap_or_default();
    let trusted_proxies = fields.read("trusted_proxies", |cx, value| list(cx, value, prefix)).unwrap_or_default();
    let max_connections = fields.read("max_connections", integer(1..=10_000_000));
    let tls = fields.read("tls", tls::decode);
    let redirect = fields.read("redirect", redirect);
    let name = fields.get("name").and_then(|value| Some((text(cx, value)?, value.span)));
    let Some(at) = fields.get("bind") else {
        let fault = Fault::error(item.span, "this listener has no `bind`").absence();
        cx.note(fault.help("such as `bind = \"0.0.0.0:8080\"`"));
        return None;
    };
    let bind = bind(cx, at)?;
    // Whoever may open a Unix socket is trusted with the header. Prefixes that are faulty are not prefixes that are missing.
    let none = match fields.get("trusted_proxies").map(|value| &value.kind) {
        None => true,
        Some(Kind::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    if proxy_protocol && none && !matches!(bind, Bind::Unix(_)) {
        let span = fields.span("proxy_protocol").unwrap_or(at.span);
        let fault = Fault::error(span, "`proxy_protocol` needs `trusted_proxies`").absence();
        cx.note(fault.help("the addresses of the proxies that send the header: `trusted_proxies = [\"10.0.0.0/8\"]`"));
    }
    // Brackets mark what is no listener where names of listeners stand, such as the admin address. An address of IPv6
    // that stands in for a name has a port behind them.
    if let Some((name, span)) = name.filter(|(name, _)| name.contains(['[', ']'])) {
        let fault = Fault::error(span, format!("`{name}` can't be the name of a listener"));
        cx.note(fault.help("a name without `[` and `]`"));
    }
    let (name, name_span) = match name {
        Some((name, span)) => (Arc::from(name), span),
        None => (Arc::from(bind.to_string()), at.span),
    };
    let listener = Listener {
        protocols,
        proxy_protocol,
        trusted_proxies,
        max_connections,
        tls,
        redirect,
        ..Listener::new(&name, bind)
    };
    Some((listener, name_span, at.span))
}

fn protocols(cx: &Context<'_>, value: &Value<'_>) -> Option<Protocols> {
    let mut spoken = Protocols { h1: false, h2: false };
    let words = list(cx, value, |cx, item| {
        match string(cx, item)? {
            "h1" => spoken.h1 = true,
            "h2" => spoken.h2 = true,
            other => {
                let fault = Fault::error(item.span, format!("unknown protocol `{other}`"));
                cx.note(fault.help("\"h1\" or \"h2\""));
                return None;
            }
        }
        Some(())
    })?;
    if matches!(&value.kind, Kind::Array(items) if items.is_empty()) {
        let fault = Fault::error(value.span, "a listener speaks at least one protocol");
        cx.note(fault.help("[\"h1\", \"h2\"]"));
    }
    (!words.is_empty()).then_some(spoken)
}
