//! Drain, maintenance, ready: from an operator's word to the Snapshot.
//!
//! A pool's or a backend's state is one pool judged anew. A region may have a million pools, which takes seconds, so they
//! are gone through in slices: each looks at pools for [`SLICE`] and publishes what it has, and whatever else the control
//! plane has to do comes in between. Whoever asked is answered when all is done.
//!
//! A Plan on its way takes the states up when it is settled, on its own thread. What is said from then on is written down
//! and done again to its Snapshot before that is put in force; if that were many pools, it is settled again instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustc_hash::FxHashSet;

use super::super::change::{Change, Changed, Refused, Reply, Request};
use super::super::orders::{self, Orders, Scope};
use super::super::staging::{Settled, Settling};
use super::super::states::{Author, MAX_STATES, Said, States};
use super::Controller;
use crate::model::{Operator, PoolId, RegionId, Target};
use crate::routing::{PoolState, Server, Snapshot};
use crate::telemetry::Cause;

/// How long the control plane looks at pools of a region before it looks after other things.
const SLICE: Duration = Duration::from_millis(5);

/// Pools that are looked at between two looks at the clock.
const PER_LOOK: usize = 64;

/// Pools that may be judged anew in the moment in which a Plan is put in force.
const AT_ONCE: usize = 4096;

/// How often a Plan is settled again because regions changed meanwhile. Then they are done in that moment after all,
/// rather than that a Plan never comes into force.
const AGAIN: u8 = 3;

/// A change, and how far it is.
pub(super) struct Work {
    author: Author,
    changed: Changed,
    /// Backends that it concerns, by place in memory.
    seen: FxHashSet<usize>,
    held: FxHashSet<usize>,
    /// Since when what comes back is warming up; `None`: nothing comes back.
    warm: Option<Instant>,
    reply: Reply,
}

/// A region whose pools are being gone through.
pub(super) struct Sweep {
    work: Work,
    region: RegionId,
    next: usize,
}

/// What was said while a Plan was being settled.
#[derive(Default)]
pub(super) struct Overtaking {
    targets: Vec<Target>,
    times: u8,
}

/// A change that holds.
#[derive(Debug)]
pub struct Done {
    /// What came of it.
    pub changed: Changed,
    /// Who waits for it.
    pub reply: Reply,
}

impl Controller {
    /// Does what an operator asks for. `None`: it was refused, or takes a while; then [`Controller::sweep`] is to be
    /// called again and again.
    pub fn operate(&mut self, request: Request) -> Option<Done> {
        let Request { change: Change { target, state, author }, reply } = request;
        let snapshot = self.table.load();
        let mut states = (*self.board.states()).clone();
        let is_absent = |said: &Said| state == Operator::Ready && !orders::is_configured(&snapshot, &said.target);
        let (scope, target) = match (orders::find(&snapshot, &target), states.get(&target)) {
            // It is not configured any more, though its name may mean another by now. Its state can be taken back.
            (_, Some(said)) if is_absent(said) => (None, said.target.clone()),
            (Err(_), Some(said)) => (None, said.target.clone()),
            (Ok((scope, target)), _) => (Some(scope), target),
            (Err(unknown), None) => {
                // Whoever asked may have gone.
                let _ = reply.send(Err(Refused::Unknown(unknown)));
                return None;
            }
        };
        let before = states.state(&target);
        if states.len() >= MAX_STATES && before == Operator::Ready && state != Operator::Ready {
            let _ = reply.send(Err(Refused::TooMany));
            return None;
        }
        if before != state {
            let since = Timestamp::now();
            let absent_since = scope.is_none().then_some(since);
            states.say(Said { target: target.clone(), state, since, author: author.clone(), absent_since });
            self.orders = Orders::new(&states, &self.world.index);
            self.board.set(states);
            if let Some(overtaking) = &mut self.overtaking {
                overtaking.targets.push(target.clone());
            }
        }
        let comes_back = state == Operator::Ready && before != state;
        let changed = Changed { target, before, after: state, pools: 0, backends: 0, held: 0, saved: Ok(()) };
        let warm = comes_back.then(Instant::now);
        let mut work = Work { author, changed, seen: FxHashSet::default(), held: FxHashSet::default(), warm, reply };
        let (id, address) = match scope {
            None => return Some(self.done(work)),
            Some(Scope::Region(region)) => {
                self.sweep = Some(Sweep { work, region, next: 0 });
                return None;
            }
            Some(Scope::Pool(id)) => (id, None),
            Some(Scope::Backend(id, address)) => (id, Some(address)),
        };
        let pool = self.look(&mut work, &snapshot, id, address.as_deref());
        if let Some(pool) = pool {
            self.swap(snapshot.with_changes([(id, pool)]));
            self.note_warming([id]);
        }
        Some(self.done(work))
    }

    /// Whether a region's pools are being gone through. Until they are, nothing else can be asked for.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes through some more pools of a region; when that was the last, what came of it.
    pub fn sweep(&mut self) -> Option<Done> {
        let mut sweep = self.sweep.take()?;
        let snapshot = self.table.load();
        let begun = Instant::now();
        let mut changes = Vec::new();
        let mut looked = 0;
        while let Some(pool) = snapshot.index.plan.pools.get(sweep.next) {
            if pool.region == sweep.region {
                let id = PoolId(u32::try_from(sweep.next).unwrap_or(u32::MAX));
                if let Some(pool) = self.look(&mut sweep.work, &snapshot, id, None) {
                    changes.push((id, pool));
                }
            }
            sweep.next += 1;
            looked += 1;
            if looked % PER_LOOK == 0 && begun.elapsed() >= SLICE {
                break;
            }
        }
        if !changes.is_empty() {
            let ids: Vec<_> = changes.iter().map(|(id, _)| *id).collect();
            self.swap(snapshot.with_changes(changes));
            self.note_warming(ids);
        }
        if sweep.next < snapshot.index.plan.pools.len() {
            self.sweep = Some(sweep);
            return None;
        }
        Some(self.done(sweep.work))
    }

    /// Looks at one pool: what it is to be, or `None` if it is that already.
    fn look(&self, work: &mut Work, snapshot: &Snapshot, id: PoolId, address: Option<&str>) -> Option<PoolState> {
        let now = Instant::now();
        let pool = snapshot.pool(id);
        work.changed.pools += 1;
        // Whoever is back in no other pool is cold, so it warms up before its share is worked out. In a region that
        // was out, so was everybody.
        let is_region = matches!(work.changed.target, Target::Region(_));
        for server in pool.servers().filter(|server| address.is_none_or(|address| *server.backend.label == *address)) {
            let place = Arc::as_ptr(&server.backend) as usize;
            work.seen.insert(place);
            let is_held = self.orders.of(id, &server.backend.label) != Operator::Ready;
            if is_held && work.changed.after == Operator::Ready {
                work.held.insert(place);
            }
            if let Some(since) = work.warm.filter(|_| !is_held)
                && (is_region || self.is_out_everywhere(snapshot, server))
            {
                server.backend.warm_up(since);
            }
        }
        let next = self.orders.commanded(pool, now)?;
        let (asset, region) = snapshot.index.pool_labels(id);
        for (before, after) in pool.servers().zip(next.servers()) {
            let [was, is] = [before, after].map(|server| server.operator == Operator::Ready);
            if was != is {
                self.metrics.transition(&asset, &region, &after.backend.label, is, Cause::Admin);
            }
        }
        Some(next)
    }

    /// Whether every pool that has this server has it taken out by the operator.
    fn is_out_everywhere(&self, snapshot: &Snapshot, server: &Server) -> bool {
        self.world.pools_of(&server.backend).iter().all(|&id| {
            let mut same = snapshot.pool(id).servers().filter(|other| Arc::ptr_eq(&other.backend, &server.backend));
            same.all(|server| server.operator != Operator::Ready)
        })
    }

    fn note_warming(&mut self, ids: impl IntoIterator<Item = PoolId>) {
        let snapshot = self.table.load();
        let warming = ids.into_iter().filter(|&id| snapshot.pool(id).is_warming_up());
        self.world.warming.extend(warming);
    }

    /// Says of a change that it holds: in the log, in an event, to whoever asked.
    fn done(&self, work: Work) -> Done {
        let Work { author, mut changed, seen, held, reply, .. } = work;
        (changed.backends, changed.held) = (seen.len(), held.len());
        let Changed { target, before, after, pools, backends, .. } = &changed;
        if before != after {
            let (name, level) = (target.to_string(), target.level());
            tracing::info!(
                target: "audit",
                subject = name,
                scope = level,
                before = before.as_str(),
                after = after.as_str(),
                pools,
                backends,
                from = author.from,
                who = author.who,
                reason = author.reason,
                "state changed"
            );
            let [region, asset, backend] = target.parts().map(|part| part.map(|part| part.to_string()));
            let about = [
                ("level", level.into()),
                ("region", region.into()),
                ("asset", asset.into()),
                ("backend", backend.into()),
                ("before", before.as_str().into()),
                ("after", after.as_str().into()),
                ("pools", (*pools).into()),
                ("backends", (*backends).into()),
                ("who", author.who.into()),
                ("reason", author.reason.into()),
            ];
            self.board.events().emit("operator", &about);
        }
        Done { changed, reply }
    }

    /// Whether more was said while this Plan was being settled than can be done to it in a moment; then it is to be
    /// settled again.
    pub fn is_overtaken(&self, settled: &Settled) -> bool {
        let Some(overtaking) = self.overtaking.as_ref().filter(|overtaking| overtaking.times < AGAIN) else {
            return false;
        };
        let index = &settled.next.world.index;
        overtaking.targets.iter().map(|target| orders::pools_of(index, target).count()).sum::<usize>() > AT_ONCE
    }

    /// The step that settles a Plan once more.
    pub fn settle_again(&mut self, settled: Settled) -> Settling {
        let times = self.overtaking.take().map_or(0, |overtaking| overtaking.times);
        self.overtaking = Some(Overtaking { targets: Vec::new(), times: times + 1 });
        let Settled { known, next } = settled;
        Settling { known, next, states: self.board.states() }
    }

    /// Of the next Plan: the pools of what was said while it was being settled. What is left of a region's pools is gone
    /// through by its numbers, and counted again.
    pub(super) fn overtook(&mut self, next: &super::World) -> Vec<PoolId> {
        let overtaking = self.overtaking.take().unwrap_or_default();
        if let Some(Sweep { work, region, next: place }) = &mut self.sweep
            && let [Some(name), ..] = work.changed.target.parts()
        {
            *place = next.index.region(&**name).map_or(usize::MAX, |id| {
                *region = id;
                0
            });
            work.changed.pools = 0;
            work.seen.clear();
            work.held.clear();
        }
        overtaking.targets.iter().flat_map(|target| orders::pools_of(&next.index, target)).collect()
    }

    /// Notes which names no configuration speaks of any more, and forgets those that none has for long.
    pub(super) fn review(&self) {
        let snapshot = self.table.load();
        let states = self.board.states();
        let Some((states, forgotten)) =
            states.reviewed(Timestamp::now(), |target| orders::is_configured(&snapshot, target))
        else {
            return;
        };
        for said in forgotten {
            let (subject, state) = (said.target.to_string(), said.state.as_str());
            tracing::info!(target: "audit", subject, state, "state forgotten: nothing of this name has been configured for long");
        }
        self.board.set(states);
    }

    /// What operators have said.
    pub fn states(&self) -> Arc<States> {
        self.board.states()
    }
}
