//! Fields that come after a body: which of them may travel on (RFC 9110, 6.5.1).
//!
//! A field that says where a message ends, where it goes, who sends it or what it is has been acted on when the body
//! comes; whoever merged one from the trailers into the head would have checked another message than the one that counts.
//! So these are taken out. All others are for the two ends.

use http::HeaderMap;

use super::fields::Known;
use super::load_report;

/// What may not come after a body: framing, routing, who asks and where from, conditions, what the body is.
const FORBIDDEN: [&str; 26] = [
    "age",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-range",
    "cookie",
    "date",
    "expires",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "retry-after",
    "set-cookie",
    "vary",
    "warning",
    "www-authenticate",
    "x-http-method-override",
];

/// Takes out what may not come after a body.
pub fn strip(trailers: &mut HeaderMap) {
    let is_forbidden = |name: &str| match Known::of(name.as_bytes()) {
        // Not one that means anything to us.
        Known::Other => FORBIDDEN.contains(&name),
        known => !load_report::FIELDS.has(known),
    };
    let gone: Vec<_> = trailers.keys().filter(|name| is_forbidden(name.as_str())).cloned().collect();
    gone.iter().for_each(|name| {
        trailers.remove(name);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_frames_or_routes_is_taken_out() {
        let mut trailers = HeaderMap::new();
        let kept = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-sum", "server-timing"];
        let gone = [
            "content-length",
            "host",
            "transfer-encoding",
            "authorization",
            "content-type",
            "connection",
            "te",
            "trailer",
            "via",
            "forwarded",
            "x-forwarded-for",
            "x-request-id",
            "x-shardgate-state",
            "set-cookie",
        ];
        kept.iter().chain(&gone).for_each(|name| {
            trailers.append(*name, "1".parse().unwrap());
            trailers.append(*name, "2".parse().unwrap());
        });
        strip(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        let mut expected = kept.to_vec();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}
