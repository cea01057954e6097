//! One client connection's two directions: checked messages in, answers out.
//!
//! Reading goes by the rules of [`framing`](crate::message::framing), and nothing else reads: a head is checked where it
//! lies and only then copied out; a body is handed on piece by piece as it proves good. Two parsers that read one stream
//! differently are how requests are smuggled; here there is one.
//!
//! - *One message at a time.* The next head is read after the answer has gone out. What comes meanwhile waits in the
//!   buffer, at most one block of it.
//! - *A bad head* is answered by the service, in its turn: the cell ([`Conn`]) says why. So order, metrics and the log
//!   line are those of any request.
//! - *A bad body* ends with an error; the cell says why.
//!
//! Writing and reading are separate borrows of the socket, each for one call: what is written may itself wait for what is
//! read, when a backend answers before it has the whole request.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::incoming::Source;
use super::lasting::Lasting;
use super::watch::{Measure, Watch};
use super::wire::Wire;
use crate::hint::cold_path;
use crate::message::buffer::{Buffer, Left, Memory, Waiting};
use crate::message::framing::{Chunks, Fault, Framing, HeadLimits, Scan, method_of_refused};
use crate::message::{Conn, RequestHead};
use crate::model::{Limits, Reason};

const HEAD_TIMEOUT: Fault = Fault::over("header_timeout", Reason::RequestTimeout, "the head took too long");

const NO_ROOM: Fault = Fault::over("max_buffered_bytes", Reason::Overloaded, "too many heads are not whole");

/// Bytes of an answer that a client has when the reset comes: they are in its kernel, whose window is larger but in the
/// smallest of machines.
const SAFE: usize = 4096;

/// A head may be this long, whatever the file says.
const MAX_HEAD: usize = 1024 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What of the body is still to come from the client.
enum Body {
    None,
    Left(Left),
    /// The body is bad: nothing more is read.
    Broken,
}

/// See the module.
pub(super) struct Stream<W> {
    wire: RefCell<W>,
    buffer: RefCell<Buffer>,
    body: RefCell<Body>,
    pub(super) watch: Rc<Watch>,
    memory: Rc<Memory>,
    waiting: Waiting,
    /// The client waits to be asked for the body.
    expects: Cell<bool>,
    /// The client has left in the middle of a body.
    gone: Cell<bool>,
    /// The service is at work on an answer.
    answering: Cell<bool>,
    /// How much of the interim responses has been sent.
    interim_sent: Cell<usize>,
    /// Bytes written in all, and how many of them had been delivered when that was last measured.
    written: Cell<u64>,
    delivered: Cell<u64>,
    /// Bytes that the socket held when it was last asked about a flush that waits.
    undelivered: Cell<usize>,
}

/// What comes from the client when an answer has gone out.
pub(super) enum Next {
    /// A head, or what stands for one that was refused; then the cell says why.
    Head(Rc<RequestHead>),
    /// Nothing yet.
    Idle,
    /// The client has closed the connection, or it broke.
    Closed,
}

impl<W: Wire> Stream<W> {
    pub(super) fn new(wire: W, watch: Rc<Watch>, memory: Rc<Memory>) -> Self {
        Self {
            wire: RefCell::new(wire),
            buffer: RefCell::default(),
            body: RefCell::new(Body::None),
            watch,
            waiting: Waiting::new(Rc::clone(&memory)),
            memory,
            expects: Cell::default(),
            gone: Cell::default(),
            answering: Cell::default(),
            interim_sent: Cell::default(),
            written: Cell::default(),
            delivered: Cell::default(),
            undelivered: Cell::default(),
        }
    }

    pub(super) fn conn(&self) -> &Conn {
        &self.watch.conn
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// What has been read and not been used, for another protocol.
    pub(super) fn peek<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.buffer.borrow())
    }

    /// More behind what has come. False: the connection has ended.
    pub(super) fn poll_more(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_fill(cx).map(|filled| filled.is_ok_and(|bytes| bytes > 0))
    }

    /// The socket, and what has been read from it.
    pub(super) fn into_parts(self) -> (W, Bytes) {
        let mut buffer = self.buffer.into_inner();
        let bytes = buffer.take(buffer.len());
        buffer.release(&self.memory);
        (self.wire.into_inner(), bytes)
    }

    pub(super) fn into_wire(self) -> W {
        self.wire.into_inner()
    }

    /// Says that nothing more comes, as far as the socket takes it.
    pub(super) fn poll_goodbye(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.borrow_mut().poll_goodbye(cx)
    }

    /// Has the connection end with a reset.
    pub(super) fn abort(&self) {
        self.wire.borrow().abort();
    }

    /// Whether closing now could destroy an answer on its way: if there is something that nobody has read, or more comes
    /// while much of the answer has not arrived, the kernel sends a reset.
    pub(super) fn must_linger(&self, cx: &mut Context<'_>) -> bool {
        let unread = self.has_bytes() || !matches!(*self.body.borrow(), Body::None);
        // The kernel is asked only if it may hold so much. What TLS makes of an answer is longer, and was not counted.
        let may_hold = self.written.get() > SAFE as u64 || self.conn().secure().is_some();
        unread || self.poll_any(cx).is_ready() || may_hold && self.wire.borrow().undelivered() > SAFE
    }

    /// Whether the client left in the middle of a body.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    pub(super) fn is_answering(&self) -> bool {
        self.answering.get()
    }

    /// Whether the service is at work on an answer.
    pub(super) fn set_answering(&self, answering: bool) {
        self.answering.set(answering);
    }

    /// Whether there are bytes that came before they were wanted.
    pub(super) fn has_bytes(&self) -> bool {
        !self.buffer.borrow().is_empty()
    }

    fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut wire = self.wire.borrow_mut();
        let filled = ready!(self.buffer.borrow_mut().poll_fill(cx, &mut *wire, &self.memory));
        if let Ok(bytes) = filled {
            self.watch.read(bytes);
        }
        Poll::Ready(filled)
    }

    /// Waits for anything to come. False: the connection has ended.
    pub(super) fn poll_any(&self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.has_bytes() {
            return Poll::Ready(true);
        }
        self.poll_fill(cx).map(|filled| filled.is_ok_and(|bytes| bytes > 0))
    }

    /// While a request is being answered, and not at once: ready when its client has gone. What it sends meanwhile is
    /// kept, up to one block; beyond that nothing is read, and a client that leaves is noticed when the answer is sent.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.watch.is_long() || self.has_bytes() || !matches!(*self.body.borrow(), Body::None) {
            return Poll::Pending;
        }
        match self.poll_fill(cx) {
            Poll::Ready(Ok(1..)) | Poll::Pending => Poll::Pending,
            Poll::Ready(_) => Poll::Ready(()),
        }
    }

    /// The next head. `scan` is what is known of it so far.
    pub(super) fn poll_head(&self, cx: &mut Context<'_>, scan: &mut Scan, limits: impl Fn() -> Limits) -> Poll<Next> {
        loop {
            if self.has_bytes() {
                let limits = limits();
                self.watch.head(limits.header_timeout);
                let mut buffer = self.buffer.borrow_mut();
                let found = scan.feed(&buffer, &head_limits(&limits));
                let fault = match found {
                    Ok(None) if self.watch.take_expired() => Some(HEAD_TIMEOUT),
                    Ok(None) => None,
                    Ok(Some(found)) => {
                        let end = found.end;
                        if let Some(head) = RequestHead::read(&buffer, found).map(Rc::new) {
                            buffer.skip(end);
                            buffer.release(&self.memory);
                            self.begin(&head);
                            return Poll::Ready(Next::Head(head));
                        }
                        Some(Fault::bad("not a head"))
                    }
                    Err(fault) => Some(fault),
                };
                cold_path();
                if let Some(fault) = fault {
                    let head = self.refuse(fault, scan, &buffer);
                    return Poll::Ready(Next::Head(Rc::new(head)));
                }
            } else {
                return Poll::Ready(Next::Idle);
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(Next::Closed),
                // From here on it takes memory while nothing happens: what many do, slowly, to take it from everybody.
                Poll::Pending => {
                    let buffer = self.buffer.borrow();
                    if self.waiting.set(buffer.len()) > limits().max_buffered_bytes {
                        let head = self.refuse(NO_ROOM, scan, &buffer);
                        return Poll::Ready(Next::Head(Rc::new(head)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn begin(&self, head: &RequestHead) {
        self.waiting.set(0);
        self.watch.exchange();
        self.conn().begin(head);
        self.expects.set(head.expects_continue);
        *self.body.borrow_mut() = match head.framing {
            Framing::Empty => Body::None,
            Framing::Length(length) => Body::Left(Left::Length(length)),
            Framing::Chunked => Body::Left(Left::Chunked(Chunks::default())),
        };
    }

    /// All that comes from now on is a tunnel's, and what has come after the head.
    pub(super) fn open_tunnel(&self, idle: Option<Duration>) -> Rc<Lasting> {
        *self.body.borrow_mut() = Body::Left(Left::Close);
        self.watch.tunnel(idle)
    }

    /// What stands for a head that was refused, as far as it is known.
    fn refuse(&self, fault: Fault, scan: &Scan, bytes: &[u8]) -> RequestHead {
        self.waiting.set(0);
        self.watch.exchange();
        self.conn().refuse(fault);
        *self.body.borrow_mut() = Body::Broken;
        let target = scan.target(bytes).and_then(|target| str::from_utf8(target).ok()).unwrap_or_default();
        let mut head = RequestHead::new(method_of_refused(scan.method(bytes)), target, []);
        head.keep_alive = false;
        head
    }

    /// What of the body lies in the buffer, and whether that is its end.
    fn take_body(&self) -> Result<(Bytes, bool), Fault> {
        let mut buffer = self.buffer.borrow_mut();
        let mut body = self.body.borrow_mut();
        let (data, ended) = match &mut *body {
            Body::None | Body::Broken => (Bytes::new(), true),
            Body::Left(left) => left.take(&mut buffer)?,
        };
        if ended {
            *body = Body::None;
            buffer.release(&self.memory);
            self.conn().body_ended();
        }
        Ok((data, ended))
    }

    /// Drops what has come of a body that nobody wants any more. It may be all of it.
    pub(super) fn discard_body(&self) {
        while self.has_bytes() && matches!(*self.body.borrow(), Body::Left(_)) {
            if let Err(fault) = self.take_body() {
                self.conn().set_fault(fault);
                *self.body.borrow_mut() = Body::Broken;
            }
        }
    }

    /// Writes interim responses that are waiting.
    pub(super) fn poll_interim(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.conn().interims().borrow_mut();
        while let Some(rest @ [_, ..]) = waiting.get(self.interim_sent.get()..) {
            let n = ready!(Pin::new(&mut *self.wire.borrow_mut()).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim_sent.set(self.interim_sent.get() + n);
            self.written.set(self.written.get() + n as u64);
        }
        if !waiting.is_empty() {
            *waiting = Vec::new();
            self.interim_sent.set(0);
            // What can't go on its way now goes before the answer.
            let _ = Pin::new(&mut *self.wire.borrow_mut()).poll_flush(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    /// What has not been sent of interim responses goes before the answer.
    pub(super) fn interim_rest(&self, out: &mut Vec<u8>) {
        let mut waiting = self.conn().interims().borrow_mut();
        if !waiting.is_empty() {
            out.extend_from_slice(waiting.get(self.interim_sent.get()..).unwrap_or_default());
            *waiting = Vec::new();
            self.interim_sent.set(0);
        }
    }

    /// Whether the client takes its answer fast enough, when the sweep has asked.
    fn measure(&self) -> io::Result<()> {
        let Some(measure) = self.watch.take_measure() else { return Ok(()) };
        let delivered = self.written.get().saturating_sub(self.wire.borrow().undelivered() as u64);
        let progress = delivered.saturating_sub(self.delivered.replace(delivered));
        match measure {
            Measure::End(enough) if progress < enough => {
                self.watch.lags(enough);
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => Ok(()),
        }
    }

    /// The same for what has been taken by the wire and not yet by the socket: how much that is, TLS does not tell, so it is
    /// asked for no more than that something moves. It is some 64 KiB at most.
    fn flush_waits(&self) -> io::Result<()> {
        let due = self.watch.take_flush_due();
        if !self.watch.flush_waits() && due.is_none() {
            return Ok(());
        }
        let undelivered = self.wire.borrow().undelivered();
        match due {
            Some(enough) if self.undelivered.replace(undelivered) == undelivered => {
                self.watch.lags(enough);
                Err(io::ErrorKind::TimedOut.into())
            }
            _ => {
                self.undelivered.set(undelivered);
                Ok(())
            }
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.watch.write_waits(),
            Poll::Ready(Ok(n)) => {
                self.watch.written(*n);
                self.written.set(self.written.get() + *n as u64);
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl<W: Wire> Source for Stream<W> {
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match &*self.body.borrow() {
                Body::None => return Poll::Ready(None),
                Body::Broken => return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
                Body::Left(_) => {}
            }
            // A tunnel's fault is how it ends, which whoever drives it sees to.
            let is_tunnel = matches!(*self.body.borrow(), Body::Left(Left::Close));
            if self.conn().fault().is_some() && !is_tunnel {
                *self.body.borrow_mut() = Body::Broken;
                continue;
            }
            if self.expects.take() && !self.conn().answered() {
                self.conn().interims().borrow_mut().extend_from_slice(CONTINUE);
                // What can't be written now is, when the connection's task runs next.
                let _ = self.poll_interim(cx)?;
            }
            if self.has_bytes() {
                match self.take_body() {
                    Ok((data, false)) if data.is_empty() => {}
                    Ok((data, true)) if data.is_empty() => return Poll::Ready(None),
                    Ok((data, _)) => return Poll::Ready(Some(Ok(data))),
                    Err(fault) => {
                        self.conn().set_fault(fault);
                        continue;
                    }
                }
            }
            let polled = self.poll_fill(cx);
            if polled.is_pending() {
                self.watch.read_waits();
            }
            match ready!(polled) {
                Ok(1..) => {}
                // In a tunnel that is how a client ends its side.
                Ok(0) if is_tunnel => {
                    *self.body.borrow_mut() = Body::None;
                    return Poll::Ready(None);
                }
                ended => {
                    *self.body.borrow_mut() = Body::Broken;
                    self.gone.set(true);
                    return Poll::Ready(Some(Err(ended.err().unwrap_or(io::ErrorKind::UnexpectedEof.into()))));
                }
            }
        }
    }

    fn is_end(&self) -> bool {
        matches!(*self.body.borrow(), Body::None)
    }
}

/// Writing, with what the sweep wants to know of it.
pub(super) struct Writer<'a, W>(pub(super) &'a Stream<W>);

impl<W: Wire> AsyncWrite for Writer<'_, W> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.measure()?;
        let result = Pin::new(&mut *self.0.wire.borrow_mut()).poll_write(cx, bytes);
        self.0.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.measure()?;
        let result = Pin::new(&mut *self.0.wire.borrow_mut()).poll_write_vectored(cx, parts);
        self.0.wrote(result)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.0.wire.borrow_mut()).poll_flush(cx);
        match flushed {
            Poll::Pending => self.0.flush_waits()?,
            Poll::Ready(_) => self.0.watch.flushed(),
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.wire.borrow_mut()).poll_shutdown(cx)
    }
}

/// The limits in force now, as far as there is a ceiling.
pub(super) fn head_limits(limits: &Limits) -> HeadLimits {
    HeadLimits {
        bytes: (limits.max_header_bytes as usize).min(MAX_HEAD),
        fields: limits.max_headers as usize,
        target: limits.max_target_bytes as usize,
    }
}
