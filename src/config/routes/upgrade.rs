//! `upgrade`: the protocols that a client may switch to.

use std::collections::HashMap;

use crate::config::context::Context;
use crate::config::decode::{list, text};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::Value;

/// In lower case, as they are compared.
pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Vec<Box<str>>> {
    let mut seen: HashMap<String, Span> = HashMap::new();
    list(cx, value, |cx, item| {
        let name = text(cx, item)?.to_ascii_lowercase();
        let fault = if !is_protocol(&name) {
            let fault = Fault::error(item.span, format!("`{name}` is not the name of a protocol"));
            fault.help("such as \"websocket\"")
        } else if is_http(&name) {
            // What is said in a tunnel passes by every rule for requests.
            let fault =
                Fault::error(item.span, format!("a tunnel of `{name}` would carry requests that nobody checks"));
            fault.help("leave it out; a client that asks for it gets its answer over HTTP/1.1")
        } else if let Some(first) = seen.insert(name.clone(), item.span) {
            Fault::error(item.span, format!("`{name}` is there already")).also(first, "first here")
        } else {
            return Some(name.into());
        };
        cx.note(fault);
        None
    })
}

/// `protocol-name ["/" protocol-version]` (RFC 9110, 7.8), both tokens, as the names of fields are.
fn is_protocol(name: &str) -> bool {
    let mut parts = name.splitn(2, '/');
    parts.all(|part| http::HeaderName::from_bytes(part.as_bytes()).is_ok())
}

fn is_http(name: &str) -> bool {
    matches!(name.split('/').next(), Some("h2c" | "h2" | "http" | "tls"))
}
