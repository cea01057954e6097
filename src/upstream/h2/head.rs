//! Heads of HTTP/2 as the rest of the proxy knows them, and the other way round: RFC 9113, 8.
//!
//! What a backend is sent is decided in one place, where the head is written as lines. Here those lines are taken apart
//! again. What comes back obeys the rules of HTTP/1.1 as well, because that is what the client may speak.

use h2::ext::Protocol;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, response};
use smallvec::SmallVec;

use crate::message::ResponseHead;
use crate::message::fields::{Known, Names};
use crate::message::framing::{Fault, response::bad};
use crate::message::hop::HOP_BY_HOP;
use crate::message::websocket;
use crate::upstream::client::MAX_FIELDS;

/// What has no place in HTTP/2, or another one (RFC 9113, 8.2.2 and 8.3.1).
const REPLACED: Names = HOP_BY_HOP.and(Names::of(&[Known::Host]));

/// The request that these lines are, over TLS or in clear. `None`: they are none. `protocol`: what they ask to switch to, as
/// an extended CONNECT does (RFC 8441, 4); for that nobody needs a WebSocket's key (5).
pub(super) fn request(lines: &[u8], length: Option<u64>, is_tls: bool, protocol: Option<&str>) -> Option<Request<()>> {
    let mut lines = lines.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|&byte| byte == b' ');
    let (method, target) = (Method::from_bytes(words.next()?).ok()?, words.next()?);
    let mut authority = None;
    let mut fields = HeaderMap::with_capacity(24);
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let value = value.get(1..)?.trim_ascii();
        let known = Known::of(name);
        if known == Known::Host {
            authority = Some(value);
        }
        if protocol.is_some() && name.eq_ignore_ascii_case(websocket::KEY.as_bytes()) {
            continue;
        }
        let is_trailers = known == Known::Te && value.eq_ignore_ascii_case(b"trailers");
        if is_trailers || !REPLACED.has(known) {
            fields.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
        }
    }
    if let Some(length) = length {
        fields.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let fields = apart(fields);
    let mut uri = Uri::builder().path_and_query(target);
    // A Host that is empty is no authority.
    if let Some(authority) = authority.filter(|authority| !authority.is_empty()) {
        let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        uri = uri.scheme(scheme).authority(Authority::try_from(authority).ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    if let Some(protocol) = protocol {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    *request.uri_mut() = uri.build().ok()?;
    *request.headers_mut() = fields;
    Some(request)
}

/// Keeps what libraries of gRPC parse out of the compression's table, which all clients of a connection share: grpc-core
/// marks an entry whose value it can't parse, and fails every later call that refers to the entry, if for its name only.
pub(super) fn apart(mut fields: HeaderMap) -> HeaderMap {
    for (name, value) in &mut fields {
        value.set_sensitive(name.as_str().starts_with("grpc-") || name.as_str().ends_with("-bin"));
    }
    fields
}

/// The head of a response, or of an interim one, and how long its body is, if it says so.
pub(super) fn response(parts: &response::Parts) -> Result<(ResponseHead, Option<u64>), Fault> {
    if parts.headers.len() > MAX_FIELDS {
        return Err(bad("too many response fields"));
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(bad("a switch that HTTP/2 does not have"));
    }
    let mut head = ResponseHead::new(parts.status);
    for (name, value) in &parts.headers {
        head.fields.push(name.as_str().as_bytes(), value.as_bytes().trim_ascii());
    }
    if parts.status.is_informational() {
        return Ok((head, None));
    }
    let length = match head.fields.all(Known::ContentLength).collect::<SmallVec<[_; 2]>>()[..] {
        [] => None,
        [value] => Some(decimal(value).ok_or(bad("invalid Content-Length"))?),
        _ => return Err(bad("more than one Content-Length")),
    };
    Ok((head, length))
}

fn decimal(value: &[u8]) -> Option<u64> {
    let text = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Whether an answer with this status to such a request has no body (RFC 9110, 6.4.1).
pub(super) fn is_bodyless(status: StatusCode, to_head: bool) -> bool {
    to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grpc_parses_is_not_put_into_the_table_that_all_share() {
        let lines = b"POST /a HTTP/1.1\r\nhost: h\r\ngrpc-timeout: S\r\nx-a-bin: !\r\nx-a: b\r\n";
        let head = request(lines, Some(5), false, None).unwrap();
        for (name, value) in head.headers() {
            assert_eq!(value.is_sensitive(), name == "grpc-timeout" || name == "x-a-bin", "{name}");
        }
    }

    #[test]
    fn the_scheme_is_that_of_the_connection() {
        for (is_tls, expected) in [(false, "http"), (true, "https")] {
            let head = request(b"GET /a HTTP/1.1\r\nhost: h\r\n", None, is_tls, None).unwrap();
            assert_eq!(head.uri().scheme_str(), Some(expected));
        }
    }
}
