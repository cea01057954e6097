//! Serving one client connection over HTTP/1.1 (RFC 9112), from the first byte to the close. Generic over what it runs
//! on, so that it is the same over TCP, a Unix socket, and TLS.
//!
//! A connection spends its life in two states. While it is idle it is a socket, a deadline and nothing else: no buffer, no
//! future of a service. When something comes, a [`turn`](super::turn) begins, in memory that it is lent; it reads a head, has
//! the service answer, sends the answer, and goes on with what came meanwhile. When nothing has, that memory is given back.
//! So thousands of idle connections cost what their sockets cost, and the connections that are busy share memory that is
//! warm in the processor's caches.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::stream::{Stream, Writer};
use super::wire::Wire;
use super::{BoxError, Common, Service};
use crate::hint::cold_path;
use crate::message::Response;
use crate::message::fields::{Known, Names};
use crate::message::hop::HOP_BY_HOP;
use crate::message::send::{Coding, Failed, Sending};
use crate::message::tunnel::Tunnel;

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
pub(super) async fn serve<W: Wire, S: Service>(stream: Rc<Stream<W>>, common: Rc<Common<S>>) {
    let watch = Rc::clone(&stream.watch);
    let turns = common.turns.of_kind::<W>();
    let mut end = End::Idle;
    while end == End::Idle {
        let something = poll_fn(|cx| {
            watch.conn.set_waker(cx.waker());
            if watch.is_killed() {
                cold_path();
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
                let mut turn = turns.begin(&stream, &common.service);
                let (end, is_over) = poll_fn(|cx| {
                    watch.conn.set_waker(cx.waker());
                    if watch.is_killed() {
                        cold_path();
                        return Poll::Ready((End::Broken, false));
                    }
                    match turn.poll(cx) {
                        Poll::Ready(end) => Poll::Ready((end, true)),
                        Poll::Pending if stream.is_answering() => poll_beside(&stream, cx).map(|end| (end, false)),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await;
                // Of one that is not over, the work is given up with it.
                if is_over {
                    turns.give_back(turn);
                }
                end
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
    let lingering = linger_first.then(|| Rc::into_inner(stream)).flatten().map(|stream| {
        let mut wire = stream.into_wire();
        // In memory of its own: this future is what an idle connection holds.
        Box::pin(async move { linger(&mut wire).await })
    });
    if let Some(lingering) = lingering {
        lingering.await;
    }
}

/// What of a request its answer depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) version: Version,
    /// Whether the client may send another.
    pub(super) keep: bool,
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
///
/// Not an `async fn`, which would hold the response twice, and its parts besides.
pub(super) fn send<'a, W: Wire, B>(
    stream: &'a Rc<Stream<W>>,
    response: Response<B>,
    asked: Asked,
) -> impl Future<Output = End> + use<'a, W, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let conn = stream.conn();
    let Response { head, body } = response;
    // The connection's own and its turn's; any other is held by a body that is still being read.
    if Rc::strong_count(stream) == 2 {
        stream.discard_body();
    }
    // A body that is not here yet may never be read to its end, and then there is no next request.
    let unfinished = conn.body_pending() || conn.verdict().is_some() || conn.fault().is_some();
    let no_body = asked.is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let coding = if no_body {
        cold_path();
        Coding::Length(0)
    } else {
        Coding::of(&body, asked.version == Version::HTTP_11)
    };
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
        (true, _) => {
            cold_path();
            front.extend_from_slice(b"connection: close\r\n");
        }
        (false, Version::HTTP_10) => {
            cold_path();
            front.extend_from_slice(b"connection: keep-alive\r\n");
        }
        (false, _) => {}
    }
    front.extend_from_slice(b"\r\n");

    let mut sending = Sending::new(front, body, coding);
    async move {
        let mut is_sent = false;
        let sent = poll_fn(|cx| {
            let polled = if is_sent { Poll::Ready(Ok(())) } else { sending.poll_send(cx, &mut Writer(&**stream)) };
            is_sent = matches!(polled, Poll::Ready(Ok(())));
            // What is encrypted may have been taken and not be on its way yet.
            let flushed = Pin::new(&mut Writer(&**stream)).poll_flush(cx);
            match (polled, flushed) {
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(true),
                (Poll::Ready(Err(Failed::Connection(_))), _) | (_, Poll::Ready(Err(_))) => {
                    cold_path();
                    Poll::Ready(false)
                }
                (Poll::Ready(Err(Failed::Body(error))), _) => {
                    cold_path();
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
