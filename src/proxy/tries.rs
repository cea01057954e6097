//! The tries of one request: which backend comes next, and whether there may be a next.
//!
//! Two kinds of failure, two rules (docs/failover.md). A try of which no byte was written is free: it goes on to
//! backends not tried yet, tier by tier, at most [`FREE`](after::FREE) times, and after [`FREE_PER_TIER`] such failures in
//! one tier to the next, because a tier in which nobody listens should not be worked through. A try that a backend may
//! have seen is repeated only if that has no further effect ([`Outgoing::is_idempotent`]), only while its body can be sent
//! again, within `retry.max` and the budget, and after a pause.
//!
//! A backend that answers with `Retry-After` speaks for itself, so another one is asked; when a second one says the same,
//! it is the pool that is overloaded, and no further try adds to that.
//!
//! Beside a first try that takes long there may be a second one, see [`hedged`].
//!
//! When all that could be tried are full, the request waits for one of them, without holding anything that others wait
//! for: where a backend has given an answer that is not liked, that answer is as good as a place in a queue.

mod after;
mod hedged;
mod race;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use super::attempt::{Done, Failure, Sent, Try};
use super::budget::Counted;
use super::order::{Next, Order, Sender, Tried as Spent};
use super::outgoing::Outgoing;
use super::slots::PoolSlot;
use super::ticket::Ticket;
use super::wait::{End, Stay};
use super::{BoxError, Proxy, UpstreamBody};
use crate::backend::{Backend, InFlight};
use crate::hint::cold_path;
use crate::message::body::RequestBody;
use crate::model::{PoolId, Reason, Retry, Role, Route, Timeouts};
use crate::routing::{Chain, Index, PoolState, Snapshot, Target};
use crate::telemetry::RetryResult;
use after::Then;

/// Free tries in one tier before the next is asked; what is left of the tier comes after all others.
pub(super) const FREE_PER_TIER: u32 = 2;
/// Tries in one pool that may wait for an answer in vain, before another pool is asked.
pub(super) const SILENT_PER_POOL: u32 = 2;
/// Bytes of a body that are kept so that a free try can be followed by another, where no retry is configured.
const KEEP_FOR_FREE: u64 = 64 * 1024;

/// What the tries of a request come to.
type Answer<B> = Result<Sent<UpstreamBody<B>>, Reason>;
/// What one of them comes to.
type Tried<B> = Result<Sent<UpstreamBody<B>>, Failure>;

/// Tries until there is an answer that is good, or nothing is left to be tried.
///
/// In rounds: each goes through the backends as they are judged at its beginning. Another follows where those that are
/// left were full, and the request has waited for one of them.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds what it is given twice")]
pub(super) fn run<'a, B>(
    proxy: &'a Proxy<B>,
    snapshot: &'a Snapshot,
    route: &'a Route,
    target: &'a Target,
    outgoing: &'a Outgoing<'a>,
    body: &'a RequestBody<B>,
    ticket: &'a mut Ticket,
) -> impl Future<Output = Answer<B>> + use<'a, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    async move {
        let Some(home) = target.chain.iter().next().map(|id| snapshot.pool(id)) else {
            return Err(Reason::NoHealthyBackend);
        };
        let slot = proxy.slots.borrow_mut().pool(&snapshot.index, home.id);
        let _active = slot.budget.enter();
        let mut tries = Tries::new(proxy, home, &slot, route, outgoing, body, ticket);
        let mut newer: Option<Arc<Snapshot>> = None;
        let mut is_queued = false;
        loop {
            let snapshot = newer.as_deref().unwrap_or(snapshot);
            let mut order = tries.order(snapshot, &target.chain);
            if !is_queued {
                if let ControlFlow::Break(answer) = tries.round(&mut order, &snapshot.index).await {
                    return answer;
                }
                if !tries.may_wait(&order) {
                    return tries.last_word();
                }
            }
            // In memory of its own, for few requests ever wait.
            cold_path();
            match Box::pin(tries.wait(snapshot, order)).await {
                End::Place(place) => {
                    tries.past.get_or_insert_default().place = Some(place);
                    is_queued = false;
                }
                End::Newer(snapshot) => {
                    newer = Some(snapshot);
                    is_queued = true;
                }
                End::Nothing(reason) => {
                    // What became of a try that a backend may have seen says more.
                    tries.last = tries.last.filter(|_| tries.retrying.is_some()).or(Some(reason));
                    return tries.last_word();
                }
            }
        }
    }
}

/// The tries of one request: what they go by, and what they have come to so far.
struct Tries<'a, B> {
    proxy: &'a Proxy<B>,
    route: &'a Route,
    outgoing: &'a Outgoing<'a>,
    body: &'a RequestBody<B>,
    ticket: &'a mut Ticket,
    /// The first pool of the key. Its settings for retries are the request's, and its budget, and its queue.
    home: &'a PoolState,
    slot: &'a PoolSlot,
    retry: Option<Retry>,
    /// When the exchange must be over, its answer included.
    end: Option<Instant>,
    /// An answer that is not liked; the best one so far.
    held: Option<Box<Sent<UpstreamBody<B>>>>,
    /// Why there is none.
    last: Option<Reason>,
    free: u32,
    retries: u32,
    asked_to_wait: u32,
    /// The next try is the first, and of a request that may be hedged.
    may_hedge: bool,
    /// This try is a retry, in the budget.
    retrying: Option<Counted>,
    /// The tier that was counted as failed over to.
    failed_over_to: Cell<Option<(PoolId, Role)>>,
    /// Of a request that met a full backend: few ever do.
    past: Option<Box<Past>>,
    /// The clock is read once for a request that goes well.
    now: Option<Instant>,
}

/// The beginning of a try.
#[derive(Clone, Copy)]
struct Start {
    now: Instant,
    /// Of the route's time.
    left: Duration,
}

impl<'a, B> Tries<'a, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn new(
        proxy: &'a Proxy<B>,
        home: &'a PoolState,
        slot: &'a PoolSlot,
        route: &'a Route,
        outgoing: &'a Outgoing<'a>,
        body: &'a RequestBody<B>,
        ticket: &'a mut Ticket,
    ) -> Self {
        let retry = route.retry.over(home.settings.retry);
        let end = route.timeouts.over(home.settings.timeouts).exchange.map(|limit| ticket.started + limit);
        let may_hedge = outgoing.upgrade().is_none() && hedged::may_hedge(route, outgoing.method());
        let is_repeated = may_hedge || after::may_follow_seen(retry.as_ref(), outgoing.is_idempotent());
        body.keep(retry.map_or(KEEP_FOR_FREE, |retry| retry.body_limit), !is_repeated);
        if let Some(end) = end {
            ticket.conn.must_end(end);
        }
        let now = Some(ticket.started);
        let (held, last, retrying, failed_over_to, past) = (None, None, None, Cell::new(None), None);
        let (free, retries, asked_to_wait) = (0, 0, 0);
        Self {
            proxy,
            route,
            outgoing,
            body,
            ticket,
            home,
            slot,
            retry,
            end,
            held,
            last,
            free,
            retries,
            asked_to_wait,
            may_hedge,
            retrying,
            failed_over_to,
            past,
            now,
        }
    }

    /// The backends as they are judged now, without those that the request has been sent to.
    fn order<'s>(&mut self, snapshot: &'s Snapshot, chain: &'s Chain) -> Order<'s>
    where
        'a: 's,
    {
        let spent = self.past.as_mut().and_then(|past| past.spent.take());
        let (tried, random) = spent.unwrap_or_else(|| (Spent::new(), self.proxy.random.borrow_mut().fork()));
        let (conn, started) = (Rc::clone(&self.ticket.conn), self.ticket.started);
        let sender = Sender { head: self.outgoing.head(), conn, started };
        Order::new(snapshot, chain, sender, random, tried)
    }

    /// Goes through the backends of this order. It ends with what the tries have come to, or because none of the backends
    /// that are left has room.
    async fn round(&mut self, order: &mut Order<'_>, index: &Index) -> ControlFlow<Answer<B>> {
        loop {
            let Some(next) = self.next(order, index) else { break };
            let Some(place) = self.place(&next) else {
                cold_path();
                self.last.get_or_insert(Reason::Overloaded);
                continue;
            };
            let Some(start) = self.start() else {
                cold_path();
                self.last.get_or_insert(Reason::UpstreamTimeout);
                return ControlFlow::Break(self.last_word());
            };
            self.count_failover(&next);
            self.ticket.begins(&next.server_slot, start.now);
            let result = if std::mem::take(&mut self.may_hedge) {
                cold_path();
                Box::pin(self.hedged(&next, place, start, order, index)).await
            } else {
                let attempt = self.attempt(&next, start, false);
                let done = attempt.send(place, self.proxy, self.outgoing, self.body, self.ticket).await;
                self.note(done)
            };
            match self.judged(result, &next.server.backend, order) {
                ControlFlow::Break(answer) => return ControlFlow::Break(answer),
                ControlFlow::Continue(Then::Free) => {}
                ControlFlow::Continue(Then::Retry(terms, instead_of))
                    if self.may_retry(&terms, instead_of, order).await => {}
                ControlFlow::Continue(Then::Retry(..) | Then::Nothing) => {
                    return ControlFlow::Break(self.last_word());
                }
            }
        }
        self.note_lack_of_room(order);
        ControlFlow::Continue(())
    }

    /// The backend that the request waited for, else the next in the order.
    fn next<'s>(&self, order: &mut Order<'s>, index: &Index) -> Option<Next<'s>> {
        order.next(&self.proxy.slots, index, self.past.as_ref().and_then(|past| past.place.as_ref()))
    }

    /// A place among the requests in flight at the backend, if it has room.
    fn place(&mut self, next: &Next<'_>) -> Option<InFlight> {
        let backend = &next.server.backend;
        // A place that is for another backend is passed on here.
        let given = self.past.as_mut().and_then(|past| past.place.take()).filter(|place| backend.gave(place));
        given.or_else(|| room(backend, next.server.at_most(next.pool.settings.limits.max_requests), self.has_queue()))
    }

    /// Now, and how much of the route's time is left, if any is.
    fn start(&mut self) -> Option<Start> {
        let now = self.now.take().unwrap_or_else(Instant::now);
        let left = self.due().map_or(Duration::MAX, |due| due.saturating_duration_since(now));
        (!left.is_zero()).then_some(Start { now, left })
    }

    /// A try at this backend. `beside`: another one of this request is under way, and goes on.
    fn attempt<'t>(&self, next: &'t Next<'_>, start: Start, beside: bool) -> Try<'t> {
        let settings = &*next.pool.settings;
        let timeouts = self.route.timeouts.over(settings.timeouts);
        let per_try = self.retry.and_then(|retry| retry.per_try_timeout);
        let response = per_try.map_or(timeouts.response, |limit| limit.min(timeouts.response));
        Try {
            backend: &next.server.backend,
            server: &next.server_slot,
            pool: &next.slot,
            settings,
            timeouts: Timeouts { connect: timeouts.connect.min(start.left), response, ..timeouts },
            total: self.route.timeout,
            end: self.end,
            began: start.now,
            beside,
        }
    }

    /// A try is over.
    #[inline(always)]
    fn note(&mut self, done: Done<UpstreamBody<B>>) -> Tried<B> {
        match done.took {
            Some(took) => self.ticket.tried(took),
            None => self.ticket.not_tried(),
        }
        done.result
    }

    /// Waits until a backend of this order has room, or is judged otherwise.
    async fn wait(&mut self, snapshot: &Snapshot, order: Order<'_>) -> End {
        let (due, limits) = (self.due(), &self.home.settings.limits);
        let past = self.past.get_or_insert_default();
        // Nobody waits with a place in hand.
        drop(past.place.take());
        let targets = order.targets(&past.lacking);
        let new = || Stay::new(Arc::clone(self.slot.queue(&self.proxy.queues)), Rc::clone(&self.slot.cells));
        let stay = past.stay.get_or_insert_with(new);
        let end = stay.wait(self.proxy, snapshot, limits, targets, due).await;
        past.spent = Some(order.into_spent());
        self.now = None;
        end
    }

    /// The answer where no further try is made: the last word of a backend is better than any of ours.
    fn last_word(&mut self) -> Answer<B> {
        let answer = self.held.take().ok_or_else(|| self.last.unwrap_or(Reason::NoHealthyBackend))?;
        self.ticket.backend = Some(Rc::clone(answer.server()));
        Ok(*answer)
    }

    /// That another region would serve it, had it room, says more than that nobody listens at home.
    fn note_lack_of_room(&mut self, order: &Order<'_>) {
        if order.lacks_room() {
            self.last = self.last.filter(|reason| *reason != Reason::ConnectFailed).or(Some(Reason::Overloaded));
            self.proxy.slots.borrow().metrics().metrics().limit_hit("capacity");
        }
    }

    fn has_queue(&self) -> bool {
        self.home.settings.limits.max_queue > 0
    }

    /// Whether there is a backend to go on with, or to wait for.
    fn is_any_left(&self, order: &Order<'_>) -> bool {
        order.has_next() || self.held.is_none() && order.has_full()
    }

    fn may_wait(&self, order: &Order<'_>) -> bool {
        self.held.is_none() && self.has_queue() && order.has_full()
    }

    /// Until when there must be a response head. While the client is still sending nothing is due but the end of all.
    fn due(&self) -> Option<Instant> {
        let due = self.body.done().map(|done| done.max(self.ticket.started) + self.route.timeout);
        due.into_iter().chain(self.end).min()
    }

    fn count_failover(&self, next: &Next<'_>) {
        let tier = Some((next.pool.id, next.role));
        if !next.is_first_tier
            && self.failed_over_to.get() != tier
            && let Some(key) = &self.ticket.key
        {
            key.cells.failover(&next.slot.region, next.role);
            self.failed_over_to.set(tier);
        }
    }

    /// If this try was a retry.
    fn count_retry(&mut self, result: RetryResult) {
        if self.retrying.take().is_some()
            && let Some(key) = &self.ticket.key
        {
            key.cells.retry(result);
        }
    }
}

/// What a request that met a full backend has to remember.
#[derive(Default)]
struct Past {
    stay: Option<Stay>,
    /// What it came back with.
    place: Option<InFlight>,
    /// Of the round before: where it was sent, and the source of randomness.
    spent: Option<(Spent, fastrand::Rng)>,
    /// Backends that had room for it but no connection.
    lacking: Vec<*const Backend>,
}

impl Past {
    fn lacks(&mut self, backend: &Arc<Backend>) {
        let backend = Arc::as_ptr(backend);
        if !self.lacking.contains(&backend) {
            self.lacking.push(backend);
        }
    }
}

/// A place among the requests in flight at a backend. Where there is no queue, nobody is owed one before the others.
fn room(backend: &Arc<Backend>, max: u32, has_queue: bool) -> Option<InFlight> {
    let room = backend.try_request(max);
    if room.is_none() && !has_queue { backend.try_request_past(max) } else { room }
}
