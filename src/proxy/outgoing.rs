//! The request as backends see it: prepared once, sent by every try.
//!
//! The target goes through byte for byte unless the route rewrites it; only an absolute-form target becomes its
//! origin-form, with the authority in Host, as RFC 9112, 3.2.2 asks of whoever forwards it to an origin.

use std::borrow::Cow;

use http::{Method, Version};
use tokio::time::Instant;

use super::hops;
use crate::backend::Backend;
use crate::hint::cold_path;
use crate::message::conn::Conn;
use crate::message::fields::{Known, Names, line};
use crate::message::framing::origin_form;
use crate::message::{RequestHead, forwarded, grpc, hop, websocket};
use crate::model::{HeaderEdits, HostHeader, PoolSettings, Protocol, Rewrite, Route};
use crate::upstream::Proof;

pub(crate) const REQUEST_ID: &[u8] = b"x-request-id";

/// A request head and what its route does to it.
pub(crate) struct Outgoing<'a> {
    head: &'a RequestHead,
    target: Cow<'a, [u8]>,
    edits: &'a HeaderEdits,
    /// What the backend is asked to switch to.
    upgrade: Option<&'a str>,
    /// The route lets an `Idempotency-Key` speak.
    idempotency_key: bool,
    /// Of a call: when its client stops waiting.
    deadline: Option<Instant>,
    /// What `Max-Forwards` says, us included.
    hops: Option<u64>,
}

/// Where a request comes from, and what it is called.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) conn: &'a Conn,
    pub(crate) request_id: &'a [u8],
}

/// What does not go on as it came. `Expect` is said anew where it still means something; the length is said by whoever
/// sends the body.
const REPLACED: Names =
    hop::HOP_BY_HOP.and(Names::of(&[Known::ContentLength, Known::Host, Known::Expect, Known::Via, Known::RequestId]));

impl<'a> Outgoing<'a> {
    /// `upgrade`: what the client asks to switch to, and may. `hops`: see [`hops::left`]. `None`: the rewritten target is not a target any more.
    pub(crate) fn new(
        head: &'a RequestHead,
        route: &'a Route,
        upgrade: Option<&'a str>,
        deadline: Option<Instant>,
        hops: Option<u64>,
    ) -> Option<Self> {
        let target = origin_form(head.target());
        let target = match &route.rewrite {
            None => target,
            Some(rewrite) => Cow::Owned(rewritten(str::from_utf8(&target).ok()?, rewrite)?),
        };
        let edits = &route.request_headers;
        Some(Self { head, target, edits, upgrade, idempotency_key: route.idempotency_key, deadline, hops })
    }

    /// As the client sent it.
    pub(crate) fn head(&self) -> &'a RequestHead {
        self.head
    }

    pub(crate) fn upgrade(&self) -> Option<&'a str> {
        self.upgrade
    }

    /// How a backend proves that it has understood what it is asked to switch to.
    pub(crate) fn proof(&self) -> Proof {
        match self.head.fields.named(websocket::KEY).next() {
            None => Proof::None,
            // Over HTTP/2 clients have no key.
            Some(key) if self.head.version == Version::HTTP_2 => Proof::Ours(key.into()),
            Some(key) => Proof::Theirs(key.into()),
        }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.head.method
    }

    /// Whether sending it twice has no further effect: by its method (RFC 9110, 9.2.2), or because it carries a key by
    /// which backends tell that they have seen it (draft-ietf-httpapi-idempotency-key-header), and the key reaches them.
    pub(crate) fn is_idempotent(&self) -> bool {
        const KEY: &str = "idempotency-key";
        let fields = &self.head.fields;
        is_idempotent(self.method())
            || (self.idempotency_key
                && fields.named(KEY).any(|value| !value.is_empty())
                && !edits_name(self.edits, KEY.as_bytes())
                && !hop::listed(fields).iter().any(|listed| listed.eq_ignore_ascii_case(KEY.as_bytes())))
    }

    /// Whether the client said how long the body is, be it of no bytes.
    pub(crate) fn says_length(&self) -> bool {
        self.head.fields.has(Names::of(&[Known::ContentLength]))
    }

    /// Whether the body may be read by another task than the one that writes the response. Of HTTP/1 both are one connection,
    /// and a socket wakes one task.
    pub(crate) fn is_apart(&self) -> bool {
        self.head.version == Version::HTTP_2
    }

    /// Writes the head for one try: the request line and the fields, without those that say where the body ends.
    pub(crate) fn write(&self, out: &mut Vec<u8>, from: Caller<'_>, backend: &Backend, settings: &PoolSettings) {
        let (trusted, host) = (from.conn.is_trusted, self.head.authority());
        out.extend_from_slice(self.head.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let start = out.len();
        let fields = &self.head.fields;
        match &settings.host {
            HostHeader::Preserve if !host.is_empty() => line(out, b"host", host),
            HostHeader::Name(name) => line(out, b"host", name.as_bytes()),
            HostHeader::Preserve | HostHeader::Backend => line(out, b"host", host_of(backend).as_bytes()),
        }
        let replaced = REPLACED.and(forwarded::replaced(trusted));
        let mut listed = hop::listed(fields);
        if self.deadline.is_some() {
            listed.push(grpc::TIMEOUT.as_bytes());
        }
        if self.hops.is_some() {
            listed.push(hops::NAME.as_bytes());
        }
        if listed.is_empty() {
            fields.write(out, replaced);
        } else {
            cold_path();
            let is_listed = |name: &[u8]| listed.iter().any(|listed| listed.eq_ignore_ascii_case(name));
            fields.write_if(out, |field, name| !replaced.has(field.known()) && !is_listed(name));
        }
        if self.head.expects_continue {
            cold_path();
            line(out, b"expect", b"100-continue");
        }
        if let Some(deadline) = self.deadline {
            cold_path();
            grpc::write_timeout(out, deadline.saturating_duration_since(Instant::now()));
        }
        if let Some(hops) = self.hops {
            cold_path();
            let left = hops.saturating_sub(1);
            line(out, hops::NAME.as_bytes(), itoa::Buffer::new().format(left).as_bytes());
        }
        // What it says of trailers is meant for whoever sends them (RFC 9110, 10.1.4).
        if backend.identity.protocol == Protocol::H2 && fields.all(Known::Te).any(takes_trailers) {
            line(out, b"te", b"trailers");
        }
        let conn = from.conn;
        forwarded::write(out, fields, trusted, conn.peer_field(), host, conn.scheme());
        if let Some(subject) = conn.secure().and_then(|secure| secure.subject.as_deref()) {
            cold_path();
            forwarded::write_client_cert(out, subject);
        }
        line(out, REQUEST_ID, from.request_id);
        if !self.edits.is_empty() {
            edit(out, start, self.edits);
        }
        if settings.via.0 {
            self.write_via(out);
        }
    }

    /// The client's chain with us at its end (RFC 9110, 7.6.3). A route's edits are of the chain, not of our own part.
    fn write_via(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"via: ");
        let set = self.edits.set.iter().find(|(name, _)| name == http::header::VIA).map(|(_, value)| value.as_bytes());
        let kept = !edits_name(self.edits, b"via");
        for value in self.head.fields.all(Known::Via).filter(|_| kept).chain(set) {
            out.extend_from_slice(value);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(match self.head.version {
            Version::HTTP_10 => b"1.0 shardgate\r\n",
            Version::HTTP_2 => b"2.0 shardgate\r\n",
            _ => b"1.1 shardgate\r\n",
        });
    }
}

fn takes_trailers(te: &[u8]) -> bool {
    te.split(|&byte| byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

fn edits_name(edits: &HeaderEdits, name: &[u8]) -> bool {
    let is_set = edits.set.iter().any(|(set, _)| set.as_str().as_bytes() == name);
    is_set || edits.remove.iter().any(|removed| removed.as_str().as_bytes() == name)
}

/// Removes and sets what a route asks for among the lines from `start` on. `Via` has a rule of its own.
fn edit(out: &mut Vec<u8>, start: usize, edits: &HeaderEdits) {
    let lines = out.split_off(start);
    for field in lines.split_inclusive(|&byte| byte == b'\n') {
        let name = field.split(|&byte| byte == b':').next().unwrap_or_default().to_ascii_lowercase();
        if !edits_name(edits, &name) {
            out.extend_from_slice(field);
        }
    }
    for (name, value) in edits.set.iter().filter(|(name, _)| name != http::header::VIA) {
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
}

/// A Unix socket has no name that could be a Host, so `localhost` stands for it, as in curl.
fn host_of(backend: &Backend) -> &str {
    if backend.label.starts_with("unix:") { "localhost" } else { &backend.label }
}

/// The target as a route wants it, if that is still one.
fn rewritten(target: &str, rewrite: &Rewrite) -> Option<Vec<u8>> {
    let target = replace_prefix(target, rewrite);
    let valid = target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    valid.then(|| target.into_bytes())
}

/// A prefix is whole segments: `/v1` is one of `/v1/x` and of `/v1?a`, not of `/v10`.
fn replace_prefix(target: &str, rewrite: &Rewrite) -> String {
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
    fn only_idempotent_methods_are_repeated() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_idempotent(&method.parse().unwrap()));
        }
        for method in ["POST", "PATCH", "CONNECT", "QUERY", "get"] {
            assert!(!is_idempotent(&method.parse().unwrap()));
        }
    }

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
            assert_eq!(replace_prefix(target, &rewrite), expected, "{target} {rewrite:?}");
        }
    }

    #[test]
    fn edits_are_of_whole_lines_in_any_case() {
        let edits = HeaderEdits {
            remove: vec!["cookie".parse().unwrap()],
            set: vec![("x-tier".parse().unwrap(), "gold".parse().unwrap())],
        };
        let mut out = b"GET / HTTP/1.1\r\nCookie: a\r\nX-Tier: tin\r\nCookies: b\r\ncookie: c\r\n".to_vec();
        edit(&mut out, 16, &edits);
        assert_eq!(out, b"GET / HTTP/1.1\r\nCookies: b\r\nx-tier: gold\r\n");
    }
}
