//! Strict rules for HTTP/1 messages: where one ends and the next begins, and what may stand in a head.
//!
//! Two parsers that read the same bytes differently are how requests are smuggled, so everything here refuses what RFC
//! 9112 calls invalid, and also what it merely tolerates where tolerance has been abused (a bare LF, equal
//! Content-Lengths on two lines, `Transfer-Encoding` beside `Content-Length`). What passes is read alike by every
//! parser behind us. Pure: no input or output, no clock; the same rules serve whoever reads a client and whoever reads a
//! backend.
//!
//! Sources: RFC 9110 (fields, Host, Expect), RFC 9112 (messages), RFC 3986 (host and path).

use std::fmt;

use crate::model::Reason;

mod chunk;
mod head;
pub mod response;
mod target;
#[cfg(test)]
mod tests;

pub use chunk::{Chunks, Decoded};
pub use head::{Head, HeadLimits, Scan, method_of_refused};
pub(super) use target::split_absolute;
pub use target::{origin_form, valid_host};

/// How the end of a message's body is found (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is no body, or one of no bytes.
    #[default]
    Empty,
    /// `Content-Length`: this many bytes, at least one.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why bytes were refused: a word for the client, a sentence for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What the client is told.
    pub reason: Reason,
    /// Which rule it broke.
    pub detail: &'static str,
    /// The key in `[limits]` of the limit that it went over, if that is what it did.
    pub limit: Option<&'static str>,
}

impl Fault {
    /// The request is not valid HTTP.
    pub(crate) const fn bad(detail: &'static str) -> Self {
        Self { reason: Reason::BadRequest, detail, limit: None }
    }

    /// For a reason that is neither.
    pub(crate) const fn new(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail, limit: None }
    }

    /// The request went over a limit of the configuration.
    pub(crate) const fn over(limit: &'static str, reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail, limit: Some(limit) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

impl std::error::Error for Fault {}

/// Options of `Connection` in one head. Each may name a field to be taken out, so their number times that of the fields is
/// work; no client needs more than a few.
const MAX_OPTIONS: usize = 32;

/// Whether every byte may stand in a token (RFC 9110, 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| TOKEN[usize::from(b)])
}

/// Where the LF of the line at the front of these bytes is. The empty line after the fields is seen at once.
fn line_end(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\r\n") { Some(1) } else { memchr::memchr(b'\n', bytes) }
}

/// The line of a field at the front of these bytes, if it is whole and keeps the rules (RFC 9112, 5.1): how long its name
/// is, and how long it is without its CRLF. One walk over the bytes does for all that has to be known of a usual line.
fn whole_field(bytes: &[u8]) -> Option<(usize, usize)> {
    let name_len = token_len(bytes);
    let rest = bytes.get(name_len..)?;
    // The colon is a character that may stand in a value.
    let len = name_len + value_len(rest);
    (name_len > 0 && rest.first() == Some(&b':') && bytes.get(len..)?.starts_with(b"\r\n")).then_some((name_len, len))
}

/// Where the name of a field ends, of a line that is whole (RFC 9112, 5.1): at its colon, with nothing but a token before it
/// and a value after it. What [`whole_field`] does not take is told here what is wrong with it.
fn name_end(line: &[u8]) -> Result<usize, &'static str> {
    let len = token_len(line);
    match line.get(len..) {
        // The colon is a character that may stand in a value.
        Some(rest @ [b':', ..]) if len > 0 => {
            if is_value(rest) {
                Ok(len)
            } else {
                Err("control character in a field value")
            }
        }
        _ if memchr::memchr(b':', line).is_none() => Err("field without a colon"),
        _ => Err("invalid field name"),
    }
}

fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&b| TOKEN[usize::from(b)]).count()
}

/// Whether every byte may stand in a field value (RFC 9110, 5.5): no control character but HTAB.
fn is_value(bytes: &[u8]) -> bool {
    value_len(bytes) == bytes.len()
}

/// How many bytes, from the first on, may stand in a field value.
fn value_len(bytes: &[u8]) -> usize {
    let is_control = |b: &u8| (*b < b' ' && *b != b'\t') || *b == 0x7f;
    let (words, rest) = bytes.as_chunks::<8>();
    let mut len = 0;
    for word in words {
        if let Some(place) = first_control(u64::from_le_bytes(*word)) {
            let is_tab = word.get(place) == Some(&b'\t');
            if let Some(place) = if is_tab { word.iter().position(is_control) } else { Some(place) } {
                return len + place;
            }
        }
        len += word.len();
    }
    len + rest.iter().position(is_control).unwrap_or(rest.len())
}

/// The first of eight bytes that is below a space or a DEL ("Bit Twiddling Hacks", S. E. Anderson: "Determine if a word has
/// a byte less than n", for n up to 128, and "if a word has a byte equal to n"; exact for the first such byte).
fn first_control(word: u64) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = ONES * 0x80;
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGH;
    let found = below(word, 0x20) | below(word ^ (ONES * 0x7f), 1);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// What stands before the first such byte, and what after it.
fn cut(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, rest) = bytes.split_at_checked(memchr::memchr(at, bytes)?)?;
    Some((before, rest.get(1..)?))
}

/// `1*DIGIT`, as a length. `None`: anything else, or more than fits.
fn decimal(value: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { number.checked_mul(10)?.checked_add(u64::from(digit)) }
    };
    let number = if value.is_empty() { None } else { value.iter().try_fold(0, digit) };
    // Some parsers keep the highest numbers for meanings of their own.
    number.filter(|&number| number < u64::MAX - 2)
}

/// Without the white space around it (RFC 9110, 5.6.3).
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let mut value = trim_start(value);
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Without the white space before it.
pub(super) fn trim_start(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    value
}

const TOKEN: [bool; 256] = alphanumeric_and(b"!#$%&'*+-.^_`|~");

/// Letters, digits and these.
const fn alphanumeric_and(others: &[u8]) -> [bool; 256] {
    let mut table = with([false; 256], others, true);
    let mut b = 0u8;
    while b < 128 {
        table[b as usize] |= b.is_ascii_alphanumeric();
        b += 1;
    }
    table
}

/// What can be seen in ASCII, without these.
const fn visible_but(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut b = 0x21u8;
    while b < 0x7f {
        table[b as usize] = true;
        b += 1;
    }
    with(table, others, false)
}

const fn with(mut table: [bool; 256], bytes: &[u8], is_in: bool) -> [bool; 256] {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] = is_in;
        at += 1;
    }
    table
}
