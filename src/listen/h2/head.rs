//! Heads between HTTP/2 and what the rest of the proxy knows.
//!
//! A request's head is written as one of HTTP/1.1 and read by the strict reader that reads every other (RFC 9113, 8.3.1
//! says how they correspond). So there is one set of rules and limits, and what a backend of HTTP/1.1 is sent for a request
//! of HTTP/2 has been looked at in the form in which it could do harm: a value with a line end in it, a path that is a
//! whole URI, a second Host (Kettle, "HTTP/2: The Sequel is Always Worse", 2021).

use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY};
use http::{Method, Version, request};

use crate::message::fields::{Known, Names, line};
use crate::message::framing::{Fault, Scan, method_of_refused};
use crate::message::hop::HOP_BY_HOP;
use crate::message::{RequestHead, ResponseHead, upgrade, websocket};
use crate::model::Limits;

use crate::listen::stream::head_limits;

pub(super) const LENGTH: Names = Names::of(&[Known::ContentLength]);

/// Reads a request's head. `is_whole`: no body follows. `scratch`: an empty buffer.
///
/// # Errors
/// The rule that it breaks, and what stands for it, as far as it is known.
pub(super) fn read(
    parts: &request::Parts,
    is_whole: bool,
    limits: &Limits,
    scratch: &mut Vec<u8>,
) -> Result<RequestHead, Box<(Fault, RequestHead)>> {
    let mut scan = Scan::default();
    let read = write(parts, is_whole, scratch).and_then(|()| {
        let found = scan.feed(scratch, &head_limits(limits))?;
        let found = found.filter(|found| found.start == 0 && found.end == scratch.len());
        found.and_then(|found| RequestHead::read(scratch, found)).ok_or(Fault::bad("not a head"))
    });
    match read {
        Ok(mut head) if head.upgrade.is_some() || wanted(parts).is_none() => {
            head.version = Version::HTTP_2;
            Ok(head)
        }
        Ok(head) => Err(Box::new((Fault::bad("a CONNECT that asks for nothing"), head))),
        Err(fault) => {
            let target = scan.target(scratch).and_then(|target| str::from_utf8(target).ok()).unwrap_or_default();
            let method = method_of_refused(Some(parts.method.as_str().as_bytes()));
            let mut head = RequestHead::new(method, target, []);
            head.version = Version::HTTP_2;
            Err(Box::new((fault, head)))
        }
    }
}

/// Writes it as a head of HTTP/1.1. What the strict reader can't see any more is checked here.
fn write(parts: &request::Parts, is_whole: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
    let uri = &parts.uri;
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let wanted = wanted(parts);
    let is_whole = is_whole || wanted.is_some();
    // The library has looked at the values of fields, and not at this one.
    let is_visible = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !wanted.is_none_or(is_visible) {
        return Err(Fault::bad(":protocol is not a word"));
    }
    let target = match uri.path_and_query().map(|path| path.as_str()) {
        _ if parts.method == Method::CONNECT && wanted.is_none() => {
            uri.authority().map_or("", |authority| authority.as_str())
        }
        Some(path) if path.starts_with('/') || path == "*" => path,
        _ => return Err(Fault::bad(":path is neither a path nor an asterisk")),
    };
    if !uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https")) {
        return Err(Fault::bad(":scheme is neither http nor https"));
    }
    let method = if wanted.is_some() { &Method::GET } else { &parts.method };
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = authority {
        line(out, b"host", authority);
    }
    let mut cookie = false;
    for (name, value) in &parts.headers {
        let value = value.as_bytes();
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err(Fault::bad("white space around a field value"));
        }
        match (name, authority) {
            // The same authority in two places: one of them goes on (RFC 9113, 8.3.1).
            (&HOST, Some(authority)) if value.eq_ignore_ascii_case(authority) => {}
            (&HOST, Some(_)) => return Err(Fault::bad(":authority and Host differ")),
            (&COOKIE, _) if std::mem::replace(&mut cookie, true) => {}
            // A WebSocket's key is that of ours.
            (&SEC_WEBSOCKET_KEY, _) if wanted.is_some() => {}
            (&COOKIE, _) => cookies(out, &parts.headers),
            _ => line(out, name.as_str().as_bytes(), value),
        }
    }
    if let Some(protocol) = wanted {
        ask(out, protocol);
    }
    // What says where the body ends, where a version of HTTP needs that said.
    if !is_whole && !parts.headers.contains_key(CONTENT_LENGTH) {
        line(out, b"transfer-encoding", b"chunked");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// What an extended CONNECT asks to speak (RFC 8441, 4).
fn wanted(parts: &request::Parts) -> Option<&str> {
    let protocol = parts.extensions.get::<Protocol>().filter(|_| parts.method == Method::CONNECT)?;
    Some(protocol.as_str())
}

/// The same asked for as HTTP/1.1 does (RFC 8441, 5.1). The key of the WebSocket protocol, which HTTP/2 has no use for, is
/// made up: it proves to the client that the server speaks that protocol, and here we are the client.
fn ask(out: &mut Vec<u8>, protocol: &str) {
    upgrade::write(out, protocol.as_bytes());
    if protocol.eq_ignore_ascii_case("websocket") {
        let key = data_encoding::BASE64.encode(&fastrand::u128(..).to_le_bytes());
        line(out, websocket::KEY.as_bytes(), key.as_bytes());
    }
}

/// The crumbs of a cookie as one field again (RFC 9113, 8.2.3).
fn cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    out.extend_from_slice(b"cookie: ");
    for (at, crumb) in headers.get_all(COOKIE).iter().enumerate() {
        if at > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A response's head, without what speaks of a connection. `length`: of the body, to be said in place of any that is;
/// `keep`: what is said already stays.
pub(super) fn response(head: ResponseHead, length: Option<u64>, keep: bool) -> http::Response<()> {
    let without = if keep { HOP_BY_HOP } else { HOP_BY_HOP.and(LENGTH) };
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    let headers = response.headers_mut();
    headers.reserve(8);
    head.fields.share(without, |name, value| {
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_maybe_shared(value));
        // What has been read by the rules is valid here as well. More fields than fit are far beyond any limit.
        if let (Ok(name), Ok(value)) = (name, value) {
            let _ = headers.try_append(name, value);
        }
    });
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::framing::Framing;

    fn asked(uri: &str, fields: &[(&str, &str)], is_whole: bool) -> Result<RequestHead, &'static str> {
        let mut request = http::Request::builder().method("POST").uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        read(&parts, is_whole, &Limits::default(), &mut vec![]).map_err(|refused| refused.0.detail)
    }

    #[test]
    fn a_head_is_read_as_one_of_http_1() {
        let fields = [("cookie", "a=1"), ("x-y", "z"), ("cookie", "b=2"), ("host", "A.example")];
        let head = asked("http://a.example/p?q", &fields, true).unwrap();
        assert_eq!((head.target(), head.authority(), head.version), (&b"/p?q"[..], &b"a.example"[..], Version::HTTP_2));
        let fields: Vec<_> = head.fields.iter().map(|(name, value)| [name, value].concat()).collect();
        assert_eq!(fields, [&b"hosta.example"[..], b"cookiea=1; b=2", b"x-yz"]);
        assert_eq!(head.framing, Framing::Empty);
        assert_eq!(asked("http://a/", &[], false).unwrap().framing, Framing::Chunked);
        assert_eq!(asked("http://a/", &[("content-length", "7")], false).unwrap().framing, Framing::Length(7));
        assert!(asked("http://a/", &[("expect", "100-continue")], false).unwrap().expects_continue);
    }

    #[test]
    fn what_would_be_read_in_two_ways_is_refused() {
        for (uri, fields, why) in [
            ("http://a/", vec![("host", "b")], ":authority and Host differ"),
            ("http://u@a/", vec![], "invalid Host"),
            ("ftp://a/", vec![], ":scheme is neither http nor https"),
            ("http://a/", vec![("x", " y")], "white space around a field value"),
            ("http://a/", vec![("x", "y\t")], "white space around a field value"),
            ("/", vec![], "no Host"),
            ("/", vec![("host", "a"), ("host", "a")], "more than one Host"),
            ("http://a/", vec![("content-length", "1"), ("content-length", "1")], "more than one Content-Length"),
            ("http://a/", vec![("transfer-encoding", "chunked")], "more than one Transfer-Encoding"),
        ] {
            assert_eq!(asked(uri, &fields, false).err(), Some(why), "{uri} {fields:?}");
        }
        let long = format!("http://a/{}", "x".repeat(9000));
        assert_eq!(asked(&long, &[], true).err(), Some("target over the limit"));
    }

    proptest::proptest! {
        /// Whatever is accepted says the same in the form of HTTP/1.1 as it did.
        #[test]
        fn nothing_is_added_and_nothing_lost(
            path in "/[!-~]{0,20}",
            fields in proptest::collection::vec(("(cookie|expect|[a-z][a-z0-9-]{0,9})", "[ -~\t]{0,20}"), 0..8),
            is_whole: bool,
        ) {
            let mut request = http::Request::builder().uri(format!("http://a{path}"));
            for (name, value) in &fields {
                request = request.header(name, value);
            }
            let Ok(request) = request.body(()) else { return Ok(()) };
            let (parts, ()) = request.into_parts();
            if let Ok(head) = read(&parts, is_whole, &Limits::default(), &mut vec![]) {
                proptest::prop_assert_eq!(head.target(), parts.uri.path_and_query().unwrap().as_str().as_bytes());
                proptest::prop_assert_eq!(head.authority(), b"a");
                let crumbs: Vec<_> = parts.headers.get_all(COOKIE).iter().map(|crumb| crumb.as_bytes()).collect();
                let expected = parts.headers.iter().filter(|(name, _)| *name != COOKIE && *name != HOST);
                let mut expected: Vec<_> =
                    expected.map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
                if !crumbs.is_empty() {
                    expected.push((b"cookie".to_vec(), crumbs.join(&b"; "[..]).trim_ascii().to_vec()));
                }
                let known = |name: &[u8]| matches!(Known::of(name), Known::Host | Known::TransferEncoding);
                let found = head.fields.iter().filter(|(name, _)| !known(name));
                let mut found: Vec<_> = found.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                expected.sort();
                found.sort();
                proptest::prop_assert_eq!(found, expected);
            }
        }
    }
}
