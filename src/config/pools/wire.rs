//! What is spoken to backends, and what their connections begin with.

use crate::config::context::Context;
use crate::config::decode::{expected_help, word};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::model::{Protocol, ProxyProtocol};

pub(super) fn protocol(cx: &Context<'_>, value: &Value<'_>) -> Option<Protocol> {
    word(cx, value, &[("h1", Protocol::H1), ("h2", Protocol::H2)])
}

pub(super) fn proxy_protocol(cx: &Context<'_>, value: &Value<'_>) -> Option<ProxyProtocol> {
    if let Kind::Boolean(on) = value.kind {
        let help = if on { "the version: \"v2\", or \"v1\" for a line of text" } else { "quote it: \"off\"" };
        expected_help(cx, value, "a string", Some(help.to_owned()));
        return None;
    }
    word(cx, value, &[("off", ProxyProtocol::Off), ("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)])
}

/// Refuses HTTP/2 together with the PROXY protocol; `at`: where one of them stands.
pub(super) fn refuse_shared(cx: &Context<'_>, at: Option<Span>) {
    if let Some(span) = at {
        let fault = Fault::error(span, "connections of HTTP/2 are shared by clients, so none can be announced");
        cx.note(fault.help("`protocol = \"h1\"`, or `proxy_protocol = \"off\"`"));
    }
}
