//! Serving one client connection over HTTP/1.1 (RFC 9112), from the first byte to the close. Generic over what it runs
//! on, so that it is the same over TCP, a Unix socket, and TLS.
//!
//! A connection spends its life in two states. While it is idle it is a socket, a deadline and nothing else: no buffer, no
//! future of a service. When something comes, a [`turn`] begins, in memory of its own; it reads a head, has the service
//! answer, sends the answer, and goes on with what came meanwhile. When nothing has, its memory is given back. So
//! thousands of idle connections cost what their sockets cost, and the connections that are busy share memory that is
//! warm in the processor's caches.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::incoming::{Incoming, Source};
use super::stream::{Next, Stream, Writer};
use super::tunnel;
use super::wire::Wire;
use super::{BoxError, Service};
use crate::message::fields::{Known, Names};
use crate::message::framing::{Framing, Scan};
use crate::message::hop::HOP_BY_HOP;
use crate::message::send::{Coding, Failed, Sending};
use crate::message::tunnel::Tunnel;
use crate::message::{Request, Response};

/// How long bytes that nobody wants are read off a connection, so that its last answer arrives.
const LINGER: Duration = Duration::from_secs(2);

/// How a turn, or a connection, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// There is nothing to do until the client sends something.
    Idle,
    /// All is said.
    Closed,
    /// The client is gone, or it was cut off, or what it got is not whole.
    Broken,
}

/// Serves a connection until it ends.
pub(super) async fn serve<W: Wire, S: Service>(stream: Rc<Stream<W>>, service: Rc<S>) {
    let watch = Rc::clone(&stream.watch);
    let mut end = End::Idle;
    while end == End::Idle {
        let something = poll_fn(|cx| {
            watch.conn.set_waker(cx.waker());
            if watch.is_killed() {
                return Poll::Ready(None);
            }
            // First what has come: it may be a request, and then the connection is not idle.
            match stream.poll_any(cx) {
                Poll::Pending if watch.is_to_close() => Poll::Ready(Some(false)),
                polled => polled.map(Some),
            }
        });
        end = match something.await {
            Some(true) => {
                let mut turn = Box::pin(turn(&stream, &*service));
                poll_fn(|cx| {
                    watch.conn.set_waker(cx.waker());
                    if watch.is_killed() {
                        return Poll::Ready(End::Broken);
                    }
                    let polled = turn.as_mut().poll(cx);
                    if polled.is_pending() && stream.is_answering() {
                        return poll_beside(&stream, cx);
                    }
                    polled
                })
                .await
            }
            Some(false) => End::Closed,
            None => End::Broken,
        };
    }
    if end == End::Broken {
        // An answer that is not whole must not look whole, which a plain close would make of one without a length.
        stream.abort();
        return;
    }
    let linger_first = poll_fn(|cx| {
        let linger = stream.must_linger(cx);
        Poll::Ready(stream.poll_goodbye(cx).is_pending() || linger)
    })
    .await;
    // A body that somebody still holds keeps the socket, and with it nothing that is waited for.
    if let (true, Some(stream)) = (linger_first, Rc::into_inner(stream)) {
        // In memory of its own: this future is what an idle connection holds.
        Box::pin(linger(&mut stream.into_wire())).await;
    }
}

/// Requests and answers, until nothing is there to be read.
async fn turn<W: Wire, S: Service>(stream: &Rc<Stream<W>>, service: &S) -> End {
    loop {
        let mut scan = Scan::default();
        let head = match poll_fn(|cx| stream.poll_head(cx, &mut scan, || service.limits())).await {
            Next::Head(head) => head,
            Next::Idle => {
                stream.watch.idle(service.limits().idle_timeout);
                return End::Idle;
            }
            Next::Closed => return End::Closed,
        };
        let asked = Asked { is_head: head.method == Method::HEAD, version: head.version, keep: head.keep_alive };
        let body = match head.framing {
            // What follows may be a tunnel's, but not before a backend has agreed to one.
            Framing::Empty if head.upgrade.is_some() => Incoming::new(Rc::clone(stream) as Rc<dyn Source>, Some(0)),
            Framing::Empty => Incoming::empty(),
            Framing::Length(length) => Incoming::new(Rc::clone(stream) as Rc<dyn Source>, Some(length)),
            Framing::Chunked => Incoming::new(Rc::clone(stream) as Rc<dyn Source>, None),
        };
        // Awaited in place: moving a future of this size would cost more than what else happens here (see `poll_beside`).
        stream.set_answering(true);
        let response = service.call(Request { head, body }, Rc::clone(&stream.watch.conn)).await;
        stream.set_answering(false);
        stream.conn().set_answered();
        // An answer that only says that the client has gone is for the log.
        if stream.is_gone() {
            return End::Closed;
        }
        if let Tunnel::Open { idle, is_websocket } = stream.conn().tunnel() {
            return Box::pin(tunnel::run(stream, response, idle, is_websocket)).await;
        }
        match send(stream, response, asked).await {
            End::Idle => {}
            end => return end,
        }
    }
}

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy)]
struct Asked {
    is_head: bool,
    version: Version,
    /// Whether the client may send another.
    keep: bool,
}

/// What happens while the service is at work on an answer: interim responses go out, and the client may leave, which ends
/// the turn and with it the work. Answers before this one may still be on their way to a client that sends no more.
fn poll_beside<W: Wire>(stream: &Stream<W>, cx: &mut Context<'_>) -> Poll<End> {
    match stream.poll_interim(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(End::Closed),
        _ => stream.poll_gone(cx).map(|()| End::Closed),
    }
}

/// Sends an answer. [`End::Idle`]: the connection is ready for the next request.
async fn send<W: Wire, B>(stream: &Rc<Stream<W>>, response: Response<B>, asked: Asked) -> End
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let conn = stream.conn();
    let Response { head, body } = response;
    // The connection's own; any other is held by a body that is still being read.
    if Rc::strong_count(stream) == 1 {
        stream.discard_body();
    }
    // A body that is not here yet may never be read to its end, and then there is no next request.
    let unfinished = conn.body_pending() || conn.verdict().is_some() || conn.fault().is_some();
    let no_body = asked.is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let coding = if no_body { Coding::Length(0) } else { Coding::of(&body, asked.version == Version::HTTP_11) };
    let declined = conn.tunnel() == Tunnel::Asked;
    let last = !asked.keep || conn.draining() || unfinished || declined || coding == Coding::Close;

    let mut front = stream.memory().scratch();
    stream.interim_rest(&mut front);
    // The answer to a HEAD says of a body what a GET would hear. A 204 has no length (RFC 9110, 8.6).
    let unsaid = !no_body || head.status == StatusCode::NO_CONTENT;
    let without = if unsaid { HOP_BY_HOP.and(LENGTH) } else { HOP_BY_HOP };
    head.write(&mut front, asked.version, without);
    if !no_body {
        coding.write(&mut front);
    } else if let length @ Coding::Length(1..) = Coding::of(&body, false)
        && !head.fields.has(LENGTH)
    {
        length.write(&mut front);
    }
    match (last, asked.version) {
        (true, _) => front.extend_from_slice(b"connection: close\r\n"),
        (false, Version::HTTP_10) => front.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, _) => {}
    }
    front.extend_from_slice(b"\r\n");

    let mut sending = Sending::new(front, body, coding);
    let mut is_sent = false;
    let sent = poll_fn(|cx| {
        let polled = if is_sent { Poll::Ready(Ok(())) } else { sending.poll_send(cx, &mut Writer(&**stream)) };
        is_sent = matches!(polled, Poll::Ready(Ok(())));
        // What is encrypted may have been taken and not be on its way yet.
        let flushed = Pin::new(&mut Writer(&**stream)).poll_flush(cx);
        match (polled, flushed) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(true),
            (Poll::Ready(Err(Failed::Connection(_))), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(false),
            (Poll::Ready(Err(Failed::Body(error))), _) => {
                tracing::debug!(client = conn.peer_text(), %error, "an answer ended early");
                Poll::Ready(false)
            }
            _ => stream.poll_gone(cx).map(|()| false),
        }
    })
    .await;
    stream.memory().give_back(sending.into_scratch());
    match (sent, last) {
        (false, _) => End::Broken,
        (true, true) => End::Closed,
        (true, false) => End::Idle,
    }
}

const LENGTH: Names = Names::of(&[Known::ContentLength]);

/// An answer of ours in HTTP/1.1, for a connection that hears nothing else.
pub(super) fn only_answer(response: &Response<Bytes>) -> Vec<u8> {
    let mut out = Vec::new();
    response.head.write(&mut out, Version::HTTP_11, Names::NONE);
    Coding::Length(response.body.len() as u64).write(&mut out);
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(&response.body);
    out
}

/// Reads and drops what the client still sends. Closing with something unread makes the kernel send a reset, and a
/// reset may overtake the answer (RFC 9112, 9.6).
pub(super) async fn linger<W: Wire>(wire: &mut W) {
    let drain = async {
        if wire.shutdown().await.is_ok() {
            let mut scratch = [0; 4096];
            while wire.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
        }
    };
    // Whoever sends on for longer than that may get the reset.
    let _ = tokio::time::timeout(LINGER, drain).await;
}
