//! HTTP/1.1 to backends, on hyper's client.
//!
//! A connection is driven by a small task of its own on the worker; requests reach it through hyper's dispatch
//! channel. What hyper does not tell, whether any byte of a request went out, is read from a counter under it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::pool::Pool;
use super::{Error, ErrorKind, Stream, Terms, answer, dial};
use crate::backend::Backend;

/// The largest response head, in bytes. Also hyper's read buffer, so that large bodies are read in large pieces.
const MAX_HEAD: usize = 64 * 1024;
/// The most header fields of a response.
const MAX_HEADERS: usize = 200;
/// The most interim responses that are passed on for one request; the rest are dropped.
const MAX_INTERIM: usize = 16;
/// A backend that sends more interim responses than this is not going to answer.
const INTERIM_FLOOD: usize = 1000;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One worker's way to the backends. Cloning shares the idle connections.
pub struct Client<B> {
    pool: Rc<Pool<Connection<B>>>,
}

/// A response, and what getting it took.
pub struct Reply<B> {
    /// Head and streaming body.
    pub response: Response<ResponseBody<B>>,
    /// How long connecting took; `None`: an idle connection was used.
    pub connect: Option<Duration>,
}

struct Connection<B> {
    sender: http1::SendRequest<B>,
    /// Bytes written to the socket since it was opened.
    written: Rc<Cell<u64>>,
    _driver: Driver,
}

/// The task that drives a connection. It ends with the connection, whatever it is doing: hyper would go on sending a
/// body to a backend that has answered already, or that nobody waits for any more.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<B> Default for Client<B> {
    fn default() -> Self {
        Self { pool: Rc::new(Pool::new()) }
    }
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends one request and waits for the response head.
    ///
    /// # Errors
    /// See [`Error`]. An idle connection that turns out closed before anything was written is not an error: the next
    /// one, or a new one, is taken.
    pub async fn exchange(
        &self,
        backend: &Arc<Backend>,
        terms: &Terms<'_>,
        mut request: Request<B>,
    ) -> Result<Reply<B>, Error> {
        let interims = Arc::new(Interims::default());
        hyper::ext::on_informational(&mut request, {
            let interims = Arc::clone(&interims);
            move |response| interims.push(response.status(), response.headers())
        });
        loop {
            let idle = self.pool.take(backend, Instant::now(), Connection::usable);
            let reused = idle.is_some();
            let (mut connection, connect) = match idle {
                Some(connection) => (connection, None),
                None => self.open(backend, terms).await?,
            };
            if connection.sender.ready().await.is_err() {
                if reused {
                    continue;
                }
                return Err(Error { connect, ..Error::new(ErrorKind::Reset, false) });
            }
            let before = connection.written.get();
            match wait(terms, &interims, connection.sender.try_send_request(request)).await {
                Ok(response) => {
                    if let Some(fault) = answer::fault(&response) {
                        return Err(Error { connect, ..Error::new(ErrorKind::Protocol, true).because(fault) });
                    }
                    let response = self.wrap(backend, terms, connection, response);
                    return Ok(Reply { response, connect });
                }
                Err((error, message)) => {
                    let wrote = connection.written.get() != before;
                    match message {
                        Some(message) if reused && !wrote => request = message,
                        _ => return Err(Error { wrote, connect, ..error }),
                    }
                }
            }
        }
    }

    /// Drops idle connections that are past their time. To be called every now and then.
    pub fn sweep(&self) {
        self.pool.sweep(Instant::now(), Connection::usable);
    }

    async fn open(
        &self,
        backend: &Arc<Backend>,
        terms: &Terms<'_>,
    ) -> Result<(Connection<B>, Option<Duration>), Error> {
        let Some(place) = backend.try_connection(terms.max_connections) else {
            return Err(Error::new(ErrorKind::Limit, false));
        };
        let began = Instant::now();
        let dialled = tokio::time::timeout(terms.connect, dial(&backend.identity.address)).await;
        let connect = Some(began.elapsed());
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound => ErrorKind::Refused,
                    std::io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
                    _ => ErrorKind::Connect,
                };
                return Err(Error { connect, ..Error::new(kind, false).because(error) });
            }
            Err(_) => return Err(Error { connect, ..Error::new(ErrorKind::ConnectTimeout, false) }),
        };
        let written = Rc::new(Cell::new(0));
        let io = TokioIo::new(Counted { stream, written: Rc::clone(&written) });
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_header_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(io)
            .await
            .map_err(|error| Error { connect, ..Error::new(ErrorKind::Connect, false).because(error) })?;
        let driver = tokio::task::spawn_local(async move {
            let _place = place;
            if let Err(error) = driver.await {
                tracing::debug!(%error, "a connection to a backend ended");
            }
        });
        Ok((Connection { sender, written, _driver: Driver(driver.abort_handle()) }, connect))
    }

    fn wrap(
        &self,
        backend: &Arc<Backend>,
        terms: &Terms<'_>,
        connection: Connection<B>,
        response: Response<Incoming>,
    ) -> Response<ResponseBody<B>> {
        // An answer that came before the request was sent whole says nothing of what becomes of the rest of it.
        let keep = match terms.upload.is_done() {
            true => keep_for(response.headers(), terms.keepalive),
            false => Duration::ZERO,
        };
        let lease = Lease { pool: Rc::clone(&self.pool), backend: Arc::clone(backend), connection, keep };
        response.map(|body| {
            let mut body = ResponseBody { body, lease: Some(lease) };
            if body.body.is_end_stream() {
                body.end();
            }
            body
        })
    }
}

/// How long the server lets us keep the connection: a second less than it says, or our own setting.
fn keep_for(headers: &HeaderMap, ours: Duration) -> Duration {
    headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse::<u32>().ok()))
        .map_or(ours, |seconds| Duration::from_secs(u64::from(seconds.saturating_sub(1))))
}

type Sent<B> = Result<Response<Incoming>, hyper::client::conn::TrySendError<Request<B>>>;
type Failed<B> = (Error, Option<Request<B>>);

/// Waits for the response head, passing interim responses on and keeping to the terms.
async fn wait<B>(
    terms: &Terms<'_>,
    interims: &Interims,
    response: impl Future<Output = Sent<B>>,
) -> Result<Response<Incoming>, Failed<B>> {
    let began = Instant::now();
    let mut response = pin!(response);
    let mut timer = pin!(sleep_until(began + terms.response));
    poll_fn(|cx| {
        interims.waker.register(cx.waker());
        let polled = response.as_mut().poll(cx);
        while let Some((status, headers)) = interims.pop() {
            (terms.interim)(status, headers);
        }
        if let Poll::Ready(sent) = polled {
            return Poll::Ready(sent.map_err(|mut error| {
                let message = error.take_message();
                (classify(error.into_error()), message)
            }));
        }
        if interims.is_flood() {
            return Poll::Ready(Err((
                Error::new(ErrorKind::Protocol, false).because("a flood of interim responses"),
                None,
            )));
        }
        loop {
            let (at, kind) = due(terms, began, cx.waker());
            if at != timer.deadline() {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at <= Instant::now() {
                return Poll::Ready(Err((Error::new(kind, false), None)));
            }
        }
    })
    .await
}

/// When patience ends, and what it is then called. While the request body is under way it is the body's progress that
/// counts, afterwards the time since its end.
fn due(terms: &Terms<'_>, began: Instant, waker: &Waker) -> (Instant, ErrorKind) {
    match terms.upload.done(waker) {
        Some(done) => {
            let this_try = done.max(began) + terms.response;
            let all_tries = done.max(terms.since) + terms.total;
            (this_try.min(all_tries), ErrorKind::Timeout)
        }
        None => {
            let (last, client_is_slow) = terms.upload.progress();
            let kind = if client_is_slow { ErrorKind::BodyTimeout } else { ErrorKind::Timeout };
            (last.max(began) + terms.idle, kind)
        }
    }
}

fn classify(error: hyper::Error) -> Error {
    let kind = if error.is_user() {
        ErrorKind::Body
    } else if error.is_parse() {
        ErrorKind::Protocol
    } else {
        ErrorKind::Reset
    };
    Error::new(kind, false).because(error)
}

impl<B> Connection<B> {
    fn usable(&self) -> bool {
        !self.sender.is_closed()
    }
}

/// Interim responses on their way from hyper's callback, which must be `Send`, to the task that waits.
#[derive(Default)]
struct Interims {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(StatusCode, HeaderMap)>,
    /// How many have come, those included that were dropped.
    come: usize,
}

impl Interims {
    fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.come += 1;
        if queue.come <= MAX_INTERIM {
            queue.waiting.push_back((status, headers.clone()));
        } else if queue.come <= INTERIM_FLOOD {
            return;
        }
        drop(queue);
        self.waker.wake();
    }

    fn is_flood(&self) -> bool {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).come > INTERIM_FLOOD
    }

    fn pop(&self) -> Option<(StatusCode, HeaderMap)> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.pop_front()
    }
}

/// A response body that gives its connection back when it has been read to its end; dropped earlier, it closes it.
pub struct ResponseBody<B> {
    body: Incoming,
    lease: Option<Lease<B>>,
}

struct Lease<B> {
    pool: Rc<Pool<Connection<B>>>,
    backend: Arc<Backend>,
    connection: Connection<B>,
    /// Zero: not at all.
    keep: Duration,
}

impl<B> ResponseBody<B> {
    /// Back to the pool with the connection; or closed, if another worker has none and may not open one.
    fn end(&mut self) {
        if let Some(Lease { pool, backend, connection, keep }) = self.lease.take()
            && !keep.is_zero()
            && connection.usable()
            && !backend.starved()
        {
            pool.put(&backend, connection, Instant::now() + keep);
        }
    }
}

impl<B: Unpin> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.end(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that counts what is written to it.
struct Counted {
    stream: Stream,
    written: Rc<Cell<u64>>,
}

impl Counted {
    fn count(&self, polled: &Poll<std::io::Result<usize>>) {
        if let Poll::Ready(Ok(n)) = polled {
            self.written.set(self.written.get() + *n as u64);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_says_how_long_it_keeps_a_connection() {
        let ours = Duration::from_secs(4);
        let table: [(Option<&str>, u64); 6] = [
            (None, 4),
            (Some("timeout=5"), 4),
            (Some("timeout=60, max=100"), 59),
            (Some("max=100, timeout=2"), 1),
            (Some("timeout=1"), 0),
            (Some("timeout=x"), 4),
        ];
        for (value, seconds) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(http::HeaderName::from_static("keep-alive"), value.parse().unwrap());
            }
            assert_eq!(keep_for(&headers, ours), Duration::from_secs(seconds), "{value:?}");
        }
    }
}
