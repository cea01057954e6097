//! A request's way from its head to its response, as a list of phases.
//!
//! [`Proxy::handle`] is one async function whose phases stand in the order in which they happen. A phase that ends the
//! request returns a `Refused`; what a client is told then is decided in `message::respond`. One request uses one
//! Snapshot from start to end.

mod attempt;
mod budget;
mod grpc;
mod hedging;
mod hops;
mod measure;
mod order;
mod outgoing;
mod preview;
mod response;
mod slots;
mod ticket;
mod tries;
mod tunnel;
mod wait;
mod words;

pub use preview::preview;
pub use response::ResponseBody;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version};
use http_body::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::backend::Observation;
use crate::backend::queue::Queues;
use crate::hint::cold_path;
use crate::message::body::{Attempt, BodyFault, ReplayBudget, RequestBody};
use crate::message::conn::Conn;
use crate::message::fields::{Fields, Known, Names};
use crate::message::framing::{Fault, origin_form};
use crate::message::tunnel::Tunnel;
use crate::message::{self, Request, RequestHead, Response, ResponseHead, hop, respond, upgrade};
use crate::model::{Action, HeaderEdits, Key, Limits, Reason};
use crate::routing::{Reader, Refusal, Snapshot};
use crate::telemetry::{AccessLog, WorkerMetrics};
use crate::upstream;
use attempt::Sent;
use grpc::Call;
use outgoing::{Outgoing, REQUEST_ID};
use response::Relay;
use slots::Slots;
use ticket::{RequestId, Ticket};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type UpstreamBody<B> = upstream::ResponseBody<Attempt<B>>;

/// Bytes of memory that a worker holds for replays of request bodies.
const REPLAY_BYTES: u64 = 64 * 1024 * 1024;

/// One worker's way from requests to responses.
pub struct Proxy<B> {
    table: RefCell<Reader>,
    client: upstream::Client<Attempt<B>>,
    slots: RefCell<Slots>,
    /// Where requests wait; the only ones of these that other workers know.
    queues: Arc<Queues>,
    log: Rc<AccessLog>,
    replay: ReplayBudget,
    random: RefCell<fastrand::Rng>,
    date: RefCell<(u64, String)>,
    /// One moment on both clocks, read on each tick: a request reads one clock only.
    clocks: Cell<(Instant, SystemTime)>,
}

/// Why a request gets an answer of ours.
#[derive(Debug)]
struct Refused {
    reason: Reason,
    /// For 405: the methods that would do.
    allow: Option<HeaderValue>,
    /// More than the reason says, if there is more.
    detail: Option<Box<str>>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, allow: None, detail: None }
    }
}

/// What a request comes to.
enum Answer<U> {
    Own(Response<Bytes>),
    Backend(Response<Box<Relay<U>>>),
}

impl<B> Proxy<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// A worker's proxy. It reads the Snapshot through `table`, counts with `metrics`, and says what the control plane
    /// should know through `observations`; `queues` are those of all.
    pub fn new(
        table: Reader,
        metrics: WorkerMetrics,
        queues: Arc<Queues>,
        log: AccessLog,
        observations: mpsc::Sender<Observation>,
    ) -> Self {
        Self {
            table: RefCell::new(table),
            client: upstream::Client::default(),
            slots: RefCell::new(Slots::new(metrics, observations)),
            queues,
            log: Rc::new(log),
            replay: ReplayBudget::new(REPLAY_BYTES),
            random: RefCell::new(fastrand::Rng::new()),
            date: RefCell::default(),
            clocks: Cell::new((Instant::now(), SystemTime::now())),
        }
    }

    /// What clients may do, as the newest Snapshot says.
    pub fn limits(&self) -> Limits {
        self.table.borrow_mut().current().index.plan.limits
    }

    /// To be called every now and then: lets go of old Snapshots and of idle connections past their time.
    pub fn tick(&self) {
        self.clocks.set((Instant::now(), SystemTime::now()));
        let snapshot = self.table.borrow_mut().current();
        self.slots.borrow_mut().follow(&snapshot.index);
        self.client.sweep();
    }

    /// Answers one request.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds what it is given twice")]
    pub fn handle<'a>(
        &'a self,
        request: Request<B>,
        conn: Rc<Conn>,
    ) -> impl Future<Output = Response<ResponseBody<UpstreamBody<B>>>> + use<'a, B> {
        async move {
            let snapshot = self.table.borrow_mut().current();
            self.slots.borrow_mut().follow(&snapshot.index);
            let Request { head, body } = request;
            let mut ticket = self.ticket(Rc::clone(&head), &conn);
            let mut edits = None;
            let answer = match ticket.deadline() {
                None => self.serve(&snapshot, &head, body, &mut ticket, &mut edits).await,
                Some(deadline) => {
                    cold_path();
                    // In memory of its own, so that it is not there twice.
                    let serving = Box::pin(self.serve(&snapshot, &head, body, &mut ticket, &mut edits));
                    timeout_at(deadline, serving).await.unwrap_or_else(|_| Err(Reason::UpstreamTimeout.into()))
                }
            };
            let answer = answer.unwrap_or_else(|refused| {
                cold_path();
                Answer::Own(self.refuse(refused, &mut ticket))
            });
            ticket.status = Some(match &answer {
                Answer::Own(response) => response.head.status,
                Answer::Backend(response) => response.head.status,
            });
            let mut response = match answer {
                Answer::Own(response) => {
                    cold_path();
                    response.map(|body| ResponseBody::own(body, ticket))
                }
                Answer::Backend(response) => response.map(|relay| ResponseBody::backend(relay, ticket)),
            };
            if let Some(edits) = edits {
                apply(&snapshot.index.plan.routes[edits].response_headers, &mut response.head.fields);
            }
            self.add_date(&mut response.head);
            response
        }
    }

    /// The phases of a request.
    async fn serve(
        &self,
        snapshot: &Snapshot,
        head: &RequestHead,
        body: B,
        ticket: &mut Ticket,
        edits: &mut Option<usize>,
    ) -> Result<Answer<UpstreamBody<B>>, Refused> {
        // A head that was refused has no more to it than the verdict.
        if let Some(verdict) = ticket.conn.verdict() {
            cold_path();
            self.count(snapshot, None, ticket);
            return Err(verdict.into());
        }

        // Which client, route and key.
        let index = &*snapshot.index;
        let conn = Rc::clone(&ticket.conn);
        if is_misdirected(&conn, head) {
            cold_path();
            self.count(snapshot, None, ticket);
            return Err(Reason::MisdirectedRequest.into());
        }
        if let Some(redirect) = &conn.listener.redirect {
            cold_path();
            self.count(snapshot, None, ticket);
            return own_answer(redirect, head, ticket);
        }
        let client = conn.client(&head.fields);
        if client != conn.peer {
            ticket.client = client.map(|address| address.to_string().into());
        }
        let resolved = match index.resolve(head, client) {
            Ok(resolved) => resolved,
            Err(refusal) => {
                cold_path();
                let detail = index.why(head, client, &refusal).map(String::into_boxed_str);
                return Err(self.refused(snapshot, refusal, detail, ticket, edits));
            }
        };
        let route = &index.plan.routes[resolved.route];
        ticket.route = Some(self.slots.borrow_mut().route(index, resolved.route));
        *edits = Some(resolved.route);

        // Answers that need no backend.
        let Some(target) = resolved.target else {
            cold_path();
            self.count(snapshot, None, ticket);
            return own_answer(&route.action, head, ticket);
        };
        self.count(snapshot, Some(target.key), ticket);
        let hops = hops::left(head)?;
        if hops == Some(0) {
            cold_path();
            let mut response = hops::answer(head)?;
            set_request_id(&mut response.head.fields, ticket);
            return Ok(Answer::Own(response));
        }

        // The body: how much of it, and whether the client waits to be asked for it.
        let max = route.max_body_bytes.unwrap_or(index.plan.limits.max_body_bytes);
        let protocol = upgrade::choose(head, &route.upgrade);
        // An extended CONNECT of HTTP/2 (RFC 8441) asks for a tunnel and nothing else: what stands for it as a request of
        // HTTP/1.1 means nothing without one, and a 200 would promise one.
        let is_connect = head.version == Version::HTTP_2 && head.upgrade.is_some();
        if is_connect && protocol.is_none() {
            cold_path();
            let allow = Some(HeaderValue::from_static("GET"));
            return Err(Refused { allow, ..Reason::MethodNotAllowed.into() });
        }
        let body = match protocol {
            None => RequestBody::new(body, max, head.expects_continue, &self.replay, ticket.started),
            Some(_) => {
                cold_path();
                conn.set_tunnel(Tunnel::Asked);
                RequestBody::before_tunnel(body, &self.replay, ticket.started)
            }
        };
        if body.is_declared_too_large() {
            cold_path();
            self.slots.borrow().metrics().metrics().limit_hit("max_body_bytes");
            return Err(Reason::RequestTooLarge.into());
        }

        // The head as backends see it.
        let outgoing = Outgoing::new(head, route, protocol, ticket.deadline(), hops).ok_or(Reason::BadRequest)?;

        // A backend, and another if that one fails.
        ticket.upload = body.told();
        let sent = tries::run(self, snapshot, route, &target, &outgoing, &body, ticket).await;
        ticket.bytes_in = body.received();
        let told = ticket.upload.take();
        let Sent { mut response, upload_pending, .. } = sent.map_err(|reason| {
            cold_path();
            self.blame(reason, &body, ticket)
        })?;

        if is_connect && response.head.status.is_success() {
            cold_path();
            response.body.serving.unfit();
            return Err(Reason::UpstreamProtocolError.into());
        }

        // Its head as the client sees it.
        let fields = &mut response.head.fields;
        if let Some(call) = &mut ticket.call {
            call.status = message::grpc::status(fields);
        }
        hop::strip_listed(fields);
        let is_tunnel = response.head.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_tunnel && let Some(in_flight) = &mut ticket.in_flight {
            in_flight.tunnelled();
        }
        if upload_pending || is_tunnel {
            cold_path();
            // The answer came first: what is left of the request has no use.
            body.abandon_if_held();
            ticket.upload = told;
        }
        set_request_id(fields, ticket);
        Ok(Answer::Backend(response))
    }

    fn ticket(&self, head: Rc<RequestHead>, conn: &Rc<Conn>) -> Box<Ticket> {
        let random = self.random.borrow_mut().u128(..);
        let given = if conn.is_trusted { head.fields.get(Known::RequestId) } else { None };
        let started = Instant::now();
        let (then, time) = self.clocks.get();
        Box::new(Ticket {
            conn: Rc::clone(conn),
            log: Rc::clone(&self.log),
            time: time + started.saturating_duration_since(then),
            started,
            request_id: RequestId::new(given, random),
            call: Call::of(&head, started).map(Box::new),
            head,
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
            trying: None,
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
        detail: Option<Box<str>>,
        ticket: &mut Ticket,
        edits: &mut Option<usize>,
    ) -> Refused {
        if let Some(route) = refusal.route {
            ticket.route = Some(self.slots.borrow_mut().route(&snapshot.index, route));
            *edits = Some(route);
        }
        self.count(snapshot, refusal.key, ticket);
        Refused { reason: refusal.reason, allow: refusal.allow, detail }
    }

    /// A try that failed because the client's body did is the client's fault, and when the time of all is over, then
    /// that is why, whatever was being waited for.
    fn blame(&self, reason: Reason, body: &RequestBody<B>, ticket: &Ticket) -> Refused {
        if ticket.conn.end().is_some_and(|end| Instant::now() >= end) {
            return Reason::ExchangeTimeout.into();
        }
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
        let Refused { reason, allow, detail } = refused;
        ticket.reason = Some(reason);
        let complaint = ticket.conn.complaint();
        if let Some(fault) = complaint {
            if let Some(limit) = fault.limit {
                self.slots.borrow().metrics().metrics().limit_hit(limit);
            }
            tracing::debug!(client = ticket.conn.peer_text(), request_id = ticket.request_id(), %fault, "refused");
        }
        let mut response = match &mut ticket.call {
            None => {
                let is_theirs = |fault: &Fault| fault.reason == reason && respond::status(reason).is_client_error();
                let detail = complaint.filter(is_theirs).map(|fault| fault.detail).or(detail.as_deref());
                respond::problem(reason, detail, ticket.request_id())
            }
            Some(call) => {
                call.end(reason);
                respond::call_failed(reason)
            }
        };
        set_request_id(&mut response.head.fields, ticket);
        if let Some(allow) = allow {
            response.head.fields.push(b"allow", allow.as_bytes());
        }
        response
    }

    /// What every response has (RFC 9110, 6.6.1).
    fn add_date(&self, head: &mut ResponseHead) {
        if head.fields.has(Names::of(&[Known::Date])) {
            return;
        }
        // As of the last tick, a quarter of a second ago at most.
        let (_, now) = self.clocks.get();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            *date = (second, httpdate::fmt_http_date(now));
        }
        head.fields.push(b"date", date.1.as_bytes());
    }
}

/// Whether a request is for another host than its connection. Where clients show certificates that matters (RFC 9110,
/// 7.4): a client was let in for one host, and must ask for another over a connection of that one's.
fn is_misdirected(conn: &Conn, head: &RequestHead) -> bool {
    let asks = conn.listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
    asks && conn.secure().is_some_and(|secure| !secure.is_for(head.authority()))
}

/// The answer of what does not forward.
fn own_answer<U>(action: &Action, request: &RequestHead, ticket: &Ticket) -> Result<Answer<U>, Refused> {
    let target = origin_form(request.target());
    let (target, host) = (String::from_utf8_lossy(&target), String::from_utf8_lossy(request.authority()));
    let (status, location) = action.own_answer(&request.method, &host, &target).ok_or(Reason::NoAsset)?;
    let mut head = ResponseHead::new(status);
    if let Some(location) = location {
        head.fields.push(b"location", location.as_bytes());
    }
    let mut body = Bytes::new();
    if let Action::Respond { body: text, .. } = action {
        body = Bytes::from(text.clone());
        head.fields.push(b"content-type", b"text/plain; charset=utf-8");
    }
    head.fields.push(b"server", b"shardgate");
    set_request_id(&mut head.fields, ticket);
    Ok(Answer::Own(Response { head, body }))
}

fn set_request_id(fields: &mut Fields, ticket: &Ticket) {
    fields.remove(Names::of(&[Known::RequestId]));
    fields.push(REQUEST_ID, ticket.request_id.as_bytes());
}

/// Removes and sets what a route asks for.
fn apply(edits: &HeaderEdits, fields: &mut Fields) {
    edits.remove.iter().for_each(|name| fields.remove_named(name.as_str().as_bytes()));
    edits.set.iter().for_each(|(name, value)| fields.set(name.as_str().as_bytes(), value.as_bytes()));
}
