//! The files as text, and places in them.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    /// As the user (or the `include` that found it) named it.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Where relative paths in this file start.
    pub(super) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// A place: bytes `start..end` of a file. Files over 4 GiB are refused when they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// In the order they were read; 0 is the main file.
    pub(super) file: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn new(file: u32, range: Range<usize>) -> Self {
        let offset = |n: usize| u32::try_from(n).unwrap_or(u32::MAX - 1);
        Self { file, start: offset(range.start), end: offset(range.end) }
    }

    /// The file as a whole, for what is wrong with no line in particular.
    pub(super) fn whole_file(file: u32) -> Self {
        Self { file, start: u32::MAX, end: u32::MAX }
    }

    pub(super) fn is_whole_file(self) -> bool {
        self.start == u32::MAX
    }
}

/// Where the lines of a text start.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect())
    }

    /// The line that a range starts in (counted from 1), its text, and the part of that text that is in the range.
    pub(super) fn locate<'t>(&self, text: &'t str, range: Range<usize>) -> (usize, &'t str, Range<usize>) {
        let at = range.start.min(text.len());
        let number = self.0.partition_point(|start| *start <= at);
        let start = number.checked_sub(1).and_then(|i| self.0.get(i)).copied().unwrap_or(0);
        let rest = text.get(start..).unwrap_or("");
        let line = rest.split(['\n', '\r']).next().unwrap_or("");
        let from = floor_char(line, at - start);
        let to = floor_char(line, range.end.max(at) - start).max(from);
        (number.max(1), line, from..to)
    }
}

/// The char boundary at or before a byte.
fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_cut_to_their_first_line() {
        let text = "a = 1\nbcd = [\n  2 ]\n";
        let lines = Lines::new(text);
        assert_eq!(lines.locate(text, 0..1), (1, "a = 1", 0..1));
        assert_eq!(lines.locate(text, 12..19), (2, "bcd = [", 6..7));
        assert_eq!(lines.locate(text, 14..14), (3, "  2 ]", 0..0));
        assert_eq!(lines.locate(text, text.len()..text.len() + 9), (4, "", 0..0));
        assert_eq!(Lines::new("").locate("", 0..0), (1, "", 0..0));
    }

    #[test]
    fn places_never_cut_a_character() {
        let text = "k = \"ü\"";
        let (_, line, range) = Lines::new(text).locate(text, 4..6);
        assert_eq!(&line[range], "\"");
    }
}
