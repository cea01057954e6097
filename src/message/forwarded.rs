//! Who the client is, and how a backend is told (X-Forwarded-*, and RFC 7239 where a trusted proxy began it).
//!
//! Anybody can write these fields, so they are believed only from proxies that the operator named. From anyone else
//! they are removed before ours are set. The client is the right-most address that is not a trusted proxy: whatever
//! stands further left was written by somebody unknown. `X-Forwarded-For` says it or, where there is none, `Forwarded`;
//! docs/adr/0023 says why in this order.

mod element;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use ipnet::IpNet;

use self::element::Node;
use super::fields::{Fields, Known, Names, line};
use crate::hint::cold_path;

/// Every field that says who the client is, those that we do not know by name included: `X-Forwarded-User` means
/// something somewhere.
const ALL: Names = Names::of(&[
    Known::ForwardedFor,
    Known::ForwardedProto,
    Known::ForwardedHost,
    Known::ForwardedOther,
    Known::ForwardedClientCert,
    Known::Forwarded,
    Known::RealIp,
]);

/// Not even a trusted proxy's word: one that does not know the field passes on what strangers write into it.
const NEVER_THEIRS: Names = Names::of(&[Known::ForwardedClientCert]);

/// Whether the peer is a proxy whose word is taken. A peer on a Unix socket has no address; it is trusted when the
/// listener trusts anybody at all, since whoever may open the socket is a neighbour.
pub fn is_trusted(peer: Option<IpAddr>, trusted: &[IpNet]) -> bool {
    match peer {
        Some(peer) => covers(trusted, peer),
        None => !trusted.is_empty(),
    }
}

/// The client's address: the peer's, or behind trusted proxies the right-most one that is not theirs.
pub fn client(peer: Option<IpAddr>, trusted: &[IpNet], fields: &Fields) -> Option<IpAddr> {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut walk = Walk { nearest: peer, trusted };
    // Whoever breaks off the walk has said who it is.
    let _ = if fields.has(Names::of(&[Known::ForwardedFor])) {
        let mut entries = fields.all(Known::ForwardedFor).rev().flat_map(|line| line.rsplit(|&b| b == b','));
        entries.try_for_each(|entry| walk.step(parse(entry)))
    } else {
        fields.all(Known::Forwarded).rev().try_for_each(|line| match element::nodes(line) {
            None => walk.step(None),
            Some(nodes) => nodes.iter().rev().try_for_each(|node| match node {
                Node::Address(address) => walk.step(Some(*address)),
                Node::Hidden => walk.step(None),
            }),
        })
    };
    walk.nearest
}

/// From the peer outwards, from one proxy to the one before it.
struct Walk<'a> {
    nearest: Option<IpAddr>,
    trusted: &'a [IpNet],
}

impl Walk<'_> {
    /// Goes on only from a trusted proxy. `None`: somebody of whom nothing is known, and behind whom nobody can look.
    fn step(&mut self, address: Option<IpAddr>) -> ControlFlow<()> {
        let Some(address) = address else { return ControlFlow::Break(()) };
        self.nearest = Some(address);
        if covers(self.trusted, address) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

/// The fields that are not passed on as they came: what a stranger wrote, and what ours goes into.
pub fn replaced(trusted: bool) -> Names {
    if trusted { Names::of(&[Known::ForwardedFor, Known::Forwarded]).and(NEVER_THEIRS) } else { ALL }
}

/// Writes the fields for the next hop, beside which those of [`replaced`] must not stand. `peer` is the peer's address
/// as text (`unknown` on a Unix socket), `host` the Host that the client sent, `scheme` what it was sent over.
pub fn write(out: &mut Vec<u8>, fields: &Fields, trusted: bool, peer: &str, host: &[u8], scheme: &str) {
    let theirs = |name| trusted && fields.has(Names::of(&[name]));
    joined(out, b"x-forwarded-for", fields, Known::ForwardedFor, trusted, peer.as_bytes());
    if theirs(Known::Forwarded) {
        cold_path();
        let mut element = String::from("for=");
        let _ = if peer.contains(':') { write!(element, "\"[{peer}]\"") } else { write!(element, "{peer}") };
        element.push_str(";proto=");
        element.push_str(scheme);
        joined(out, b"forwarded", fields, Known::Forwarded, trusted, element.as_bytes());
    }
    if !theirs(Known::ForwardedProto) {
        line(out, b"x-forwarded-proto", scheme.as_bytes());
    }
    if !theirs(Known::ForwardedHost) && !host.is_empty() {
        line(out, b"x-forwarded-host", host);
    }
}

/// Writes who showed a certificate, as Envoy does (`X-Forwarded-Client-Cert`). A quote within the subject is escaped by
/// the subject's own rules (RFC 4514), so the first one that is not ends it.
pub fn write_client_cert(out: &mut Vec<u8>, subject: &str) {
    out.extend_from_slice(b"x-forwarded-client-cert: Subject=\"");
    out.extend_from_slice(subject.as_bytes());
    out.extend_from_slice(b"\"\r\n");
}

/// What is there, if it is believed, and ours at its end, in one line.
fn joined(out: &mut Vec<u8>, name: &[u8], fields: &Fields, known: Known, trusted: bool, ours: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    for value in fields.all(known).filter(|_| trusted) {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(ours);
    out.extend_from_slice(b"\r\n");
}

fn covers(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// `192.0.2.1`, `192.0.2.1:8080`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:8080`.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?.trim();
    let address = text
        .parse::<IpAddr>()
        .or_else(|_| text.parse::<SocketAddr>().map(|a| a.ip()))
        .or_else(|_| text.trim_start_matches('[').trim_end_matches(']').parse())
        .ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> Fields {
        lines.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
    }

    /// What the next hop gets.
    fn sent(fields: &Fields, trusted: bool, peer: &str) -> String {
        let mut out = vec![];
        fields.write(&mut out, replaced(trusted));
        write(&mut out, fields, trusted, peer, b"a.example", "http");
        String::from_utf8(out).unwrap()
    }

    fn nets() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    #[test]
    fn the_client_is_the_right_most_untrusted_address() {
        let peer = |text: &str| Some(text.parse().unwrap());
        let table: [(&str, &[&str], &str); 9] = [
            ("192.0.2.1", &["203.0.113.9"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.2.2.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.2.2.2:80"], "203.0.113.9"),
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            ("10.0.0.1", &["1.1.1.1, junk, 10.2.2.2"], "10.2.2.2"),
            ("fd00::1", &["[2001:db8::7]:99"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
        ];
        for (from, lines, expected) in table {
            let fields: Fields = lines.iter().map(|line| ("X-Forwarded-For", line.as_bytes())).collect();
            assert_eq!(client(peer(from), &nets(), &fields), peer(expected), "{from} {lines:?}");
        }
    }

    #[test]
    fn forwarded_says_it_where_there_is_no_x_forwarded_for() {
        let peer = |text: &str| Some(text.parse().unwrap());
        let (xff, forwarded) = ("X-Forwarded-For", "Forwarded");
        type Lines = [(&'static str, &'static str)];
        let table: [(&str, &Lines, &str); 12] = [
            ("192.0.2.1", &[(forwarded, "for=203.0.113.9")], "192.0.2.1"),
            ("10.0.0.1", &[(forwarded, "for=203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1, for=203.0.113.9;proto=https, for=10.2.2.2")], "203.0.113.9"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (forwarded, "for=\"[2001:db8::7]:1\"")], "2001:db8::7"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (forwarded, "for=10.2.2.2")], "1.1.1.1"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1, for=unknown, for=10.2.2.2")], "10.2.2.2"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1, for=_hidden")], "10.0.0.1"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (forwarded, "proto=https")], "10.0.0.1"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (forwarded, "junk")], "10.0.0.1"),
            ("10.0.0.1", &[(forwarded, "host=\"x, for=1.1.1.1\";for=10.2.2.2")], "10.2.2.2"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (xff, "203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", &[(forwarded, "for=1.1.1.1"), (xff, "junk")], "10.0.0.1"),
        ];
        for (from, lines, expected) in table {
            assert_eq!(client(peer(from), &nets(), &fields(lines)), peer(expected), "{from} {lines:?}");
        }
    }

    #[test]
    fn a_stranger_s_word_is_replaced() {
        let fields = fields(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=1.1.1.1"),
            ("X-Real-IP", "1.1.1.1"),
            ("accept", "*/*"),
        ]);
        assert_eq!(
            sent(&fields, false, "192.0.2.1"),
            "accept: */*\r\nx-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\nx-forwarded-host: a.example\r\n"
        );
    }

    #[test]
    fn over_tls_it_is_https_and_who_showed_a_certificate_is_told_by_us_alone() {
        let fields = fields(&[("X-Forwarded-Client-Cert", "Subject=\"CN=root\""), ("forwarded", "for=1.1.1.1")]);
        for trusted in [false, true] {
            let mut out = vec![];
            fields.write(&mut out, replaced(trusted));
            write(&mut out, &fields, trusted, "10.0.0.1", b"a.example", "https");
            write_client_cert(&mut out, "CN=me");
            let out = String::from_utf8(out).unwrap();
            assert!(out.contains("x-forwarded-proto: https\r\n") && !out.contains("root"), "{out}");
            assert_eq!(out.contains(";proto=https"), trusted, "{out}");
            assert!(out.ends_with("x-forwarded-client-cert: Subject=\"CN=me\"\r\n"), "{out}");
        }
    }

    #[test]
    fn a_trusted_proxy_s_word_is_kept_and_ours_added() {
        let fields = fields(&[
            ("X-Forwarded-For", "1.1.1.1"),
            ("x-forwarded-for", "10.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        assert_eq!(
            sent(&fields, true, "fd00::1"),
            "x-forwarded-proto: https\r\nx-forwarded-for: 1.1.1.1, 10.2.2.2, fd00::1\r\n\
             forwarded: for=1.1.1.1, for=\"[fd00::1]\";proto=http\r\nx-forwarded-host: a.example\r\n"
        );
    }
}
