//! How many requests may be retries at once.
//!
//! Retries help while few requests fail; when many do, they multiply the load on servers that are already in trouble.
//! So they may be at most a share of the requests in flight, with a small number that is always allowed (Envoy's retry
//! budget; the thought is from the Google SRE book, "Addressing Cascading Failures"). Counted per pool and worker: it
//! needs no shared line, and a share of each worker's requests is a share of all.
//!
//! A retry that finds no room waits a little for one. When a server dies, all that it was serving fails at one moment,
//! more than a fifth of what is in flight; each retry takes a millisecond, so a short wait lets them through one after
//! the other, and the servers that are left still never see more than the share at once. When many requests fail for
//! long, the wait runs out.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::model::Retry;

/// How long a retry waits for room.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks for room, in milliseconds.
const LOOKS: RangeInclusive<u64> = 2..=10;

/// The requests of one pool on one worker.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    active: Cell<u32>,
    retrying: Cell<u32>,
}

/// A request in flight, or one that is now a retry; counted down on drop.
pub(crate) struct Counted {
    budget: Rc<Budget>,
    which: fn(&Budget) -> &Cell<u32>,
}

impl Budget {
    /// Counts a request.
    pub(crate) fn enter(self: &Rc<Self>) -> Counted {
        self.count(|budget| &budget.active)
    }

    /// Whether there is room for a retry.
    pub(crate) fn has_room(&self, terms: &Retry) -> bool {
        let share = u64::from(self.active.get()) * u64::from(terms.budget_percent) / 100;
        let most = share.max(u64::from(terms.budget_min));
        u64::from(self.retrying.get()) < most
    }

    /// Counts a retry, if there is room for one.
    pub(crate) fn retry(self: &Rc<Self>, terms: &Retry) -> Option<Counted> {
        self.has_room(terms).then(|| self.count(|budget| &budget.retrying))
    }

    /// Counts a retry as soon as there is room for one; `None`: there was none for too long or until it was `due`, or there
    /// never is.
    pub(crate) async fn wait(
        self: &Rc<Self>,
        terms: &Retry,
        due: Option<Instant>,
        random: &mut fastrand::Rng,
    ) -> Option<Counted> {
        let patience = Instant::now() + PATIENCE;
        let end = due.map_or(patience, |due| due.min(patience));
        loop {
            let counted = self.retry(terms);
            let hopeless = terms.budget_percent == 0 && terms.budget_min == 0;
            if counted.is_some() || hopeless || Instant::now() >= end {
                return counted;
            }
            sleep(Duration::from_millis(random.u64(LOOKS))).await;
        }
    }

    fn count(self: &Rc<Self>, which: fn(&Self) -> &Cell<u32>) -> Counted {
        let cell = which(self);
        cell.set(cell.get() + 1);
        Counted { budget: Rc::clone(self), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = (self.which)(&self.budget);
        cell.set(cell.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_those_in_flight_with_a_floor() {
        let terms = Retry { budget_percent: 20, budget_min: 3, ..Retry::default() };
        for (active, allowed) in [(0, 3), (1, 3), (15, 3), (20, 4), (100, 20)] {
            let budget = Rc::new(Budget::default());
            let requests: Vec<_> = (0..active).map(|_| budget.enter()).collect();
            let mut retries = Vec::new();
            while let Some(retry) = budget.retry(&terms) {
                retries.push(retry);
            }
            assert_eq!(retries.len(), allowed, "{active} in flight");
            retries.pop();
            assert!(budget.retry(&terms).is_some());
            drop((requests, retries));
            assert_eq!((budget.active.get(), budget.retrying.get()), (0, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_waits_for_room_but_not_for_long() {
        let mut random = fastrand::Rng::with_seed(1);
        let terms = Retry { budget_percent: 0, budget_min: 1, ..Retry::default() };
        let budget = Rc::new(Budget::default());
        let first = budget.wait(&terms, None, &mut random).await;
        assert!(first.is_some());
        let began = Instant::now();
        assert!(budget.wait(&terms, None, &mut random).await.is_none());
        assert!((500..520).contains(&began.elapsed().as_millis()));
        let began = Instant::now();
        assert!(budget.wait(&terms, Some(began + Duration::from_millis(50)), &mut random).await.is_none());
        assert!((50..70).contains(&began.elapsed().as_millis()));
        let release = async {
            sleep(Duration::from_millis(100)).await;
            drop(first);
        };
        let (second, ()) = futures_util::future::join(budget.wait(&terms, None, &mut random), release).await;
        assert!(second.is_some());
        let never = Retry { budget_min: 0, ..terms };
        let began = Instant::now();
        assert!(Rc::new(Budget::default()).wait(&never, None, &mut random).await.is_none());
        assert_eq!(began.elapsed().as_millis(), 0);
    }
}
