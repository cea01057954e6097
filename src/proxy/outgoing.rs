//! The request as backends see it: prepared once, sent by every try.
//!
//! The target goes through byte for byte unless the route rewrites it; only an absolute-form target becomes its
//! origin-form, with the authority in Host, as RFC 9112, 3.2.2 asks of whoever forwards it to an origin.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri, Version};

use crate::backend::Backend;
use crate::message::{forwarded, hop};
use crate::model::{HeaderEdits, HostHeader, Rewrite};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the connection and the route know that the request's head must say.
pub(crate) struct About<'a> {
    pub(crate) trusted: bool,
    pub(crate) peer: &'a HeaderValue,
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) expects_continue: bool,
    pub(crate) rewrite: Option<&'a Rewrite>,
    pub(crate) edits: &'a HeaderEdits,
}

/// A request head without what differs from try to try.
pub(crate) struct Outgoing {
    method: Method,
    target: Uri,
    headers: HeaderMap,
    host: Option<HeaderValue>,
    via: Option<HeaderValue>,
    /// The route set Host itself, so the pool's setting is not asked.
    host_is_set: bool,
}

impl Outgoing {
    /// Takes the client's head over. `None`: the rewritten target is not a target any more.
    pub(crate) fn new(parts: http::request::Parts, about: &About<'_>) -> Option<Self> {
        let mut headers = parts.headers;
        hop::strip(&mut headers);
        headers.remove(header::EXPECT);
        if about.expects_continue {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        forwarded::set(&mut headers, about.trusted, about.peer, about.host);
        headers.insert(REQUEST_ID, about.request_id.clone());
        headers.remove(header::HOST);
        apply(about.edits, &mut headers);
        let via = via(&headers, parts.version);
        headers.remove(header::VIA);
        Some(Self {
            target: target(&parts.uri, about.rewrite)?,
            method: parts.method,
            host: about.host.cloned(),
            via,
            host_is_set: headers.contains_key(header::HOST),
            headers,
        })
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// The head for one try, with a body.
    pub(crate) fn request<B>(&self, backend: &Backend, host: &HostHeader, with_via: bool, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        let mut headers = self.headers.clone();
        if !self.host_is_set {
            let theirs = match host {
                HostHeader::Preserve => self.host.clone(),
                HostHeader::Backend => None,
                HostHeader::Name(name) => Some(name.clone()),
            };
            headers.insert(header::HOST, theirs.unwrap_or_else(|| host_of(backend)));
        }
        if let (true, Some(via)) = (with_via, &self.via) {
            headers.insert(header::VIA, via.clone());
        }
        *request.headers_mut() = headers;
        request
    }
}

/// Removes and sets what a route asks for.
pub(crate) fn apply(edits: &HeaderEdits, headers: &mut HeaderMap) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name, value.clone());
    }
}

/// The client's chain with us at its end (RFC 9110, 7.6.3).
fn via(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let ours: &[u8] = if version == Version::HTTP_10 { b"1.0 shardgate" } else { b"1.1 shardgate" };
    let mut line = Vec::new();
    for value in headers.get_all(header::VIA) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    if line.is_empty() {
        return HeaderValue::from_bytes(ours).ok();
    }
    line.extend_from_slice(ours);
    HeaderValue::from_bytes(&line).ok()
}

/// A Unix socket has no name that could be a Host, so `localhost` stands for it, as in curl.
fn host_of(backend: &Backend) -> HeaderValue {
    let text = if backend.label.starts_with("unix:") { "localhost" } else { &*backend.label };
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
}

fn target(uri: &Uri, rewrite: Option<&Rewrite>) -> Option<Uri> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let Some(rewrite) = rewrite else {
        if uri.scheme().is_none() && uri.authority().is_none() {
            return Some(uri.clone());
        }
        return Uri::try_from(whole).ok();
    };
    Uri::try_from(rewritten(whole, rewrite)).ok()
}

/// A prefix is whole segments: `/v1` is one of `/v1/x` and of `/v1?a`, not of `/v10`.
fn rewritten(target: &str, rewrite: &Rewrite) -> String {
    let rest = rewrite
        .strip_prefix
        .as_deref()
        .map(|prefix| prefix.trim_end_matches('/'))
        .and_then(|prefix| target.strip_prefix(prefix))
        .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        .unwrap_or(target);
    let added = rewrite.add_prefix.as_deref().unwrap_or("").trim_end_matches('/');
    let slash = if rest.starts_with('/') || (rest.starts_with('?') && !added.is_empty()) { "" } else { "/" };
    let slash = if rest.is_empty() && !added.is_empty() { "" } else { slash };
    format!("{added}{slash}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_whole_segments() {
        let table = [
            ("/v1/x?a=b", Some("/v1"), None, "/x?a=b"),
            ("/v1/x", Some("/v1/"), None, "/x"),
            ("/v10/x", Some("/v1"), None, "/v10/x"),
            ("/v1", Some("/v1"), None, "/"),
            ("/v1?a", Some("/v1"), None, "/?a"),
            ("/v1/x", Some("/v1"), Some("/api/"), "/api/x"),
            ("/v1", Some("/v1"), Some("/api"), "/api"),
            ("/v1?a", Some("/v1"), Some("/api"), "/api?a"),
            ("/x%2F//../y", None, Some("/api"), "/api/x%2F//../y"),
            ("/other", Some("/v1"), None, "/other"),
        ];
        for (target, strip, add, expected) in table {
            let rewrite = Rewrite { strip_prefix: strip.map(Into::into), add_prefix: add.map(Into::into) };
            assert_eq!(rewritten(target, &rewrite), expected, "{target} {rewrite:?}");
        }
    }

    #[test]
    fn the_target_goes_through_byte_for_byte() {
        for text in ["/a//b/../c;x?q=%2f%00&&", "/", "/?", "*", "/%c3%28"] {
            let uri: Uri = text.parse().unwrap();
            assert_eq!(target(&uri, None).unwrap().to_string(), text);
        }
        let absolute: Uri = "http://example.com/a?b".parse().unwrap();
        assert_eq!(target(&absolute, None).unwrap().to_string(), "/a?b");
        let bare: Uri = "http://example.com".parse().unwrap();
        assert_eq!(target(&bare, None).unwrap().to_string(), "/");
    }
}
