//! Header fields of one message: the text as it came, and where in it each field stands.
//!
//! A proxy reads few fields and passes most of them on untouched. So fields are kept as lines, not as a map: a name that
//! we have to know is recognised once, when the line is checked, and becomes one bit; taking fields out is a walk over a
//! dozen small entries, and only if the bits say that there is something to take; writing them is copying lines. A map
//! (`http::HeaderMap`) hashes each name, counts references to each value, and is written field by field.
//!
//! The names keep the case in which they were sent, as they do through nginx: it means nothing (RFC 9110, 5.1), but some
//! programs believe that it does.

mod known;

use std::ops::Range;

use bytes::Bytes;

pub use known::{Known, Names};

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
        let (value, is_plain) = match rest {
            // Nearly all lines have one space there, and none at their end.
            [b' ', value @ ..] if !is_padded(value) => (1..rest.len(), true),
            _ => (unpadded(rest), false),
        };
        let value_at = start + name_len + 1;
        Some(Self {
            known: Known::of(name),
            is_plain,
            name_len: u16::try_from(name_len).ok()?,
            start: u32::try_from(start).ok()?,
            value: u32::try_from(value_at + value.start).ok()?,
            value_end: u32::try_from(value_at + value.end).ok()?,
        })
    }

    /// What its name is to us.
    pub fn known(&self) -> Known {
        self.known
    }

    /// Its value in its own line.
    pub fn value_in<'t>(&self, line: &'t [u8]) -> &'t [u8] {
        line.get((self.value - self.start) as usize..(self.value_end - self.start) as usize).unwrap_or_default()
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

fn is_padded(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.first()) || is_space(value.last())
}

/// Where the value is, of what follows a colon (RFC 9110, 5.6.3).
#[cold]
fn unpadded(rest: &[u8]) -> Range<usize> {
    let after = super::framing::trim_start(rest);
    let start = rest.len() - after.len();
    start..start + super::framing::trim(after).len()
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
        let present = Names::all(list.iter().map(|field| field.known));
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
        self.present = self.present.and(Names::of(&[known]));
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
            self.present = self.present.without(names);
        }
    }

    /// Removes all of this name, in whatever case.
    pub fn remove_named(&mut self, name: &[u8]) {
        let text = &self.text;
        self.list.retain(|field| !field.name(text).eq_ignore_ascii_case(name));
        self.present = Names::all(self.list.iter().map(|field| field.known));
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

/// Writes a field's line. Inlined, because copying a name whose length is known takes a few moves, and a call otherwise.
#[inline(always)]
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
        let fields = parsed(&["Host: a", "A:b", "B: \t c \t", "C:", "D: ", "E: f g", "X-Request-ID: 7", "G: h "]);
        let all = "Host: a\r\nA: b\r\nB: c\r\nC: \r\nD: \r\nE: f g\r\nX-Request-ID: 7\r\nG: h\r\n";
        assert_eq!(written(&fields, Names::NONE), all);
        assert_eq!(fields.iter().map(|(_, value)| value.len()).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 3, 1, 1]);
        let some = written(&fields, Names::of(&[Known::Host, Known::RequestId, Known::Date]));
        assert_eq!(some, "A: b\r\nB: c\r\nC: \r\nD: \r\nE: f g\r\nG: h\r\n");
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
