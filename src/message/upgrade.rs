//! Asking for another protocol, and agreeing to it (RFC 9110, 7.8).
//!
//! Who takes for a switch what is none lets one side speak of messages and the other of raw bytes: that is how requests
//! are smuggled past a proxy (CVE-2024-23326: an answer other than 101; CVE-2026-2833: bytes sent on before any answer).
//! So a request asks only where nothing else can be meant, and an answer agrees only if it names what was asked for.

use http::{Method, Version};

use super::fields::{Fields, Known, line};
use super::framing::{Framing, is_token};
use super::head::{RequestHead, ResponseHead};
use crate::hint::cold_path;

/// What a request asks to switch to: names in lower case, in the client's order, with commas between them. Only a GET of
/// HTTP/1.1 without a body asks; of any other, and of one that is not put as it must be, `Upgrade` has no meaning.
pub fn asked(head: &RequestHead) -> Option<Box<str>> {
    let may_ask = head.version == Version::HTTP_11 && head.method == Method::GET && head.framing == Framing::Empty;
    if !may_ask || !says_upgrade(&head.fields) {
        return None;
    }
    let mut names = String::new();
    for name in list(&head.fields, Known::Upgrade) {
        if !is_protocol(name) {
            return None;
        }
        if !names.is_empty() {
            names.push(',');
        }
        names.extend(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!names.is_empty()).then(|| names.into())
}

/// The first protocol that the client asks for and that is allowed.
pub fn choose<'a>(head: &RequestHead, allowed: &'a [Box<str>]) -> Option<&'a str> {
    let asked = head.upgrade.as_deref()?;
    cold_path();
    asked.split(',').find_map(|name| allowed.iter().map(|allowed| &**allowed).find(|allowed| *allowed == name))
}

/// Whether a 101 agrees to this protocol, which was asked for.
///
/// # Errors
/// What it lacks.
pub fn agrees(head: &ResponseHead, protocol: &str) -> Result<(), &'static str> {
    if head.version != Version::HTTP_11 {
        return Err("a switch in HTTP/1.0");
    }
    if !says_upgrade(&head.fields) {
        return Err("a switch without Connection: Upgrade");
    }
    let mut names = list(&head.fields, Known::Upgrade);
    match (names.next(), names.next()) {
        (Some(name), None) if name.eq_ignore_ascii_case(protocol.as_bytes()) => Ok(()),
        _ => Err("a switch to another protocol than the one asked for"),
    }
}

/// Writes the fields of a head that asks for this protocol, or agrees to it.
pub fn write(out: &mut Vec<u8>, protocol: &[u8]) {
    line(out, b"connection", b"Upgrade");
    line(out, b"upgrade", protocol);
}

/// Whether it is `protocol-name ["/" protocol-version]`.
fn is_protocol(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'/');
    let is_part = |part: &[u8]| !part.is_empty() && is_token(part);
    parts.next().is_some_and(is_part) && parts.next().is_none_or(is_part) && parts.next().is_none()
}

fn says_upgrade(fields: &Fields) -> bool {
    list(fields, Known::Connection).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

/// The elements of a field that is a list (RFC 9110, 5.6.1).
fn list(fields: &Fields, name: Known) -> impl Iterator<Item = &[u8]> {
    let elements = fields.all(name).flat_map(|value| value.split(|&byte| byte == b','));
    elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn request(fields: &[(&str, &str)]) -> RequestHead {
        RequestHead::new(Method::GET, "/", fields.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn what_asks_and_what_does_not() {
        let yes = [("Connection", "Upgrade")];
        for (connection, upgrade, expected) in [
            (&yes[..], &[("Upgrade", "WebSocket")][..], Some("websocket")),
            (&[("connection", "keep-alive, upgrade")], &[("upgrade", "websocket, h2c")], Some("websocket,h2c")),
            (&yes, &[("Upgrade", "IRC/6.9"), ("Upgrade", "x")], Some("irc/6.9,x")),
            (&yes, &[("Upgrade", ",websocket,")], Some("websocket")),
            (&yes, &[("Upgrade", "")], None),
            (&yes, &[], None),
            (&[], &[("Upgrade", "websocket")], None),
            (&[("Connection", "upgraded")], &[("Upgrade", "websocket")], None),
            (&yes, &[("Upgrade", "web socket")], None),
            (&yes, &[("Upgrade", "websocket"), ("Upgrade", "a b")], None),
            (&yes, &[("Upgrade", "a/b/c")], None),
            (&yes, &[("Upgrade", "/1")], None),
        ] {
            let head = request(&[connection, upgrade].concat());
            assert_eq!(asked(&head).as_deref(), expected, "{connection:?} {upgrade:?}");
        }
        let good = request(&[("Connection", "upgrade"), ("Upgrade", "websocket")]);
        let changes: [fn(&mut RequestHead); 4] = [
            |head| head.version = Version::HTTP_10,
            |head| head.method = Method::POST,
            |head| head.framing = Framing::Length(1),
            |head| head.framing = Framing::Chunked,
        ];
        for change in changes {
            let mut other = good.clone();
            change(&mut other);
            assert!(asked(&good).is_some() && asked(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn the_clients_order_counts_among_what_is_allowed() {
        let names = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect::<Vec<Box<str>>>();
        for (asked, allowed, expected) in [
            (Some("websocket"), &["websocket"][..], Some("websocket")),
            (Some("h2c,websocket"), &["websocket"], Some("websocket")),
            (Some("b,a"), &["a", "b"], Some("b")),
            (Some("websocket"), &[], None),
            (Some("web"), &["websocket"], None),
            (None, &["websocket"], None),
        ] {
            let mut head = request(&[]);
            head.upgrade = asked.map(Into::into);
            assert_eq!(choose(&head, &names(allowed)), expected, "{asked:?} {allowed:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_is_agreed_to() {
        for (fields, version, agreed) in [
            (&[("connection", "Upgrade"), ("upgrade", "WebSocket")][..], Version::HTTP_11, true),
            (&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], Version::HTTP_11, true),
            (&[("connection", "upgrade"), ("upgrade", "websocket")], Version::HTTP_10, false),
            (&[("upgrade", "websocket")], Version::HTTP_11, false),
            (&[("connection", "upgrade")], Version::HTTP_11, false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], Version::HTTP_11, false),
            (&[("connection", "upgrade"), ("upgrade", "websocket, h2c")], Version::HTTP_11, false),
            (&[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "x")], Version::HTTP_11, false),
            (&[("connection", "close"), ("upgrade", "websocket")], Version::HTTP_11, false),
        ] {
            let mut head = ResponseHead::new(StatusCode::SWITCHING_PROTOCOLS);
            head.version = version;
            fields.iter().for_each(|(name, value)| head.fields.push(name.as_bytes(), value.as_bytes()));
            assert_eq!(agrees(&head, "websocket").is_ok(), agreed, "{fields:?} {version:?}");
        }
    }
}
