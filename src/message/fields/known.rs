//! The names of fields that mean something to the proxy, and sets of them.
//!
//! A name is looked up once, when its line is read: its length and last letter give the only known name that it can be,
//! and one comparison says whether it is that. Nearly all names that mean nothing to us are told by that number alone.

/// Names that the proxy itself looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// Any other.
    Other,
    /// `Connection`
    Connection,
    /// `Keep-Alive`
    KeepAlive,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `TE`
    Te,
    /// `Trailer`
    Trailer,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
    /// `Content-Type`
    ContentType,
    /// `Content-Length`
    ContentLength,
    /// `Host`
    Host,
    /// `Expect`
    Expect,
    /// `Via`
    Via,
    /// `Forwarded`
    Forwarded,
    /// `X-Real-IP`
    RealIp,
    /// `X-Forwarded-For`
    ForwardedFor,
    /// `X-Forwarded-Proto`
    ForwardedProto,
    /// `X-Forwarded-Host`
    ForwardedHost,
    /// `X-Forwarded-Client-Cert`
    ForwardedClientCert,
    /// Any other `X-Forwarded-*`: each means something to somebody.
    ForwardedOther,
    /// `X-Request-Id`
    RequestId,
    /// `Date`
    Date,
    /// `Endpoint-Load-Metrics`
    LoadMetrics,
    /// `Endpoint-Load-Metrics-Bin`
    LoadMetricsBin,
    /// `X-Shardgate-State`
    ShardgateState,
    /// `HTTP2-Settings`
    Http2Settings,
    /// `Proxy-Authenticate`
    ProxyAuthenticate,
    /// `Proxy-Authorization`
    ProxyAuthorization,
    /// `Proxy-Authentication-Info`
    ProxyAuthenticationInfo,
}

/// A set of known names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Names(u32);

impl Names {
    /// No name.
    pub const NONE: Self = Self(0);

    /// The set of these.
    pub const fn of(names: &[Known]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < names.len() {
            set |= Self::bit(names[at]);
            at += 1;
        }
        Self(set)
    }

    /// The set of all of these.
    pub fn all(names: impl Iterator<Item = Known>) -> Self {
        Self(names.fold(0, |set, name| set | Self::bit(name)))
    }

    /// The names of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These, without the names of the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it is one of these.
    pub const fn has(self, name: Known) -> bool {
        self.0 & Self::bit(name) != 0
    }

    /// Whether any name is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// [`Known::Other`] stands for no name, so it is in no set.
    const fn bit(name: Known) -> u32 {
        (1 << name as u8) & !1
    }
}

/// What there is at one place of [`TABLE`].
#[derive(Clone, Copy)]
struct Entry {
    name: &'static [u8],
    known: Known,
}

/// All known names, each at the place that [`place`] gives it.
static TABLE: [Entry; 128] = {
    const ALL: &[Entry] = &[
        Entry { name: b"te", known: Known::Te },
        Entry { name: b"via", known: Known::Via },
        Entry { name: b"host", known: Known::Host },
        Entry { name: b"date", known: Known::Date },
        Entry { name: b"expect", known: Known::Expect },
        Entry { name: b"trailer", known: Known::Trailer },
        Entry { name: b"upgrade", known: Known::Upgrade },
        Entry { name: b"forwarded", known: Known::Forwarded },
        Entry { name: b"x-real-ip", known: Known::RealIp },
        Entry { name: b"connection", known: Known::Connection },
        Entry { name: b"keep-alive", known: Known::KeepAlive },
        Entry { name: b"content-type", known: Known::ContentType },
        Entry { name: b"x-request-id", known: Known::RequestId },
        Entry { name: b"content-length", known: Known::ContentLength },
        Entry { name: b"http2-settings", known: Known::Http2Settings },
        Entry { name: b"x-forwarded-for", known: Known::ForwardedFor },
        Entry { name: b"proxy-connection", known: Known::ProxyConnection },
        Entry { name: b"x-forwarded-host", known: Known::ForwardedHost },
        Entry { name: b"transfer-encoding", known: Known::TransferEncoding },
        Entry { name: b"x-forwarded-proto", known: Known::ForwardedProto },
        Entry { name: b"x-shardgate-state", known: Known::ShardgateState },
        Entry { name: b"proxy-authenticate", known: Known::ProxyAuthenticate },
        Entry { name: b"proxy-authorization", known: Known::ProxyAuthorization },
        Entry { name: b"endpoint-load-metrics", known: Known::LoadMetrics },
        Entry { name: b"x-forwarded-client-cert", known: Known::ForwardedClientCert },
        Entry { name: b"endpoint-load-metrics-bin", known: Known::LoadMetricsBin },
        Entry { name: b"proxy-authentication-info", known: Known::ProxyAuthenticationInfo },
    ];
    let mut table = [Entry { name: b"", known: Known::Other }; 128];
    let mut at = 0;
    while at < ALL.len() {
        let name = ALL[at].name;
        let place = place(name.len(), name[name.len() - 1]);
        assert!(table[place].name.is_empty(), "two names at one place: place() must tell them apart");
        table[place] = ALL[at];
        at += 1;
    }
    table
};

/// Length and last letter tell all known names apart, and this is a number for them that does so too.
const fn place(len: usize, last: u8) -> usize {
    (len + 4 * (last | 0x20) as usize) % 128
}

/// Whether a name is this one, in lower case and as long. By words: names are too short for anything that has to begin.
fn is_same(name: &[u8], lower: &[u8]) -> bool {
    let (Some(name_end), Some(end)) = (name.last_chunk::<8>(), lower.last_chunk::<8>()) else {
        return match (ends(name), ends(lower)) {
            (Some(name), Some(lower)) => to_lower(name) == lower,
            _ => name.eq_ignore_ascii_case(lower),
        };
    };
    let same = |a: &[u8; 8], b: &[u8; 8]| to_lower(u64::from_le_bytes(*a)) == u64::from_le_bytes(*b);
    let ((words, _), (lower_words, _)) = (name.as_chunks::<8>(), lower.as_chunks::<8>());
    same(name_end, end) && words.iter().zip(lower_words).all(|(a, b)| same(a, b))
}

/// The first four bytes and the last four: all of a name of four to eight.
fn ends(name: &[u8]) -> Option<u64> {
    let (first, last) = (name.first_chunk()?, name.last_chunk()?);
    Some(u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)))
}

/// Eight bytes, the capital letters among them in lower case. Of each byte that is ASCII the seventh bit says, once this has
/// been added, whether it is an `A` or above it, and whether it is above `Z`; no sum goes over into the next byte.
fn to_lower(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let low = word & (0x7f * ONES);
    let (from_a, above_z) = (low + (0x80 - 0x41) * ONES, low + (0x80 - 0x5b) * ONES);
    let is_capital = (from_a ^ above_z) & !word & (0x80 * ONES);
    word | is_capital >> 2
}

impl Known {
    /// What this name is to us; `name` in any case.
    pub fn of(name: &[u8]) -> Self {
        let Some(&last) = name.last() else { return Self::Other };
        let entry = &TABLE[place(name.len(), last)];
        if entry.name.len() == name.len() && is_same(name, entry.name) {
            return entry.known;
        }
        match name.first_chunk::<12>() {
            Some(begin @ [b'x' | b'X', ..]) if begin.eq_ignore_ascii_case(b"x-forwarded-") => Self::ForwardedOther,
            _ => Self::Other,
        }
    }

    /// Whether a server could take it for one of these that it is not: many turn `-` and `_` into the same when they make
    /// variables of names, as CGI does (RFC 3875, 4.1.18).
    pub fn is_mimicked_by(name: &[u8]) -> bool {
        if !name.contains(&b'_') || Self::of(name) != Self::Other {
            return false;
        }
        // What is longer than any of them may still begin like some.
        let mut dashed = [0; 32];
        dashed.iter_mut().zip(name).for_each(|(to, &from)| *to = if from == b'_' { b'-' } else { from });
        dashed.get(..name.len().min(32)).is_some_and(|dashed| Self::of(dashed) != Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_nothing_else_is() {
        for (name, known) in [
            ("HOST", Known::Host),
            ("te", Known::Te),
            ("Via", Known::Via),
            ("date", Known::Date),
            ("Expect", Known::Expect),
            ("Server", Known::Other),
            ("trailer", Known::Trailer),
            ("Upgrade", Known::Upgrade),
            ("Forwarded", Known::Forwarded),
            ("X-Real-IP", Known::RealIp),
            ("connection", Known::Connection),
            ("Keep-Alive", Known::KeepAlive),
            ("X-Request-ID", Known::RequestId),
            ("Content-length", Known::ContentLength),
            ("X-Forwarded-For", Known::ForwardedFor),
            ("Proxy-Connection", Known::ProxyConnection),
            ("X-Forwarded-Host", Known::ForwardedHost),
            ("Transfer-Encoding", Known::TransferEncoding),
            ("X-Forwarded-Proto", Known::ForwardedProto),
            ("X-Forwarded-User", Known::ForwardedOther),
            ("X-Forwarded-", Known::ForwardedOther),
            ("X-Forwarded", Known::Other),
            ("Endpoint-Load-Metrics", Known::LoadMetrics),
            ("endpoint-load-metrics-BIN", Known::LoadMetricsBin),
            ("X-Shardgate-State", Known::ShardgateState),
            ("HTTP2-Settings", Known::Http2Settings),
            ("Proxy-Authenticate", Known::ProxyAuthenticate),
            ("Proxy-Authorization", Known::ProxyAuthorization),
            ("Proxy-Authentication-Info", Known::ProxyAuthenticationInfo),
            ("Hosts", Known::Other),
            ("Cookie", Known::Other),
        ] {
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
        }
    }

    /// A name of which any byte is another one is another name.
    #[test]
    fn every_byte_of_a_name_counts() {
        for entry in TABLE.iter().filter(|entry| !entry.name.is_empty()) {
            for at in 0..entry.name.len() {
                let mut name = entry.name.to_vec();
                name[at].make_ascii_uppercase();
                assert_eq!(Known::of(&name), entry.known);
                for other in [b'_', b'0', 0x80, entry.name[at] ^ 1] {
                    name[at] = other;
                    assert_ne!(Known::of(&name), entry.known, "{}", name.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn every_byte_is_lowered_as_ascii() {
        for byte in 0..=u8::MAX {
            let word = to_lower(u64::from_le_bytes([byte, b'A', byte, b'Z', 0xff, byte, b'[', b'@']));
            let lower = byte.to_ascii_lowercase();
            assert_eq!(word.to_le_bytes(), [lower, b'a', lower, b'z', 0xff, lower, b'[', b'@'], "{byte:#x}");
        }
    }

    #[test]
    fn names_with_underscores_can_pass_for_others() {
        for name in [
            "Content_Length",
            "TRANSFER_ENCODING",
            "x_forwarded-for",
            "X-Forwarded_Whatever-else-there-may-be-at-all",
            "x_forwarded_client_cert",
            "X_Real-IP",
        ] {
            assert!(Known::is_mimicked_by(name.as_bytes()), "{name}");
        }
        for name in ["Content-Length", "X-Forwarded-A_b", "api_key", "_", "content_length_", "x_forwarded"] {
            assert!(!Known::is_mimicked_by(name.as_bytes()), "{name}");
        }
    }
}
