//! Fields that speak of one connection and must not travel on (RFC 9110, 7.6.1).

use super::fields::{Fields, Known, Names};

/// The hop-by-hop fields. `Trailer` is one of them because trailers do not travel on, `HTTP2-Settings` also where `Connection`
/// does not list it (RFC 7540, 3.2.1): with it a backend might be talked into another protocol behind our back. What speaks of
/// authentication to a proxy is meant for the next one only (RFC 9110, 11.7), and we ask for none.
pub const HOP_BY_HOP: Names = Names::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::Te,
    Known::Trailer,
    Known::TransferEncoding,
    Known::Upgrade,
    Known::Http2Settings,
    Known::ProxyAuthenticate,
    Known::ProxyAuthorization,
    Known::ProxyAuthenticationInfo,
]);

/// What `Connection` can't take out, or what goes in any case.
const STAYING: Names = HOP_BY_HOP.and(Names::of(&[
    Known::ContentLength,
    Known::Host,
    Known::Via,
    Known::Forwarded,
    Known::ForwardedFor,
    Known::ForwardedProto,
    Known::ForwardedHost,
    Known::ForwardedOther,
    Known::RealIp,
    Known::RequestId,
]));

/// The names that `Connection` lists, beside `close` and `keep-alive`, and that it can speak of.
///
/// `Content-Length` and `Host` it can't: without them the message would mean something else to whoever gets it next, and
/// that is how requests are smuggled. Nor the fields that say where a request comes from: a client would have a proxy of
/// ours forget what the one before said of it.
pub fn listed(fields: &Fields) -> Vec<&[u8]> {
    let options = fields.all(Known::Connection).flat_map(|value| value.split(|&b| b == b','));
    let options = options.map(<[u8]>::trim_ascii).filter(|option| {
        let is = |known: &[u8]| option.eq_ignore_ascii_case(known);
        !option.is_empty() && !is(b"close") && !STAYING.has(Known::of(option))
    });
    // Collecting nothing allocates nothing.
    options.collect()
}

/// Removes what `Connection` lists. The [hop-by-hop](HOP_BY_HOP) fields themselves are left away when a head is written.
pub fn strip_listed(fields: &mut Fields) {
    let listed: Vec<Vec<u8>> = listed(fields).into_iter().map(<[u8]>::to_vec).collect();
    listed.iter().for_each(|name| fields.remove_named(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_connection_lists_goes_and_what_frames_stays() {
        let fields = [
            ("connection", "close, X-Secret, X-Forwarded-Proto"),
            ("Connection", " x-other ,content-length,, host, b@d"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("TE", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABk"),
            ("x-secret", "1"),
            ("X-Other", "1"),
            ("x-other", "2"),
            ("content-length", "5"),
            ("host", "a"),
            ("x-kept", "1"),
            ("X-Forwarded-Proto", "https"),
        ];
        let mut fields: Fields = fields.into_iter().map(|(name, value)| (name, value.as_bytes())).collect();
        strip_listed(&mut fields);
        fields.remove(HOP_BY_HOP);
        let left: Vec<_> = fields.iter().map(|(name, _)| name).collect();
        assert_eq!(left, [&b"content-length"[..], b"host", b"x-kept", b"X-Forwarded-Proto"]);
    }
}
