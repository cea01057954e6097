//! A first try that may be hedged: when it takes longer than nearly all others of its pool, another backend is asked as
//! well, and the first good answer counts.
//!
//! The loser is dropped, which closes its connection and gives its place back: it is no error of its backend's, and no
//! retry. A try that fails meanwhile leaves the request to the other one, as to the next; what comes after that goes by
//! the rules of retries.
//!
//! The second try goes where a retry would go. It never waits, neither for a place nor for a connection, and never goes to
//! a backend on probation, nor takes the place of one that is: of the one request that is to show whether it is well
//! the end must be seen.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body::Body;
use tokio::time::Instant;

use super::after::answered;
use super::race::{Finish, race};
use super::{Start, Tried, Tries};
use crate::backend::{Backend, InFlight};
use crate::model::{Reason, Route};
use crate::proxy::attempt::{Done, Failure};
use crate::proxy::hedging::Hedging;
use crate::proxy::order::{Next, Order};
use crate::proxy::slots::KeySlot;
use crate::proxy::{BoxError, UpstreamBody};
use crate::routing::Index;
use crate::telemetry::HedgeResult;

/// Whether requests of this method may be hedged on this route. Others may have an effect, and two at once are not the
/// same as one after the other.
pub(super) fn may_hedge(route: &Route, method: &Method) -> bool {
    route.hedge && matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// One of the two, when it is over.
struct Ended<'s, B> {
    done: Done<UpstreamBody<B>>,
    backend: &'s Arc<Backend>,
    /// `None`: the first.
    hedge: Option<Hedge>,
}

impl<B> Ended<'_, B> {
    fn is_good(&self) -> bool {
        matches!(&self.done.result, Ok(sent) if !sent.is_gateway_error())
    }

    /// Nothing that the other could say would be better.
    fn is_final(&self) -> bool {
        self.is_good() || matches!(self.done.result, Err(Failure::Client(_)))
    }
}

/// A second try. Dropping it counts what became of it.
struct Hedge {
    key: Option<Rc<KeySlot>>,
    /// `None`: it was not made after all.
    result: Option<HedgeResult>,
}

impl Drop for Hedge {
    fn drop(&mut self) {
        if let (Some(key), Some(result)) = (&self.key, self.result) {
            key.cells.hedge(result);
        }
    }
}

impl<B> Tries<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The first try, and one beside it if need be.
    pub(super) async fn hedged<'s>(
        &mut self,
        next: &Next<'s>,
        place: InFlight,
        start: Start,
        order: &mut Order<'s>,
        index: &Index,
    ) -> Tried<B> {
        let hedging = next.slot.hedging();
        let due = hedging.begin().map(|patience| start.now + patience);
        let this = &*self;
        let first = async {
            let attempt = this.attempt(next, start, false);
            let done = attempt.send(place, this.proxy, this.outgoing, this.body, this.ticket).await;
            Ended { done, backend: &next.server.backend, hedge: None }
        };
        let second = || {
            let (next, place, start, hedge) = this.second(next, hedging, order, index)?;
            Some(async move {
                let attempt = this.attempt(&next, start, true);
                let done = attempt.send(place, this.proxy, this.outgoing, this.body, this.ticket).await;
                Ended { done, backend: &next.server.backend, hedge: Some(hedge) }
            })
        };
        match race(first, due, second, Ended::is_final).await {
            Finish::Alone(first) => self.over(first, hedging),
            Finish::One(winner) => {
                // The other one, which was given up.
                self.ticket.attempts += 1;
                if winner.hedge.is_some() {
                    let took = start.now.elapsed();
                    hedging.took(took);
                    if next.pool.settings.limits.adaptive {
                        next.server.backend.kept_silent(took);
                    }
                }
                self.over(winner, hedging)
            }
            Finish::Both { earlier, last } => {
                self.failed_beside(earlier, hedging, order).map_err(Failure::Client)?;
                if !matches!(last.done.result, Err(Failure::Full)) {
                    order.note_spent(last.backend);
                }
                self.over(last, hedging)
            }
        }
    }

    /// Another backend, if the request may go there now.
    fn second<'s>(
        &self,
        first: &Next<'s>,
        hedging: &Hedging,
        order: &mut Order<'s>,
        index: &Index,
    ) -> Option<(Next<'s>, InFlight, Start, Hedge)> {
        let now = Instant::now();
        let left = self.due()?.saturating_duration_since(now);
        if left.is_zero() || self.body.done().is_none() || !self.body.is_replayable() || first.server.is_half_open {
            return None;
        }
        let key = self.ticket.key.clone();
        let has_room = self.retry.is_none_or(|terms| self.slot.budget.has_room(&terms));
        if !has_room || !hedging.may_hedge() {
            let result = order.has_next().then_some(HedgeResult::NoBudget);
            drop(Hedge { key, result });
            return None;
        }
        order.note_spent(&first.server.backend);
        let next = order.next(&self.proxy.slots, index, None)?;
        let backend = &next.server.backend;
        let max = next.server.at_most(next.pool.settings.limits.max_requests);
        let Some(place) = (!next.server.is_half_open).then(|| backend.try_request(max)).flatten() else {
            order.put_back();
            return None;
        };
        hedging.hedged();
        self.count_failover(&next);
        Some((next, place, Start { now, left }, Hedge { key, result: Some(HedgeResult::Lost) }))
    }

    /// Remembers one that failed while the other one, which is now the next try, goes on.
    fn failed_beside(&mut self, ended: Ended<'_, B>, hedging: &Hedging, order: &mut Order<'_>) -> Result<(), Reason> {
        let Ended { backend, .. } = ended;
        if let Err(Failure::Full) = ended.done.result {
            if let Some(mut hedge) = ended.hedge {
                hedge.result = None;
            }
            self.past.get_or_insert_default().lacks(backend);
            return Ok(());
        }
        // What was free does not count.
        self.retries += u32::from(!matches!(ended.done.result, Err(Failure::Unseen(_))));
        let result = self.over(ended, hedging);
        if let Some(status) = answered(&result) {
            self.note_passed_over(&backend.label, status);
        }
        self.failed(result, backend, order).map(drop)
    }

    /// Counts one that is over.
    fn over(&mut self, ended: Ended<'_, B>, hedging: &Hedging) -> Tried<B> {
        let is_good = ended.is_good();
        let is_measured = is_good || matches!(ended.done.result, Err(Failure::Seen(Reason::UpstreamTimeout)));
        match ended.hedge {
            Some(mut hedge) if is_good => hedge.result = Some(HedgeResult::Won),
            Some(_) => {}
            None if is_measured => ended.done.took.iter().for_each(|took| hedging.took(took.upstream)),
            None => {}
        }
        self.note(ended.done)
    }
}
