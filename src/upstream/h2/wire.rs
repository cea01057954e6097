//! What a connection of HTTP/2 runs on: a stream that keeps account of what went over it.
//!
//! The library that speaks HTTP/2 does not say when a frame has left, nor when the other side was last heard. Both are
//! needed: the first decides whether a request may be sent again, the second whether a connection is still alive. So the
//! bytes are counted here, underneath it. The first frame is looked at as well: it must be SETTINGS (RFC 9113, 3.4), and a
//! server that speaks something else is found out before it is sent a request.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::upstream::Stream;

/// Bytes of a frame's head.
const FRAME_HEAD: usize = 9;
/// The type of SETTINGS (RFC 9113, 6.5).
const SETTINGS: u8 = 4;

/// What went over a connection.
pub(super) struct Traffic {
    read: Cell<u64>,
    written: Cell<u64>,
    heard: Cell<Instant>,
    /// The begin of the first frame.
    first: Cell<[u8; FRAME_HEAD]>,
    /// What came first was not SETTINGS.
    is_foreign: Cell<bool>,
}

impl Traffic {
    pub(super) fn new() -> Self {
        Self {
            read: Cell::default(),
            written: Cell::default(),
            heard: Cell::new(Instant::now()),
            first: Cell::default(),
            is_foreign: Cell::default(),
        }
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes that the socket has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.written.get()
    }

    /// When anything was last read, else when it began.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Whether the other side's SETTINGS have come whole.
    pub(super) fn is_greeted(&self) -> bool {
        let [a, b, c, ..] = self.first.get();
        let length = u64::from(u32::from_be_bytes([0, a, b, c]));
        !self.is_foreign.get() && self.read.get() >= FRAME_HEAD as u64 + length
    }

    /// Whether the other side has begun with something else.
    pub(super) fn is_foreign(&self) -> bool {
        self.is_foreign.get()
    }

    /// These bytes were read. Whether they may be the begin of HTTP/2.
    fn note(&self, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let before = self.read.get();
        self.read.set(before + bytes.len() as u64);
        self.heard.set(Instant::now());
        let at = usize::try_from(before).unwrap_or(usize::MAX);
        if at < FRAME_HEAD {
            let mut first = self.first.get();
            first.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
            self.first.set(first);
            let [_, _, _, kind, flags, stream @ ..] = first;
            let is_settings = kind == SETTINGS && flags == 0 && stream == [0; 4];
            self.is_foreign.set(self.read.get() >= FRAME_HEAD as u64 && !is_settings);
        }
        !self.is_foreign.get()
    }
}

/// A stream and what went over it.
pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) traffic: Rc<Traffic>,
}

impl Wire {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &polled {
            self.traffic.written.set(self.traffic.written.get() + *n as u64);
        }
        polled
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let is_http2 = self.traffic.note(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(if is_http2 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) })
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_must_begin_with_settings() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1];
        for cut in 0..settings.len() {
            let traffic = Traffic::new();
            let (one, two) = settings.split_at(cut);
            assert!(traffic.note(one));
            assert!(!traffic.is_greeted() && !traffic.is_foreign(), "{cut}");
            assert!(traffic.note(two));
            assert!(traffic.is_greeted(), "{cut}");
        }
        for foreign in
            [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[0, 0, 0, 4, 1, 0, 0, 0, 0], &[0, 0, 8, 6, 0, 0, 0, 0, 0]]
        {
            let traffic = Traffic::new();
            assert!(!traffic.note(foreign));
            assert!(traffic.is_foreign() && !traffic.is_greeted());
        }
        let traffic = Traffic::new();
        assert!(traffic.note(b"HTTP") && !traffic.is_greeted());
    }
}
