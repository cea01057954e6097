//! The gate: what stands between the socket and hyper, and lets hyper see only bytes that keep the rules.
//!
//! hyper accepts more than we want to forward (a bare LF, any Host, two Content-Lengths of one value), answers what it
//! refuses with an empty 400 of its own, and has no public way to send interim responses. So reading goes through here:
//! a message is checked where it lies, in hyper's own buffer, and let through piece by piece as it proves good.
//!
//! - *One message at a time.* After a head has been let through, the next is held until the answer has gone out. So the
//!   cell shared with the service ([`Conn`]) always speaks of one request, and answers can't change places.
//! - *A bad head* is never answered from here, beside hyper, but by the service: hyper is given a stand-in request of
//!   ours, and the cell says why. Order, metrics and the log line come for nothing.
//! - *A bad body* ends with an error after its valid part; the cell says why.
//! - *Interim responses* are written here, between two whole writes of hyper's.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::watch::{Measure, Watch};
use super::wire::Wire;
use crate::message::Conn;
use crate::message::framing::{Chunks, Fault, Framing, HeadLimits, Scan};
use crate::model::{Limits, Reason};

/// Two buffers that together are not larger than this are copied into one and sent with one plain `send`, which is
/// cheaper than a `writev` of two.
const COALESCE: usize = 4096;

/// What hyper gets in place of a bad head. It asks for the connection to be closed, so that hyper closes it.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";
/// The same for a HEAD, whose answer must have no body.
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";

const HEAD_TIMEOUT: Fault = Fault::over("header_timeout", Reason::RequestTimeout, "the head took too long");

/// Where in the stream of messages the first byte stands that has not been checked.
enum State {
    Head(Scan),
    Body(u64),
    Chunked(Chunks),
    /// The body is bad: hyper gets an error.
    Broken,
    /// The head was bad: hyper has got a stand-in and gets nothing more.
    Refused,
}

/// See the module. `L` gives the limits that are in force now.
pub(super) struct Gate<W, L> {
    wire: W,
    limits: L,
    /// What hyper was told when the connection began: whatever the limits become, it must not meet more.
    ceiling: HeadLimits,
    watch: Rc<Watch>,
    state: State,
    /// A request is being answered.
    busy: bool,
    /// Read but not given out: `buffer[..ready]` may go, the rest has not been let through.
    buffer: Vec<u8>,
    ready: usize,
    /// hyper's last write was cut short, so the next one goes on in the middle of something.
    mid_write: bool,
    /// Interim responses that are on their way.
    interim: Vec<u8>,
    interim_sent: usize,
    /// Bytes written in all, and how many of them had been delivered when that was last measured.
    written: u64,
    delivered: u64,
}

/// What checking did to the bytes it was given.
struct Checked {
    /// So many, now at the front, go on to hyper.
    good: usize,
    /// So many were looked at; those of them that are not good are to be dropped.
    used: usize,
}

impl<W: Wire, L: Fn() -> Limits> Gate<W, L> {
    pub(super) fn new(wire: W, limits: L, ceiling: HeadLimits, watch: Rc<Watch>) -> Self {
        Self {
            wire,
            limits,
            ceiling,
            watch,
            state: State::Head(Scan::default()),
            busy: false,
            buffer: Vec::new(),
            ready: 0,
            mid_write: false,
            interim: Vec::new(),
            interim_sent: 0,
            written: 0,
            delivered: 0,
        }
    }

    pub(super) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    /// Whether the client has sent, or is still sending, what nobody will read: closing then would make the kernel send
    /// a reset, which may destroy the answer on its way.
    pub(super) fn has_unread(&self) -> bool {
        !self.buffer.is_empty() || !matches!(self.state, State::Head(_))
    }

    fn conn(&self) -> &Conn {
        &self.watch.conn
    }

    /// Looks at bytes that stand at the front of what has not been let through, and moves what is good to the front.
    fn check(&mut self, bytes: &mut [u8]) -> Checked {
        let mut done = Checked { good: 0, used: 0 };
        loop {
            let rest = bytes.get(done.used..).unwrap_or_default();
            if rest.is_empty() {
                return done;
            }
            let (len, keep) = match &mut self.state {
                State::Head(_) if self.busy => return done,
                State::Head(scan) => {
                    let limits = (self.limits)();
                    self.watch.head(limits.header_timeout);
                    match scan.feed(rest, &within(&limits, &self.ceiling)) {
                        Ok(None) => return done,
                        Ok(Some(head)) => {
                            self.busy = true;
                            self.watch.exchange();
                            let target = rest.get(head.target).unwrap_or_default();
                            let http_10 = head.version == http::Version::HTTP_10;
                            self.watch.conn.begin(target, head.framing, head.expects_continue, http_10);
                            self.state = match head.framing {
                                Framing::Empty => State::Head(Scan::default()),
                                Framing::Length(n) => State::Body(n),
                                Framing::Chunked => State::Chunked(Chunks::default()),
                            };
                            done.used += head.start;
                            (head.end - head.start, true)
                        }
                        Err(fault) => {
                            self.refuse(fault, rest);
                            done.used = bytes.len();
                            return done;
                        }
                    }
                }
                State::Body(left) => {
                    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= len as u64;
                    if *left == 0 {
                        self.body_ended();
                    }
                    (len, true)
                }
                State::Chunked(chunks) => match chunks.step(rest) {
                    Ok(step) => {
                        if chunks.is_end() {
                            self.body_ended();
                        }
                        step.map_or((0, false), |step| (step.len, step.keep))
                    }
                    Err(fault) => {
                        self.conn().set_fault(fault);
                        self.state = State::Broken;
                        return done;
                    }
                },
                State::Broken | State::Refused => return Checked { good: done.good, used: bytes.len() },
            };
            if keep {
                if done.good != done.used {
                    bytes.copy_within(done.used..done.used + len, done.good);
                }
                done.good += len;
            }
            done.used += len;
        }
    }

    fn body_ended(&mut self) {
        self.conn().body_ended();
        self.state = State::Head(Scan::default());
        if !self.busy {
            // The answer went out before the request was whole.
            self.watch.idle((self.limits)().idle_timeout);
        }
    }

    /// In place of the head that begins `bytes`, a stand-in goes to hyper, and nothing after it.
    fn refuse(&mut self, fault: Fault, bytes: &[u8]) {
        let (target, stand_in) = match &self.state {
            State::Head(scan) if scan.is_head(bytes) => (scan.target(bytes), STAND_IN_HEAD),
            State::Head(scan) => (scan.target(bytes), STAND_IN),
            _ => (None, STAND_IN),
        };
        self.watch.conn.refuse(fault, target.unwrap_or_default());
        self.watch.exchange();
        self.busy = true;
        self.state = State::Refused;
        self.buffer.clear();
        self.buffer.extend_from_slice(stand_in);
        self.ready = stand_in.len();
    }

    /// Checks what lies in our own buffer.
    fn check_buffer(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let checked = self.check(&mut buffer);
        if matches!(self.state, State::Refused) {
            // The buffer holds the stand-in; the end of the body before it, if that was there, goes first.
            buffer.truncate(checked.good);
            buffer.append(&mut self.buffer);
            self.ready += checked.good;
            self.buffer = buffer;
            return;
        }
        if checked.good < checked.used {
            buffer.drain(checked.good..checked.used);
        }
        self.buffer = buffer;
        self.ready = checked.good;
    }

    fn give(&mut self, out: &mut ReadBuf<'_>) {
        let len = self.ready.min(out.remaining());
        out.put_slice(self.buffer.get(..len).unwrap_or_default());
        self.buffer.drain(..len);
        self.ready -= len;
        if self.buffer.is_empty() {
            // An idle connection must not hold on to what a large head needed.
            self.buffer = Vec::new();
        }
    }

    /// The answer has gone out. Whatever is held may go on.
    fn finish(&mut self, cx: &Context<'_>) {
        self.busy = false;
        if !matches!(self.state, State::Head(_)) {
            return;
        }
        let limits = (self.limits)();
        if self.buffer.is_empty() {
            self.watch.idle(limits.idle_timeout);
        } else {
            self.watch.head(limits.header_timeout);
            // Reading was refused without asking the socket, so nothing else will wake the task.
            cx.waker().wake_by_ref();
        }
    }

    /// Sends interim responses, unless that would put them into the middle of something.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim_sent == self.interim.len() {
            let mut waiting = self.watch.conn.interims().borrow_mut();
            if waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.mid_write {
                if self.watch.conn.answered() {
                    waiting.clear();
                }
                return Poll::Ready(Ok(()));
            }
            self.interim_sent = 0;
            self.interim.clear();
            self.interim.append(&mut waiting);
        }
        while let Some(rest @ [_, ..]) = self.interim.get(self.interim_sent..) {
            let n = ready!(Pin::new(&mut self.wire).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim_sent += n;
            self.written += n as u64;
        }
        self.interim = Vec::new();
        self.interim_sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether the client takes its answer fast enough, when the sweep has asked.
    fn measure(&mut self) -> io::Result<()> {
        let Some(measure) = self.watch.take_measure() else { return Ok(()) };
        let delivered = self.written.saturating_sub(self.wire.undelivered() as u64);
        let progress = delivered.saturating_sub(self.delivered);
        self.delivered = delivered;
        match measure {
            Measure::End(enough) if progress < enough => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn wrote(&mut self, result: Poll<io::Result<usize>>, of: usize) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.watch.write_waits(),
            Poll::Ready(Ok(n)) => {
                self.watch.written(*n);
                self.written += *n as u64;
                self.mid_write = *n < of;
            }
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl<W: Wire, L: Fn() -> Limits + Unpin> AsyncRead for Gate<W, L> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.ready > 0 {
                this.give(out);
                return Poll::Ready(Ok(()));
            }
            match &this.state {
                State::Refused => return Poll::Pending,
                State::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                State::Body(_) | State::Chunked(_) if this.conn().fault().is_some() => {
                    this.state = State::Broken;
                    continue;
                }
                State::Head(_) if this.busy && !this.buffer.is_empty() => return Poll::Pending,
                State::Head(_) if this.watch.take_expired() => {
                    let bytes = std::mem::take(&mut this.buffer);
                    this.refuse(HEAD_TIMEOUT, &bytes);
                    continue;
                }
                _ => {}
            }
            // What was held while a request was being answered.
            if !this.busy && !this.buffer.is_empty() {
                this.check_buffer();
                if this.ready > 0 {
                    continue;
                }
            }
            let before = out.filled().len();
            let polled = Pin::new(&mut this.wire).poll_read(cx, out);
            if polled.is_pending() && !matches!(this.state, State::Head(_)) {
                this.watch.read_waits();
            }
            ready!(polled)?;
            let came = out.filled().len() - before;
            this.watch.read(came);
            if came == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.buffer.is_empty() {
                let new = out.filled_mut().get_mut(before..).unwrap_or_default();
                let checked = this.check(new);
                if let Some(rest @ [_, ..]) = new.get(checked.used..) {
                    this.buffer.extend_from_slice(rest);
                }
                out.set_filled(before + checked.good);
                if checked.good > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                this.buffer.extend_from_slice(out.filled().get(before..).unwrap_or_default());
                out.set_filled(before);
                this.check_buffer();
            }
        }
    }
}

impl<W: Wire, L: Fn() -> Limits + Unpin> AsyncWrite for Gate<W, L> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.measure()?;
        ready!(this.poll_interim(cx))?;
        let result = Pin::new(&mut this.wire).poll_write(cx, bytes);
        this.wrote(result, bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        thread_local! {
            static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(COALESCE));
        }
        let this = self.get_mut();
        this.measure()?;
        ready!(this.poll_interim(cx))?;
        let len = buffers.iter().map(|buffer| buffer.len()).sum();
        let result = match buffers {
            [only] => Pin::new(&mut this.wire).poll_write(cx, only),
            _ if len <= COALESCE => SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                buffers.iter().for_each(|buffer| scratch.extend_from_slice(buffer));
                Pin::new(&mut this.wire).poll_write(cx, scratch)
            }),
            _ => Pin::new(&mut this.wire).poll_write_vectored(cx, buffers),
        };
        this.wrote(result, len)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_interim(cx))?;
        ready!(Pin::new(&mut this.wire).poll_flush(cx))?;
        if this.busy && this.conn().finished() {
            this.finish(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }
}

/// The limits in force now, as far as the ceiling allows.
fn within(limits: &Limits, ceiling: &HeadLimits) -> HeadLimits {
    HeadLimits {
        bytes: (limits.max_header_bytes as usize).min(ceiling.bytes),
        fields: (limits.max_headers as usize).min(ceiling.fields),
        target: (limits.max_target_bytes as usize).min(ceiling.target),
    }
}
