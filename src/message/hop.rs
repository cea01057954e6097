//! Fields that speak of one connection and must not travel on (RFC 9110, 7.6.1).

use http::header::{self, HeaderMap, HeaderName};

static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Removes the hop-by-hop fields and those that `Connection` lists.
///
/// `Content-Length` and `Host` stay whatever `Connection` says: without them the message would mean something else to
/// whoever gets it next, and that is how requests are smuggled. `Trailer` goes because trailers do.
pub fn strip(headers: &mut HeaderMap) {
    // One look at each name costs less than a look-up for each of these; most messages have none of them.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        strip_listed(headers);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
}

fn strip_listed(headers: &mut HeaderMap) {
    let mut listed = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        for token in value.as_bytes().split(|&b| b == b',') {
            let token = token.trim_ascii();
            if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token)
                && name != header::CONTENT_LENGTH
                && name != header::HOST
            {
                listed.push(name);
            }
        }
    }
    for name in listed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_lists_goes_and_what_frames_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("connection", " x-other ,content-length,, host, b@d"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("x-other", "2"),
            ("content-length", "5"),
            ("host", "a"),
            ("x-kept", "1"),
        ] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-kept"]);
    }
}
