//! How far an answer is read ahead of a client that may not take it.
//!
//! A connection of HTTP/1 has one answer, and one block of memory for it. One of HTTP/2 has a hundred at a time, and opens
//! windows for them as it likes: were each read by the block, those that nobody takes would hold megabytes. So whoever sends
//! the answers of streams says how much there is room for, and whoever reads them reads no more.

use std::cell::Cell;

/// Bytes that are read even if there is no room for them: the end of a body needs none, and can't be seen without reading.
pub const LITTLE: usize = 1024;

/// How many bytes of one answer may be read at a time.
#[derive(Debug)]
pub struct Ahead(Cell<usize>);

impl Default for Ahead {
    fn default() -> Self {
        Self(Cell::new(usize::MAX))
    }
}

impl Ahead {
    /// There is room for so many from now on.
    pub fn allow(&self, bytes: usize) {
        self.0.set(bytes.max(LITTLE));
    }

    /// So many may be read, at least [`LITTLE`].
    pub fn most(&self) -> usize {
        self.0.get()
    }
}
