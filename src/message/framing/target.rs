//! Request targets and hosts: RFC 9112, 3.2 and 3.2.1 to 3.2.4; RFC 9110, 7.2; RFC 3986, 3.2.2.
//!
//! Of characters, those pass that `http::Uri` takes as well, as far as they are ASCII: a widely used reading that is wide
//! enough for what browsers send. A `#` never passes: a target has no fragment, and some parsers drop it silently.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::{Fault, alphanumeric_and, cut, visible_but};

const INVALID: Fault = Fault::bad("invalid character in the target");

/// Whether a request target may stand with this method (RFC 9112, 3.2).
pub(super) fn check(method: &[u8], target: &[u8]) -> Result<(), Fault> {
    match target {
        [b'/', ..] => path_and_query(target),
        b"*" if method == b"OPTIONS" => Ok(()),
        b"*" => Err(Fault::bad("asterisk-form without OPTIONS")),
        _ => {
            let Some((authority, rest)) = split_absolute(target) else {
                return Err(Fault::bad("target is neither a path nor an http URI"));
            };
            if !valid_host(authority) {
                return Err(Fault::bad("invalid authority in the target"));
            }
            path_and_query(rest)
        }
    }
}

/// What a backend is sent in the request line for a target that is valid: the path and query, also where the
/// client sent an absolute URI (RFC 9112, 3.2.2).
pub fn origin_form(target: &[u8]) -> Cow<'_, [u8]> {
    match split_absolute(target) {
        None => Cow::Borrowed(target),
        Some((_, b"")) => Cow::Borrowed(b"/"),
        Some((_, rest @ [b'/', ..])) => Cow::Borrowed(rest),
        Some((_, query)) => Cow::Owned([b"/", query].concat()),
    }
}

/// Whether this is `host [":" port]` with a host that is not empty: a name, an IPv4 address, or an IPv6 address in
/// brackets (RFC 9110, 7.2). No user information, no percent-encoding, no zone.
pub fn valid_host(value: &[u8]) -> bool {
    let (host, port) = if let [b'[', rest @ ..] = value {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let (address, after) = rest.split_at(end);
        let valid = str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
        if !valid {
            return false;
        }
        match after {
            [b']'] => return true,
            [b']', b':', port @ ..] => (&b"v6"[..], port),
            _ => return false,
        }
    } else {
        cut(value, b':').unwrap_or((value, b""))
    };
    !host.is_empty() && host.iter().all(|&b| REG_NAME[usize::from(b)]) && valid_port(port)
}

/// `*DIGIT` (RFC 3986, 3.2.3), and no more than a port can be.
fn valid_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port.iter().fold(0u32, |n, b| n * 10 + u32::from(b - b'0')) <= u32::from(u16::MAX)
}

/// The authority of an absolute http URI and what follows it.
pub(in crate::message) fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme)))?
        .len();
    let rest = target.get(start..)?;
    Some(rest.split_at(memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len())))
}

fn path_and_query(target: &[u8]) -> Result<(), Fault> {
    // The path ends at the first `?`, which may not stand in it.
    let path = target.iter().take_while(|&&b| PATH[usize::from(b)]).count();
    let valid = match target.get(path..) {
        None | Some([]) => true,
        Some([b'?', query @ ..]) => query.iter().all(|&b| QUERY[usize::from(b)]),
        Some(_) => false,
    };
    if valid { Ok(()) } else { Err(INVALID) }
}

/// `unreserved / sub-delims` of RFC 3986.
const REG_NAME: [bool; 256] = alphanumeric_and(b"-._~!$&'()*+,;=");

const PATH: [bool; 256] = visible_but(b"#<>?`");

const QUERY: [bool; 256] = visible_but(b"\"#<>");
