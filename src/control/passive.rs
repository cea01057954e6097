//! Ejections: what workers observe of backends becomes a decision here.
//!
//! A worker says that a backend has had too many errors in a row, or that a request went well at one that is half-open;
//! every [`outlier::INTERVAL`] backends of large pools are compared. Each backend that is not above suspicion has a
//! [`Breaker`] here, and what that comes to is written into the backend, where all judge by it.
//!
//! A check that passes ends an ejection if it can see what was wrong: if the errors were all of connecting, or if it had
//! failed itself meanwhile. A TCP check says nothing about a server that cuts its answers short, and if each passing
//! check brought such a one back, clients would pay for it every interval.

use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use crate::backend::outlier::{self, outliers};
use crate::backend::{Backend, Breaker, Ejection, Observation, Passive, Tick};
use crate::model::{Detector, Outlier, PoolId};
use crate::routing::Snapshot;

/// Something has happened to a backend.
#[derive(Debug)]
pub struct Change {
    /// To whom.
    pub backend: Arc<Backend>,
    /// What it is now.
    pub what: What,
}

/// What.
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// It is out.
    Ejected(Ejection),
    /// It would be, if its pools enforced that: this one, or all that do not.
    Counted(Detector, Option<PoolId>),
    /// It gets one request at a time.
    HalfOpened,
    /// It is one like the others again.
    Closed,
}

/// The backends that are not above suspicion, and how all of them did when they were last compared.
pub struct Ejections {
    breakers: FxHashMap<usize, (Arc<Backend>, Breaker)>,
    /// Requests and errors so far, of the backends that are compared.
    tallies: FxHashMap<usize, (Arc<Backend>, (u32, u32))>,
    compared: Instant,
}

impl Ejections {
    /// Everybody is above suspicion.
    pub fn new(now: Instant) -> Self {
        Self { breakers: FxHashMap::default(), tallies: FxHashMap::default(), compared: now }
    }

    /// What a worker has observed.
    pub fn observe(&mut self, observation: Observation, now: Instant) -> Option<Change> {
        match observation {
            Observation::Failing(backend, terms) => self.eject(backend, &terms, Detector::ConsecutiveErrors, None, now),
            Observation::Recovered(backend) => self.close(backend, now),
            // What is said of other things is not for here.
            Observation::Announced(..) | Observation::Reports(_) => None,
        }
    }

    /// A backend's check has passed that could have seen what was wrong with it.
    pub fn cleared(&mut self, backend: &Arc<Backend>, now: Instant) -> Option<Change> {
        if backend.passive() == Passive::Trusted { None } else { self.close(Arc::clone(backend), now) }
    }

    /// To be called every now and then. `pools`: those that are compared. `lives`: whether a backend is in any pool; what
    /// is in none is forgotten, or nobody would ever let go of it.
    pub fn tick(
        &mut self,
        snapshot: &Snapshot,
        pools: impl Iterator<Item = PoolId>,
        lives: impl Fn(&Arc<Backend>) -> bool,
        now: Instant,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.breakers.retain(|_, (backend, breaker)| match breaker.tick(now) {
            _ if !lives(backend) => {
                backend.trust();
                false
            }
            Tick::Same => true,
            Tick::HalfOpened => {
                backend.half_open();
                changes.push(Change { backend: Arc::clone(backend), what: What::HalfOpened });
                true
            }
            Tick::Closed => {
                backend.trust();
                changes.push(Change { backend: Arc::clone(backend), what: What::Closed });
                true
            }
            Tick::Forgotten => false,
        });
        if now.saturating_duration_since(self.compared) >= outlier::INTERVAL {
            self.compared = now;
            changes.extend(self.compare(snapshot, pools, now));
        }
        changes
    }

    fn compare(&mut self, snapshot: &Snapshot, pools: impl Iterator<Item = PoolId>, now: Instant) -> Vec<Change> {
        let before = std::mem::take(&mut self.tallies);
        let mut changes = Vec::new();
        for id in pools {
            let pool = snapshot.pool(id);
            let Some(terms) = &pool.settings.outlier else { continue };
            let rates: Vec<_> = pool
                .servers()
                .map(|server| {
                    let (requests, errors) = server.backend.tally();
                    let place = Arc::as_ptr(&server.backend) as usize;
                    self.tallies.entry(place).or_insert_with(|| (Arc::clone(&server.backend), (requests, errors)));
                    // Of one that was not there before nobody knows what it has done since.
                    let (requests_then, errors_then) =
                        before.get(&place).map_or((requests, errors), |(_, tally)| *tally);
                    (requests.wrapping_sub(requests_then), errors.wrapping_sub(errors_then))
                })
                .collect();
            for place in outliers(&rates) {
                let Some(server) = pool.servers().nth(place) else { continue };
                if server.backend.passive() == Passive::Trusted {
                    changes.extend(self.eject(
                        Arc::clone(&server.backend),
                        terms,
                        Detector::SuccessRate,
                        Some(id),
                        now,
                    ));
                }
            }
        }
        changes
    }

    /// `pool`: in which it stands out; `None`: its errors are of all its pools.
    fn eject(
        &mut self,
        backend: Arc<Backend>,
        terms: &Outlier,
        detector: Detector,
        pool: Option<PoolId>,
        now: Instant,
    ) -> Option<Change> {
        if !terms.enforce {
            return Some(Change { backend, what: What::Counted(detector, pool) });
        }
        let new = || (Arc::clone(&backend), Breaker::new(now));
        let (_, breaker) = self.breakers.entry(Arc::as_ptr(&backend) as usize).or_insert_with(new);
        let until = breaker.trip(now, terms)?;
        let shallow = detector == Detector::ConsecutiveErrors && backend.are_errors_shallow();
        let ejection = Ejection { since: now, until, detector, shallow };
        backend.eject(ejection);
        Some(Change { backend, what: What::Ejected(ejection) })
    }

    fn close(&mut self, backend: Arc<Backend>, now: Instant) -> Option<Change> {
        let (_, breaker) = self.breakers.get_mut(&(Arc::as_ptr(&backend) as usize))?;
        if !breaker.close(now) {
            return None;
        }
        backend.trust();
        Some(Change { backend, what: What::Closed })
    }
}
