//! The only writer of the Snapshot.
//!
//! A Plan comes in force in steps. [`Controller::stage`] and [`Controller::settle`] give out the two long ones, to be run
//! on a thread of their own: its backends become known and its Snapshot is built; then, when the first round of checks
//! is over, that is judged anew. The Snapshot in force stays as it is, until [`Controller::publish`] swaps the new one
//! in, which takes no longer for a million pools than for ten. In between and ever after, facts come in one by one, mark
//! the pools that they concern, and are published together by [`Controller::flush`].
//!
//! An old Snapshot is kept until nobody else holds it, so that it is never freed by a worker; [`Controller::tick`] gives
//! it out to whoever has the time.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustc_hash::FxHashMap;

use super::Summary;
use super::adaptive::Limiters;
use super::board::Board;
use super::heard::Heard;
use super::orders::Orders;
use super::passive::{Change, Ejections, What};
use super::staging::{Known, Next, Settled, Settling, Staged, Staging};
use super::world::{Answers, World};
use crate::backend::{Backend, Observation};
use crate::health::{Prober, Transition};
use crate::model::{Plan, PoolId};
use crate::routing::{Snapshot, Table};
use crate::telemetry::{Cause, Metrics, Subject};

mod names;
mod operator;
mod tell;
mod words;

pub use operator::Done;

/// How long facts are gathered before they are published.
pub const GATHER: Duration = Duration::from_millis(10);

/// A sweep looks at every backend, so with more of them than this it comes less often.
const SWEPT_PER_TICK: usize = 10_000;

/// Between two words in the log about ejections that are only counted.
const COUNTED_PAUSE: Duration = Duration::from_secs(10);

/// Turns a Plan and facts into Snapshots. See the module.
pub struct Controller {
    table: Arc<Table>,
    pub(super) metrics: Arc<Metrics>,
    prober: Prober,
    /// `None` while a step on another thread has it.
    known: Option<Known>,
    /// Addresses of names that have come in.
    news: Answers,
    world: World,
    /// The Plan that waits for its first round of checks.
    next: Option<Next>,
    /// While the next Plan is judged anew: what has changed since, by place in memory.
    since: Option<FxHashMap<usize, Arc<Backend>>>,
    dirty: BTreeSet<PoolId>,
    pub(super) board: Arc<Board>,
    /// What operators have said, for the Plan in force.
    orders: Orders,
    sweep: Option<operator::Sweep>,
    /// While a Plan is being settled.
    overtaking: Option<operator::Overtaking>,
    ejections: Ejections,
    /// No word in the log about ejections that are only counted, until then.
    counted_until: Option<Instant>,
    limiters: Limiters,
    heard: Heard,
    retired: Vec<Retired>,
    /// Ticks to go.
    until_sweep: usize,
}

/// What is not in force any more. Freeing it may take as long as building it did.
pub struct Retired {
    snapshot: Arc<Snapshot>,
    _world: Option<World>,
}

impl Controller {
    /// A controller whose table holds a Snapshot that nobody is served by yet.
    pub fn new(table: Arc<Table>, metrics: Arc<Metrics>, prober: Prober, board: Arc<Board>) -> Self {
        let world = World::new(Arc::clone(&table.load().index));
        let orders = Orders::new(&board.states(), &world.index);
        Self {
            table,
            metrics,
            prober,
            known: Some(Known::default()),
            news: Answers::new(),
            world,
            next: None,
            since: None,
            dirty: BTreeSet::new(),
            board,
            orders,
            sweep: None,
            overtaking: None,
            ejections: Ejections::new(Instant::now()),
            counted_until: None,
            limiters: Limiters::default(),
            heard: Heard::new(Instant::now()),
            retired: Vec::new(),
            until_sweep: 0,
        }
    }

    /// The step that makes a Plan's backends known; `answers` are the addresses of its names. `None` while another
    /// Plan is on its way.
    pub fn stage(&mut self, plan: Arc<Plan>, answers: Vec<(Arc<str>, Vec<IpAddr>)>) -> Option<Staging> {
        Some(Staging { known: self.known.take()?, plan, answers, current: self.table.load() })
    }

    /// Begins to check a Plan's backends. The future ends with the first round of checks.
    pub fn check(&mut self, staged: Staged) -> impl Future<Output = ()> + use<> {
        let Staged { known, next } = staged;
        self.take_back(known);
        self.next = Some(next);
        self.watch();
        self.prober.first_round()
    }

    /// The step that judges a Plan's pools by its first round of checks. `None` if there is no such Plan.
    pub fn settle(&mut self) -> Option<Settling> {
        let (next, known) = (self.next.take()?, self.known.take()?);
        self.since = Some(FxHashMap::default());
        self.overtaking = Some(operator::Overtaking::default());
        Some(Settling { known, next, states: self.board.states() })
    }

    /// Forgets the Plan that is on its way: it could not be put in force.
    pub fn abandon(&mut self) {
        self.next = None;
        self.since = None;
        self.overtaking = None;
        self.watch();
    }

    /// The same for a Plan whose first step ends only now.
    pub fn abandon_staged(&mut self, staged: Staged) {
        self.take_back(staged.known);
    }

    /// The same for a Plan whose last step ends only now.
    pub fn abandon_settled(&mut self, settled: Settled) {
        self.take_back(settled.known);
    }

    /// Puts a Plan in force.
    pub fn publish(&mut self, settled: Settled) -> Summary {
        let plan = &settled.next.world.index.plan;
        self.metrics.config(&plan.hash, plan.max_metric_pools, SystemTime::now());
        self.exchange(settled)
    }

    /// The same for a Plan that no file of the configuration was read for.
    pub fn exchange(&mut self, settled: Settled) -> Summary {
        let Settled { mut known, next: Next { mut world, snapshot, summary } } = settled;
        // What became known while the pools were being judged.
        let since = self.since.take().unwrap_or_default();
        let mut late: BTreeSet<_> = since.values().flat_map(|backend| world.pools_of(backend)).copied().collect();
        let now = Instant::now();
        for backend in known.added.drain(..) {
            backend.warm_up(now);
            late.extend(world.pools_of(&backend));
            world.warming.extend(world.pools_of(&backend).to_vec());
        }
        late.extend(self.overtook(&world));
        self.orders = Orders::new(&self.board.states(), &world.index);
        let anew =
            |id| self.orders.commanded(snapshot.pool(id), now).unwrap_or_else(|| snapshot.pool(id).refreshed(now));
        let late: Vec<_> = late.into_iter().map(|id| (id, anew(id))).collect();
        world.warming.extend(late.iter().filter(|(_, pool)| pool.is_warming_up()).map(|(id, _)| *id));
        let mut snapshot = snapshot.with_changes(late);
        snapshot.generation = self.table.load().generation + 1;
        let old = std::mem::replace(&mut self.world, world);
        // Those of the new Plan are being checked already, but for what a name led to only now.
        let are_checks_same = self.world.has_no_names() && old.checks().all(|check| self.world.knows(check));
        self.dirty.clear();
        self.retired.push(Retired { snapshot: self.table.publish(snapshot), _world: Some(old) });
        self.take_back(known);
        if let Some(known) = &mut self.known {
            known.answers.retain(|name, _| !self.world.pools_of_name(name).is_empty());
        }
        if !are_checks_same {
            self.watch();
        }
        self.end_series();
        self.review();
        summary
    }

    /// A backend went up or down.
    pub fn transition(&mut self, transition: &Transition) {
        let now = Instant::now();
        let backend = &transition.check.backend;
        let pools = self.world.pools_of(backend);
        if transition.flips() {
            // A staged Plan's first round counts, too; a pool that is in force already is counted there.
            let staged = self.next.as_ref().map(|next| &next.world).filter(|_| pools.is_empty());
            let world = staged.unwrap_or(&self.world);
            for &id in world.pools_of(backend) {
                let (asset, region) = world.index.pool_labels(id);
                self.metrics.transition(&asset, &region, &backend.label, transition.to_up(), transition.teller());
            }
            self.tell_health(transition, world);
        }
        if transition.comes_back() && self.is_out(backend) {
            backend.warm_up(now);
            let pools = pools.to_vec();
            self.world.warming.extend(pools);
        }
        self.touch(backend);
        if transition.ends_drain() {
            self.end_drain(backend, "checks", now);
        }
        if transition.clears
            && let Some(change) = self.ejections.cleared(backend, now)
        {
            self.apply(&change);
        }
    }

    /// A worker has something to say about a backend.
    pub fn observe(&mut self, observation: Observation) {
        let now = Instant::now();
        if let Some(observation) = self.hear(observation, now)
            && let Some(change) = self.ejections.observe(observation, now)
        {
            self.apply(&change);
        }
    }

    fn apply(&mut self, Change { backend, what }: &Change) {
        let now = Instant::now();
        self.tell_ejection(backend, what, now);
        let (name, region) = (&*backend.label, &*backend.identity.region);
        match what {
            What::Ejected(ejection) => {
                let lasts = ejection.until.saturating_duration_since(now).as_secs_f64().round();
                tracing::warn!(
                    backend = name,
                    region,
                    cause = ejection.detector.as_str(),
                    seconds = lasts,
                    "backend is ejected"
                );
            }
            What::Counted(detector, _) => {
                // A backend that goes on failing must not fill the log; the counter has them all.
                if self.counted_until.is_none_or(|until| until <= now) {
                    self.counted_until = Some(now + COUNTED_PAUSE);
                    let cause = detector.as_str();
                    tracing::warn!(backend = name, region, cause, "backend would be ejected (enforce = false)");
                }
            }
            What::HalfOpened => tracing::info!(backend = name, region, "backend is half-open: one request at a time"),
            What::Closed => {
                tracing::info!(backend = name, region, "backend is no longer ejected");
                if self.is_out(backend) {
                    backend.warm_up(now);
                }
            }
        }
        let snapshot = self.table.load();
        for &id in self.world.pools_of(backend) {
            let Some(terms) = &snapshot.pool(id).settings.outlier else { continue };
            let (asset, region) = self.world.index.pool_labels(id);
            let (metrics, label) = (&self.metrics, &backend.label);
            match what {
                What::Ejected(ejection) => {
                    metrics.ejection(&asset, &region, label, ejection.detector, terms.enforce);
                    if terms.enforce {
                        metrics.transition(&asset, &region, label, false, Cause::Passive);
                    }
                }
                What::Counted(detector, pool) if !terms.enforce && pool.is_none_or(|pool| pool == id) => {
                    metrics.ejection(&asset, &region, label, *detector, false);
                }
                What::Closed if terms.enforce => metrics.transition(&asset, &region, label, true, Cause::Passive),
                What::Counted(..) | What::Closed | What::HalfOpened => {}
            }
        }
        if matches!(what, What::Counted(..)) {
            return;
        }
        if matches!(what, What::Closed) {
            let pools = self.world.pools_of(backend).to_vec();
            self.world.warming.extend(pools);
        }
        self.touch(backend);
    }

    /// Whether no pool sends anything to this backend: one that goes on serving somewhere is warm.
    fn is_out(&self, backend: &Arc<Backend>) -> bool {
        let snapshot = self.table.load();
        !self.world.pools_of(backend).iter().any(|&id| snapshot.pool(id).uses(backend))
    }

    /// The pools of a backend have to be judged anew.
    fn touch(&mut self, backend: &Arc<Backend>) {
        self.dirty.extend(self.world.pools_of(backend));
        self.note_overtaking(backend);
    }

    /// A Plan that is being judged does not know this of a backend.
    fn note_overtaking(&mut self, backend: &Arc<Backend>) {
        if let Some(since) = &mut self.since {
            since.insert(Arc::as_ptr(backend) as usize, Arc::clone(backend));
        }
    }

    /// Publishes the facts that have come in.
    pub fn flush(&mut self) {
        self.take_up_names();
        if self.dirty.is_empty() {
            return;
        }
        let snapshot = self.table.load();
        let dirty = std::mem::take(&mut self.dirty);
        let now = Instant::now();
        let changes: Vec<_> = dirty.into_iter().map(|id| (id, snapshot.pool(id).refreshed(now))).collect();
        self.swap(snapshot.with_changes(changes));
    }

    /// To be called every now and then: forgets backends that are not used any more, and gives out what can be freed.
    #[must_use = "free it where that keeps nobody waiting"]
    pub fn tick(&mut self) -> Vec<Retired> {
        let (now, snapshot) = (Instant::now(), self.table.load());
        for change in self.ejections.tick(&snapshot, self.world.comparable(), |backend| self.world.has(backend), now) {
            self.apply(&change);
        }
        self.limiters.tick(&snapshot, self.world.adaptive());
        self.listen(now);
        self.dirty.extend(&self.world.warming);
        self.flush();
        let snapshot = self.table.load();
        self.world.warming.retain(|&id| snapshot.pool(id).is_warming_up());
        self.until_sweep = self.until_sweep.saturating_sub(1);
        if self.until_sweep == 0
            && let Some(known) = &mut self.known
        {
            known.registry.sweep();
            self.until_sweep = known.registry.len() / SWEPT_PER_TICK;
        }
        self.retired.extract_if(.., |retired| Arc::strong_count(&retired.snapshot) == 1).collect()
    }

    /// How many backends are known.
    pub fn backends(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.registry.len())
    }

    /// The names that have to be resolved.
    pub fn names(&self) -> Vec<Arc<str>> {
        self.world.names()
    }

    /// The Plan in force.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.world.index.plan
    }

    fn swap(&mut self, snapshot: Snapshot) {
        self.retired.push(Retired { snapshot: self.table.publish(snapshot), _world: None });
    }

    /// Has exactly those checked that are in force or about to be.
    fn watch(&self) {
        let next = self.next.iter().flat_map(|next| next.world.checks()).filter(|check| !self.world.knows(check));
        self.prober.set(self.world.checks().chain(next).cloned().collect());
    }

    /// A step is over; addresses that came in meanwhile are taken up.
    fn take_back(&mut self, known: Known) {
        self.known = Some(known);
        self.take_up_names();
    }

    /// Ends the series of what is not configured any more.
    fn end_series(&self) {
        let snapshot = self.table.load();
        let index = &snapshot.index;
        // By the spelling: a series goes on under the one that is configured now.
        let pool_of = |asset: &str, region: &str| {
            let asset = if asset == "*" { None } else { Some(index.asset_spelled(asset)?) };
            index.own_pool(asset, index.region_spelled(region)?)
        };
        self.metrics.retain(|subject| match subject {
            Subject::Region(region) => index.region_spelled(region).is_some(),
            Subject::Asset("*") => true,
            Subject::Asset(asset) => index.asset_spelled(asset).is_some(),
            Subject::Pool { asset, region } => pool_of(asset, region).is_some(),
            Subject::Backend { asset, region, backend } => pool_of(asset, region)
                .is_some_and(|id| snapshot.pool(id).servers().any(|server| *server.backend.label == *backend)),
        });
    }
}
