//! The codec against backends that are made of raw bytes.
//!
//! A backend here is the far end of a socket pair, played by a script in the same task. The near end lies in the pool,
//! as if an earlier request had left it there.

mod differential;
mod rules;
mod secured;
mod sending;

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::client::Outgoing;
use super::connection::Connection;
use super::*;
use crate::backend::{Backend, Identity};
use crate::message::Response;
use crate::message::fields::{Fields, line};
use crate::message::socket::Socket;
use crate::model::{Address, Protocol, Timeouts};

/// A client with a backend that nobody listens for: all connections are put into the pool.
struct Rig<B> {
    client: Client<B>,
    backend: Arc<Backend>,
    interims: RefCell<Vec<(StatusCode, HeaderMap)>>,
}

/// A response that has been read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    version: Version,
    fields: HeaderMap,
    body: Result<Bytes, BodyError>,
}

/// A request body of which nobody wants to know how far it is.
pub(super) struct Sent(pub(super) Instant);

impl Upload for Sent {
    fn done(&self, _: &Waker) -> Option<Instant> {
        Some(self.0)
    }

    fn progress(&self) -> (Instant, bool) {
        (self.0, false)
    }

    fn seen(&self) {}
}

impl<B> Rig<B>
where
    B: http_body::Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn new() -> Self {
        let address = Address::Unix(std::path::Path::new("/nonexistent/shardgate.sock").into());
        let backend = Backend::new(Identity { region: "north".into(), address, protocol: Protocol::H1, tls: None });
        Self { client: Client::default(), backend, interims: RefCell::default() }
    }

    /// One more idle connection; the far end of it. The newest is used first.
    fn connect(&self) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        let place = self.backend.try_connection(100).unwrap();
        let connection = Connection::new(Stream::Unix(Socket(near)), place);
        self.client.worker.pool.put(connection, Instant::now() + Duration::from_secs(60));
        far
    }

    async fn exchange(&self, request: Request<B>) -> Result<Reply<B>, Error> {
        self.exchange_as(request, &Sent(Instant::now()), Duration::from_secs(10)).await
    }

    async fn exchange_as(
        &self,
        request: Request<B>,
        upload: &dyn Upload,
        response: Duration,
    ) -> Result<Reply<B>, Error> {
        let interim = |head: ResponseHead| {
            self.interims.borrow_mut().push((head.status, map(&head.fields)));
        };
        let terms = Terms {
            announced: None,
            ahead: None,
            timeouts: &Timeouts { response, ..Timeouts::default() },
            began: Instant::now(),
            since: Instant::now(),
            total: Duration::from_secs(60),
            end: None,
            max_connections: 100,
            upload,
            interim: &interim,
        };
        self.client.exchange(&self.backend, &terms, outgoing(request)).await
    }

    /// Exchanges and reads the answer's body.
    async fn ask(&self, request: Request<B>) -> Result<Answer, Error> {
        let Response { head, body } = self.exchange(request).await?.response;
        let body = body.collect().await.map(|body| body.to_bytes());
        Ok(Answer { status: head.status, version: head.version, fields: map(&head.fields), body })
    }

    /// Whether a connection is in the pool and good. It is taken out.
    async fn pooled(&self) -> bool {
        settle().await;
        self.client.worker.pool.take(&self.backend, Instant::now(), Connection::usable).is_some()
    }
}

/// The same fields as others keep them.
fn map(fields: &Fields) -> HeaderMap {
    let pair = |(name, value): (&[u8], &[u8])| {
        (http::HeaderName::from_bytes(name).unwrap(), http::HeaderValue::from_bytes(value).unwrap())
    };
    let mut map = HeaderMap::new();
    fields.iter().map(pair).for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

/// A request as the proxy would have it sent.
fn outgoing<B>(request: Request<B>) -> Outgoing<B> {
    let (parts, body) = request.into_parts();
    let mut head = format!("{} {} HTTP/1.1\r\n", parts.method, parts.uri).into_bytes();
    let says_length = parts.headers.contains_key("content-length");
    for (name, value) in parts.headers.iter().filter(|(name, _)| *name != "content-length") {
        line(&mut head, name.as_str().as_bytes(), value.as_bytes());
    }
    Outgoing { head, is_head: parts.method == Method::HEAD, says_length, is_apart: false, body, upgrade: None }
}

/// Lets everything happen that can happen.
async fn settle() {
    for _ in 0..4 {
        tokio::task::yield_now().await;
    }
}

fn request(method: Method) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri("/a?b").header("host", "h").body(Full::default()).unwrap()
}

/// Reads a request up to the end of its head, and what came with it.
async fn read_head(far: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        assert!(far.read_buf(&mut bytes).await.unwrap() > 0, "closed after {}", bytes.escape_ascii());
    }
    bytes
}

/// Waits for a request, answers in these pieces, each of which is seen alone, and perhaps closes.
async fn answer(mut far: UnixStream, pieces: &[&[u8]], close: bool) -> Option<UnixStream> {
    read_head(&mut far).await;
    for piece in pieces {
        // A client that refuses what it has seen does not wait for the rest.
        if far.write_all(piece).await.is_err() {
            break;
        }
        settle().await;
    }
    (!close).then_some(far)
}

/// The same, in one piece.
async fn say(far: UnixStream, stream: &[u8], close: bool) -> Option<UnixStream> {
    answer(far, &[stream], close).await
}
