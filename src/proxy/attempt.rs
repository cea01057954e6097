//! One try: a request sent to one backend, and what came of it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::grpc;
use super::measure::Measure;
use super::outgoing::{Caller, Outgoing};
use super::response::Relay;
use super::slots::{PoolSlot, ServerSlot};
use super::ticket::Ticket;
use super::words;
use super::{BoxError, Proxy, UpstreamBody};
use crate::backend::{self, Backend};
use crate::hint::cold_path;
use crate::message::body::{Attempt, RequestBody};
use crate::message::fields::{Fields, Known, Names};
use crate::message::tunnel::Tunnel;
use crate::message::{Response, ResponseHead, hop};
use crate::model::{Outcome, PoolSettings, ProxyProtocol, Reason, Timeouts};
use crate::upstream::{self, ErrorKind, Terms, Upload};

/// Connections that may turn out to be closing, one after the other, before a try is given up.
const MAX_STALE: u32 = 4;

/// A backend's answer to a try.
type Reply<B> = upstream::Reply<Attempt<B>>;

/// A response head, and the way to the rest of it.
pub(crate) struct Sent<U> {
    /// The body in a box: this is handed through many hands.
    pub(crate) response: Response<Box<Relay<U>>>,
    /// The answer came before the request body was sent whole.
    pub(crate) upload_pending: bool,
    /// A call of gRPC was ended at once with UNAVAILABLE.
    pub(crate) is_unavailable: bool,
}

impl<U> Sent<U> {
    /// Whether the backend says that it is itself a gateway in trouble, or overloaded.
    pub(crate) fn is_gateway_error(&self) -> bool {
        self.is_unavailable || is_gateway_error(self.response.head.status)
    }

    /// Whether the backend says when to come back (RFC 9110, 10.2.3).
    pub(crate) fn asks_to_wait(&self) -> bool {
        self.response.head.fields.named("retry-after").next().is_some()
    }

    /// Who answered.
    pub(crate) fn server(&self) -> &Rc<ServerSlot> {
        &self.response.body.serving.server
    }
}

fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What came of a try.
pub(crate) struct Done<U> {
    pub(crate) result: Result<Sent<U>, Failure>,
    /// `None`: there was none, for want of a connection.
    pub(crate) took: Option<Took>,
}

/// Who was tried, and how long it took.
pub(crate) struct Took {
    pub(crate) server: Rc<ServerSlot>,
    /// Until the response head, or until it failed.
    pub(crate) upstream: Duration,
    pub(crate) connect: Option<Duration>,
}

/// Why a try gave no response.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// The backend has all the connections that it may be given; nothing was tried.
    Full,
    /// No connection was made, or it was closed, before anything was written: the backend knows nothing.
    Unseen(Reason),
    /// The backend may have seen the request.
    Seen(Reason),
    /// The client's own body ended it.
    Client(Reason),
}

/// What a try goes by.
pub(crate) struct Try<'a> {
    pub(crate) backend: &'a Arc<Backend>,
    pub(crate) server: &'a Rc<ServerSlot>,
    pub(crate) pool: &'a PoolSlot,
    pub(crate) settings: &'a PoolSettings,
    /// For this try alone.
    pub(crate) timeouts: Timeouts,
    /// For all tries.
    pub(crate) total: Duration,
    /// For the exchange as a whole.
    pub(crate) end: Option<Instant>,
    /// When it begins: now.
    pub(crate) began: Instant,
    /// Another one of this request goes on.
    pub(crate) beside: bool,
}

impl Try<'_> {
    /// `place`: this request's, among those in flight at the backend.
    ///
    /// Not an `async fn`, which would hold what it is given twice.
    pub(crate) fn send<'a, B>(
        &'a self,
        place: backend::InFlight,
        proxy: &'a Proxy<B>,
        outgoing: &'a Outgoing<'a>,
        body: &'a RequestBody<B>,
        ticket: &'a Ticket,
    ) -> impl Future<Output = Done<UpstreamBody<B>>> + use<'a, B>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        async move {
            let limits = &self.settings.limits;
            let mut serving = Serving {
                server: Rc::clone(self.server),
                outcome: None,
                complete: false,
                shallow: false,
                is_blameless: false,
                in_flight: place,
            };
            let measure = Measure::begin(self.settings, self.backend, self.began);
            let conn = Rc::clone(&ticket.conn);
            let interim = |mut head: ResponseHead| {
                if head.status == StatusCode::CONTINUE {
                    body.release();
                } else {
                    // An interim response has no body, so a length would be a lie (RFC 9110, 8.6).
                    head.fields.remove(words::FIELDS.and(Names::of(&[Known::ContentLength])));
                    hop::strip_listed(&mut head.fields);
                    conn.interim(&head);
                }
            };
            let announced = match self.settings.proxy_protocol {
                ProxyProtocol::Off => None,
                version => {
                    cold_path();
                    Some(ticket.conn.announcement(version, &ticket.head.fields))
                }
            };
            let terms = Terms {
                began: self.began,
                timeouts: &self.timeouts,
                since: ticket.started,
                total: self.total,
                end: self.end,
                max_connections: limits.max_connections,
                announced: announced.as_deref(),
                ahead: ticket.conn.ahead(),
                upload: body,
                interim: &interim,
            };
            let request = self.request(proxy, outgoing, body, self.beside, ticket);
            let mut answer = proxy.client.exchange(self.backend, &terms, request).await;
            if matches!(&answer, Err(error) if error.is_stale) {
                cold_path();
                answer = Box::pin(self.over_others(answer, proxy, &terms, outgoing, body, ticket)).await;
            }
            match answer {
                Ok(upstream::Reply { mut response, connect, at }) => {
                    if response.head.fields.has(words::FIELDS) {
                        words::hear(&mut response.head.fields, self.backend, self.server);
                    }
                    let took = at.saturating_duration_since(self.began);
                    let noted = Some(self.note(took, connect));
                    let is_tunnel = response.head.status == StatusCode::SWITCHING_PROTOCOLS;
                    if is_tunnel {
                        cold_path();
                        // Agreeing to a tunnel is not the work that is measured.
                        measure.void();
                    } else {
                        if limits.adaptive {
                            serving.in_flight.answered(took);
                        }
                        measure.answered(&response.head, at, body.done());
                    }
                    if connect.is_some() {
                        cold_path();
                        self.backend.note_connect(false);
                    }
                    let is_unavailable = ticket.call.is_some() && grpc::is_unavailable(&response.head.fields);
                    serving.outcome = Some(match is_unavailable || is_gateway_error(response.head.status) {
                        true => Outcome::GatewayError,
                        false => Outcome::Ok,
                    });
                    if is_tunnel {
                        cold_path();
                        serving.agreed();
                        let is_websocket = outgoing.upgrade() == Some("websocket");
                        conn.set_tunnel(Tunnel::Open { idle: self.timeouts.tunnel, is_websocket });
                    }
                    let idle = self.timeouts.idle;
                    let deadline = ticket.deadline();
                    let relay = |body| Box::new(Relay { body, serving, idle, deadline, waiting: None, timer: None });
                    let upload_pending = body.done().is_none();
                    let sent = Sent { response: response.map(relay), upload_pending, is_unavailable };
                    Done { result: Ok(sent), took: noted }
                }
                Err(error) if error.kind == ErrorKind::Limit => {
                    cold_path();
                    measure.void();
                    Done { result: Err(Failure::Full), took: None }
                }
                Err(error) => {
                    cold_path();
                    let took = Some(self.note(self.began.elapsed(), error.connect));
                    let failure = self.judge(&error);
                    let (backend, request_id, wrote) = (&*self.backend.label, ticket.request_id(), error.wrote);
                    // Clients that go away, or ask for what a backend does not have, must not be able to fill the log.
                    if matches!(failure, Failure::Client(_)) || error.kind == ErrorKind::NoTunnel {
                        tracing::debug!(backend, request_id, wrote, %error, "a try ended for its client's sake");
                    } else {
                        tracing::warn!(backend, request_id, wrote, %error, "a try failed");
                    }
                    serving.outcome = outcome(error.kind);
                    serving.shallow = is_shallow(&error);
                    // A backend need not wait for ever for what a client does not send.
                    serving.is_blameless = error.kind == ErrorKind::Reset && body.done().is_none();
                    if limits.adaptive && error.kind == ErrorKind::Timeout {
                        serving.in_flight.answered(self.began.elapsed());
                    }
                    match serving.outcome {
                        Some(_) => measure.failed(),
                        None => measure.void(),
                    }
                    Done { result: Err(failure), took }
                }
            }
        }
    }

    /// The same over other connections, as long as they turn out to be closing and the body can be sent again.
    async fn over_others<B>(
        &self,
        mut answer: Result<Reply<B>, upstream::Error>,
        proxy: &Proxy<B>,
        terms: &Terms<'_>,
        outgoing: &Outgoing<'_>,
        body: &RequestBody<B>,
        ticket: &Ticket,
    ) -> Result<Reply<B>, upstream::Error>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        for _ in 1..MAX_STALE {
            if !matches!(&answer, Err(error) if error.is_stale && body.is_replayable()) {
                break;
            }
            // Another try that is under way beside this one reads the same body.
            let is_beside = self.beside || body.done().is_some();
            let request = self.request(proxy, outgoing, body, is_beside, ticket);
            answer = proxy.client.exchange(self.backend, terms, request).await;
        }
        answer
    }

    /// As this backend is sent it. `is_beside`: with a body that ends no other try.
    fn request<B>(
        &self,
        proxy: &Proxy<B>,
        outgoing: &Outgoing<'_>,
        body: &RequestBody<B>,
        is_beside: bool,
        ticket: &Ticket,
    ) -> upstream::Outgoing<Attempt<B>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let mut head = proxy.client.scratch();
        let from = Caller { conn: &ticket.conn, request_id: ticket.request_id.as_bytes() };
        outgoing.write(&mut head, from, self.backend, self.settings);
        let is_head = *outgoing.method() == Method::HEAD;
        let body_sent = if is_beside { body.beside() } else { body.attempt() };
        let upgrade = outgoing.upgrade().map(|name| {
            Box::new(upstream::Upgrade { protocol: name.into(), proof: outgoing.proof(), body: body.tunnelled() })
        });
        upstream::Outgoing {
            head,
            is_head,
            says_length: outgoing.says_length(),
            is_apart: outgoing.is_apart(),
            body: body_sent,
            upgrade,
        }
    }

    fn note(&self, took: Duration, connect: Option<Duration>) -> Took {
        self.pool.cells.upstream(took);
        if let Some(connect) = connect {
            self.pool.cells.connect(connect);
        }
        Took { server: Rc::clone(self.server), upstream: took, connect }
    }

    fn judge(&self, error: &upstream::Error) -> Failure {
        let reason = match error.kind {
            ErrorKind::Limit => return Failure::Full,
            ErrorKind::Body => return Failure::Client(Reason::ClientClosed),
            ErrorKind::BodyTimeout => return Failure::Client(Reason::BodyTimeout),
            ErrorKind::Refused | ErrorKind::Connect | ErrorKind::ConnectTimeout => {
                self.backend.note_connect(error.kind == ErrorKind::Refused);
                Reason::ConnectFailed
            }
            ErrorKind::Reset => Reason::UpstreamReset,
            ErrorKind::Truncated => Reason::UpstreamTruncated,
            ErrorKind::Protocol => Reason::UpstreamProtocolError,
            ErrorKind::NoTunnel => Reason::TunnelUnsupported,
            ErrorKind::Timeout => Reason::UpstreamTimeout,
        };
        // A time-out is never free, even if the request still lies in a buffer of ours: the time is spent.
        if error.wrote || error.kind == ErrorKind::Timeout { Failure::Seen(reason) } else { Failure::Unseen(reason) }
    }
}

fn outcome(kind: ErrorKind) -> Option<Outcome> {
    match kind {
        ErrorKind::Limit | ErrorKind::Body | ErrorKind::BodyTimeout | ErrorKind::NoTunnel => None,
        ErrorKind::Refused | ErrorKind::Connect | ErrorKind::ConnectTimeout => Some(Outcome::ConnectFailed),
        ErrorKind::Reset => Some(Outcome::Reset),
        ErrorKind::Truncated => Some(Outcome::Truncated),
        ErrorKind::Protocol => Some(Outcome::ProtocolError),
        ErrorKind::Timeout => Some(Outcome::Timeout),
    }
}

impl<B> Upload for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn done(&self, waker: &Waker) -> Option<Instant> {
        let done = RequestBody::done(self);
        if done.is_none() {
            self.wake_when_done(waker);
        }
        done
    }

    fn progress(&self) -> (Instant, bool) {
        RequestBody::progress(self)
    }

    fn seen(&self) {
        RequestBody::seen(self);
    }
}

/// Whether a check that only connects would have seen the same: nobody can be reached, or what was found closed was a
/// kept connection, which servers close when they like.
fn is_shallow(error: &upstream::Error) -> bool {
    match error.kind {
        ErrorKind::Refused | ErrorKind::Connect | ErrorKind::ConnectTimeout => true,
        ErrorKind::Reset => error.connect.is_none(),
        _ => false,
    }
}

/// A backend at work for a request. Dropping it ends the try and counts how it went.
pub(crate) struct Serving {
    server: Rc<ServerSlot>,
    /// `None`: it is not known yet, or it was the client who ended it.
    outcome: Option<Outcome>,
    /// The response has come whole.
    complete: bool,
    /// See [`is_shallow`].
    shallow: bool,
    /// It may be the client who is to blame.
    is_blameless: bool,
    in_flight: backend::InFlight,
}

impl Serving {
    /// The body broke off after a good head.
    pub(crate) fn truncated(&mut self) {
        self.outcome = Some(Outcome::Truncated);
    }

    /// Its answer is none to what the client asked.
    pub(crate) fn unfit(&mut self) {
        self.outcome = Some(Outcome::ProtocolError);
        self.is_blameless = true;
    }

    /// The body has come whole.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// It has agreed to a tunnel. That is its answer, whole and good; what becomes of the tunnel is not judged.
    fn agreed(&mut self) {
        self.complete = true;
        self.conclude();
    }

    /// A call of gRPC ended with UNAVAILABLE after its head, which was good.
    pub(crate) fn unavailable(&mut self) {
        self.outcome = Some(Outcome::GatewayError);
    }

    /// Hears what the backend says of itself after the body.
    pub(crate) fn hear(&self, fields: &mut Fields) {
        if fields.has(words::FIELDS) {
            words::hear(fields, self.in_flight.backend(), &self.server);
        }
    }

    pub(crate) fn label(&self) -> &str {
        &self.server.label
    }

    /// Counts how it went, once.
    fn conclude(&mut self) {
        let Some(outcome) = self.outcome.take() else { return };
        self.server.cells.attempt(outcome);
        // Only an answer that has come whole speaks for a backend; one that the client did not wait for says nothing.
        let observation = match outcome {
            Outcome::Ok if self.complete => self.in_flight.succeeded(self.server.outlier.as_ref()),
            Outcome::Ok => None,
            _ if self.is_blameless => None,
            _ => self.server.outlier.as_ref().and_then(|terms| self.in_flight.failed(self.shallow, terms)),
        };
        if let Some(observation) = observation {
            self.server.reports.send(observation);
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.conclude();
    }
}
