//! Reading a value out of a request by a [`SourceKind`]: captures, query parameters, header fields, cookies.
//!
//! What is read is bytes: percent-decoded once (RFC 3986, 2.4: decoding twice would turn `%2541` into `A`), and not
//! always UTF-8. A value that is not UTF-8 is present, but no name. Empty counts as absent, everywhere. Nothing is
//! allocated unless there is something to decode.

use std::borrow::Cow;

use http::Method;
use memchr::{memchr, memchr2};
use percent_encoding::percent_decode;

use super::fields::Fields;
use super::head::RequestHead;
use crate::model::SourceKind;

/// What routing looks at in a request.
#[derive(Debug, Clone, Copy)]
pub struct View<'r> {
    /// As the client sent it.
    pub method: &'r Method,
    /// The path as it was sent: not decoded, not normalised; `*` for the asterisk form.
    pub path: &'r str,
    /// What stands after the first `?`.
    pub query: Option<&'r str>,
    /// All fields.
    pub fields: &'r Fields,
    head: &'r RequestHead,
}

impl<'r> View<'r> {
    /// The host without its port and without a trailing dot, in whatever case; empty if there is none. Found when it is
    /// asked for: where no route names a host, nobody does.
    pub fn host(&self) -> &'r str {
        without_port(str::from_utf8(self.head.authority()).unwrap_or_default())
    }
}

impl<'r> From<&'r RequestHead> for View<'r> {
    fn from(head: &'r RequestHead) -> Self {
        let target = head.path_and_query();
        let (path, query) = match memchr(b'?', target.as_bytes()).and_then(|at| target.split_at_checked(at)) {
            Some((path, query)) => (path, query.get(1..)),
            None => (target, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Self { method: &head.method, path, query, fields: &head.fields, head }
    }
}

/// `[::1]:80` is `[::1]`, `a.example.:80` is `a.example`.
fn without_port(authority: &str) -> &str {
    let bytes = authority.as_bytes();
    let end = match bytes.first() {
        Some(b'[') => memchr(b']', bytes).map_or(bytes.len(), |bracket| bracket + 1),
        _ => memchr(b':', bytes).unwrap_or(bytes.len()),
    };
    let host = authority.get(..end).unwrap_or(authority);
    host.strip_suffix('.').unwrap_or(host)
}

/// The value of a source; `None` if it is absent or empty, or is the client's address, which is not in the request.
///
/// `path` and `host` know the captures of the route that matched.
pub fn read<'a>(
    source: &'a SourceKind,
    request: &View<'a>,
    path: impl FnOnce(&str) -> Option<&'a str>,
    host: impl FnOnce(&str) -> Option<&'a str>,
) -> Option<Cow<'a, [u8]>> {
    let value = match source {
        SourceKind::Path(name) => decode(path(name)?.as_bytes()),
        SourceKind::Host(name) => decode(host(name)?.as_bytes()),
        SourceKind::Query(name) => return parameter(request.query?, name),
        SourceKind::Header(name) => decode(request.fields.named(name.as_str()).find(|line| !line.is_empty())?),
        SourceKind::Cookie(name) => decode(cookie(request.fields, name)?),
        SourceKind::Const(value) => Cow::Borrowed(value.as_bytes()),
        SourceKind::ClientAddress => return None,
    };
    Some(value).filter(|value| !value.is_empty())
}

/// The first parameter of this name that is not empty. As forms send it: `+` is a space, in names too.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (!value.is_empty() && *decode_form(key.as_bytes()) == *name.as_bytes()).then(|| decode_form(value.as_bytes()))
    })
}

/// The first cookie of this name that is not empty (RFC 6265, 4.2.1; names are case-sensitive). Quotes around a value
/// are not part of it.
fn cookie<'a>(fields: &'a Fields, name: &str) -> Option<&'a [u8]> {
    let pairs = fields.named("cookie").flat_map(|line| line.split(|&byte| byte == b';'));
    pairs.filter_map(|pair| pair.split_at_checked(memchr(b'=', pair)?)).find_map(|(key, value)| {
        if key.trim_ascii() != name.as_bytes() {
            return None;
        }
        let value = value.get(1..)?.trim_ascii();
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some(value).filter(|value| !value.is_empty())
    })
}

/// A `%` that two hex digits do not follow stays as it is.
fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    match memchr(b'%', raw) {
        Some(_) => percent_decode(raw).into(),
        None => Cow::Borrowed(raw),
    }
}

fn decode_form(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr2(b'%', b'+', raw).is_none() {
        return Cow::Borrowed(raw);
    }
    // Before decoding: what was `%2B` is a plus.
    let spaced: Vec<u8> = raw.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    fn read_from(request: Request<()>, source: &SourceKind) -> Option<Vec<u8>> {
        let head = RequestHead::from(&request.into_parts().0);
        let capture = |wanted: &'static str| move |name: &str| (name == wanted).then_some("b%74c");
        read(source, &View::from(&head), capture("p"), capture("h")).map(Cow::into_owned)
    }

    fn query(target: &str) -> Option<String> {
        let request = Request::get(target).body(()).unwrap();
        read_from(request, &SourceKind::Query("a b".into())).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn captures() {
        let read = |source| read_from(Request::get("/").body(()).unwrap(), &source);
        assert_eq!(read(SourceKind::Path("p".into())).unwrap(), b"btc");
        assert_eq!(read(SourceKind::Path("q".into())), None);
        assert_eq!(read(SourceKind::Host("h".into())).unwrap(), b"btc");
        assert_eq!(read(SourceKind::Const("x%41".into())).unwrap(), b"x%41");
        assert_eq!(read(SourceKind::ClientAddress), None);
    }

    #[test]
    fn queries() {
        for (target, expected) in [
            ("/?a+b=x", Some("x")),
            ("/?x=1&a%20b=BRK%2eB&a+b=2", Some("BRK.B")),
            ("/?a+b=&a+b=second", Some("second")),
            ("/?a+b=1+2%2B3", Some("1 2+3")),
            ("/?a+b=%2541", Some("%41")),
            ("/?a+b=%zz%4", Some("%zz%4")),
            ("/?a+b=x=y", Some("x=y")),
            ("/?a+b", None),
            ("/?a+b=", None),
            ("/?", None),
            ("/", None),
            ("/?A+b=1&xa+b=2", None),
        ] {
            assert_eq!(query(target).as_deref(), expected, "{target}");
        }
    }

    #[test]
    fn headers_and_cookies() {
        let request = || {
            let builder = Request::get("/").header("x-asset", "").header("x-asset", "a%2Fb").header("x-raw", "\u{fe}");
            let builder =
                builder.header("cookie", "sid=1; asset=; Asset=no").header("cookie", "x; asset =\"E%54H\" ; y=");
            builder.body(()).unwrap()
        };
        let header = |name: &'static str| read_from(request(), &SourceKind::Header(HeaderName::from_static(name)));
        let cookie = |name: &str| read_from(request(), &SourceKind::Cookie(name.into()));
        assert_eq!(header("x-asset").unwrap(), b"a/b");
        assert_eq!(header("x-none"), None);
        assert_eq!(cookie("asset").unwrap(), b"ETH");
        assert_eq!(cookie("sid").unwrap(), b"1");
        assert_eq!((cookie("y"), cookie("x"), cookie("z")), (None, None, None));
    }

    #[test]
    fn what_is_not_utf8_is_present() {
        let request = Request::get("/?a+b=%ff").body(()).unwrap();
        assert_eq!(read_from(request, &SourceKind::Query("a b".into())).unwrap(), b"\xff");
    }

    #[test]
    fn hosts() {
        let host = |target: &str, host: &str| {
            let (parts, ()) = Request::get(target).header("host", host).body(()).unwrap().into_parts();
            View::from(&RequestHead::from(&parts)).host().to_owned()
        };
        assert_eq!(host("/", "a.Example:80"), "a.Example");
        assert_eq!(host("/", "a.example.:80"), "a.example");
        assert_eq!(host("/", "[::1]:80"), "[::1]");
        assert_eq!(host("/", "[::1]"), "[::1]");
        assert_eq!(host("/", ""), "");
        assert_eq!(host("http://b.example:81/x", "a.example"), "b.example");
    }

    #[test]
    fn borrows_unless_there_is_something_to_decode() {
        assert!(matches!(decode(b"BTC"), Cow::Borrowed(_)));
        assert!(matches!(decode_form(b"BTC"), Cow::Borrowed(_)));
        assert!(matches!(decode(b"B%54C"), Cow::Owned(_)));
    }
}
