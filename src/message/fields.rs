//! Header fields of one message: the text as it came, and where in it each field stands.
//!
//! A proxy reads few fields and passes most of them on untouched. So fields are kept as lines, not as a map: a name that
//! we have to know is recognised once, when the line is checked, and becomes one bit; taking fields out is a walk over a
//! dozen small entries, and only if the bits say that there is something to take; writing them is copying lines. A map
//! (`http::HeaderMap`) hashes each name, counts references to each value, and is written field by field.
//!
//! The names keep the case in which they were sent, as they do through nginx: it means nothing (RFC 9110, 5.1), but some
//! programs believe that it does.

use bytes::Bytes;

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

    /// The names of both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
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

impl Known {
    /// What this name is to us; `name` in any case.
    pub fn of(name: &[u8]) -> Self {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is(b"te") => Self::Te,
            3 if is(b"via") => Self::Via,
            4 if is(b"host") => Self::Host,
            4 if is(b"date") => Self::Date,
            6 if is(b"expect") => Self::Expect,
            7 if is(b"trailer") => Self::Trailer,
            7 if is(b"upgrade") => Self::Upgrade,
            9 if is(b"forwarded") => Self::Forwarded,
            9 if is(b"x-real-ip") => Self::RealIp,
            10 if is(b"connection") => Self::Connection,
            10 if is(b"keep-alive") => Self::KeepAlive,
            12 if is(b"content-type") => Self::ContentType,
            12 if is(b"x-request-id") => Self::RequestId,
            14 if is(b"content-length") => Self::ContentLength,
            14 if is(b"http2-settings") => Self::Http2Settings,
            15 if is(b"x-forwarded-for") => Self::ForwardedFor,
            16 if is(b"proxy-connection") => Self::ProxyConnection,
            16 if is(b"x-forwarded-host") => Self::ForwardedHost,
            17 if is(b"transfer-encoding") => Self::TransferEncoding,
            17 if is(b"x-forwarded-proto") => Self::ForwardedProto,
            17 if is(b"x-shardgate-state") => Self::ShardgateState,
            18 if is(b"proxy-authenticate") => Self::ProxyAuthenticate,
            19 if is(b"proxy-authorization") => Self::ProxyAuthorization,
            21 if is(b"endpoint-load-metrics") => Self::LoadMetrics,
            23 if is(b"x-forwarded-client-cert") => Self::ForwardedClientCert,
            25 if is(b"endpoint-load-metrics-bin") => Self::LoadMetricsBin,
            25 if is(b"proxy-authentication-info") => Self::ProxyAuthenticationInfo,
            12.. if name.get(..12).is_some_and(|begin| begin.eq_ignore_ascii_case(b"x-forwarded-")) => {
                Self::ForwardedOther
            }
            _ => Self::Other,
        }
    }

    /// Whether a server could take it for one of these that it is not: many turn `-` and `_` into the same when they make
    /// variables of names, as CGI does (RFC 3875, 4.1.18).
    pub fn is_mimicked_by(name: &[u8]) -> bool {
        if memchr::memchr(b'_', name).is_none() || Self::of(name) != Self::Other {
            return false;
        }
        // What is longer than any of them may still begin like some.
        let mut dashed = [0; 32];
        dashed.iter_mut().zip(name).for_each(|(to, &from)| *to = if from == b'_' { b'-' } else { from });
        dashed.get(..name.len().min(32)).is_some_and(|dashed| Self::of(dashed) != Self::Other)
    }
}

/// Where a field stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    known: Known,
    /// The line is `name: value` and its CRLF, exactly, so it can be copied.
    is_plain: bool,
    name_len: u16,
    start: u32,
    value: u32,
    value_end: u32,
}

impl Field {
    /// The field whose line, without its end, begins at `start` of a text: a name of `name_len` bytes, a colon, and
    /// anything. `None`: it is longer than any limit allows.
    pub fn at(start: usize, line: &[u8], name_len: usize) -> Option<Self> {
        let name = line.get(..name_len)?;
        let rest = line.get(name_len + 1..)?;
        let value = super::framing::trim(rest);
        let before = rest.len() - rest.trim_ascii_start().len();
        let before = if value.is_empty() { rest.len() } else { before };
        let value_at = start + name_len + 1 + before;
        Some(Self {
            known: Known::of(name),
            is_plain: rest.first() == Some(&b' ') && value.len() + 1 == rest.len(),
            name_len: u16::try_from(name_len).ok()?,
            start: u32::try_from(start).ok()?,
            value: u32::try_from(value_at).ok()?,
            value_end: u32::try_from(value_at + value.len()).ok()?,
        })
    }

    /// What its name is to us.
    pub fn known(&self) -> Known {
        self.known
    }

    fn name<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let start = self.start as usize;
        text.get(start..start + usize::from(self.name_len)).unwrap_or_default()
    }

    /// Its value in this text.
    pub fn value<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.value as usize..self.value_end as usize).unwrap_or_default()
    }
}

/// The fields of a message, in their order. `Default`: none.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    text: Vec<u8>,
    list: Vec<Field>,
    present: Names,
}

impl Fields {
    /// Fields that have been checked, by their places in `text`, where other things may stand as well.
    pub fn new(text: Vec<u8>, list: Vec<Field>) -> Self {
        let present = Names(list.iter().fold(0, |set, field| set | Names::bit(field.known)));
        Self { text, list, present }
    }

    /// All the text that the places refer to.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether there is one of these.
    pub fn has(&self, names: Names) -> bool {
        self.present.meets(names)
    }

    /// The first value of a known name.
    pub fn get(&self, name: Known) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The values of a known name.
    pub fn all(&self, name: Known) -> impl DoubleEndedIterator<Item = &[u8]> {
        let list = if self.present.has(name) { &self.list[..] } else { &[] };
        list.iter().filter(move |field| field.known == name).map(|field| field.value(&self.text))
    }

    /// The values of a name, in whatever case.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |field: &&Field| field.name(&self.text).eq_ignore_ascii_case(name.as_bytes());
        self.list.iter().filter(same).map(|field| field.value(&self.text))
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|field| (field.name(&self.text), field.value(&self.text)))
    }

    /// Gives names and values of all but these. The values share the memory of the text.
    pub fn share(self, without: Names, mut take: impl FnMut(&[u8], Bytes)) {
        let text = Bytes::from(self.text);
        for field in self.list.iter().filter(|field| !without.has(field.known)) {
            let value = field.value as usize..field.value_end as usize;
            if value.start <= value.end && value.end <= text.len() {
                take(field.name(&text), text.slice(value));
            }
        }
    }

    /// Adds a field. Both must be valid (RFC 9110, 5.1 and 5.5); a field that is larger than any limit is left away.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        let value_at = start + name.len() + 2;
        let (Ok(name_len), Ok(value_end)) = (u16::try_from(name.len()), u32::try_from(value_at + value.len())) else {
            return;
        };
        line(&mut self.text, name, value);
        let known = Known::of(name);
        self.present.0 |= Names::bit(known);
        self.list.push(Field {
            known,
            is_plain: true,
            name_len,
            // Both are below `value_end`.
            start: start as u32,
            value: value_at as u32,
            value_end,
        });
    }

    /// One field of this name, in place of any that there were.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove_named(name);
        self.push(name, value);
    }

    /// Removes all of these.
    pub fn remove(&mut self, names: Names) {
        if self.present.meets(names) {
            self.list.retain(|field| !names.has(field.known));
            self.present.0 &= !names.0;
        }
    }

    /// Removes all of this name, in whatever case.
    pub fn remove_named(&mut self, name: &[u8]) {
        let text = &self.text;
        self.list.retain(|field| !field.name(text).eq_ignore_ascii_case(name));
        self.present = Names(self.list.iter().fold(0, |set, field| set | Names::bit(field.known)));
    }

    /// Writes the lines of all but these.
    pub fn write(&self, out: &mut Vec<u8>, without: Names) {
        self.write_if(out, |field, _| !without.has(field.known));
    }

    /// Writes the lines of those that are wanted, by entry and name. Lines that follow each other are copied as one.
    pub fn write_if(&self, out: &mut Vec<u8>, mut wanted: impl FnMut(&Field, &[u8]) -> bool) {
        let (mut begin, mut end) = (0, 0);
        for field in &self.list {
            if !wanted(field, field.name(&self.text)) {
                continue;
            }
            let (start, after) = (field.start as usize, field.value_end as usize + 2);
            if field.is_plain && start == end {
                end = after;
                continue;
            }
            out.extend_from_slice(self.text.get(begin..end).unwrap_or_default());
            (begin, end) = (start, start);
            if field.is_plain {
                end = after;
            } else {
                line(out, field.name(&self.text), field.value(&self.text));
            }
        }
        out.extend_from_slice(self.text.get(begin..end).unwrap_or_default());
    }
}

/// Writes a field's line.
pub fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
impl<'a> FromIterator<(&'a str, &'a [u8])> for Fields {
    /// Of valid names and values.
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a [u8])>>(fields: T) -> Self {
        let mut out = Self::default();
        fields.into_iter().for_each(|(name, value)| out.push(name.as_bytes(), value));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields as they come: with the white space that is allowed.
    fn parsed(lines: &[&str]) -> Fields {
        let mut text = b"GET / HTTP/1.1\r\n".to_vec();
        let mut list = vec![];
        for line in lines {
            let name = line.find(':').unwrap();
            list.push(Field::at(text.len(), line.as_bytes(), name).unwrap());
            text.extend_from_slice(line.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        Fields::new(text, list)
    }

    fn written(fields: &Fields, without: Names) -> String {
        let mut out = vec![];
        fields.write(&mut out, without);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_written_is_what_came_without_odd_white_space() {
        let fields = parsed(&["Host: a", "A:b", "B: \t c \t", "C:", "D: ", "E: f g", "X-Request-ID: 7"]);
        let all = "Host: a\r\nA: b\r\nB: c\r\nC: \r\nD: \r\nE: f g\r\nX-Request-ID: 7\r\n";
        assert_eq!(written(&fields, Names::NONE), all);
        assert_eq!(fields.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 3, 1]);
        let some = written(&fields, Names::of(&[Known::Host, Known::RequestId, Known::Date]));
        assert_eq!(some, "A: b\r\nB: c\r\nC: \r\nD: \r\nE: f g\r\n");
    }

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

    #[test]
    fn fields_come_and_go() {
        let mut fields = parsed(&["Via: 1.1 a", "X: 1", "via: 1.0 b", "x: 2", "Date: now"]);
        assert_eq!(fields.all(Known::Via).collect::<Vec<_>>(), [b"1.1 a", b"1.0 b"]);
        assert_eq!(fields.named("x").collect::<Vec<_>>(), [b"1", b"2"]);
        assert!(fields.has(Names::of(&[Known::Date])) && !fields.has(Names::of(&[Known::Host])));
        fields.remove(Names::of(&[Known::Via, Known::Host]));
        assert_eq!((fields.get(Known::Via), fields.list.len()), (None, 3));
        fields.set(b"X", b"3");
        fields.push(b"host", b"h");
        assert_eq!(fields.get(Known::Host), Some(&b"h"[..]));
        assert_eq!(written(&fields, Names::NONE), "Date: now\r\nX: 3\r\nhost: h\r\n");
        fields.remove_named(b"DATE");
        assert!(!fields.has(Names::of(&[Known::Date])) && fields.has(Names::of(&[Known::Host])));
        fields.push(&[b'a'; 70_000], b"too large a name");
        assert_eq!(fields.list.len(), 2);
        fields.push(b"y", b"");
        assert_eq!(written(&fields, Names::NONE), "X: 3\r\nhost: h\r\ny: \r\n");
    }
}
