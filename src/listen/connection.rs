//! Which version of HTTP a client's connection speaks, decided once, by what the client says.
//!
//! Over TLS the client chooses by ALPN (RFC 7301). In clear it begins with the preface of HTTP/2, "with prior knowledge"
//! (RFC 9113, 3.3), or with anything else, which is then HTTP/1. No HTTP/1 request begins like the preface, so the choice
//! is safe. The way by `Upgrade: h2c` is gone from RFC 9113, and it was how requests were smuggled past proxies; it is
//! not taken.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::AsyncWriteExt as _;

use super::h2;
use super::serve::{self, linger};
use super::stream::Stream;
use super::watch::Watch;
use super::wire::Wire;
use super::{Common, Service};
use crate::telemetry::Metrics;

/// What a client of HTTP/2 begins with (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty SETTINGS, which a server begins with, and a GOAWAY of PROTOCOL_ERROR: what a listener for HTTP/2 alone says
/// to a client that does not speak it.
const NOT_HTTP_2: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1 and 1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What the first bytes of a connection in clear are.
enum Begin {
    Http(Protocol),
    /// Neither version of HTTP begins like that.
    Neither,
    /// The client is gone, or there is nobody to serve.
    Nothing,
}

/// Serves a connection until it ends. `chosen`: by ALPN; `None`: in clear, or the client did not say.
pub(super) async fn serve<W: Wire, S: Service>(
    wire: W,
    chosen: Option<Protocol>,
    watch: Rc<Watch>,
    common: Rc<Common<S>>,
    metrics: &Arc<Metrics>,
) {
    let speaks = watch.conn.listener.protocols;
    let stream = Rc::new(Stream::new(wire, Rc::clone(&watch), Rc::clone(&common.memory)));
    let protocol = match chosen {
        Some(protocol) => Some(protocol),
        None if !speaks.h2 => Some(Protocol::Http1),
        None => match begin(&stream).await {
            Begin::Http(protocol) => Some(protocol),
            Begin::Neither => None,
            Begin::Nothing => return,
        },
    };
    if protocol == Some(Protocol::Http1) && speaks.h1 {
        serve::serve(stream, common).await;
        if let Some(limit) = watch.has_lagged() {
            metrics.limit_hit(limit);
        }
        return;
    }
    let Some(stream) = Rc::into_inner(stream) else { return };
    let (mut wire, begun) = stream.into_parts();
    // In memory of their own: connections of HTTP/1 are of this future's type, too.
    if protocol != Some(Protocol::Http2) {
        let refuse = async {
            if wire.write_all(NOT_HTTP_2).await.is_ok() {
                linger(&mut wire).await;
            }
        };
        return Box::pin(refuse).await;
    }
    Box::pin(h2::serve(wire, begun, watch, common, Arc::clone(metrics))).await;
}

/// Whether the first line has the form of a request line, and what it asks for is no target of HTTP/1 and no version of it:
/// a preface that is invalid (RFC 9113, 3.4). Whatever looks more like HTTP/1 is told in HTTP/1 what is wrong with it.
fn is_neither(bytes: &[u8]) -> bool {
    let line = memchr::memmem::find(bytes, b"\r\n").and_then(|end| bytes.get(..end)).unwrap_or_default();
    let words = line.split(|&b| b == b' ').map(|word| !word.is_empty() && word.iter().all(u8::is_ascii_alphanumeric));
    words.fold((0, true), |(words, are_plain), is_plain| (words + 1, are_plain && is_plain)) == (3, true)
}

/// Waits until enough has come to tell.
async fn begin<W: Wire>(stream: &Stream<W>) -> Begin {
    let watch = &stream.watch;
    poll_fn(|cx| {
        watch.conn.set_waker(cx.waker());
        loop {
            if watch.is_killed() || watch.is_to_close() {
                return Poll::Ready(Begin::Nothing);
            }
            let told = stream.peek(|bytes| match bytes {
                [] => None,
                bytes if bytes.starts_with(PREFACE) => Some(Begin::Http(Protocol::Http2)),
                bytes if PREFACE.starts_with(bytes) => None,
                bytes if is_neither(bytes) => Some(Begin::Neither),
                _ => Some(Begin::Http(Protocol::Http1)),
            });
            if let Some(begin) = told {
                return Poll::Ready(begin);
            }
            if !ready!(stream.poll_more(cx)) {
                return Poll::Ready(Begin::Nothing);
            }
        }
    })
    .await
}
