//! What HTTP/2 runs on: the client's socket, with the frames that come counted and those that go gathered.
//!
//! The library writes each DATA frame of more than a few bytes by itself. Gathered until it flushes, which it does once
//! for all that a connection's task has done in one go, a hundred small answers are one send, and over TLS a few records
//! instead of a hundred.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;
use crate::listen::watch::Pace;
use crate::listen::wire::Wire;

/// Bytes that are gathered at most, about what fills a record of TLS.
const GATHER: usize = 16 * 1024;

/// A frame that is not smaller is not copied: it goes out with what has been gathered before it.
const LARGE: usize = 8 * 1024;

/// What the connection's task sees of the bytes that pass.
pub(super) struct Lower {
    pub(super) meter: RefCell<Meter>,
    /// Of the socket: how fast the client takes what is sent.
    pub(super) writing: Pace,
    /// Nothing is open: memory is given back.
    pub(super) idle: Cell<bool>,
}

/// See the module. The task keeps the socket, too, so that it outlives the library.
pub(super) struct Io<W> {
    wire: Rc<RefCell<W>>,
    lower: Rc<Lower>,
    /// Read before it was clear what the connection speaks.
    begun: Bytes,
    out: Vec<u8>,
    sent: usize,
}

impl<W: Wire> Io<W> {
    pub(super) fn new(wire: Rc<RefCell<W>>, lower: Rc<Lower>, begun: Bytes) -> Self {
        let good = lower.meter.borrow_mut().read(&begun);
        let begun = begun.slice(..good);
        Self { wire, lower, begun, out: Vec::new(), sent: 0 }
    }

    /// Sends what has been gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.out.get(self.sent..) {
            let polled = Pin::new(&mut *self.wire.borrow_mut()).poll_write(cx, rest);
            match ready!(self.lower.wrote(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// Sends what has been gathered and these behind it; the number of bytes of these that went.
    fn poll_send_with(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            let (polled, held) = {
                let gathered = self.out.get(self.sent..).unwrap_or_default();
                let mut all: SmallVec<[IoSlice<'_>; 8]> = SmallVec::new();
                all.push(IoSlice::new(gathered));
                all.extend(parts.iter().copied());
                (Pin::new(&mut *self.wire.borrow_mut()).poll_write_vectored(cx, &all), gathered.len())
            };
            let n = ready!(self.lower.wrote(polled))?;
            let before = n.min(held);
            if before == held {
                self.clear();
            } else {
                self.sent += before;
            }
            // None of these is no answer, but for a socket that takes nothing at all.
            if n == 0 || n > before {
                return Poll::Ready(Ok(n - before));
            }
        }
    }

    fn clear(&mut self) {
        self.out.clear();
        self.sent = 0;
        if self.lower.idle.get() {
            self.out = Vec::new();
        }
    }
}

impl Lower {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Pending => self.writing.waits(),
            Poll::Ready(Ok(n)) => self.writing.went(*n),
            Poll::Ready(Err(_)) => {}
        }
        polled
    }
}

impl<W: Wire> AsyncRead for Io<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begun.is_empty() {
            let now = self.begun.len().min(out.remaining());
            out.put_slice(&self.begun.split_to(now));
            return Poll::Ready(Ok(()));
        }
        // The task looks at the verdict when the library has nothing more to do: no need to be woken.
        if self.lower.meter.borrow().verdict().is_some() {
            return Poll::Pending;
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut *self.wire.borrow_mut()).poll_read(cx, out))?;
        let new = out.filled().get(before..).unwrap_or_default();
        let good = self.lower.meter.borrow_mut().read(new);
        let is_good = good == new.len();
        out.set_filled(before + good);
        // Nothing would mean the end.
        if is_good || good > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<W: Wire> AsyncWrite for Io<W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = parts.iter().map(|part| part.len()).sum();
        if length >= LARGE {
            return self.poll_send_with(cx, parts);
        }
        if self.out.len() + length > GATHER {
            ready!(self.poll_send(cx))?;
        }
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut *self.wire.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut *self.wire.borrow_mut()).poll_shutdown(cx)
    }
}
