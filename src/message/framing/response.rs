//! The head of a response, as a backend sends it: RFC 9112, 4 to 6.
//!
//! The same strictness as for requests, and for the same reason: what is refused here can't be read one way by us and
//! another way by the client behind us. A bare LF in particular is how a field that reflects user input becomes two.
//! [`Scan`] keeps what it has learned, so that a head that trickles in is looked at once.

use http::{StatusCode, Version};

use super::{Fault, MAX_OPTIONS, decimal, is_value, line_end, name_end, trim, whole_field};
use crate::hint::cold_path;
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

/// Status, version, and the words if they are not the usual ones.
type StatusLine = (StatusCode, Version, Option<Box<[u8]>>);

/// The progress through one head.
#[derive(Debug)]
pub struct Scan {
    /// Whether the request was a HEAD, so that there is no body whatever the fields say.
    to_head: bool,
    /// How many fields there may be.
    max_fields: usize,
    /// Where the line begins that is not complete yet.
    line: usize,
    /// How far an end of line was looked for.
    searched: usize,
    /// Of the status line, once it is complete.
    begun: Option<StatusLine>,
    fields: Vec<Field>,
    length: Option<u64>,
    chunked: bool,
    /// Of `Connection`, in all its lines.
    options: usize,
    close: bool,
    keep: bool,
    seconds: Option<u32>,
}

impl Scan {
    /// The start. `to_head`: the request was a HEAD. `max_fields`: how many fields there may be.
    pub fn new(to_head: bool, max_fields: usize) -> Self {
        Self {
            to_head,
            max_fields,
            line: 0,
            searched: 0,
            begun: None,
            fields: Vec::new(),
            length: None,
            chunked: false,
            options: 0,
            close: false,
            keep: false,
            seconds: None,
        }
    }

    /// Looks at the bytes that are new since the last call; `bytes` begins at the same byte each time. Returns the head
    /// and where it ends, past its empty line; `None`: it is not complete yet.
    ///
    /// # Errors
    /// The rule that it breaks, as soon as that is seen; more than `max` bytes.
    pub fn feed(&mut self, bytes: &[u8], max: usize) -> Result<Option<(Head, usize)>, Fault> {
        let begin = bytes.len().min(PREFIX.len());
        if self.searched < PREFIX.len() && bytes.get(..begin) != PREFIX.get(..begin) {
            return Err(bad("not a response of HTTP/1"));
        }
        while let Some(rest) = bytes.get(self.searched..) {
            // Nearly every line is whole and good when it is first looked at.
            if let Some((status, version, _)) = self.begun
                && self.searched == self.line
                && let Some((name_len, len)) = whole_field(rest)
                && let next = self.line + len + 2
                && next <= max
            {
                self.field(rest.get(..len).unwrap_or_default(), name_len, status, version)?;
                self.line = next;
                self.searched = next;
                continue;
            }
            let Some(found) = line_end(rest) else { break };
            let end = self.searched + found;
            let Some([line @ .., b'\r']) = bytes.get(self.line..end) else {
                return Err(bad("line ends with a bare LF"));
            };
            if end >= max {
                return Err(TOO_LARGE);
            }
            match self.begun.take() {
                None => self.begun = Some(status_line(line)?),
                Some(begun) if line.is_empty() => {
                    let head = bytes.get(..=end).unwrap_or_default();
                    return Ok(Some((self.finish(head, begun)?, head.len())));
                }
                Some(begun) => {
                    cold_path();
                    let (status, version) = (begun.0, begun.1);
                    self.begun = Some(begun);
                    // A folded line has no name that is a token.
                    self.field(line, name_end(line).map_err(bad)?, status, version)?;
                }
            }
            self.line = end + 1;
            self.searched = self.line;
        }
        cold_path();
        self.searched = bytes.len();
        if bytes.len() >= max { Err(TOO_LARGE) } else { Ok(None) }
    }

    /// `field-name ":" OWS field-value OWS` (RFC 9112, 5), of which the parts are valid.
    fn field(&mut self, line: &[u8], name_len: usize, status: StatusCode, version: Version) -> Result<(), Fault> {
        if self.fields.len() >= self.max_fields {
            return Err(bad("too many response fields"));
        }
        let Some(field) = Field::at(self.line, line, name_len) else { return Err(TOO_LARGE) };
        if self.fields.capacity() == 0 {
            self.fields = Vec::with_capacity(USUAL_FIELDS);
        }
        self.fields.push(field);
        let value = || field.value_in(line);
        // An interim response ends with its head whatever the fields say.
        let framed = !status.is_informational();
        match field.known() {
            Known::ContentLength if framed => self.content_length(value())?,
            Known::TransferEncoding if framed => self.transfer_encoding(value(), version)?,
            Known::Connection => self.connection(value())?,
            Known::KeepAlive => self.keep_alive(value()),
            _ => {}
        }
        Ok(())
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
    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Fault> {
        if version == Version::HTTP_10 {
            return Err(bad("Transfer-Encoding in HTTP/1.0"));
        }
        if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(bad("Transfer-Encoding other than one chunked"));
        }
        Ok(())
    }

    /// Once any of its lines says `close`, no `keep-alive` undoes it.
    fn connection(&mut self, value: &[u8]) -> Result<(), Fault> {
        for option in value.split(|&b| b == b',').map(trim) {
            self.options += 1;
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        if self.options > MAX_OPTIONS { Err(bad("too many connection options")) } else { Ok(()) }
    }

    fn keep_alive(&mut self, value: &[u8]) {
        let parameters = value.split(|&b| b == b',').map(trim);
        let timeout = parameters.filter_map(|parameter| parameter.strip_prefix(b"timeout=")).find_map(decimal);
        // More than 136 years is forever.
        self.seconds = timeout.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)).or(self.seconds);
    }

    fn finish(&mut self, head: &[u8], (status, version, reason): StatusLine) -> Result<Head, Fault> {
        let end = self.end(status)?;
        // A 204 that announces a body may be followed by one, and that must not be taken for the next answer.
        let has_more =
            status == StatusCode::NO_CONTENT && (self.chunked || self.length.is_some_and(|length| length > 0));
        let keep_alive =
            !self.close && !has_more && (version == Version::HTTP_11 || self.keep) && end != BodyEnd::Close;
        let mut text = Vec::with_capacity(head.len() + ROOM);
        text.extend_from_slice(head);
        let fields = Fields::new(text, std::mem::take(&mut self.fields));
        let head = ResponseHead { status, version, reason, fields };
        Ok(Head { head, end, keep_alive, keep_seconds: self.seconds })
    }

    /// RFC 9112, 6.3, without what was refused above. Lengths are checked even where there is no body to measure.
    fn end(&self, status: StatusCode) -> Result<BodyEnd, Fault> {
        if self.chunked && self.length.is_some() {
            return Err(bad("Transfer-Encoding and Content-Length"));
        }
        let bodyless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let none = self.to_head || status.is_informational() || bodyless;
        Ok(match (self.chunked, self.length) {
            _ if none => BodyEnd::Empty,
            (true, _) => BodyEnd::Chunked,
            (false, Some(0)) => BodyEnd::Empty,
            (false, Some(length)) => BodyEnd::Length(length),
            (false, None) => BodyEnd::Close,
        })
    }
}

const TOO_LARGE: Fault = bad("response head over the limit");

/// What a backend did wrong.
pub(crate) const fn bad(detail: &'static str) -> Fault {
    Fault { reason: Reason::UpstreamProtocolError, limit: None, detail }
}

/// `HTTP-version SP status-code SP [ reason-phrase ]` (RFC 9112, 4). Some leave the second space away where there is no
/// reason; no two parsers differ over that.
fn status_line(line: &[u8]) -> Result<StatusLine, Fault> {
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
    if !is_value(reason) {
        return Err(bad("control character in a reason phrase"));
    }
    let usual = status.canonical_reason().is_some_and(|usual| usual.as_bytes() == reason);
    Ok((status, version, (!usual).then(|| reason.into())))
}
