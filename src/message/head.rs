//! Heads of messages as the data path carries them, and messages: a head and a body.

use std::ops::Range;
use std::rc::Rc;

use http::{Method, StatusCode, Version, request};

use super::fields::{Fields, Known, Names};
use super::framing::{self, Framing, split_absolute};
use super::upgrade;

/// A request and the way to its body.
pub struct Request<B> {
    /// What it asks for. Counted, because it is kept until the answer has gone out.
    pub head: Rc<RequestHead>,
    /// What comes with it.
    pub body: B,
}

/// A response and the way to its body.
#[derive(Debug)]
pub struct Response<B> {
    /// What it says.
    pub head: ResponseHead,
    /// What comes with it.
    pub body: B,
}

impl<B> Response<B> {
    /// The same with another body, made of this one's.
    pub fn map<C>(self, body: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: body(self.body) }
    }
}

/// The head of a request that keeps the rules.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// A token.
    pub method: Method,
    /// 1.0, 1.1 or 2.
    pub version: Version,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
    /// Whether the client may send another request after this one.
    pub keep_alive: bool,
    /// What it asks to switch to, see [`upgrade::asked`]; few requests do.
    pub upgrade: Option<Box<str>>,
    /// All fields.
    pub fields: Fields,
    /// In the text of the fields.
    target: Range<usize>,
}

impl RequestHead {
    /// What was found at the front of these bytes. `None`: it was found in others.
    pub fn read(bytes: &[u8], head: framing::Head) -> Option<Self> {
        let text = bytes.get(head.start..head.end)?;
        let at = |place: usize| place - head.start;
        let fields = Fields::new(text.to_vec(), head.fields);
        let mut head = Self {
            method: Method::from_bytes(text.get(..at(head.method_end))?).ok()?,
            version: head.version,
            framing: head.framing,
            expects_continue: head.expects_continue,
            keep_alive: head.keep_alive,
            upgrade: None,
            fields,
            target: at(head.target.start)..at(head.target.end),
        };
        if head.fields.has(Names::of(&[Known::Upgrade])) {
            head.upgrade = upgrade::asked(&head);
        }
        Some(head)
    }

    /// A request without a body. The target and the fields must be valid.
    pub fn new<'a>(method: Method, target: &str, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut all = Fields::new(target.as_bytes().to_vec(), Vec::new());
        fields.into_iter().for_each(|(name, value)| all.push(name.as_bytes(), value));
        Self {
            method,
            version: Version::HTTP_11,
            framing: Framing::Empty,
            expects_continue: false,
            keep_alive: true,
            upgrade: None,
            fields: all,
            target: 0..target.len(),
        }
    }

    /// The target, byte for byte.
    pub fn target(&self) -> &[u8] {
        self.fields.text().get(self.target.clone()).unwrap_or_default()
    }

    /// The target's path and query, also where it is an absolute URI (RFC 9112, 3.2.2). Empty if the URI has neither.
    pub fn path_and_query(&self) -> &str {
        let target = self.target();
        let target = if target.first() == Some(&b'/') { target } else { after_authority(target) };
        // Targets are ASCII.
        str::from_utf8(target).unwrap_or_default()
    }

    /// The authority that the client means: that of an absolute URI before Host (RFC 9112, 3.2.2). Empty if there is
    /// none.
    pub fn authority(&self) -> &[u8] {
        let target = self.target();
        let absolute = if target.first() == Some(&b'/') { None } else { split_absolute(target) };
        match absolute {
            Some((authority, _)) => authority,
            None => self.fields.get(Known::Host).unwrap_or_default(),
        }
    }
}

/// A request that comes from elsewhere than HTTP/1: a question about a request that is not made.
impl From<&request::Parts> for RequestHead {
    fn from(parts: &request::Parts) -> Self {
        let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Self { version: parts.version, ..Self::new(parts.method.clone(), &parts.uri.to_string(), fields) }
    }
}

fn after_authority(target: &[u8]) -> &[u8] {
    split_absolute(target).map_or(target, |(_, rest)| rest)
}

/// The head of a response, a backend's or our own.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: StatusCode,
    /// 1.0 or 1.1.
    pub version: Version,
    /// The words after the status, if they are not the usual ones.
    pub reason: Option<Box<[u8]>>,
    /// All fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// One without fields.
    pub fn new(status: StatusCode) -> Self {
        Self { status, version: Version::HTTP_11, reason: None, fields: Fields::default() }
    }

    /// Writes the status line and the fields but these, as an answer of HTTP/1.1 unless another version is asked for.
    pub fn write(&self, out: &mut Vec<u8>, version: Version, without: Names) {
        out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        match &self.reason {
            Some(reason) => out.extend_from_slice(reason),
            None => out.extend_from_slice(self.status.canonical_reason().unwrap_or_default().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
        self.fields.write(out, without);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str) -> RequestHead {
        RequestHead::new(Method::GET, target, [("Host", &b"a.example"[..])])
    }

    #[test]
    fn an_absolute_target_goes_before_host() {
        for (target, authority, rest) in [
            ("/a?b", "a.example", "/a?b"),
            ("*", "a.example", "*"),
            ("http://b.example:81/x?y", "b.example:81", "/x?y"),
            ("HTTPS://b.example", "b.example", ""),
            ("http://b.example?q", "b.example", "?q"),
        ] {
            let head = head(target);
            assert_eq!(head.authority(), authority.as_bytes(), "{target}");
            assert_eq!((head.path_and_query(), head.target()), (rest, target.as_bytes()));
        }
    }

    #[test]
    fn a_head_is_read_from_where_it_stands() {
        let bytes = b"\r\nPOST /a HTTP/1.1\r\nHost:x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let limits = framing::HeadLimits { bytes: 1000, fields: 10, target: 100 };
        let found = framing::Scan::default().feed(bytes, &limits).unwrap().unwrap();
        let head = RequestHead::read(bytes, found).unwrap();
        assert_eq!((&head.method, head.target(), head.keep_alive), (&Method::POST, &b"/a"[..], false));
        assert_eq!((head.framing, head.authority()), (Framing::Length(2), &b"x"[..]));
        let mut out = vec![];
        head.fields.write(&mut out, Names::NONE);
        assert_eq!(out, b"Host: x\r\nContent-Length: 2\r\nConnection: close\r\n");
    }

    #[test]
    fn a_response_is_written_in_the_clients_version() {
        let mut head = ResponseHead::new(StatusCode::NOT_FOUND);
        head.fields.push(b"a", b"b");
        let mut out = vec![];
        head.write(&mut out, Version::HTTP_11, Names::NONE);
        head.reason = Some(b"Gone fishing".as_slice().into());
        head.write(&mut out, Version::HTTP_10, Names::NONE);
        assert_eq!(out, b"HTTP/1.1 404 Not Found\r\na: b\r\nHTTP/1.0 404 Gone fishing\r\na: b\r\n");
    }
}
