//! What a route changes on the way, or answers by itself: `rewrite`, `headers`, `redirect`, `respond`.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::context::Context;
use crate::config::decode::{Fields, expected_help, integer, list, string, table, text};
use crate::config::diagnostic::Fault;
use crate::config::tree::{Kind, Value};
use crate::model::{Action, HeaderEdits, Rewrite};

pub(in crate::config) const REWRITE_KEYS: &[&str] = &["strip_prefix", "add_prefix"];
pub(in crate::config) const HEADERS_KEYS: &[&str] = &["request", "response"];
pub(in crate::config) const EDITS_KEYS: &[&str] = &["set", "remove"];
pub(in crate::config) const RESPOND_KEYS: &[&str] = &["status", "body"];

/// Fields that say how a message is framed, or speak of one connection: the proxy's own affair.
const OWN_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// `redirect`, `respond`, or neither. `None`: a fault has been noted.
pub(super) fn action(cx: &Context<'_>, f: Fields<'_, '_, '_>) -> Option<Action> {
    match (f.get("redirect"), f.get("respond")) {
        (Some(_), Some(respond)) => {
            let mut fault = Fault::error(f.span("respond").unwrap_or(respond.span), "a route can redirect or respond");
            if let Some(span) = f.span("redirect") {
                fault = fault.also(span, "and this one redirects");
            }
            cx.note(fault);
            None
        }
        (Some(value), None) => redirect(cx, value),
        (None, Some(value)) => respond(cx, value),
        (None, None) => Some(Action::Forward),
    }
}

/// Where to, `{host}` and `{target}` being the request's.
pub(in crate::config) fn redirect(cx: &Context<'_>, value: &Value<'_>) -> Option<Action> {
    if let Kind::Table(_) = value.kind {
        let help = "only where to, such as \"https://{host}{target}\"; the status is 301, or 308 for a POST";
        expected_help(cx, value, "a string", Some(help.to_owned()));
        return None;
    }
    let template = text(cx, value)?;
    let fault = Fault::error(value.span, format!("`{template}` is not a place to redirect to"));
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let inner = rest.get(at..).unwrap_or("");
        let Some(after) = inner.strip_prefix("{host}").or_else(|| inner.strip_prefix("{target}")) else {
            cx.note(fault.help("what is replaced is {host} and {target}"));
            return None;
        };
        rest = after;
    }
    if !["http://", "https://", "/", "{target}"].iter().any(|start| template.starts_with(start)) {
        cx.note(fault.help("such as \"https://{host}{target}\""));
    } else if template == "{target}" {
        cx.note(fault.help("it would lead to itself; such as \"https://{host}{target}\""));
    } else if template.starts_with("/{target}") {
        // Two slashes begin a host.
        cx.note(fault.help("a target like /other.example would lead to that host; such as \"https://{host}{target}\""));
    } else if !template.bytes().all(|b| b.is_ascii_graphic()) {
        cx.note(fault.help("visible ASCII characters; encode others as %XX"));
    } else {
        return Some(Action::Redirect(template.to_owned()));
    }
    None
}

fn respond(cx: &Context<'_>, value: &Value<'_>) -> Option<Action> {
    if let Kind::Integer(status) = value.kind {
        expected_help(cx, value, "a table", Some(format!("write {{ status = {status} }}")));
        return None;
    }
    let f = Fields::new(cx, table(cx, value)?, RESPOND_KEYS, "a `respond` table");
    let body = f.read("body", |cx, value| string(cx, value).map(str::to_owned)).unwrap_or_default();
    let Some(status_at) = f.get("status") else {
        let fault = Fault::error(value.span, "this answer has no `status`").absence();
        cx.note(fault.help("such as { status = 200, body = \"ok\" }"));
        return None;
    };
    let status: u16 = integer(200..=599)(cx, status_at)?;
    let status = StatusCode::from_u16(status).ok()?;
    if let (204 | 304, false, Some(span)) = (status.as_u16(), body.is_empty(), f.span("body")) {
        cx.note(Fault::error(span, format!("an answer with status {} has no body", status.as_u16())));
    }
    Some(Action::Respond { status, body })
}

/// `{ strip_prefix = "/v1", add_prefix = "/api" }`
///
/// `path`: the route's. A prefix that none of its targets can have would be ignored silently.
pub(super) fn rewrite(cx: &Context<'_>, value: &Value<'_>, path: Option<&str>) -> Option<Rewrite> {
    if let Kind::String(_) = value.kind {
        let help = "such as { strip_prefix = \"/v1\" } or { add_prefix = \"/api\" }".to_owned();
        expected_help(cx, value, "a table", Some(help));
        return None;
    }
    let table = table(cx, value)?;
    let f = Fields::new(cx, table, REWRITE_KEYS, "a `rewrite` table");
    let rewrite = Rewrite { strip_prefix: f.read("strip_prefix", prefix), add_prefix: f.read("add_prefix", prefix) };
    if let (Some(prefix), Some(path), Some(span)) = (&rewrite.strip_prefix, path, f.span("strip_prefix"))
        && !may_begin_with(path, prefix)
    {
        let fault =
            Fault::warning(span, format!("no target of this route begins with `{prefix}`: nothing is stripped"));
        cx.note(fault.help(format!("its path is \"{path}\"")));
    }
    if table.entries.is_empty() {
        cx.note(Fault::error(value.span, "this rewrites nothing").help("such as { strip_prefix = \"/v1\" }"));
    }
    Some(rewrite)
}

/// Whether a target of this path can begin with the prefix, as far as the path's part before its first brace says.
fn may_begin_with(path: &str, prefix: &str) -> bool {
    let fixed = path.split('{').next().unwrap_or(path);
    let whole = fixed.len() == path.len();
    fixed.starts_with(prefix) || (!whole && prefix.starts_with(fixed))
}

fn prefix(cx: &Context<'_>, value: &Value<'_>) -> Option<String> {
    let prefix = text(cx, value)?;
    let fault = Fault::error(value.span, format!("`{prefix}` cannot be a prefix"));
    if !prefix.starts_with('/') {
        cx.note(fault.help(format!("a prefix starts with a slash: \"/{prefix}\"")));
    } else if prefix.ends_with('/') {
        cx.note(fault.help(match prefix.trim_end_matches('/') {
            "" => "leave it out".to_owned(),
            bare => format!("without a slash at the end: \"{bare}\""),
        }));
    } else if !prefix.bytes().all(|b| b.is_ascii_graphic() && !b"?#{}".contains(&b)) {
        cx.note(fault.help("visible ASCII characters without `?`, `#`, `{` and `}`"));
    } else {
        return Some(prefix.to_owned());
    }
    None
}

/// (request, response)
pub(super) fn headers(cx: &Context<'_>, value: &Value<'_>) -> Option<(HeaderEdits, HeaderEdits)> {
    let table = table(cx, value)?;
    for key in EDITS_KEYS {
        if let Some(entry) = table.entry(key) {
            let fault = Fault::error(entry.span, format!("`{key}` of what?"));
            cx.note(fault.help(format!("headers = {{ request = {{ {key} = ... }} }}, or response")));
            return None;
        }
    }
    let f = Fields::new(cx, table, HEADERS_KEYS, "a `headers` table");
    let request = f.read("request", |cx, value| edits(cx, value, true)).unwrap_or_default();
    let response = f.read("response", |cx, value| edits(cx, value, false)).unwrap_or_default();
    Some((request, response))
}

fn edits(cx: &Context<'_>, value: &Value<'_>, request: bool) -> Option<HeaderEdits> {
    let f = Fields::new(cx, table(cx, value)?, EDITS_KEYS, "a `headers` table's request or response");
    let remove =
        f.read("remove", |cx, value| list(cx, value, |cx, item| field_name(cx, item.span, text(cx, item)?, request)));
    let set = f.read("set", |cx, value| table(cx, value)).map(|table| {
        let one = |entry: &crate::config::tree::Entry<'_>| {
            let name = field_name(cx, entry.span, &entry.key, request);
            let text = string(cx, &entry.value)?;
            let value = HeaderValue::from_str(text).ok().filter(|_| text.trim() == text);
            if value.is_none() {
                let fault = Fault::error(entry.value.span, format!("this cannot be the value of `{}`", entry.key));
                cx.note(fault.help("no line ends or other control characters, and no space at either end"));
            }
            let (name, mut value) = (name?, value?);
            value.set_sensitive(is_credential(&name) || cx.is_from_environment(entry.value.span));
            Some((name, value))
        };
        let mut set: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for entry in &table.entries {
            let Some((name, value)) = one(entry) else { continue };
            // Names have no case, but keys of TOML do.
            if set.iter().any(|(known, _)| *known == name) {
                cx.note(Fault::error(entry.span, format!("`{name}` is set twice")).help("one value for each name"));
            }
            set.push((name, value));
        }
        set
    });
    Some(HeaderEdits { remove: remove.unwrap_or_default(), set: set.unwrap_or_default() })
}

/// Whether what a field of this name says is likely to be a secret.
fn is_credential(name: &HeaderName) -> bool {
    const SIGNS: [&str; 10] =
        ["auth", "cookie", "credential", "key", "password", "passwd", "secret", "session", "signature", "token"];
    SIGNS.iter().any(|sign| name.as_str().contains(sign))
}

fn field_name(cx: &Context<'_>, span: crate::config::source::Span, name: &str, request: bool) -> Option<HeaderName> {
    let Ok(header) = HeaderName::try_from(name) else {
        cx.note(Fault::error(span, format!("`{name}` cannot be a header's name")));
        return None;
    };
    if OWN_FIELDS.contains(&header.as_str()) {
        let fault = Fault::error(span, format!("`{header}` speaks of the connection and is set by the proxy itself"));
        cx.note(fault);
        return None;
    }
    if request && header == http::header::HOST {
        let fault = Fault::error(span, "the Host that a backend sees is chosen by its pool");
        cx.note(fault.help("`host = \"preserve\"`, `\"backend\"` or a name, in [defaults] or in a pool"));
        return None;
    }
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_fields_are_header_names() {
        for field in OWN_FIELDS {
            assert!(field.parse::<HeaderName>().is_ok_and(|name| name.as_str() == *field), "{field}");
        }
    }
}
