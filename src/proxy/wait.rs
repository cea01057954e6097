//! A request's stay in the queue of its pool, when every backend that it could use is full.
//!
//! Who gets a place is decided in [`queue`](crate::backend::queue), by whoever frees one. Here are the clock and what the
//! ends of requests can't tell: every now and then a request that waits looks again, at its backends, for a limit may
//! have been raised or a connection closed; and at the Snapshot, for a backend may have come up.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Proxy;
use crate::backend::InFlight;
use crate::backend::queue::{Placed, Queue, Target, Waiter};
use crate::model::{Limit, Reason};
use crate::routing::Snapshot;
use crate::telemetry::PoolCells;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// All the times that one request waits.
pub(super) struct Stay {
    waiter: Waiter,
    cells: Rc<PoolCells>,
    /// So far, without the time that is running; `None`: it never had to.
    waited: Option<Duration>,
    since: Option<Instant>,
}

/// How a wait ended.
pub(super) enum End {
    /// With a place at one of the backends.
    Place(InFlight),
    /// The backends are judged otherwise now. It stands in the queue still.
    Newer(Arc<Snapshot>),
    /// With nothing.
    Nothing(Reason),
}

impl Stay {
    pub(super) fn new(queue: Arc<Queue>, cells: Rc<PoolCells>) -> Self {
        Self { waiter: Waiter::new(queue), cells, waited: None, since: None }
    }

    /// Waits for a place at any of these backends of this Snapshot, until the deadline at most.
    pub(super) async fn wait<B>(
        &mut self,
        proxy: &Proxy<B>,
        snapshot: &Snapshot,
        limit: &Limit,
        targets: Vec<Target>,
        deadline: Option<Instant>,
    ) -> End {
        let hit = |limit| proxy.slots.borrow().metrics().metrics().limit_hit(limit);
        if targets.is_empty() {
            self.waiter.leave();
            return End::Nothing(Reason::NoHealthyBackend);
        }
        if !self.waiter.enter(limit, targets) {
            hit("max_queue");
            return End::Nothing(Reason::Overloaded);
        }
        let began = Instant::now();
        let waited = self.waited.unwrap_or_default();
        (self.waited, self.since) = (Some(waited), Some(began));
        let queued = self.cells.queued();
        let patience = began + limit.queue_timeout.saturating_sub(waited);
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let end = loop {
            let look = until.min(Instant::now() + LOOK);
            match timeout_at(look, poll_fn(|cx| self.waiter.poll(cx))).await {
                Ok(Placed::At(place)) => break End::Place(place),
                Ok(Placed::Displaced) => {
                    hit("max_queue");
                    break End::Nothing(Reason::Overloaded);
                }
                Err(_) => {}
            }
            if Instant::now() >= until {
                if let Some(place) = self.waiter.leave() {
                    break End::Place(place);
                }
                if until == patience {
                    hit("queue_timeout");
                }
                break End::Nothing(Reason::QueueTimeout);
            }
            let newest = proxy.table.borrow_mut().current();
            // Another Plan has other numbers; a request keeps to its own.
            if newest.generation != snapshot.generation && Arc::ptr_eq(&newest.index, &snapshot.index) {
                break End::Newer(Arc::clone(&newest));
            }
            self.waiter.look();
        };
        drop(queued);
        (self.waited, self.since) = (Some(waited + began.elapsed()), None);
        end
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(waited) = self.waited {
            let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
            self.cells.waited(waited + now);
        }
    }
}
