//! `hosts` and `path`: what a request must look like, and what is captured from it.

use std::net::IpAddr;

use crate::config::address::is_host_name;
use crate::config::context::Context;
use crate::config::decode::text;
use crate::config::diagnostic::Fault;
use crate::config::tree::Value;
use crate::model::HostPattern;

/// `api.example.com`, `*.example.org`, `{asset}.api.example.com`.
pub(super) fn host(cx: &Context<'_>, value: &Value<'_>) -> Option<HostPattern> {
    let text = text(cx, value)?;
    match parse_host(text) {
        Ok(pattern) => Some(pattern),
        Err(help) => {
            cx.note(Fault::error(value.span, format!("`{text}` is not a host")).help(help));
            None
        }
    }
}

fn parse_host(text: &str) -> Result<HostPattern, String> {
    const USAGE: &str = "a name, `*.` and a name, or `{capture}.` and a name, such as \"*.example.org\"";
    // As of what clients send (`message::key`): a dot at the end makes no difference.
    let text = text.strip_suffix('.').unwrap_or(text);
    let lower = text.to_ascii_lowercase();
    if let Some((_, rest)) = lower.split_once("://") {
        return Err(format!("without a scheme: \"{rest}\""));
    }
    if lower == "*" {
        return Err("leave `hosts` out for any host".to_owned());
    }
    let bracketed = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if lower.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()) || bracketed.is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
    {
        return Ok(HostPattern::Exact(lower));
    }
    if let Some((host, port)) = lower.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(format!("the port does not count: \"{host}\""));
    }
    let suffix = |suffix: &str| suffix.strip_prefix('.').is_some_and(is_host_name).then(|| suffix.to_owned());
    if let Some(rest) = lower.strip_prefix('*') {
        return suffix(rest).map(HostPattern::Wildcard).ok_or_else(|| USAGE.to_owned());
    }
    // A capture's name keeps its case.
    if let Some((name, rest)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        let suffix = suffix(&rest.to_ascii_lowercase()).filter(|_| is_capture(name)).ok_or_else(|| USAGE.to_owned())?;
        return Ok(HostPattern::Capture { name: name.to_owned(), suffix });
    }
    if !is_host_name(&lower) {
        return Err(USAGE.to_owned());
    }
    Ok(HostPattern::Exact(lower))
}

fn is_capture(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A matchit template that can be used by itself. Whether it fits the other routes' is seen later.
pub(super) fn path(cx: &Context<'_>, value: &Value<'_>) -> Option<String> {
    let text = text(cx, value)?;
    match check_path(text) {
        Ok(()) => Some(text.to_owned()),
        Err(help) => {
            cx.note(Fault::error(value.span, format!("`{text}` is not a path")).help(help));
            None
        }
    }
}

fn check_path(text: &str) -> Result<(), String> {
    if text.starts_with("/:") || text.contains("/:") {
        let better: Vec<String> = text
            .split('/')
            .map(|part| part.strip_prefix(':').map_or(part.to_owned(), |name| format!("{{{name}}}")))
            .collect();
        return Err(format!("captures are written in braces: \"{}\"", better.join("/")));
    }
    if text == "*" {
        return Err("leave `path` out for every target".to_owned());
    }
    if !text.starts_with('/') {
        return Err(format!("a path starts with a slash: \"/{text}\""));
    }
    if text.ends_with("/*") {
        return Err(format!("a subtree is taken by a catch-all: \"{}{{*rest}}\"", text.trim_end_matches('*')));
    }
    if text.contains(['?', '#']) {
        return Err("a path ends before `?` and `#`; a query is read by the source `query:NAME`".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("paths are compared as they are sent: encode other characters as %XX".to_owned());
    }
    let names = captures(text);
    if let Some(name) = names.iter().find(|name| !is_capture(name)) {
        return Err(format!("`{name}` cannot be a capture's name: letters, digits, `_` and `-`"));
    }
    if let Some(name) = names.iter().enumerate().find(|(i, name)| names.iter().take(*i).any(|other| other == *name)) {
        return Err(format!("the capture `{}` is there twice", name.1));
    }
    let mut router = matchit::Router::new();
    router.insert(text, ()).map_err(|error| match error {
        matchit::InsertError::InvalidParamSegment => "at most one capture between two slashes".to_owned(),
        matchit::InsertError::InvalidCatchAll => "a catch-all `{*rest}` can stand only at the end".to_owned(),
        _ => "captures are `{name}` or, at the end, `{*name}`; a literal brace is written twice: `{{`".to_owned(),
    })
}

/// The names of a template's captures, in order.
pub(super) fn captures(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let inner = rest.get(at + 1..).unwrap_or("");
        if let Some(after) = inner.strip_prefix('{') {
            rest = after;
            continue;
        }
        let Some((name, after)) = inner.split_once('}') else { break };
        names.push(name.strip_prefix('*').unwrap_or(name));
        rest = after;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(parse_host("API.Example.com"), Ok(HostPattern::Exact("api.example.com".into())));
        assert_eq!(parse_host("*.Example.org"), Ok(HostPattern::Wildcard(".example.org".into())));
        let capture = HostPattern::Capture { name: "Asset".into(), suffix: ".x.y".into() };
        assert_eq!(parse_host("{Asset}.X.y"), Ok(capture));
        assert_eq!(parse_host("[::1]"), Ok(HostPattern::Exact("[::1]".into())));
        assert_eq!(parse_host("127.0.0.1"), Ok(HostPattern::Exact("127.0.0.1".into())));
        assert_eq!(parse_host("a.b:8080"), Err("the port does not count: \"a.b\"".into()));
        for bad in ["*", "*.", "a.*.b", "{a}x.y", "{a}", "{}.x", "a b", "https://x", ""] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        for good in ["/", "/v1/{asset}", "/{*rest}", "/v1/{asset}/x", "/%20", "/{{literal}}"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        for bad in ["v1", "*", "/v1/*", "/:a", "/{a}-{b}", "/{*a}/b", "/{a", "/{}", "/{a}/{a}", "/x?y", "/ü", ""] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        assert_eq!(captures("/a/{b}/{{c}}/{*d}"), ["b", "d"]);
    }
}
