//! Where lines end up: a standard stream or a file. It never fails; what could not be written is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where lines end up.
#[derive(Debug)]
pub(super) struct Sink {
    /// `None`: nowhere.
    file: Option<File>,
    /// Of a file, to open it anew.
    path: Option<PathBuf>,
    /// Whether what was written last does not end a line: after a failure, the next line begins with a line end.
    mid_line: bool,
    torn: bool,
}

impl Sink {
    /// Takes everything, and writes nothing.
    pub(super) fn nowhere() -> Self {
        Self { file: None, path: None, mid_line: false, torn: false }
    }

    /// A copy of a stream's descriptor: whoever else writes to the stream does not share a lock with us.
    pub(super) fn stream(stream: &impl AsFd) -> io::Result<Self> {
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        Ok(Self { file: Some(file), ..Self::nowhere() })
    }

    /// A file that is appended to. A FIFO that nobody reads is an error: to open it would wait for a reader.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().append(true).create(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self { file: Some(file), path: Some(path.to_owned()), ..Self::nowhere() })
    }

    /// Opens a file anew, after somebody moved it away. If that fails, the old one stays.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            *self = Self::file(path)?;
        }
        Ok(())
    }

    /// Writes whole lines, and says how many of them were lost. Blocks for as long as the reader of a pipe stands
    /// still. A reader that went away (EPIPE; Rust ignores the signal) and a full disk (ENOSPC) are losses.
    #[must_use]
    pub(super) fn write(&mut self, lines: &[u8]) -> u64 {
        let Some(mut file) = self.file.as_ref() else { return 0 };
        if self.torn {
            match file.write(b"\n") {
                Ok(1) => self.torn = false,
                _ => return count_lines(lines),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(n @ 1..) => {
                    let (written, left) = rest.split_at(n.min(rest.len()));
                    self.mid_line = written.last() != Some(&b'\n');
                    rest = left;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody who shares the stream made it non-blocking: wait as a blocking write would.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Ok(0) | Err(_) => {
                    self.torn = self.mid_line;
                    return count_lines(rest);
                }
            }
        }
        0
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_costs_lines_and_nothing_else() {
        let (reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::stream(&writer).unwrap();
        assert_eq!(sink.write(b"one\n"), 0);
        drop(reader);
        assert_eq!(sink.write(b"two\nthree\n"), 2);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let mut sink = Sink::file(Path::new("/dev/full")).unwrap();
        assert_eq!(sink.write(b"one\ntwo\n"), 2);
        assert_eq!(sink.write(b"three\n"), 1);
    }

    #[test]
    fn a_torn_line_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut sink = Sink::file(&path).unwrap();
        sink.torn = true;
        assert_eq!(sink.write(b"next\n"), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"\nnext\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut sink = Sink::file(&path).unwrap();
        assert_eq!(sink.write(b"one\n"), 0);
        std::fs::rename(&path, &old).unwrap();
        assert_eq!(sink.write(b"two\n"), 0);
        sink.reopen().unwrap();
        assert_eq!(sink.write(b"three\n"), 0);
        assert_eq!(std::fs::read(&old).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
    }
}
