//! A backend that speaks HTTP/2 in clear text: a runtime in a thread of its own, with the `h2` crate as the server.
//!
//! Unless told otherwise it answers 200 with `x-origin: NAME` and a JSON body that repeats the request, as
//! [`Origin`](super::Origin) does. `/healthz` is not recorded. What no good server does is for
//! [`Frames`](super::h2_script::Frames).

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which accepted connection it came on, counted from 0.
    pub connection: usize,
    /// Method, target and fields.
    pub head: Arc<Request<()>>,
    /// What came with it.
    pub body: Vec<u8>,
    /// What came after that.
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;
type Act = dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> Answering + Send + Sync;

/// The backend; it ends on drop.
pub struct H2Origin {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

struct Shared {
    name: String,
    max_streams: Option<u32>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    checks: AtomicUsize,
    acts: Mutex<HashMap<String, Arc<Act>>>,
    seen: Mutex<Vec<Seen>>,
    shut_down: Notify,
}

impl H2Origin {
    /// Starts one on a loopback port.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, None)
    }

    /// The same, for at most so many streams of a connection.
    pub fn start_with(name: &str, max_streams: Option<u32>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            max_streams,
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            checks: AtomicUsize::new(0),
            acts: Mutex::default(),
            seen: Mutex::default(),
            shut_down: Notify::new(),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serving.accept(TcpListener::from_std(listener).unwrap()) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { shared, address, stop: Some(stop) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests for this path (without its query) are treated so.
    pub fn on<F>(&self, path: &str, act: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<(), h2::Error>> + Send + 'static,
    {
        let act: Arc<Act> = Arc::new(move |request, respond| Box::pin(act(request, respond)));
        self.shared.acts.lock().unwrap().insert(path.into(), act);
    }

    /// Requests that were read to their end and answered as usual.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Health checks so far.
    pub fn checks(&self) -> usize {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Says GOAWAY on all connections, and goes on with what is under way.
    pub fn shut_down(&self) {
        self.shared.shut_down.notify_waiters();
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

impl Shared {
    async fn accept(self: &Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let number = self.accepted.fetch_add(1, Ordering::SeqCst);
            self.open.fetch_add(1, Ordering::SeqCst);
            let shared = self.clone();
            tokio::spawn(async move {
                let _ = shared.serve(stream, number).await;
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    async fn serve(self: &Arc<Self>, stream: TcpStream, connection: usize) -> Result<(), h2::Error> {
        let _ = stream.set_nodelay(true);
        let mut builder = h2::server::Builder::new();
        if let Some(max) = self.max_streams {
            builder.max_concurrent_streams(max);
        }
        let mut server = builder.handshake(stream).await?;
        loop {
            let (request, respond) = tokio::select! {
                next = server.accept() => match next {
                    Some(next) => next?,
                    None => return Ok(()),
                },
                () = self.shut_down.notified() => {
                    server.graceful_shutdown();
                    continue;
                }
            };
            let act = self.acts.lock().unwrap().get(request.uri().path()).cloned();
            let shared = self.clone();
            tokio::spawn(async move {
                // What ends a stream is for the test to see at its own end.
                let _ = match act {
                    Some(act) => act(request, respond).await,
                    None => shared.usual(request, respond, connection).await,
                };
            });
        }
    }

    async fn usual(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        connection: usize,
    ) -> Result<(), h2::Error> {
        let (parts, mut recv) = request.into_parts();
        let (body, trailers) = read(&mut recv).await?;
        if parts.uri.path() == "/healthz" {
            self.checks.fetch_add(1, Ordering::SeqCst);
            respond.send_response(Response::new(()), true)?;
            return Ok(());
        }
        let headers: Vec<_> = parts.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap_or(""))).collect();
        let echo = serde_json::json!({
            "origin": self.name, "method": parts.method.as_str(), "uri": parts.uri.to_string(),
            "headers": headers, "body": String::from_utf8_lossy(&body),
        });
        let echo = Bytes::from(echo.to_string());
        let head = Arc::new(Request::from_parts(parts.clone(), ()));
        self.seen.lock().unwrap().push(Seen { connection, head, body, trailers });
        let response = Response::builder().header("x-origin", &self.name).header("content-length", echo.len());
        let is_head = parts.method == http::Method::HEAD;
        let mut stream = respond.send_response(response.body(()).unwrap(), is_head)?;
        if !is_head { write(&mut stream, echo, true).await } else { Ok(()) }
    }
}

/// Reads a body to its end, and what comes after it.
pub async fn read(recv: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, recv.trailers().await?))
}

/// Sends data as the other side's window allows.
pub async fn write(stream: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 => match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Ok(()),
            },
            room => room,
        };
        let piece = data.split_to(room.min(data.len()));
        stream.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

/// An empty response with this status, to go on with.
pub fn status(code: u16) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
