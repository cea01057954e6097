//! What HTTP/2 runs on: the client's socket, with the frames that come counted and those that go gathered.
//!
//! The library writes each DATA frame of more than a few bytes by itself, and flushes after it. Gathered until the
//! connection's task has done all that it can, a hundred small answers are one send, and over TLS a few records
//! instead of a hundred. What is large is not copied for it ([`gather`](super::gather)).

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flow::{Flow, LARGE};
use super::gather::Gather;
use super::meter::Meter;
use crate::listen::watch::Pace;
use crate::listen::wire::Wire;

/// Bytes that are gathered at most, about what a socket, or TLS, takes at a time.
const GATHER: usize = 64 * 1024;

/// What the connection's task sees of the bytes that pass.
pub(super) struct Lower {
    pub(super) meter: RefCell<Meter>,
    pub(super) flow: Flow,
    /// Of the socket: how fast the client takes what is sent.
    pub(super) writing: Pace,
    /// The same for what TLS holds above it.
    pub(super) flushing: Pace,
    /// Nothing is open: memory is given back.
    pub(super) idle: Cell<bool>,
    /// What is to be sent.
    out: RefCell<Gather>,
    /// Bytes that the socket held when that was last asked.
    undelivered: Cell<usize>,
    /// The library has more than is taken from it at the moment.
    blocked: Cell<bool>,
}

/// See the module. The task keeps the socket, too, so that it outlives the library.
pub(super) struct Io<W> {
    wire: Rc<RefCell<W>>,
    lower: Rc<Lower>,
    /// Read before it was clear what the connection speaks.
    begun: Bytes,
}

impl<W: Wire> Io<W> {
    pub(super) fn new(wire: Rc<RefCell<W>>, lower: Rc<Lower>, begun: Bytes) -> Self {
        let good = lower.meter.borrow_mut().read(&begun);
        let begun = begun.slice(..good);
        Self { wire, lower, begun }
    }
}

impl Lower {
    pub(super) fn new(preface: usize) -> Self {
        Self {
            meter: RefCell::new(Meter::new(preface)),
            flow: Flow::default(),
            writing: Pace::default(),
            flushing: Pace::default(),
            idle: Cell::default(),
            out: RefCell::default(),
            undelivered: Cell::default(),
            blocked: Cell::default(),
        }
    }

    /// Sends what has been gathered, and has it go on its way. To be called when the library has nothing more to do.
    pub(super) fn poll_flush<W: Wire>(&self, cx: &mut Context<'_>, wire: &RefCell<W>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx, wire))?;
        let flushed = Pin::new(&mut *wire.borrow_mut()).poll_flush(cx);
        if flushed.is_pending() {
            // How much TLS still holds it does not tell; what the socket holds shows that something moves.
            let undelivered = wire.borrow().undelivered();
            let moved = undelivered.abs_diff(self.undelivered.replace(undelivered));
            self.flushing.went(moved);
            self.flushing.waits();
        }
        ready!(flushed)?;
        self.flushing.clear();
        if !self.blocked.get() {
            self.flow.gone();
        }
        if self.idle.get() {
            self.out.borrow_mut().shrink();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send<W: Wire>(&self, cx: &mut Context<'_>, wire: &RefCell<W>) -> Poll<io::Result<()>> {
        let mut out = self.out.borrow_mut();
        while out.len() > 0 {
            let polled = Pin::new(&mut *wire.borrow_mut()).poll_write_vectored(cx, &out.parts());
            match ready!(self.wrote(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => out.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }

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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let lower = &self.lower;
        let length = parts.iter().map(|part| part.len()).sum();
        let held = lower.out.borrow().len();
        if held > 0 && held + length > GATHER {
            lower.blocked.set(true);
            ready!(lower.poll_send(cx, &self.wire))?;
        }
        lower.blocked.set(false);
        let mut out = lower.out.borrow_mut();
        for part in parts {
            match Some(part).filter(|part| part.len() >= LARGE).and_then(|part| lower.flow.find(part)) {
                Some(piece) => out.keep(piece),
                None => out.copy(part),
            }
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The library flushes after each large frame. What has been gathered goes when the connection's task has done all that
    /// it can: [`Lower::poll_flush`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.lower.poll_send(cx, &self.wire))?;
        Pin::new(&mut *self.wire.borrow_mut()).poll_shutdown(cx)
    }
}
