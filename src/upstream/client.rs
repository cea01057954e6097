//! One request to a backend, and the head of its response: RFC 9112.
//!
//! All of it happens in the task that waits for the answer. The request is sent while the response is already listened
//! for: a backend may answer early, and may have to say 100 before it gets a body.

use std::future::poll_fn;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use tokio::time::Instant;

use super::body::Return;
use super::connection::{Connection, Worker};
use super::pool::To as _;
use super::tunnel::{Tunnel, Upgrade};
use super::{BoxError, Error, ErrorKind, ResponseBody, Terms, dial, h2, refusal};
use crate::backend::Backend;
use crate::hint::cold_path;
use crate::message::Response;
use crate::message::framing::Fault;
use crate::message::framing::response::{Head, Scan, bad};
use crate::message::send::{Coding, Failed, Sending};
use crate::message::upgrade;
use crate::model::Protocol;

/// The largest response head, in bytes, interim responses before it included.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The most header fields of a response.
pub(super) const MAX_FIELDS: usize = 200;
/// The most interim responses that are passed on for one request; the rest are dropped.
pub(super) const MAX_INTERIM: usize = 16;

/// One worker's way to the backends. `B` is the body of requests.
pub struct Client<B> {
    pub(super) worker: Rc<Worker>,
    _body: PhantomData<fn(B)>,
}

/// A request as it is to be sent.
pub struct Outgoing<B> {
    /// Request line and fields, without those that say where the body ends and without the empty line. A buffer of
    /// [`Client::scratch`].
    pub head: Vec<u8>,
    /// Whether it is a HEAD, whose answer has no body.
    pub is_head: bool,
    /// Whether a body of no bytes is said to be one, as the client did.
    pub says_length: bool,
    /// Whether the body may be read by another task than the one that reads the response.
    pub is_apart: bool,
    /// Its body.
    pub body: B,
    /// What the backend is asked to switch to; such a request has no body.
    pub upgrade: Option<Box<Upgrade<B>>>,
}

/// A response, and what getting it took.
pub struct Reply<B> {
    /// Head and streaming body.
    pub response: Response<ResponseBody<B>>,
    /// How long connecting took; `None`: an idle connection was used.
    pub connect: Option<Duration>,
    /// When the head was whole.
    pub at: Instant,
}

impl<B> Default for Client<B> {
    fn default() -> Self {
        Self { worker: Rc::default(), _body: PhantomData }
    }
}

impl<B> Client<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends one request and waits for the response head.
    ///
    /// # Errors
    /// See [`Error`]. An idle connection that turns out closed before anything was written is not an error: the next
    /// one, or a new one, is taken.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds what it is given twice")]
    pub fn exchange<'a>(
        &'a self,
        backend: &'a Arc<Backend>,
        terms: &'a Terms<'a>,
        request: Outgoing<B>,
    ) -> impl Future<Output = Result<Reply<B>, Error>> + use<'a, B> {
        async move {
            if backend.identity.protocol == Protocol::H2 {
                cold_path();
                // In memory of its own, so that the other protocol does not carry it along.
                return Box::pin(h2::exchange(&self.worker, backend, terms, request)).await;
            }
            let mut asked = Asked::new(request);
            loop {
                // In one place from here to the answer's body: each move would cost as much as what is done here.
                let mut connection = match terms.announced {
                    None => self.worker.pool.take(backend, terms.began, Connection::usable),
                    Some(_) => None,
                };
                let reused = connection.is_some();
                let mut connect = None;
                if !reused {
                    cold_path();
                    // In memory of its own: most requests go over a connection that is there.
                    let (opened, took) = Box::pin(self.open(backend, terms)).await?;
                    (connection, connect) = (Some(opened), took);
                }
                if let Some(connection) = &mut connection {
                    connection.ahead = terms.ahead.cloned();
                }
                let began = if reused { terms.began } else { Instant::now() };
                let mut talk = Talk {
                    client: self,
                    terms,
                    asked: &mut asked,
                    connect,
                    is_new: !reused,
                    wrote: false,
                    broken: false,
                };
                match talk.reply(&mut connection, began).await {
                    Err(error) if reused && !talk.wrote && error.kind == ErrorKind::Reset => cold_path(),
                    Err(error) => {
                        cold_path();
                        return Err(Error { wrote: talk.wrote, connect, ..error });
                    }
                    reply => return reply,
                }
            }
        }
    }

    /// An empty buffer for the head of a request.
    pub fn scratch(&self) -> Vec<u8> {
        self.worker.memory.scratch()
    }

    /// Drops idle connections that are past their time, or that somebody else waits for, and sees to deadlines. To be
    /// called four times a second.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.worker.pool.sweep(now, |connection| !connection.backend().starved() && connection.usable());
        self.worker.links.sweep(now);
        self.worker.alarms.ring(now);
    }

    async fn open(&self, backend: &Arc<Backend>, terms: &Terms<'_>) -> Result<(Connection, Option<Duration>), Error> {
        let Some(place) = backend.try_connection(terms.max_connections) else {
            return Err(Error::new(ErrorKind::Limit, false));
        };
        let began = Instant::now();
        let dialling = dial(backend, terms.announced.unwrap_or_default());
        let dialled = tokio::time::timeout(terms.timeouts.connect, dialling).await;
        let connect = Some(began.elapsed());
        match dialled {
            Ok(Ok(stream)) => Ok((Connection::new(stream, place), connect)),
            Ok(Err(error)) => Err(Error { connect, ..failed_to_connect(error) }),
            Err(_) => Err(Error { connect, ..Error::new(ErrorKind::ConnectTimeout, false) }),
        }
    }

    /// How long the server lets us keep the connection: a second less than it says, or our own setting.
    fn way_back(&self, terms: &Terms<'_>, head: &Head, broken: bool) -> Return {
        let theirs = head.keep_seconds.map(|seconds| Duration::from_secs(u64::from(seconds.saturating_sub(1))));
        let keep = theirs.unwrap_or(terms.timeouts.keepalive);
        let keep = (head.keep_alive && !broken && !keep.is_zero() && terms.announced.is_none()).then_some(keep);
        Return { worker: Rc::clone(&self.worker), keep }
    }
}

/// Nobody asks once the answer has its connection.
#[cold]
fn no_connection() -> Error {
    Error::new(ErrorKind::Reset, true).because("the answer has the connection already")
}

/// Why there is no connection.
pub(super) fn failed_to_connect(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => ErrorKind::Refused,
        io::ErrorKind::TimedOut => ErrorKind::ConnectTimeout,
        _ => ErrorKind::Connect,
    };
    Error::new(kind, false).because(error)
}

/// A request that is on its way, and what has come back, until a head is whole.
struct Asked<B> {
    /// `None`: the request has been sent whole.
    upload: Option<Sending<B>>,
    /// What the backend may switch to, and has to prove.
    upgrade: Option<Box<Upgrade<B>>>,
    to_head: bool,
    scan: Scan,
    /// Bytes of interim responses.
    seen: usize,
    interims: usize,
}

impl<B> Asked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn new(request: Outgoing<B>) -> Self {
        let Outgoing { mut head, is_head: to_head, says_length, body, upgrade, .. } = request;
        let coding = Coding::of(&body, true);
        if says_length || coding != Coding::Length(0) {
            coding.write(&mut head);
        }
        if let Some(upgrade) = &upgrade {
            cold_path();
            upgrade::write(&mut head, upgrade.protocol.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        let upload = Some(Sending::new(head, body, coding));
        Self { upload, upgrade, to_head, scan: Scan::new(to_head, MAX_FIELDS), seen: 0, interims: 0 }
    }

    /// The final head, if it is there.
    fn read(&mut self, connection: &mut Connection, terms: &Terms<'_>) -> Result<Option<Head>, Fault> {
        while !connection.buffer.is_empty() {
            let max = MAX_HEAD.saturating_sub(self.seen);
            let Some((head, len)) = self.scan.feed(&connection.buffer, max)? else { break };
            connection.buffer.skip(len);
            if !head.head.status.is_informational() {
                return Ok(Some(head));
            }
            cold_path();
            if head.head.status == StatusCode::SWITCHING_PROTOCOLS {
                let Some(upgrade) = &self.upgrade else { return Err(bad("a switch that nobody asked for")) };
                let agrees = upgrade::agrees(&head.head, &upgrade.protocol);
                agrees.and_then(|()| upgrade.proof.check(&head.head)).map_err(bad)?;
                return Ok(Some(head));
            }
            self.scan = Scan::new(self.to_head, MAX_FIELDS);
            self.seen += len;
            self.interims += 1;
            if self.interims <= MAX_INTERIM {
                (terms.interim)(head.head);
            }
        }
        Ok(None)
    }
}

/// One request on one connection.
struct Talk<'a, B> {
    client: &'a Client<B>,
    terms: &'a Terms<'a>,
    asked: &'a mut Asked<B>,
    /// How long connecting took.
    connect: Option<Duration>,
    /// Nothing was sent on the connection before.
    is_new: bool,
    /// Whether the socket has taken any of it.
    wrote: bool,
    /// The rest of the request can't be sent.
    broken: bool,
}

impl<B> Talk<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Waits for the response head, passing interim responses on and keeping to the terms. The connection goes with the
    /// answer.
    async fn reply(&mut self, connection: &mut Option<Connection>, began: Instant) -> Result<Reply<B>, Error> {
        let mut now = Some(began);
        let mut alarm = self.client.worker.alarms.alarm();
        poll_fn(|cx| {
            let Some(open) = connection else { return Poll::Ready(Err(no_connection())) };
            if let Poll::Ready(result) = self.poll_head(cx, open) {
                let answered = |head| self.answered(head, connection.take().ok_or_else(no_connection)?, cx);
                return Poll::Ready(result.and_then(answered));
            }
            let (at, kind) = due(self.terms, began, cx.waker());
            // At first the clock need not be read again.
            let now = now.take().unwrap_or_else(Instant::now);
            alarm.poll(cx, at, now).map(|()| Err(Error::new(kind, false)))
        })
        .await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Result<Head, Error>> {
        loop {
            if let Err(error) = self.send(cx, connection) {
                cold_path();
                return Poll::Ready(Err(error));
            }
            // What comes before anything was asked is no answer.
            if !self.wrote {
                return Poll::Pending;
            }
            match connection.poll_fill(cx, &self.client.worker) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    cold_path();
                    return Poll::Ready(Err(Error::new(ErrorKind::Reset, true).because("closed before an answer")));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broke(connection, error))),
            }
            match self.asked.read(connection, self.terms) {
                Ok(None) => {}
                Ok(Some(head)) => return Poll::Ready(Ok(head)),
                Err(fault) => {
                    cold_path();
                    return Poll::Ready(Err(fault.into()));
                }
            }
        }
    }

    /// The answer that begins with this head. What is known to break off is none.
    fn answered(&mut self, head: Head, connection: Connection, cx: &mut Context<'_>) -> Result<Reply<B>, Error> {
        let at = Instant::now();
        let upload = self.asked.upload.take();
        if head.head.status == StatusCode::SWITCHING_PROTOCOLS {
            cold_path();
            // Whoever switches before it has the request whole would take its rest for the tunnel's.
            let agreed = self.asked.upgrade.take().filter(|_| upload.is_none() && !self.broken);
            let Some(upgrade) = agreed else { return Err(bad("a switch before the end of the request").into()) };
            let body = ResponseBody::tunnel(Tunnel::new(connection, &self.client.worker, upgrade.body));
            return Ok(Reply { response: Response { head: head.head, body }, connect: self.connect, at });
        }
        let back = self.client.way_back(self.terms, &head, self.broken);
        let mut body = ResponseBody::new(head.end, connection, upload, back, at)?;
        if let Err(error) = body.look_ahead(cx) {
            cold_path();
            return Err(Error::new(ErrorKind::Truncated, true).because(error));
        }
        Ok(Reply { response: Response { head: head.head, body }, connect: self.connect, at })
    }

    /// Reading failed.
    #[cold]
    fn broke(&mut self, connection: &Connection, error: io::Error) -> Error {
        let has_answered = self.asked.seen > 0 || !connection.buffer.is_empty();
        if self.is_new
            && !has_answered
            && let Some(words) = refusal(&error)
        {
            self.wrote = false;
            return Error::new(ErrorKind::Connect, false).because(words);
        }
        Error::new(ErrorKind::Reset, true).because(error)
    }

    /// Sends what can be sent now.
    fn send(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Result<(), Error> {
        let Some(upload) = &mut self.asked.upload else { return Ok(()) };
        let polled = upload.poll_send(cx, &mut connection.stream);
        self.wrote = upload.written() > 0;
        // On a new connection it may still turn out that nobody was there, see `broke`.
        if self.wrote && !self.is_new {
            self.terms.upload.seen();
        }
        match polled {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Failed::Body(error))) => return Err(Error::new(ErrorKind::Body, self.wrote).because(error)),
            Poll::Ready(Err(Failed::Connection(error))) if !self.wrote => {
                return Err(Error::new(ErrorKind::Reset, false).because(error));
            }
            // A backend that has seen enough may answer and close without reading on. The answer is worth reading; if
            // there is none, that is the end of it too.
            Poll::Ready(Err(Failed::Connection(_))) => self.broken = true,
        }
        if let Some(upload) = self.asked.upload.take() {
            self.client.worker.memory.give_back(upload.into_scratch());
        }
        Ok(())
    }
}

/// When patience ends, and what it is then called. While the request body is under way it is the body's progress that
/// counts, afterwards the time since its end.
pub(super) fn due(terms: &Terms<'_>, began: Instant, waker: &Waker) -> (Instant, ErrorKind) {
    let (at, kind) = match terms.upload.done(waker) {
        Some(done) => {
            let this_try = done.max(began) + terms.timeouts.response;
            let all_tries = done.max(terms.since) + terms.total;
            (this_try.min(all_tries), ErrorKind::Timeout)
        }
        None => {
            let (last, client_is_slow) = terms.upload.progress();
            let kind = if client_is_slow { ErrorKind::BodyTimeout } else { ErrorKind::Timeout };
            (last.max(began) + terms.timeouts.idle, kind)
        }
    };
    (terms.end.map_or(at, |end| end.min(at)), kind)
}
