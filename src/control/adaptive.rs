//! Limits that adapt: which backends have one, and a window for each at every tick.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::backend::{Backend, Gradient};
use crate::model::PoolId;
use crate::routing::Snapshot;

/// The backends of pools whose limits adapt.
#[derive(Default)]
pub(super) struct Limiters(FxHashMap<usize, Limiter>);

struct Limiter {
    backend: Arc<Backend>,
    gradient: Gradient,
    /// The number of the tick at which it was last asked for.
    seen: u64,
}

impl Limiters {
    /// Takes in what was measured since the last tick. A backend that is in no such pool any more has no limit of its own.
    pub(super) fn tick(&mut self, snapshot: &Snapshot, pools: impl Iterator<Item = PoolId>) {
        let tick = self.0.values().map(|limiter| limiter.seen).max().unwrap_or(0) + 1;
        for id in pools {
            for server in snapshot.pool(id).servers() {
                let backend = &server.backend;
                let new = || Limiter { backend: Arc::clone(backend), gradient: Gradient::default(), seen: 0 };
                let limiter = self.0.entry(Arc::as_ptr(backend) as usize).or_insert_with(new);
                if limiter.seen == tick {
                    continue;
                }
                limiter.seen = tick;
                let (answers, took) = backend.take_answers();
                limiter.gradient.note(answers, took, backend.in_flight());
                backend.set_limit(Some(limiter.gradient.limit()));
            }
        }
        self.0.retain(|_, limiter| {
            if limiter.seen != tick {
                limiter.backend.set_limit(None);
            }
            limiter.seen == tick
        });
    }
}
