//! The head of a response, as a backend sends it: RFC 9112, 4 to 6.
//!
//! The same strictness as for requests, and for the same reason: what is refused here can't be read one way by us and
//! another way by the client behind us. A bare LF in particular is how a field that reflects user input becomes two.
//! In two steps, so that a head that trickles in is looked at once: [`Scan`] finds the end, [`parse`] reads the whole.

use http::{StatusCode, Version};
use memchr::{memchr, memchr_iter};

use super::{Fault, cut, decimal, is_token, is_value, trim};
use crate::message::fields::{Field, Fields, Known};
use crate::message::head::ResponseHead;
use crate::model::Reason;

/// Room for the fields that most responses have.
const USUAL_FIELDS: usize = 16;
/// Bytes of room for the fields that are added on the way to the client.
const ROOM: usize = 128;

/// How every response of HTTP/1.0 and 1.1 begins.
const PREFIX: &[u8] = b"HTTP/1.";

/// How the end of a response's body is found (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// There is no body, or one of no bytes.
    Empty,
    /// `Content-Length`: this many bytes, at least one.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends when the connection does.
    Close,
}

/// A head that is complete and keeps every rule.
#[derive(Debug)]
pub struct Head {
    /// Status and fields.
    pub head: ResponseHead,
    /// How the body ends.
    pub end: BodyEnd,
    /// Whether the backend will take another request on the connection (RFC 9112, 9.3).
    pub keep_alive: bool,
    /// Of `Keep-Alive: timeout=N`: how many seconds it will wait for one.
    pub keep_seconds: Option<u32>,
}

/// The progress through one head. `Default` is the start.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Where the line begins that is not complete yet.
    line: usize,
    /// How far an end of line was looked for.
    searched: usize,
}

impl Scan {
    /// Looks at the bytes that are new since the last call; `bytes` begins at the same byte each time. Returns where the
    /// head ends, past its empty line; `None`: it is not complete yet.
    ///
    /// # Errors
    /// What can't become a head any more: something else than HTTP/1, a bare LF, more than `max` bytes.
    pub fn feed(&mut self, bytes: &[u8], max: usize) -> Result<Option<usize>, Fault> {
        let begin = bytes.len().min(PREFIX.len());
        if self.searched < PREFIX.len() && bytes.get(..begin) != PREFIX.get(..begin) {
            return Err(bad("not a response of HTTP/1"));
        }
        let from = self.searched;
        for found in memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()) {
            let end = from + found;
            let Some([line @ .., b'\r']) = bytes.get(self.line..end) else {
                return Err(bad("line ends with a bare LF"));
            };
            if end >= max {
                return Err(TOO_LARGE);
            }
            self.line = end + 1;
            if line.is_empty() {
                return Ok(Some(self.line));
            }
        }
        self.searched = bytes.len();
        if bytes.len() >= max { Err(TOO_LARGE) } else { Ok(None) }
    }
}

const TOO_LARGE: Fault = bad("response head over the limit");

/// What a backend did wrong.
pub(crate) const fn bad(detail: &'static str) -> Fault {
    Fault { reason: Reason::UpstreamProtocolError, limit: None, detail }
}

/// Reads a head that [`Scan`] has found the end of. `to_head`: the request was a HEAD, so there is no body whatever the
/// fields say. `fields`: how many there may be.
///
/// # Errors
/// The rule that it breaks.
pub fn parse(head: &[u8], to_head: bool, fields: usize) -> Result<Head, Fault> {
    let mut rest = head;
    let (status, version, reason) = status_line(next_line(&mut rest)?)?;
    let usual = status.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason);
    let reason = (!usual).then(|| reason.into());
    let framed = !status.is_informational();
    let mut reader = Reader { version, framed, ..Reader::default() };
    let mut list = Vec::with_capacity(USUAL_FIELDS);
    for left in (0..=fields).rev() {
        let start = head.len() - rest.len();
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        if left == 0 {
            return Err(bad("too many response fields"));
        }
        list.push(reader.field(start, line)?);
    }
    let end = reader.end(status, to_head)?;
    let keep_alive = !reader.close && (version == Version::HTTP_11 || reader.keep) && end != BodyEnd::Close;
    let mut text = Vec::with_capacity(head.len() + ROOM);
    text.extend_from_slice(head);
    let head = ResponseHead { status, version, reason, fields: Fields::new(text, list) };
    Ok(Head { head, end, keep_alive, keep_seconds: reader.seconds })
}

/// Takes a line off; it comes without its CRLF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let Some((line, after)) = cut(rest, b'\n') else { return Err(bad("response head without an end")) };
    let Some((b'\r', line)) = line.split_last() else { return Err(bad("line ends with a bare LF")) };
    *rest = after;
    Ok(line)
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112, 4). Some leave the second space away where there is no
/// reason; no two parsers differ over that.
fn status_line(line: &[u8]) -> Result<(StatusCode, Version, &[u8]), Fault> {
    let version = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', ..] => Version::HTTP_11,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b' ', ..] => Version::HTTP_10,
        _ => return Err(bad("not a status line of HTTP/1.0 or 1.1")),
    };
    let (code, reason) = match line.get(9..) {
        Some([a, b, c, b' ', reason @ ..]) => (&[*a, *b, *c][..], reason),
        Some(code) => (code, &[][..]),
        None => return Err(bad("no status code")),
    };
    let status = StatusCode::from_bytes(code).map_err(|_| bad("invalid status code"))?;
    if is_value(reason) { Ok((status, version, reason)) } else { Err(bad("control character in a reason phrase")) }
}

/// What is known of a head while its fields are read.
#[derive(Default)]
struct Reader {
    version: Version,
    /// False: an interim response, which ends with its head whatever the fields say.
    framed: bool,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep: bool,
    seconds: Option<u32>,
}

impl Reader {
    /// `field-name ":" OWS field-value OWS` (RFC 9112, 5). A folded line has no name that is a token.
    fn field(&mut self, start: usize, line: &[u8]) -> Result<Field, Fault> {
        let Some(name_len) = memchr(b':', line) else { return Err(bad("field without a colon")) };
        let (name, rest) = line.split_at(name_len);
        if name.is_empty() || !is_token(name) {
            return Err(bad("invalid field name"));
        }
        // The colon is a character that may stand in a value.
        if !is_value(rest) {
            return Err(bad("control character in a field value"));
        }
        let Some(field) = Field::at(start, line, name_len) else { return Err(TOO_LARGE) };
        let value = || trim(rest.get(1..).unwrap_or_default());
        match field.known() {
            Known::ContentLength if self.framed => self.content_length(value())?,
            Known::TransferEncoding if self.framed => self.transfer_encoding(value())?,
            Known::Connection => self.connection(value()),
            Known::KeepAlive => self.keep_alive(value()),
            _ => {}
        }
        Ok(field)
    }

    /// `1*DIGIT`, once, as for requests.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let Some(length) = decimal(value) else { return Err(bad("invalid Content-Length")) };
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(bad("more than one Content-Length")),
        }
    }

    /// Nothing but one `chunked`, which HTTP/1.0 does not have. Any other coding would have to be taken off before we
    /// could tell where the message ends for the client.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.version == Version::HTTP_10 {
            return Err(bad("Transfer-Encoding in HTTP/1.0"));
        }
        if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(bad("Transfer-Encoding other than one chunked"));
        }
        Ok(())
    }

    /// Once any of its lines says `close`, no `keep-alive` undoes it.
    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|&b| b == b',').map(trim) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn keep_alive(&mut self, value: &[u8]) {
        let parameters = value.split(|&b| b == b',').map(trim);
        let timeout = parameters.filter_map(|parameter| parameter.strip_prefix(b"timeout=")).find_map(decimal);
        // More than 136 years is forever.
        self.seconds = timeout.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)).or(self.seconds);
    }

    /// RFC 9112, 6.3, without what was refused above. Lengths are checked even where there is no body to measure.
    fn end(&self, status: StatusCode, to_head: bool) -> Result<BodyEnd, Fault> {
        if self.chunked && self.length.is_some() {
            return Err(bad("Transfer-Encoding and Content-Length"));
        }
        let none =
            to_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(match (self.chunked, self.length) {
            _ if none => BodyEnd::Empty,
            (true, _) => BodyEnd::Chunked,
            (false, Some(0)) => BodyEnd::Empty,
            (false, Some(length)) => BodyEnd::Length(length),
            (false, None) => BodyEnd::Close,
        })
    }
}
