//! Who the client is, and how a backend is told (X-Forwarded-*, and RFC 7239 where a trusted proxy began it).
//!
//! Anybody can write these fields, so they are believed only from proxies that the operator named. From anyone else
//! they are removed before ours are set. The client is the right-most address that is not a trusted proxy: whatever
//! stands further left was written by somebody unknown.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Whether the peer is a proxy whose word is taken. A peer on a Unix socket has no address; it is trusted when the
/// listener trusts anybody at all, since whoever may open the socket is a neighbour.
pub fn is_trusted(peer: Option<IpAddr>, trusted: &[IpNet]) -> bool {
    match peer {
        Some(peer) => covers(trusted, peer),
        None => !trusted.is_empty(),
    }
}

/// The client's address: the peer's, or behind trusted proxies the right-most one that is not theirs.
pub fn client(peer: Option<IpAddr>, trusted: &[IpNet], headers: &HeaderMap) -> Option<IpAddr> {
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let mut nearest = peer;
    let lines: Vec<_> = headers.get_all(&FOR).iter().collect();
    for line in lines.iter().rev() {
        for entry in line.as_bytes().rsplit(|&b| b == b',') {
            let Some(address) = parse(entry) else {
                return nearest;
            };
            nearest = Some(address);
            if !covers(trusted, address) {
                return nearest;
            }
        }
    }
    nearest
}

/// Sets the fields for the next hop. `peer_text` is the peer's address as text (`unknown` on a Unix socket), `host`
/// the Host that the client sent.
pub fn set(headers: &mut HeaderMap, trusted: bool, peer_text: &HeaderValue, host: Option<&HeaderValue>) {
    if !trusted {
        remove_all(headers);
        headers.insert(FOR, peer_text.clone());
        headers.insert(PROTO, HeaderValue::from_static("http"));
        if let Some(host) = host {
            headers.insert(HOST, host.clone());
        }
        return;
    }
    append(headers, &FOR, peer_text.as_bytes());
    if headers.contains_key(header::FORWARDED) {
        let mut element = String::from("for=");
        let peer = peer_text.to_str().unwrap_or("unknown");
        let _ = if peer.contains(':') { write!(element, "\"[{peer}]\"") } else { write!(element, "{peer}") };
        element.push_str(";proto=http");
        append(headers, &header::FORWARDED, element.as_bytes());
    }
    if !headers.contains_key(&PROTO) {
        headers.insert(PROTO, HeaderValue::from_static("http"));
    }
    if let (false, Some(host)) = (headers.contains_key(&HOST), host) {
        headers.insert(HOST, host.clone());
    }
}

/// Removes every such field, those that we do not know by name included: `X-Forwarded-User` means something somewhere.
fn remove_all(headers: &mut HeaderMap) {
    let is_theirs = |name: &&HeaderName| {
        name.as_str().starts_with("x-forwarded-") || *name == header::FORWARDED || *name == REAL_IP
    };
    let theirs: Vec<HeaderName> = headers.keys().filter(is_theirs).cloned().collect();
    for name in theirs {
        headers.remove(name);
    }
}

/// Joins what is there into one line and puts ours at its end.
fn append(headers: &mut HeaderMap, name: &HeaderName, ours: &[u8]) {
    let mut line = Vec::new();
    for value in headers.get_all(name) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(ours);
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(name, value);
    }
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

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
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
            let mut map = HeaderMap::new();
            for line in lines {
                map.append(FOR, line.parse().unwrap());
            }
            assert_eq!(client(peer(from), &nets(), &map), peer(expected), "{from} {lines:?}");
        }
    }

    #[test]
    fn a_stranger_s_word_is_replaced() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-user", "root"),
            ("forwarded", "for=1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("accept", "*/*"),
        ]);
        set(&mut map, false, &"192.0.2.1".parse().unwrap(), Some(&"a.example".parse().unwrap()));
        assert_eq!(
            map,
            headers(&[
                ("accept", "*/*"),
                ("x-forwarded-for", "192.0.2.1"),
                ("x-forwarded-proto", "http"),
                ("x-forwarded-host", "a.example"),
            ])
        );
    }

    #[test]
    fn a_trusted_proxy_s_word_is_kept_and_ours_added() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "10.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        set(&mut map, true, &"fd00::1".parse().unwrap(), Some(&"a.example".parse().unwrap()));
        assert_eq!(map[FOR], "1.1.1.1, 10.2.2.2, fd00::1");
        assert_eq!(map[PROTO], "https");
        assert_eq!(map[HOST], "a.example");
        assert_eq!(map[header::FORWARDED], "for=1.1.1.1, for=\"[fd00::1]\";proto=http");
    }
}
