//! Elements of `Forwarded` (RFC 7239, 4), from the right end of a line to the left: `for=192.0.2.1;proto=http,
//! for="[2001:db8::7]:4711"`.
//!
//! Read strictly, and a line as a whole before anything of it: commas and semicolons may stand in quotes, so that where
//! an element ends depends on everything before it. A line with a fault says nothing, since its author and we might not
//! agree on where its elements are.

use std::net::{IpAddr, Ipv6Addr};

use smallvec::SmallVec;

/// Who an element is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    /// This address, without its port.
    Address(IpAddr),
    /// Somebody: `unknown`, a made-up name (`_hidden`), or nothing said.
    Hidden,
}

/// The elements of a line, left to right. More than these are not looked at: a line with more has no meaning any more.
pub(super) type Nodes = SmallVec<[Node; 4]>;

/// As many hops make no sense.
const MOST: usize = 64;

/// Whom the elements of a line are for. `None`: the line is malformed.
pub(super) fn nodes(line: &[u8]) -> Option<Nodes> {
    let mut rest = line;
    let mut nodes = Nodes::new();
    loop {
        rest = rest.trim_ascii_start();
        // A list may have empty elements (RFC 9110, 5.6.1.2).
        match rest {
            [] => return Some(nodes),
            [b',', after @ ..] => {
                rest = after;
                continue;
            }
            _ if nodes.len() == MOST => return None,
            _ => {}
        }
        let (node, after) = element(rest)?;
        nodes.push(node);
        rest = after.trim_ascii_start();
        if !matches!(rest, [] | [b',', ..]) {
            return None;
        }
    }
}

/// `[ pair ] *( ";" [ pair ] )`, and what follows it.
fn element(line: &[u8]) -> Option<(Node, &[u8])> {
    let mut rest = line;
    let mut node = None;
    // Each parameter once (RFC 7239, 4). Only whether `for` comes again makes a difference here.
    loop {
        if !matches!(rest, [] | [b';' | b',' | b' ' | b'\t', ..]) {
            let (name, value, after) = pair(rest)?;
            if name.eq_ignore_ascii_case(b"for") && node.replace(self::node(&value)?).is_some() {
                return None;
            }
            rest = after;
        }
        match rest {
            [b';', after @ ..] => rest = after,
            _ => return Some((node.unwrap_or(Node::Hidden), rest)),
        }
    }
}

type Value = SmallVec<[u8; 64]>;

/// `token "=" ( token / quoted-string )`, the value without its quotes.
fn pair(text: &[u8]) -> Option<(&[u8], Value, &[u8])> {
    let (name, rest) = text.split_at_checked(token(text))?;
    let [b'=', rest @ ..] = rest else { return None };
    if name.is_empty() {
        return None;
    }
    if let [b'"', rest @ ..] = rest {
        let (value, rest) = quoted(rest)?;
        return Some((name, value, rest));
    }
    let (value, rest) = rest.split_at_checked(token(rest))?;
    (!value.is_empty()).then(|| (name, Value::from_slice(value), rest))
}

/// How many bytes of a token there are.
fn token(text: &[u8]) -> usize {
    let is = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    text.iter().position(|byte| !is(byte)).unwrap_or(text.len())
}

/// A quoted string behind its opening quote (RFC 9110, 5.6.4).
fn quoted(text: &[u8]) -> Option<(Value, &[u8])> {
    let mut value = Value::new();
    let mut rest = text;
    loop {
        let byte = match rest {
            [b'"', after @ ..] => return Some((value, after)),
            [b'\\', byte, after @ ..] => {
                rest = after;
                *byte
            }
            [byte, after @ ..] => {
                rest = after;
                *byte
            }
            [] => return None,
        };
        if !matches!(byte, b'\t' | b' '..=b'~' | 0x80..) {
            return None;
        }
        value.push(byte);
    }
}

/// `nodename [ ":" node-port ]` (RFC 7239, 6). What is none makes the line malformed.
fn node(value: &[u8]) -> Option<Node> {
    let text = str::from_utf8(value).ok()?;
    let (name, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, port) = bracketed.split_once(']')?;
            (Node::Address(IpAddr::V6(ip.parse::<Ipv6Addr>().ok()?).to_canonical()), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at_checked(end)?;
            let node = match name {
                "unknown" => Node::Hidden,
                hidden if is_obfuscated(hidden) => Node::Hidden,
                // Only version 4: version 6 stands in brackets.
                address => Node::Address(IpAddr::V4(address.parse().ok()?)),
            };
            (node, port)
        }
    };
    let port_ok = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => is_obfuscated(port) || ((1..=5).contains(&port.len()) && port.parse::<u16>().is_ok()),
    };
    (port_ok && !port.starts_with(":+")).then_some(name)
}

/// `"_" 1*( ALPHA / DIGIT / "." / "_" / "-")`
fn is_obfuscated(text: &str) -> bool {
    let rest = text.strip_prefix('_').unwrap_or_default();
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As text: addresses, `-` for somebody, `bad` for a line that is none.
    fn said(line: &str) -> String {
        let Some(nodes) = nodes(line.as_bytes()) else { return "bad".into() };
        let words = nodes.iter().map(|node| match node {
            Node::Address(ip) => ip.to_string(),
            Node::Hidden => "-".into(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines() {
        for (line, expected) in [
            // The examples of RFC 7239.
            ("for=\"_gazonk\"", "-"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=192.0.2.43, for=198.51.100.17", "192.0.2.43 198.51.100.17"),
            ("for=_hidden, for=_SEVKISEK", "- -"),
            ("for=192.0.2.43, for=\"[2001:db8:cafe::17]\", for=unknown", "192.0.2.43 2001:db8:cafe::17 -"),
            // Ports, spaces, empty elements and pairs.
            ("for=\"192.0.2.43:80\"", "192.0.2.43"),
            ("for=\"192.0.2.43:_x.1-y\"", "192.0.2.43"),
            ("for=\"unknown:80\"", "-"),
            ("  for=192.0.2.1\t,\t , for=192.0.2.2  ", "192.0.2.1 192.0.2.2"),
            (";for=192.0.2.1;;", "192.0.2.1"),
            ("", ""),
            (" , ", ""),
            ("proto=https", "-"),
            ("FOR=192.0.2.1", "192.0.2.1"),
            ("for=\"[::ffff:192.0.2.1]\"", "192.0.2.1"),
            // What would be an end, in quotes.
            ("host=\"a,b;c\\\"d\";for=192.0.2.1", "192.0.2.1"),
            ("host=\"x, for=1.1.1.1\";for=192.0.2.1", "192.0.2.1"),
            ("ext=\"a\\\\\", for=192.0.2.1", "- 192.0.2.1"),
            ("for=\"192\\.0.2.1\"", "192.0.2.1"),
        ] {
            assert_eq!(said(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_that_are_none() {
        for line in [
            "192.0.2.1",
            "for",
            "for=",
            "=192.0.2.1",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1; proto=http",
            "for=192.0.2.1 for=192.0.2.2",
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1:80",
            "for=[::1]",
            "for=\"::1\"",
            "for=\"2001:db8::1\"",
            "for=\"[192.0.2.1]\"",
            "for=\"[::1\"",
            "for=\"[::1]80\"",
            "for=\"[::1%eth0]\"",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:+80\"",
            "for=\"192.0.2.1:65536\"",
            "for=\"192.0.2.1:000080\"",
            "for=\"192.0.2.1:_\"",
            "for=192.0.2.01",
            "for=_",
            "for=\"_a b\"",
            "for=somebody",
            "for=\"192.0.2.1",
            "for=\"192.0.2.1\\",
            "for=\"192.0.2.1\"x",
            "for=\"192.0.2.1\x00\"",
            "for=192.0.2.1, host=\"a",
            "for=192.0.2.1/24",
        ] {
            assert_eq!(said(line), "bad", "{line}");
        }
        assert_eq!(said(&vec!["for=1.1.1.1"; MOST].join(",")).split(' ').count(), MOST);
        assert_eq!(said(&vec!["for=1.1.1.1"; MOST + 1].join(",")), "bad");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(line in r#"[for=;,:"\\\[\] 0-9a-f._\t]{0,60}"#) {
            let _ = nodes(line.as_bytes());
        }

        #[test]
        fn what_is_appended_is_found_last(before in r#"(for=[0-9]\.1\.1\.1|host="[a-z,;]*")"#, ip: [u8; 4]) {
            let ip = IpAddr::from(ip);
            let nodes = nodes(format!("{before}, for={ip}").as_bytes()).unwrap();
            prop_assert_eq!(nodes.last(), Some(&Node::Address(ip)));
        }
    }
}
