//! The head of a request, line by line: RFC 9112, 2 to 6; RFC 9110, 5.
//!
//! [`Scan`] keeps what it has learned, so that a head that trickles in is looked at once, not once per packet, and so
//! that a bad line is refused when it is complete and not only at the end of the head.

use std::ops::Range;

use http::{Method, Version};
use memchr::memchr;

use super::{Fault, Framing, MAX_OPTIONS, decimal, is_token, line_end, name_end, target, token_len, trim, whole_field};
use crate::hint::cold_path;
use crate::message::fields::{Field, Known};
use crate::model::Reason;

/// What a head may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, from the request line to the empty line.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
    /// Bytes of the request target.
    pub target: usize,
}

/// A head that is complete and keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Where it begins: after any empty lines, which are to be dropped.
    pub start: usize,
    /// Where it ends: the body begins here.
    pub end: usize,
    /// Where the method ends, which begins at `start`.
    pub method_end: usize,
    /// Where the request target stands.
    pub target: Range<usize>,
    /// 1.0 or 1.1.
    pub version: Version,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the client waits for a 100 (Continue) before it sends the body (RFC 9110, 10.1.1).
    pub expects_continue: bool,
    /// Whether the client may send another request after this one (RFC 9112, 9.3).
    pub keep_alive: bool,
    /// Where the fields stand, counted from `start`.
    pub fields: Vec<Field>,
}

/// The progress through one head. `Default` is the start.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Where the head begins: after empty lines.
    start: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
    /// How far an end of line was looked for.
    searched: usize,
    /// Of the request line, once it is complete.
    request: Option<(Range<usize>, Version)>,
    is_trace: bool,
    fields: Vec<Field>,
    /// Fields that are not among them but count.
    left_away: usize,
    host: bool,
    length: Option<u64>,
    chunked: bool,
    expects: bool,
    /// Of `Connection`, in all its lines.
    options: usize,
    close: bool,
    keep: bool,
}

/// Room for the fields that most requests have.
const USUAL_FIELDS: usize = 16;

/// Empty lines before a request line that are ignored (RFC 9112, 2.2 asks for at least one).
const EMPTY_LINES: usize = 8;

const TOO_LARGE: Fault = Fault::over("max_header_bytes", Reason::HeadersTooLarge, "head over the limit");
const TOO_LONG: Fault = Fault::over("max_target_bytes", Reason::TargetTooLong, "target over the limit");

impl Scan {
    /// Looks at the bytes that are new since the last call; `bytes` begins at the same byte each time.
    /// `None`: the head is not complete yet.
    pub fn feed(&mut self, bytes: &[u8], limits: &HeadLimits) -> Result<Option<Head>, Fault> {
        if self.request.is_none() && self.line == self.start && !self.skip_empty_lines(bytes)? {
            return Ok(None);
        }
        while let Some(rest) = bytes.get(self.searched..) {
            // Nearly every line is whole and good when it is first looked at.
            if let Some((_, version)) = &self.request
                && self.searched == self.line
                && let Some((name_len, len)) = whole_field(rest)
                && let next = self.line + len + 2
                && next - self.start <= limits.bytes
            {
                self.field(rest.get(..len).unwrap_or_default(), name_len, *version, limits)?;
                self.line = next;
                self.searched = next;
                continue;
            }
            let Some(found) = line_end(rest) else { break };
            let end = self.searched + found;
            let Some([line @ .., b'\r']) = bytes.get(self.line..end) else {
                return Err(Fault::bad("line ends with a bare LF"));
            };
            let next = end + 1;
            if next - self.start > limits.bytes {
                return Err(self.too_large(bytes));
            }
            match &self.request {
                None => self.request_line(line, limits)?,
                Some((target, version)) if line.is_empty() => {
                    let (target, version) = (target.clone(), *version);
                    return self.finish(target, version, next).map(Some);
                }
                Some(_) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                    cold_path();
                    return Err(Fault::bad("line folding"));
                }
                Some((_, version)) => {
                    cold_path();
                    let version = *version;
                    self.field(line, name_end(line).map_err(Fault::bad)?, version, limits)?;
                }
            }
            self.line = next;
            self.searched = next;
        }
        cold_path();
        self.searched = bytes.len();
        self.check_partial(bytes, limits)?;
        Ok(None)
    }

    /// The method, as far as it can be told: an answer to HEAD has no body, even to a bad one.
    pub fn method<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let line = bytes.get(self.start..)?;
        let (method, rest) = line.split_at_checked(token_len(line))?;
        (rest.first() == Some(&b' ')).then_some(method)
    }

    /// The request target, once the request line is complete and good.
    pub fn target<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        self.request.as_ref().and_then(|(target, _)| bytes.get(target.clone()))
    }

    /// False: nothing but empty lines is there.
    fn skip_empty_lines(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        loop {
            match bytes.get(self.start..) {
                None | Some([] | [b'\r']) => return Ok(false),
                Some([b'\r', b'\n', ..]) if self.start < 2 * EMPTY_LINES => {
                    self.start += 2;
                    self.line = self.start;
                    self.searched = self.start;
                }
                Some([b'\r', b'\n', ..]) => return Err(Fault::bad("too many empty lines")),
                Some([b'\r', ..]) => return Err(Fault::bad("bare CR")),
                Some(_) => return Ok(true),
            }
        }
    }

    /// Refuses what can't become good any more, before it is complete.
    fn check_partial(&self, bytes: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
        let head = bytes.get(self.start..).unwrap_or_default();
        if self.request.is_none() {
            let method = memchr(b' ', head).unwrap_or(head.len());
            if !head.first().is_some_and(|b| is_token(&[*b])) || method > MAX_METHOD {
                return Err(Fault::bad("invalid method"));
            }
            if head.len() - method > limits.target + " ".len() + " HTTP/1.1\r".len() {
                return Err(TOO_LONG);
            }
        }
        if head.len() >= limits.bytes { Err(self.too_large(bytes)) } else { Ok(()) }
    }

    fn too_large(&self, bytes: &[u8]) -> Fault {
        // A target that alone is over the limit is named as such, whichever limit it hits first.
        let in_target = self.request.is_none() && bytes.get(self.start..).is_some_and(|b| memchr(b' ', b).is_some());
        if in_target { TOO_LONG } else { TOO_LARGE }
    }

    /// `method SP request-target SP HTTP-version` (RFC 9112, 3), with exactly these two spaces.
    fn request_line(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
        // Near enough for a loop.
        let method_end = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
        let (method, rest) = line.split_at(method_end);
        if method.is_empty() || method.len() > MAX_METHOD || !is_token(method) {
            return Err(Fault::bad("invalid method"));
        }
        if method == b"CONNECT" {
            return Err(Fault::bad("CONNECT is not served"));
        }
        let (target, version) = match rest {
            [b' ', target @ .., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'] => (target, Version::HTTP_11),
            [b' ', target @ .., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'] => (target, Version::HTTP_10),
            _ => return Err(Fault::bad("not a request line of HTTP/1.0 or 1.1")),
        };
        // Whoever sends a long one should hear that it is long, before anything else that may be wrong with it.
        if target.len() > limits.target {
            return Err(TOO_LONG);
        }
        target::check(method, target)?;
        let start = self.line + method_end + 1;
        self.request = Some((start..start + target.len(), version));
        self.is_trace = method == b"TRACE";
        Ok(())
    }

    /// `field-name ":" OWS field-value OWS` (RFC 9112, 5), of which the parts are valid.
    fn field(&mut self, line: &[u8], name_len: usize, version: Version, limits: &HeadLimits) -> Result<(), Fault> {
        if self.fields.len() + self.left_away >= limits.fields {
            return Err(Fault::over("max_headers", Reason::HeadersTooLarge, "too many fields"));
        }
        let start = self.line - self.start;
        let Some(field) = Field::at(start, line, name_len) else { return Err(TOO_LARGE) };
        if self.fields.capacity() == 0 {
            self.fields = Vec::with_capacity(USUAL_FIELDS.min(limits.fields));
        }
        // It is of no use to anybody but to speak past us to a backend.
        if field.known() == Known::Other && Known::is_mimicked_by(line.get(..name_len).unwrap_or_default()) {
            self.left_away += 1;
            return Ok(());
        }
        self.fields.push(field);
        let value = || field.value_in(line);
        match field.known() {
            Known::Host => self.host(value()),
            Known::Expect => {
                self.expects |= value().eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            Known::ContentLength => self.content_length(value()),
            Known::TransferEncoding => self.transfer_encoding(value(), version),
            Known::Connection => {
                for option in value().split(|&b| b == b',').map(trim) {
                    self.options += 1;
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep |= option.eq_ignore_ascii_case(b"keep-alive");
                }
                if self.options > MAX_OPTIONS { Err(Fault::bad("too many connection options")) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Exactly one, and valid (RFC 9112, 3.2).
    fn host(&mut self, value: &[u8]) -> Result<(), Fault> {
        if std::mem::replace(&mut self.host, true) {
            return Err(Fault::bad("more than one Host"));
        }
        if target::valid_host(value) { Ok(()) } else { Err(Fault::bad("invalid Host")) }
    }

    /// `1*DIGIT`, once. A list of equal numbers may be taken as one (RFC 9110, 8.6), but need not: refused.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        match decimal(value) {
            Some(n) => match self.length.replace(n) {
                None => Ok(()),
                Some(_) => Err(Fault::bad("more than one Content-Length")),
            },
            None => Err(Fault::bad("invalid Content-Length")),
        }
    }

    /// Nothing but one `chunked` (RFC 9112, 6.1), which HTTP/1.0 does not have.
    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Fault> {
        if version == Version::HTTP_10 {
            return Err(Fault::bad("Transfer-Encoding in HTTP/1.0"));
        }
        if std::mem::replace(&mut self.chunked, true) {
            return Err(Fault::bad("more than one Transfer-Encoding"));
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            Ok(())
        } else {
            Err(Fault::bad("Transfer-Encoding other than chunked"))
        }
    }

    fn finish(&mut self, target: Range<usize>, version: Version, end: usize) -> Result<Head, Fault> {
        if !self.host && version == Version::HTTP_11 {
            return Err(Fault::bad("no Host"));
        }
        let framing = match (self.chunked, self.length) {
            (true, Some(_)) => return Err(Fault::bad("Transfer-Encoding and Content-Length")),
            (true, None) => Framing::Chunked,
            (false, None | Some(0)) => Framing::Empty,
            (false, Some(n)) => Framing::Length(n),
        };
        // RFC 9110, 9.3.8: a client must not send any. Some servers do not look for it and take it for the next request.
        if self.is_trace && framing != Framing::Empty {
            return Err(Fault::bad("content in a TRACE"));
        }
        let expects_continue = self.expects && version == Version::HTTP_11 && framing != Framing::Empty;
        Ok(Head {
            start: self.start,
            end,
            method_end: target.start - 1,
            target,
            version,
            framing,
            expects_continue,
            keep_alive: !self.close && (version == Version::HTTP_11 || self.keep),
            fields: std::mem::take(&mut self.fields),
        })
    }
}

/// The method of a head that was refused, for the log and for what an answer may have: `-` in the place of one that could not be
/// made out, or is longer than any may be.
pub fn method_of_refused(method: Option<&[u8]>) -> Method {
    let method = method.filter(|method| (1..=MAX_METHOD).contains(&method.len()));
    Method::from_bytes(method.unwrap_or(b"-")).unwrap_or_default()
}

/// Bytes of a method. No method in the registry has half of that.
const MAX_METHOD: usize = 64;
