//! How many requests may be retries at once.
//!
//! Retries help while few requests fail; when many do, they multiply the load on servers that are already in trouble.
//! So they may be at most a share of the requests in flight, with a small number that is always allowed (Envoy's retry
//! budget; the thought is from the Google SRE book, "Addressing Cascading Failures"). Counted per pool and worker: it
//! needs no shared line, and a share of each worker's requests is a share of all.

use std::cell::Cell;
use std::rc::Rc;

use crate::model::Retry;

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

    /// Counts a retry, if there is room for one.
    pub(crate) fn retry(self: &Rc<Self>, terms: &Retry) -> Option<Counted> {
        let share = u64::from(self.active.get()) * u64::from(terms.budget_percent) / 100;
        let most = share.max(u64::from(terms.budget_min));
        (u64::from(self.retrying.get()) < most).then(|| self.count(|budget| &budget.retrying))
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
}
