//! Serving one client connection over HTTP/2 (RFC 9113), with the `h2` crate for frames, HPACK and windows.
//!
//! One task serves a connection and all its streams: what its streams answer in one go leaves in one send. A stream's
//! request becomes a head of HTTP/1.1 for the strict reader ([`head`]), is answered by the same service ([`exchange`]), and
//! has a [`Conn`](crate::message::Conn) of its own. Below the library lies a [`meter`] that ends floods.
//!
//! Times: the preface and each header block have `header_timeout`; a connection without streams has `idle_timeout`; a body
//! has `min_body_rate`, each stream by itself, while it is the client who is waited for; and so has the socket. Whoever
//! opens no window, or reads nothing, is cut off by these.

mod exchange;
mod flow;
mod gather;
mod head;
mod io;
mod meter;
mod tunnel;

use std::cell::RefCell;
use std::future::Future as _;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::h2::{Reason, server};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use slab::Slab;
use tokio::task::coop::unconstrained;

use self::exchange::Stream;
use self::io::{Io, Lower};
use self::meter::Verdict;
use super::connection::PREFACE;
use super::serve::linger;
use super::watch::{DRAINED, SLOW_READER, TOO_SLOW, Watch, is_too_long};
use super::wire::Wire;
use super::{Common, Service};
use crate::model::Limits;
use crate::telemetry::Metrics;

/// Bytes of a request's body that a client may send ahead, per stream and per connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Bytes of a stream's answer that wait in the library to be sent.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that a client has reset before they were looked at (CVE-2023-44487).
const PENDING_RESETS: usize = 20;

/// Streams that had to be reset, or refused, because of what the client did, in a connection's life (CVE-2025-8671).
const ERROR_RESETS: usize = 96;

/// Streams that have been reset from here and whose frames may still come.
const REMEMBERED_RESETS: usize = 20;

/// What a field costs beyond its name and value, as RFC 9113, 6.5.2 counts.
const FIELD_OVERHEAD: u32 = 32;

/// How long a client that has been told to go may take to say that it heard.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a tunnel's backend may take to read the last of what a client has said that is gone.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What the streams of a connection share.
struct Connection<S> {
    watch: Rc<Watch>,
    common: Rc<Common<S>>,
    lower: Rc<Lower>,
    streams: RefCell<Slab<Rc<Stream>>>,
}

impl<S> Connection<S> {
    /// Lets the sweep see a stream until the guard goes.
    fn open(self: &Rc<Self>, stream: &Rc<Stream>) -> Open<S> {
        Open { number: self.streams.borrow_mut().insert(Rc::clone(stream)), connection: Rc::clone(self) }
    }
}

struct Open<S> {
    connection: Rc<Connection<S>>,
    number: usize,
}

impl<S> Drop for Open<S> {
    fn drop(&mut self) {
        self.connection.streams.borrow_mut().try_remove(self.number);
    }
}

/// Serves a connection until it ends. `begun`: what has been read from it.
pub(super) async fn serve<W: Wire, S: Service>(
    wire: W,
    begun: Bytes,
    watch: Rc<Watch>,
    common: Rc<Common<S>>,
    metrics: Arc<Metrics>,
) {
    let lower = Rc::new(Lower::new(PREFACE.len()));
    let limits = common.service.limits();
    let wire = Rc::new(RefCell::new(wire));
    let io = Io::new(Rc::clone(&wire), Rc::clone(&lower), begun);
    let flush = |cx: &mut Context<'_>| lower.poll_flush(cx, &wire);
    let Some(library) = greet(io, &watch, &limits, flush).await else { return };
    let streams = RefCell::default();
    let connection = Rc::new(Connection { watch, common, lower, streams });
    let whole = drive(connection, library, &wire, metrics).await;
    // The last frames, which say why, must not be overtaken by a reset.
    if !whole {
        wire.borrow().abort();
    } else if let Some(wire) = Rc::into_inner(wire) {
        linger(&mut wire.into_inner()).await;
    }
}

type Library<W> = server::Connection<Io<W>, Bytes>;

/// Exchanges prefaces. `None`: there is nobody to serve.
async fn greet<W: Wire>(
    io: Io<W>,
    watch: &Watch,
    limits: &Limits,
    flush: impl Fn(&mut Context<'_>) -> Poll<std::io::Result<()>>,
) -> Option<Library<W>> {
    let mut handshake = pin!(
        server::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(limits.h2_max_streams)
            // Whatever fits our own limits fits this one; between the two it is the strict reader that refuses.
            .max_header_list_size(limits.max_header_bytes + FIELD_OVERHEAD * limits.max_headers)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(ERROR_RESETS))
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .enable_connect_protocol()
            .handshake(io)
    );
    let done = poll_fn(|cx| {
        watch.conn.set_waker(cx.waker());
        if watch.is_killed() || watch.is_to_close() {
            return Poll::Ready(None);
        }
        let polled = handshake.as_mut().poll(cx);
        if let Poll::Ready(Err(_)) = flush(cx) {
            return Poll::Ready(None);
        }
        polled.map(Result::ok)
    });
    done.await
}

/// Runs the library and the streams until the connection ends. True: in good order, or with a word to the client.
async fn drive<W: Wire, S: Service>(
    connection: Rc<Connection<S>>,
    mut library: Library<W>,
    wire: &RefCell<W>,
    metrics: Arc<Metrics>,
) -> bool {
    let mut open = FuturesUnordered::new();
    let mut times = Times {
        connection: Rc::clone(&connection),
        metrics,
        tick: 0,
        block: None,
        is_busy: None,
        left: None,
        until: u32::MAX,
    };
    let mut has_gone = false;
    poll_fn(|cx| {
        connection.watch.conn.set_waker(cx.waker());
        'all: loop {
            if connection.watch.is_killed() {
                return Poll::Ready(false);
            }
            // What streams of their own do is bounded; the time that a task gets is for what comes from the client.
            let mut streams = pin!(unconstrained(poll_fn(|cx| {
                while let Poll::Ready(Some(())) = open.poll_next_unpin(cx) {}
                Poll::Ready(())
            })));
            let _ = streams.as_mut().poll(cx);
            if has_gone {
                return if open.is_empty() { Poll::Ready(true) } else { Poll::Pending };
            }
            let mut is_new = false;
            loop {
                match library.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        open.push(exchange::serve(Rc::clone(&connection), request, respond));
                        is_new = true;
                    }
                    Poll::Ready(Some(Err(error))) => {
                        if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                            times.metrics.limit_hit("h2_flood");
                        }
                        // It has said why, if it is an error that has a word.
                        return Poll::Ready(!error.is_io());
                    }
                    Poll::Ready(None) => {
                        has_gone = true;
                        times.gone();
                        continue 'all;
                    }
                    Poll::Pending => break,
                }
            }
            if let Poll::Ready(Err(_)) = connection.lower.poll_flush(cx, wire) {
                return Poll::Ready(false);
            }
            let is_next = connection.lower.flow.next();
            // What has been given to the library has still to go out, though its streams are over.
            match times.look(&mut library, !open.is_empty() || !connection.lower.flow.is_empty()) {
                Look::Fine if is_new || is_next => {}
                Look::Fine => return Poll::Pending,
                Look::Changed => {}
                Look::Dead => return Poll::Ready(false),
                Look::Over => return Poll::Ready(true),
            }
        }
    })
    .await
}

/// A connection's times.
struct Times<S> {
    connection: Rc<Connection<S>>,
    metrics: Arc<Metrics>,
    /// The sweep that was looked at last.
    tick: u32,
    /// The header block that is not whole, and the tick at which it has to be.
    block: Option<(u32, u32)>,
    /// Whether a stream is open or a header block is not whole; at first it is not known.
    is_busy: Option<bool>,
    /// The client has been told to go: after the streams that are open, or at once.
    left: Option<Leaving>,
    /// When it has been given time enough for that, if nothing is open.
    until: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    Gracefully,
    AtOnce,
}

/// What a look at the times finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Fine,
    /// The library has something to send, or streams to do.
    Changed,
    /// The client takes nothing any more.
    Dead,
    /// The client has been told to go and does not.
    Over,
}

/// Goes before the streams do. Where the connection is cut off, that is the drain's doing, but for a client that was told to
/// go at once.
impl<S> Drop for Times<S> {
    fn drop(&mut self) {
        if !self.connection.watch.is_killed() || self.left == Some(Leaving::AtOnce) {
            return;
        }
        for (_, stream) in &*self.connection.streams.borrow() {
            stream.conn.set_fault(DRAINED);
        }
    }
}

impl<S: Service> Times<S> {
    /// To be called when all that can be done has been done.
    fn look<W: Wire>(&mut self, library: &mut Library<W>, is_open: bool) -> Look {
        let connection = Rc::clone(&self.connection);
        let watch = &connection.watch;
        let (verdict, block) = {
            let meter = connection.lower.meter.borrow();
            (meter.verdict(), meter.block())
        };
        if let Some(verdict) = verdict {
            return self.end(library, verdict);
        }
        let is_busy = is_open || block.is_some();
        if self.is_busy.replace(is_busy) != Some(is_busy) {
            connection.lower.idle.set(!is_busy);
            if is_busy || self.left.is_some() {
                watch.streams();
            } else {
                watch.idle(connection.common.service.limits().idle_timeout);
            }
        }
        if self.block.map(|(number, _)| number) != block {
            let timeout = connection.common.service.limits().header_timeout;
            self.block = block.map(|number| (number, watch.clock().after(timeout)));
        }
        let now = watch.clock().now();
        let mut found = Look::Fine;
        if std::mem::replace(&mut self.tick, now) != now {
            found = self.sweep(now);
            if self.block.is_some_and(|(_, until)| now >= until) && self.left < Some(Leaving::AtOnce) {
                self.metrics.limit_hit("header_timeout");
                return self.leave(library, Reason::ENHANCE_YOUR_CALM);
            }
        }
        let is_over = !is_busy && watch.is_to_close();
        if found != Look::Dead && self.left.is_none() && (is_over || watch.is_drained()) {
            self.left = Some(Leaving::Gracefully);
            library.graceful_shutdown();
            self.until = watch.clock().after(GOODBYE);
            watch.streams();
            return Look::Changed;
        }
        if !is_busy && now >= self.until {
            return Look::Over;
        }
        found
    }

    fn end<W: Wire>(&mut self, library: &mut Library<W>, verdict: Verdict) -> Look {
        if self.left == Some(Leaving::AtOnce) {
            return Look::Fine;
        }
        match verdict {
            Verdict::NotSettings => self.leave(library, Reason::PROTOCOL_ERROR),
            Verdict::Size => self.leave(library, Reason::FRAME_SIZE_ERROR),
            Verdict::Flood => {
                self.metrics.limit_hit("h2_flood");
                self.leave(library, Reason::ENHANCE_YOUR_CALM)
            }
        }
    }

    /// Says why, and waits for nothing but that this goes out.
    fn leave<W: Wire>(&mut self, library: &mut Library<W>, reason: Reason) -> Look {
        self.left = Some(Leaving::AtOnce);
        library.abrupt_shutdown(reason);
        self.connection.watch.kill_in(GOODBYE);
        Look::Changed
    }

    /// The client was cut off for taking its answer too slowly. Without a rate it was for taking nothing.
    fn lags(&self, limits: &Limits) {
        self.metrics.limit_hit(if limits.min_body_rate > 0 { "min_body_rate" } else { "idle_timeout" });
    }

    /// The client has closed the connection. Its streams find that out by themselves; one that it had ended before may have to
    /// pass on what came, if a tunnel's backend is slow to take it.
    fn gone(&mut self) {
        self.left = Some(Leaving::AtOnce);
        self.connection.watch.kill_in(LAST_WORDS);
    }

    /// A sweep's part: who is too slow.
    fn sweep(&self, now: u32) -> Look {
        let connection = &self.connection;
        let watch = &connection.watch;
        let limits = connection.common.service.limits();
        connection.lower.meter.borrow_mut().tick();
        if connection.lower.writing.sweep(&limits) | connection.lower.flushing.sweep(&limits) {
            tracing::debug!(client = watch.conn.peer_text(), now, "the client reads too slowly");
            connection.streams.borrow().iter().for_each(|(_, stream)| stream.conn.set_fault(SLOW_READER));
            self.lags(&limits);
            return Look::Dead;
        }
        let mut found = Look::Fine;
        for (_, stream) in &*connection.streams.borrow() {
            if let Some(tunnel) = stream.tunnel.get() {
                let passed = stream.reading.bytes().wrapping_add(stream.writing.bytes());
                if tunnel.sweep(&stream.conn, passed, watch.clock(), watch.is_drained()) {
                    stream.stalled.set(tunnel.is_over());
                    stream.conn.wake();
                    found = Look::Changed;
                }
                continue;
            }
            // Once there is an answer, a body that goes on beside it is a conversation, which the backend's times bound.
            let reads = stream.reading.sweep(&limits) && !stream.conn.answered();
            let lags = stream.writing.sweep(&limits);
            let writes = lags | is_too_long(&stream.conn);
            if reads {
                stream.conn.set_fault(TOO_SLOW);
            }
            if lags {
                stream.conn.set_fault(SLOW_READER);
                self.lags(&limits);
            }
            if writes {
                stream.stalled.set(true);
            }
            if reads || writes {
                stream.conn.wake();
                found = Look::Changed;
            }
        }
        found
    }
}
