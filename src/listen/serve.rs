//! Serving one client connection: hyper's HTTP/1 server behind the [gate](super::gate), from the first byte to the
//! close. Generic over what it runs on, so that it is the same over TCP, a Unix socket, and later TLS.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Service;
use super::gate::Gate;
use super::watch::Watch;
use super::wire::Wire;
use crate::message::Conn;
use crate::message::framing::{Fault, Framing, HeadLimits};
use crate::model::Limits;

/// How long bytes that nobody wants are read off a connection, so that its last answer arrives.
const LINGER: Duration = Duration::from_secs(2);

/// Bounds of hyper's buffers, unless heads may be larger.
const BUFFER: usize = 64 * 1024;

/// hyper takes this many fields without going to the heap.
const FIELDS: usize = 100;

/// `http::Uri` counts in 16 bits.
const MAX_TARGET: usize = u16::MAX as usize - 1;

/// A `HeaderMap` holds 32,768 fields and reserves a third more than it is asked for.
const MAX_FIELDS: usize = 16 * 1024;

/// A head may be this long, whatever the file says.
const MAX_HEAD: usize = 1024 * 1024;

const MISMATCH: Fault = Fault::bad("two readings of one head");

/// How a connection came to its end.
enum End {
    /// hyper is through with it.
    Served(Result<(), hyper::Error>),
    /// It was idle and its time was over.
    Idle,
    /// It was told to end at once.
    Killed,
}

/// Serves a connection until it ends.
pub(super) async fn serve<W: Wire, S: Service>(wire: W, watch: Rc<Watch>, service: Rc<S>) {
    let ceiling = ceiling(&service.limits());
    let limits = Rc::clone(&service);
    let gate = Gate::new(wire, move || limits.limits(), ceiling, Rc::clone(&watch));
    let mut builder = http1::Builder::new();
    builder.half_close(false).pipeline_flush(false).auto_date_header(false);
    builder.max_buf_size(BUFFER.max(ceiling.bytes + 1));
    if ceiling.fields > FIELDS {
        builder.max_headers(ceiling.fields);
    }
    let conn = Rc::clone(&watch.conn);
    let answer = service_fn(move |request| {
        let (service, conn) = (Rc::clone(&service), Rc::clone(&conn));
        async move { Ok::<_, Infallible>(answer(&*service, conn, request).await) }
    });
    let mut http = builder.serve_connection(TokioIo::new(gate), answer);
    let end = poll_fn(|cx| {
        watch.conn.set_waker(cx.waker());
        if watch.is_killed() {
            return Poll::Ready(End::Killed);
        }
        // First hyper: what has just come may be a request, and then the connection is not idle.
        match Pin::new(&mut http).poll(cx) {
            Poll::Ready(result) => Poll::Ready(End::Served(result)),
            Poll::Pending if watch.is_to_close() => Poll::Ready(End::Idle),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let mut gate = http.into_parts().io.into_inner();
    match end {
        End::Served(Ok(())) if gate.has_unread() => linger(gate.wire()).await,
        End::Served(Ok(())) | End::Idle => {}
        End::Served(Err(e)) => {
            tracing::debug!(client = watch.conn.peer_text(), error = %e, "connection ended");
            // An answer that is not whole must not look whole, which a plain close would make of one without a length.
            if watch.conn.answered() {
                gate.wire().abort();
            }
        }
        End::Killed => gate.wire().abort(),
    }
}

fn ceiling(limits: &Limits) -> HeadLimits {
    HeadLimits {
        bytes: (limits.max_header_bytes as usize).clamp(BUFFER, MAX_HEAD),
        fields: (limits.max_headers as usize).clamp(FIELDS, MAX_FIELDS),
        target: MAX_TARGET,
    }
}

async fn answer<S: Service>(service: &S, conn: Rc<Conn>, request: Request<Incoming>) -> Response<Tracked<S::Body>> {
    if conn.verdict().is_none() && !agrees(&conn, &request) {
        tracing::error!(client = conn.peer_text(), "hyper and the gate read a request differently");
        conn.refuse(MISMATCH, b"");
    }
    let mut response = service.call(request, Rc::clone(&conn)).await;
    // A body that is not here yet may never be read to its end, and then there is no next request.
    let last = conn.draining() || conn.body_pending() || conn.verdict().is_some() || conn.fault().is_some();
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    conn.set_answered();
    response.map(|body| Tracked { body, _ended: Ended(conn) })
}

/// Whether hyper found the same end of the message as the gate did.
fn agrees(conn: &Conn, request: &Request<Incoming>) -> bool {
    let body = request.body();
    match conn.framing() {
        Framing::Empty => body.is_end_stream(),
        Framing::Length(n) => body.size_hint().exact() == Some(n),
        Framing::Chunked => body.size_hint().exact().is_none() && !body.is_end_stream(),
    }
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

pin_project_lite::pin_project! {
    /// A response body that tells the connection when it is over.
    struct Tracked<B> {
        #[pin]
        body: B,
        _ended: Ended,
    }
}

struct Ended(Rc<Conn>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_finished();
    }
}

impl<B: Body<Data = Bytes>> Body for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
