//! The tries of one request: which backend comes next, and whether there may be a next.
//!
//! Two kinds of failure, two rules (interface.md, 6). A try of which no byte was written is free: it goes on to
//! backends not tried yet, tier by tier, at most [`FREE`] times, and after [`FREE_PER_TIER`] such failures in one tier
//! to the next, because a tier in which nobody listens should not be worked through. A try that a backend may have seen
//! is repeated only if that has no further effect ([`Outgoing::is_idempotent`]), only while its body can be sent again,
//! within `retry.max` and the budget, and after a pause.
//!
//! A backend that answers with `Retry-After` speaks for itself, so another one is asked; when a second one says the same,
//! it is the pool that is overloaded, and no further try adds to that.
//!
//! When all that could be tried are full, the request waits for one of them, without holding anything that others wait
//! for: where a backend has given an answer that is not liked, that answer is as good as a place in a queue.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::attempt::{Failure, Sent, Try};
use super::budget::Counted;
use super::order::{Order, Sender, Tried};
use super::outgoing::Outgoing;
use super::ticket::Ticket;
use super::wait::{End, Stay};
use super::{BoxError, Proxy, UpstreamBody};
use crate::backend::{Backend, InFlight};
use crate::message::body::RequestBody;
use crate::model::{Reason, Route, Timeouts};
use crate::routing::{Snapshot, Target};
use crate::telemetry::RetryResult;

/// Free tries of one request.
const FREE: u32 = 8;
/// Free tries in one tier before the next is asked; what is left of the tier comes after all others.
pub(super) const FREE_PER_TIER: u32 = 2;
/// So many backends that ask for time end the tries.
const WAITS: u32 = 2;
/// Tries in one pool that may wait for an answer in vain, before another pool is asked.
pub(super) const SILENT_PER_POOL: u32 = 2;
/// Bytes of a body that are kept so that a free try can be followed by another, where no retry is configured.
const KEEP_FOR_FREE: u64 = 64 * 1024;

pub(super) async fn run<B>(
    proxy: &Proxy<B>,
    snapshot: &Snapshot,
    route: &Route,
    target: &Target,
    outgoing: &Outgoing<'_>,
    body: &RequestBody<B>,
    ticket: &mut Ticket,
) -> Result<Sent<UpstreamBody<B>>, Reason>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut random = proxy.random.borrow_mut().fork();
    let Some(home) = target.chain.iter().next().map(|id| snapshot.pool(id)) else {
        return Err(Reason::NoHealthyBackend);
    };
    let retry = route.retry.over(home.settings.retry);
    let repeatable = retry.filter(|_| outgoing.is_idempotent());
    body.keep(retry.map_or(KEEP_FOR_FREE, |retry| retry.body_limit));
    let slot = proxy.slots.borrow_mut().pool(&snapshot.index, home.id);
    let _active = slot.budget.enter();

    let mut held: Option<Sent<_>> = None;
    let mut last = None;
    let mut free = 0;
    let mut retries = 0;
    let mut asked_to_wait = 0;
    let mut retrying: Option<Counted> = None;
    let mut failed_over_to = None;
    let has_queue = home.settings.limits.max_queue > 0;
    // Of a request that met a full backend: few ever do.
    let mut past: Option<Box<Past>> = None;
    let mut newer: Option<Arc<Snapshot>> = None;
    let mut is_queued = false;
    // The clock is read once for a request that goes well.
    let mut now = Some(ticket.started);
    'rounds: loop {
        let snapshot = newer.as_deref().unwrap_or(snapshot);
        let tried = past.as_mut().map_or_else(Tried::new, |past| std::mem::take(&mut past.tried));
        let sender = Sender { head: outgoing.head(), conn: Rc::clone(&ticket.conn), started: ticket.started };
        let mut order = Order::new(snapshot, &target.chain, sender, random, tried);
        while !is_queued
            && let Some(next) =
                order.next(&proxy.slots, &snapshot.index, past.as_ref().and_then(|past| past.place.as_ref()))
        {
            let settings = &next.pool.settings;
            let backend = &next.server.backend;
            // A place that is for another backend is passed on here.
            let given = past.as_mut().and_then(|past| past.place.take()).filter(|place| backend.gave(place));
            let Some(in_flight) = given.or_else(|| room(backend, settings.limits.max_requests, has_queue)) else {
                last.get_or_insert(Reason::Overloaded);
                continue;
            };
            let began = now.take().unwrap_or_else(Instant::now);
            let left = due(route, body, ticket).map_or(Duration::MAX, |due| due.saturating_duration_since(began));
            if left.is_zero() {
                last.get_or_insert(Reason::UpstreamTimeout);
                break 'rounds;
            }
            let pool = next.slot;
            let tier = Some((next.pool.id, next.role));
            if !next.is_first_tier
                && failed_over_to != tier
                && let Some(key) = &ticket.key
            {
                key.cells.failover(&pool.region, next.role);
                failed_over_to = tier;
            }
            let timeouts = route.timeouts.over(settings.timeouts);
            let attempt = Try {
                backend,
                server: &next.server_slot,
                pool: &pool,
                settings,
                timeouts: Timeouts { connect: timeouts.connect.min(left), ..timeouts },
                per_try: retry.and_then(|retry| retry.per_try_timeout),
                total: route.timeout,
                began,
            };
            let result = attempt.send(in_flight, proxy, outgoing, body, ticket).await;
            if let Err(Failure::Full) = result {
                last.get_or_insert(Reason::Overloaded);
                past.get_or_insert_default().lacks(backend);
                continue;
            }
            let good = matches!(&result, Ok(sent) if !sent.is_gateway_error());
            if !good {
                order.note_spent();
            }
            // What costs nothing goes on at the next backend; if it was a retry, that is still the same one.
            if let Err(Failure::Unseen(reason)) = result {
                last = Some(reason);
                order.note_unseen();
                free += 1;
                let may_go_on = order.has_next() || held.is_none() && order.has_full();
                if free < FREE && body.is_replayable() && may_go_on {
                    continue;
                }
            }
            if retrying.take().is_some()
                && let Some(key) = &ticket.key
            {
                key.cells.retry(if good { RetryResult::Success } else { RetryResult::Failure });
            }
            let wanted = match result {
                Ok(sent) if good => return Ok(sent),
                Ok(sent) => {
                    asked_to_wait += u32::from(sent.asks_to_wait());
                    held = Some(sent);
                    repeatable.filter(|retry| retry.on.gateway_error && asked_to_wait < WAITS)
                }
                Err(Failure::Client(reason)) => return Err(reason),
                Err(Failure::Full | Failure::Unseen(_)) => repeatable.filter(|retry| retry.on.connect_failure),
                Err(Failure::Seen(reason)) => {
                    last = Some(reason);
                    if reason == Reason::UpstreamTimeout {
                        order.note_silent();
                    }
                    repeatable.filter(|retry| retry.on.reset)
                }
            };
            let Some(terms) = wanted.filter(|terms| retries < terms.max && body.is_replayable()) else { break 'rounds };
            if !order.has_next() && (held.is_some() || !order.has_full()) {
                break 'rounds;
            }
            sleep(pause(retries, &mut order.random)).await;
            retrying = slot.budget.wait(&terms, &mut order.random).await;
            if retrying.is_none() {
                if let Some(key) = &ticket.key {
                    key.cells.retry(RetryResult::NoBudget);
                }
                break 'rounds;
            }
            retries += 1;
        }
        if order.lacks_room() {
            // It could have been served, had there been room: that says more than that nobody listens at home.
            last = last.filter(|reason| *reason != Reason::ConnectFailed).or(Some(Reason::Overloaded));
            proxy.slots.borrow().metrics().metrics().limit_hit("capacity");
        }
        if !is_queued && (held.is_some() || !has_queue || !order.has_full()) {
            break;
        }
        let past = past.get_or_insert_default();
        // Nobody waits with a place in hand.
        drop(past.place.take());
        let targets = order.targets(&past.lacking);
        let new = || Stay::new(Arc::clone(slot.queue(&proxy.queues)), Rc::clone(&slot.cells));
        let stay = past.stay.get_or_insert_with(new);
        // In memory of its own, for few requests ever wait.
        let end = Box::pin(stay.wait(proxy, snapshot, &home.settings.limits, targets, due(route, body, ticket))).await;
        (past.tried, random) = order.into_spent();
        is_queued = false;
        now = None;
        match end {
            End::Place(place) => past.place = Some(place),
            End::Newer(snapshot) => {
                newer = Some(snapshot);
                is_queued = true;
            }
            // What became of a try that a backend may have seen says more.
            End::Nothing(reason) => {
                last = last.filter(|_| retrying.is_some()).or(Some(reason));
                break;
            }
        }
    }
    // The last word of a backend is better than any of ours.
    let answer = held.ok_or_else(|| last.unwrap_or(Reason::NoHealthyBackend))?;
    ticket.backend = Some(Rc::clone(answer.server()));
    Ok(answer)
}

/// What a request that met a full backend has to remember.
#[derive(Default)]
struct Past {
    stay: Option<Stay>,
    /// What it came back with.
    place: Option<InFlight>,
    /// Where it had been sent before.
    tried: Tried,
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
fn room(backend: &Backend, max: u32, has_queue: bool) -> Option<InFlight> {
    let room = backend.try_request(max);
    if room.is_none() && !has_queue { backend.try_request_past(max) } else { room }
}

/// Until when there must be a response head; nothing is due while the client is still sending.
fn due<B>(route: &Route, body: &RequestBody<B>, ticket: &Ticket) -> Option<Instant>
where
    B: Body<Data = Bytes> + Unpin,
{
    body.done().map(|done| done.max(ticket.started) + route.timeout)
}

/// Before a retry: at random between 25 ms and a bound that doubles from 50 to 250 ms, so that the requests that failed
/// together do not come back together.
fn pause(retries: u32, random: &mut fastrand::Rng) -> Duration {
    let most = 50_u64.checked_shl(retries).unwrap_or(250).clamp(50, 250);
    Duration::from_millis(random.u64(25..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_bounded_and_differ() {
        let mut random = fastrand::Rng::with_seed(7);
        for retries in [0, 1, 2, 3, 31, 32, 99] {
            let pauses: Vec<_> = (0..50).map(|_| pause(retries, &mut random).as_millis()).collect();
            assert!(pauses.iter().all(|pause| (25..=250).contains(pause)), "{retries}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
        assert!((0..50).all(|_| pause(0, &mut random).as_millis() <= 50));
    }
}
