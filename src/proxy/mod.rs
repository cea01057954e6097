//! A request's way from its head to its response, as a list of phases.
//!
//! [`Proxy::handle`] is one async function whose phases stand in the order in which they happen. A phase that ends the
//! request returns a `Refused`; what a client is told then is decided in `message::respond`. One request uses one
//! Snapshot from start to end.

mod attempt;
mod budget;
mod order;
mod outgoing;
mod response;
mod slots;
mod ticket;
mod tries;

pub use response::ResponseBody;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::time::Instant;

use crate::message::body::{Attempt, BodyFault, ReplayBudget, RequestBody};
use crate::message::conn::Conn;
use crate::message::{forwarded, hop, respond};
use crate::model::{Action, Key, Limits, Reason, Route};
use crate::routing::{Reader, Refusal, Snapshot};
use crate::telemetry::{AccessLog, WorkerMetrics};
use crate::upstream;
use attempt::Sent;
use outgoing::{About, Outgoing, REQUEST_ID};
use response::Relay;
use slots::Slots;
use ticket::Ticket;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type UpstreamBody<B> = upstream::ResponseBody<Attempt<B>>;

/// Bytes that a worker keeps for replays of request bodies.
const REPLAY_BYTES: u64 = 32 * 1024 * 1024;

/// One worker's way from requests to responses.
pub struct Proxy<B> {
    table: RefCell<Reader>,
    client: upstream::Client<Attempt<B>>,
    slots: RefCell<Slots>,
    log: Rc<AccessLog>,
    replay: ReplayBudget,
    random: RefCell<fastrand::Rng>,
    date: RefCell<(u64, HeaderValue)>,
}

/// Why a request gets an answer of ours.
#[derive(Debug)]
struct Refused {
    reason: Reason,
    /// For 405: the methods that would do.
    allow: Option<HeaderValue>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, allow: None }
    }
}

/// What a request comes to.
enum Answer<U> {
    Own(Response<Bytes>),
    Backend(Response<Relay<U>>),
}

impl<B> Proxy<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A worker's proxy. It reads the Snapshot through `table` and counts with `metrics`.
    pub fn new(table: Reader, metrics: WorkerMetrics, log: AccessLog) -> Self {
        Self {
            table: RefCell::new(table),
            client: upstream::Client::default(),
            slots: RefCell::new(Slots::new(metrics)),
            log: Rc::new(log),
            replay: ReplayBudget::new(REPLAY_BYTES),
            random: RefCell::new(fastrand::Rng::new()),
            date: RefCell::new((0, HeaderValue::from_static(""))),
        }
    }

    /// What clients may do, as the newest Snapshot says.
    pub fn limits(&self) -> Limits {
        self.table.borrow_mut().current().index.plan.limits
    }

    /// To be called every now and then: lets go of old Snapshots and of idle connections past their time.
    pub fn tick(&self) {
        let snapshot = self.table.borrow_mut().current();
        self.slots.borrow_mut().follow(&snapshot.index);
        self.client.sweep();
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<B>, conn: Rc<Conn>) -> Response<ResponseBody<UpstreamBody<B>>> {
        let snapshot = self.table.borrow_mut().current();
        self.slots.borrow_mut().follow(&snapshot.index);
        let (parts, body) = request.into_parts();
        let mut ticket = self.ticket(&parts, &conn);
        let mut edits = None;
        let answer = self.serve(&snapshot, parts, body, &mut ticket, &mut edits).await;
        let answer = answer.unwrap_or_else(|refused| Answer::Own(self.refuse(refused, &mut ticket)));
        let mut response = match answer {
            Answer::Own(response) => {
                ticket.status = Some(response.status());
                response.map(|body| ResponseBody::own(body, ticket))
            }
            Answer::Backend(response) => {
                ticket.status = Some(response.status());
                response.map(|relay| ResponseBody::backend(relay, ticket))
            }
        };
        if let Some(edits) = edits {
            outgoing::apply(&snapshot.index.plan.routes[edits].response_headers, response.headers_mut());
        }
        self.finish_head(&mut response);
        response
    }

    /// The phases of a request.
    async fn serve(
        &self,
        snapshot: &Snapshot,
        parts: http::request::Parts,
        body: B,
        ticket: &mut Ticket,
        edits: &mut Option<usize>,
    ) -> Result<Answer<UpstreamBody<B>>, Refused> {
        // A head that the gate refused has no more to it than the verdict.
        if let Some(verdict) = ticket.conn.verdict() {
            self.count(snapshot, None, ticket);
            return Err(verdict.into());
        }

        // Which client, route and key.
        let index = &*snapshot.index;
        let conn = Rc::clone(&ticket.conn);
        let client = forwarded::client(conn.peer, &conn.listener.trusted_proxies, &parts.headers);
        if client != conn.peer {
            ticket.client = client.map(|address| address.to_string().into());
        }
        let resolved = match index.resolve(&parts, client) {
            Ok(resolved) => resolved,
            Err(refusal) => return Err(self.refused(snapshot, refusal, ticket, edits)),
        };
        let route = &index.plan.routes[resolved.route];
        ticket.route = Some(Arc::clone(index.route_name(resolved.route)));
        *edits = Some(resolved.route);

        // Answers that need no backend.
        let Some(target) = resolved.target else {
            self.count(snapshot, None, ticket);
            return own_answer(route, &parts, ticket);
        };
        self.count(snapshot, Some(target.key), ticket);

        // The body: how much of it, and whether the client waits to be asked for it.
        let max = route.max_body_bytes.unwrap_or(index.plan.limits.max_body_bytes);
        let expects = conn.expects_continue();
        let body = RequestBody::new(body, max, expects, &self.replay);
        if body.is_declared_too_large() {
            self.slots.borrow().metrics().metrics().limit_hit("max_body_bytes");
            return Err(Reason::RequestTooLarge.into());
        }

        // The head as backends see it.
        let outgoing = Outgoing::new(
            parts,
            &About {
                trusted: conn.is_trusted,
                peer: conn.peer_field(),
                host: ticket.host.as_ref(),
                request_id: &ticket.request_id,
                expects_continue: expects,
                rewrite: route.rewrite.as_ref(),
                edits: &route.request_headers,
            },
        )
        .ok_or(Reason::BadRequest)?;

        // A backend, and another if that one fails.
        let sent = tries::run(self, snapshot, route, &target, &outgoing, &body, ticket).await;
        ticket.bytes_in = body.received();
        let Sent { mut response, upload_pending } = sent.map_err(|reason| self.blame(reason, &body, ticket))?;

        // Its head as the client sees it.
        hop::strip(response.headers_mut());
        if response.status() == StatusCode::NO_CONTENT {
            // A 204 has no length (RFC 9110, 8.6), and in an answer to HEAD hyper would let one through.
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if upload_pending {
            // The answer came first: what is left of the request has no use, so neither has the connection.
            body.abandon_if_held();
            let body = body.clone();
            ticket.upload = Some(Box::new(move || (body.received(), body.fault())));
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.headers_mut().insert(REQUEST_ID, ticket.request_id.clone());
        Ok(Answer::Backend(response))
    }

    fn ticket(&self, parts: &http::request::Parts, conn: &Rc<Conn>) -> Box<Ticket> {
        let random = self.random.borrow_mut().u128(..);
        Box::new(Ticket {
            conn: Rc::clone(conn),
            log: Rc::clone(&self.log),
            time: SystemTime::now(),
            started: Instant::now(),
            request_id: ticket::request_id(conn.is_trusted, parts.headers.get(REQUEST_ID), random),
            method: parts.method.clone(),
            host: host_of(parts),
            client: None,
            route: None,
            key: None,
            in_flight: None,
            backend: None,
            attempts: 0,
            connect: None,
            upstream: None,
            status: None,
            reason: None,
            bytes_in: 0,
            upload: None,
            bytes_out: 0,
            complete: false,
        })
    }

    /// From here on the request stands in the metrics of its key.
    fn count(&self, snapshot: &Snapshot, key: Option<Key>, ticket: &mut Ticket) {
        let slot = self.slots.borrow_mut().key(&snapshot.index, key);
        ticket.in_flight = Some(slot.cells.started());
        ticket.key = Some(slot);
    }

    fn refused(
        &self,
        snapshot: &Snapshot,
        refusal: Refusal,
        ticket: &mut Ticket,
        edits: &mut Option<usize>,
    ) -> Refused {
        if let Some(route) = refusal.route {
            ticket.route = Some(Arc::clone(snapshot.index.route_name(route)));
            *edits = Some(route);
        }
        self.count(snapshot, refusal.key, ticket);
        Refused { reason: refusal.reason, allow: refusal.allow }
    }

    /// A try that failed because the client's body did is the client's fault.
    fn blame(&self, reason: Reason, body: &RequestBody<B>, ticket: &Ticket) -> Refused {
        match body.fault() {
            Some(BodyFault::Over) | None => reason.into(),
            Some(fault) => {
                if fault == BodyFault::TooLarge {
                    self.slots.borrow().metrics().metrics().limit_hit("max_body_bytes");
                }
                ticket.client_fault(fault).into()
            }
        }
    }

    fn refuse(&self, refused: Refused, ticket: &mut Ticket) -> Response<Bytes> {
        let Refused { reason, allow } = refused;
        ticket.reason = Some(reason);
        if let Some(fault) = ticket.conn.complaint() {
            if let Some(limit) = fault.limit {
                self.slots.borrow().metrics().metrics().limit_hit(limit);
            }
            tracing::debug!(client = ticket.conn.peer_text(), request_id = ticket.request_id(), %fault, "refused");
        }
        let mut response = respond::problem(reason, ticket.request_id());
        response.headers_mut().insert(REQUEST_ID, ticket.request_id.clone());
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
        if ticket.conn.body_pending() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// What every response has: a Date (RFC 9110, 6.6.1), and our version of the protocol.
    fn finish_head<T>(&self, response: &mut Response<T>) {
        *response.version_mut() = Version::HTTP_11;
        if response.headers().contains_key(header::DATE) {
            return;
        }
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second
            && let Ok(text) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            *date = (second, text);
        }
        response.headers_mut().insert(header::DATE, date.1.clone());
    }
}

/// The authority that the client means: that of an absolute-form target before Host (RFC 9112, 3.2.2).
fn host_of(parts: &http::request::Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    }
}

/// The answer of a route that does not forward.
fn own_answer<U>(route: &Route, parts: &http::request::Parts, ticket: &Ticket) -> Result<Answer<U>, Refused> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let host = ticket.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("");
    let (status, location) = route.action.own_answer(&parts.method, host, target).ok_or(Reason::NoAsset)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    if let Some(location) = location {
        let location = HeaderValue::from_str(&location).map_err(|_| Reason::BadRequest)?;
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Action::Respond { body, .. } = &route.action {
        *response.body_mut() = Bytes::from(body.clone());
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
    }
    set_own(response.headers_mut(), ticket);
    Ok(Answer::Own(response))
}

fn set_own(headers: &mut HeaderMap, ticket: &Ticket) {
    const SERVER: HeaderName = header::SERVER;
    headers.insert(SERVER, HeaderValue::from_static("shardgate"));
    headers.insert(REQUEST_ID, ticket.request_id.clone());
    if ticket.conn.body_pending() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
