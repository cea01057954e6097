//! One served connection, over a pipe and with raw bytes, against a toy service.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};

use super::connection::serve;
use super::watch::{Clock, TICK, Watch};
use super::wire::Wire;
use super::{Common, Incoming, Service};
use crate::message::tunnel::Duplex;
use crate::message::{Conn, Request, RequestHead, Response, ResponseHead, respond};
use crate::model::{Bind, Limits, Listener, Reason};
use crate::telemetry::Metrics;

mod differential;
mod http2;
mod messages;
mod server;
mod timing;

/// Answers with what it was asked, as text; a target may ask for something else.
struct Echo {
    limits: Cell<Limits>,
    /// Requests that reached it, verdicts left out.
    served: Cell<usize>,
    /// Calls that were dropped before they answered.
    cancelled: Rc<Cell<usize>>,
    /// The cell of the last request.
    conn: RefCell<Option<Rc<Conn>>>,
}

impl Echo {
    /// What has become of the last request, by its cell.
    fn fault(&self) -> Option<Reason> {
        self.conn.borrow().as_ref().and_then(|conn| conn.fault())
    }

    fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            limits: Cell::new(limits),
            served: Cell::default(),
            cancelled: Rc::default(),
            conn: RefCell::default(),
        })
    }
}

/// Counts up unless it is told that all went well.
struct Cancelled(Rc<Cell<usize>>, bool);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.set(self.0.get() + usize::from(!self.1));
    }
}

impl Service for Echo {
    type Body = Answer;

    async fn call(&self, request: Request<Incoming>, conn: Rc<Conn>) -> Response<Answer> {
        let mut cancelled = Cancelled(Rc::clone(&self.cancelled), false);
        self.conn.replace(Some(Rc::clone(&conn)));
        let response = self.answer(request, &conn).await;
        cancelled.1 = true;
        response
    }

    fn limits(&self) -> Limits {
        self.limits.get()
    }
}

impl Echo {
    async fn answer(&self, request: Request<Incoming>, conn: &Conn) -> Response<Answer> {
        if let Some(reason) = conn.verdict() {
            return respond::problem(reason, conn.complaint().map(|fault| fault.detail), "").map(Answer::whole);
        }
        self.served.set(self.served.get() + 1);
        let Request { head, body } = request;
        let ok = |body| Response { head: ResponseHead::new(StatusCode::OK), body };
        match head.path_and_query() {
            "/slow" => sleep(Duration::from_secs(1)).await,
            "/never" => std::future::pending().await,
            "/panic" => panic!("asked to"),
            "/early" => return ok(Answer::whole("early")),
            "/hints" => {
                let mut hints = ResponseHead::new(StatusCode::EARLY_HINTS);
                hints.fields.push(b"link", b"</a>");
                conn.interim(&hints);
                tokio::task::yield_now().await;
            }
            "/large" => return ok(Answer { left: 1 << 20, ..Answer::whole("") }),
            "/broken" => return ok(Answer { fails: true, left: 10, ..Answer::whole("") }),
            "/burst" => return ok(Answer { sticks: true, left: 20_000, ..Answer::whole("begun") }),
            "/stuck" => return ok(Answer { sticks: true, ..Answer::whole("begun") }),
            _ => {}
        }
        match body.collect().await {
            Ok(body) => ok(Answer::whole(describe(&head, &body.to_bytes()))),
            Err(_) => respond::problem(conn.fault().unwrap_or(Reason::ClientClosed), None, "").map(Answer::whole),
        }
    }
}

/// A request as one line of text.
fn describe(head: &RequestHead, body: &[u8]) -> String {
    let mut text = format!("{} {} {:?}", head.method, head.target().escape_ascii(), head.version);
    for (name, value) in head.fields.iter() {
        text.push_str(&format!(" {}={}", name.to_ascii_lowercase().escape_ascii(), value.escape_ascii()));
    }
    text.push_str(&format!(" [{}]", body.escape_ascii()));
    text
}

/// First some text, then so many zeros, then perhaps an error or nothing for ever.
struct Answer {
    text: Bytes,
    left: usize,
    fails: bool,
    sticks: bool,
}

impl Answer {
    fn whole(text: impl Into<Bytes>) -> Self {
        Self { text: text.into(), left: 0, fails: false, sticks: false }
    }
}

impl Duplex for Answer {}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if !self.text.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.text)))));
        }
        if self.left > 0 {
            let n = self.left.min(16 * 1024);
            self.left -= n;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; n])))));
        }
        match (self.fails, self.sticks) {
            (true, _) => Poll::Ready(Some(Err("broken".into()))),
            (_, true) => Poll::Pending,
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty() && self.left == 0 && !self.fails && !self.sticks
    }

    fn size_hint(&self) -> SizeHint {
        if self.fails || self.sticks {
            SizeHint::default()
        } else {
            SizeHint::with_exact((self.text.len() + self.left) as u64)
        }
    }
}

fn listener() -> Arc<Listener> {
    let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
    Arc::new(Listener::new("test", bind))
}

/// A connection that is being served, and the client's end of it.
struct Pipe {
    client: DuplexStream,
    watch: Rc<Watch>,
    service: Rc<Echo>,
    metrics: Arc<Metrics>,
}

/// Runs a client against one served connection. `room`: bytes that the pipe holds in either direction.
async fn with_limits<T>(room: usize, limits: Limits, client: impl AsyncFnOnce(&mut Pipe) -> T) -> T {
    with_wire(room, limits, |wire| wire, client).await
}

/// The same over what is made of the pipe.
async fn with_wire<T, W: Wire>(
    room: usize,
    limits: Limits,
    wire: impl FnOnce(DuplexStream) -> W,
    client: impl AsyncFnOnce(&mut Pipe) -> T,
) -> T {
    let (client_end, server_end) = duplex(room);
    let clock = Rc::<Clock>::default();
    let conn = Conn::new(Some("10.0.0.9".parse().unwrap()), listener());
    let watch = Watch::new(conn, Rc::clone(&clock), &limits);
    let service = Echo::new(limits);
    let metrics = Metrics::new(1);
    let (of_pipe, of_client) = (Rc::clone(&watch), Rc::clone(&service));
    let mut pipe = Pipe { client: client_end, watch: of_pipe, service: of_client, metrics: Arc::clone(&metrics) };
    let sweep = {
        let (watch, service) = (Rc::clone(&watch), Rc::clone(&service));
        async move {
            let began = Instant::now();
            loop {
                sleep(TICK).await;
                clock.set(began.elapsed());
                watch.sweep(&service.limits());
            }
        }
    };
    let run = async move {
        let out = client(&mut pipe).await;
        drop(pipe);
        out
    };
    let both = async { tokio::join!(run, serve(wire(server_end), None, watch, Common::new(service), &metrics)).0 };
    tokio::select! {
        out = timeout(Duration::from_secs(3600), both) => out.expect("the connection does not end"),
        () = sweep => unreachable!(),
    }
}

async fn with<T>(client: impl AsyncFnOnce(&mut Pipe) -> T) -> T {
    with_limits(64 * 1024, Limits::default(), client).await
}

impl Pipe {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.write_all(bytes.as_ref()).await.unwrap();
    }

    /// All there is until the connection ends.
    async fn rest(&mut self) -> String {
        let mut out = vec![];
        // A reset instead of an end is an end as well.
        let _ = self.client.read_to_end(&mut out).await;
        String::from_utf8_lossy(&out).into_owned()
    }

    /// What comes up to and with this text.
    async fn until(&mut self, text: &str) -> String {
        let mut out = vec![];
        while !out.ends_with(text.as_bytes()) {
            match self.client.read_u8().await {
                Ok(byte) => out.push(byte),
                Err(e) => panic!("{e} after {}", String::from_utf8_lossy(&out)),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// One exchange on a connection of its own, which the server closes.
async fn ask(bytes: impl AsRef<[u8]>) -> String {
    with(async |pipe: &mut Pipe| {
        pipe.send(bytes).await;
        pipe.rest().await
    })
    .await
}
