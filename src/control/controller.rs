//! The only writer of the Snapshot.
//!
//! A Plan comes in force in two steps. [`Controller::stage`] makes its backends known and starts their checks, while
//! the Snapshot in force stays as it is; when the first round of checks is over, [`Controller::publish`] swaps the new
//! one in. In between and ever after, facts come in one by one, mark the pools that they concern, and are published
//! together by [`Controller::flush`].
//!
//! An old Snapshot is kept until nobody else holds it, so that it is freed here and never by a worker.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Summary;
use super::world::{Answers, World, pools};
use crate::backend::{Check, Registry};
use crate::health::{Prober, Transition};
use crate::model::{Plan, PoolId};
use crate::routing::{Index, PoolState, Server, Snapshot, Table};
use crate::telemetry::{Cause, Metrics, Subject};

/// How long facts are gathered before they are published.
pub const GATHER: Duration = Duration::from_millis(10);

/// Turns a Plan and facts into Snapshots. See the module.
pub struct Controller {
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    prober: Prober,
    registry: Registry,
    answers: Answers,
    world: World,
    /// The Plan that waits for its first round of checks.
    next: Option<Staged>,
    dirty: BTreeSet<PoolId>,
    retired: Vec<Arc<Snapshot>>,
}

struct Staged {
    world: World,
    servers: Vec<[Vec<Server>; 2]>,
}

impl Controller {
    /// A controller without a Plan yet: the table holds an empty Snapshot of it.
    pub fn new(table: Arc<Table>, metrics: Arc<Metrics>, prober: Prober) -> Self {
        let world = World::new(Arc::clone(&table.load().index));
        Self {
            table,
            metrics,
            prober,
            registry: Registry::default(),
            answers: Answers::new(),
            world,
            next: None,
            dirty: BTreeSet::new(),
            retired: Vec::new(),
        }
    }

    /// Makes a Plan's backends known and begins to check them; `answers` are the addresses of its names. Whoever was
    /// staged before and not published is forgotten. The future ends with the first round of checks.
    pub fn stage(
        &mut self,
        plan: Arc<Plan>,
        answers: Vec<(Arc<str>, Vec<IpAddr>)>,
    ) -> impl Future<Output = ()> + use<> {
        for (name, addresses) in answers {
            self.answers.insert(name, addresses);
        }
        let mut world = World::new(Arc::new(Index::new(plan)));
        let index = Arc::clone(&world.index);
        let servers: Vec<_> =
            pools(&index).map(|(id, _)| world.servers(id, &mut self.registry, &self.answers)).collect();
        let current = self.table.load();
        let now_in_force = current.pools().flat_map(PoolState::servers);
        let staged = servers.iter().flatten().flatten();
        self.prober.set(checks(now_in_force.chain(staged)));
        self.next = Some(Staged { world, servers });
        self.prober.first_round()
    }

    /// Forgets the staged Plan: it could not be put in force.
    pub fn abandon(&mut self) {
        self.next = None;
        self.watch_current();
    }

    /// Puts the staged Plan in force.
    pub fn publish(&mut self) -> Option<Summary> {
        let Staged { mut world, mut servers } = self.next.take()?;
        // Names may have got other addresses since.
        for id in world.pools_with_names() {
            if let Some(place) = servers.get_mut(id.index()) {
                *place = world.servers(id, &mut self.registry, &self.answers);
            }
        }
        let old = self.table.load();
        let summary = Summary::new(&old.index.plan, &world.index.plan);
        let mut servers = servers.into_iter();
        let snapshot =
            crate::routing::build(Arc::clone(&world.index), old.generation + 1, |_| servers.next().unwrap_or_default());
        self.world = world;
        self.dirty.clear();
        self.swap(snapshot);
        drop(old);
        self.answers.retain(|name, _| !self.world.pools_of_name(name).is_empty());
        self.watch_current();
        let plan = &self.world.index.plan;
        self.metrics.config(&plan.hash, plan.max_metric_pools, SystemTime::now());
        self.end_series();
        Some(summary)
    }

    /// A backend went up or down.
    pub fn transition(&mut self, transition: &Transition) {
        let pools = self.world.pools_of_check(&transition.check);
        if transition.flips() {
            // A staged Plan's first round counts, too; a pool that is in force already is counted there.
            let staged = self.next.as_ref().map(|next| &next.world).filter(|_| pools.is_empty());
            let world = staged.unwrap_or(&self.world);
            for &id in world.pools_of_check(&transition.check) {
                let (asset, region) = world.index.pool_labels(id);
                let backend = &transition.check.backend.label;
                self.metrics.transition(&asset, &region, backend, transition.to_up(), Cause::Active);
            }
        }
        self.dirty.extend(pools);
    }

    /// A name has other addresses now.
    pub fn resolved(&mut self, name: Arc<str>, addresses: Vec<IpAddr>) {
        let pools = self.world.pools_of_name(&name).to_vec();
        self.answers.insert(name, addresses);
        if pools.is_empty() {
            return;
        }
        let snapshot = self.table.load();
        let changes: Vec<_> = pools
            .into_iter()
            .map(|id| {
                self.world.release(snapshot.pool(id));
                let servers = self.world.servers(id, &mut self.registry, &self.answers);
                (id, snapshot.pool(id).with_servers(servers))
            })
            .collect();
        self.swap(snapshot.with_changes(changes));
        self.watch_current();
        self.end_series();
    }

    /// Publishes the facts that have come in.
    pub fn flush(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let snapshot = self.table.load();
        let dirty = std::mem::take(&mut self.dirty);
        let changes: Vec<_> = dirty.into_iter().map(|id| (id, snapshot.pool(id).refreshed())).collect();
        self.swap(snapshot.with_changes(changes));
    }

    /// To be called every now and then: frees what is not used any more.
    pub fn tick(&mut self) {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.registry.sweep();
    }

    /// How many backends are known.
    pub fn backends(&self) -> usize {
        self.registry.len()
    }

    /// The Plan in force.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.world.index.plan
    }

    fn swap(&mut self, snapshot: Snapshot) {
        self.retired.push(self.table.publish(snapshot));
    }

    fn watch_current(&self) {
        let current = self.table.load();
        self.prober.set(checks(current.pools().flat_map(PoolState::servers)));
    }

    /// Ends the series of what is not configured any more.
    fn end_series(&self) {
        let snapshot = self.table.load();
        let index = &snapshot.index;
        let pool_of = |asset: &str, region: &str| {
            let region = index.region(region)?;
            let asset = if asset == "*" { None } else { Some(index.asset(asset)?) };
            index.own_pool(asset, region)
        };
        self.metrics.retain(|subject| match subject {
            Subject::Region(region) => index.region(region).is_some(),
            Subject::Asset("*") => true,
            Subject::Asset(asset) => index.asset(asset).is_some(),
            Subject::Pool { asset, region } => pool_of(asset, region).is_some(),
            Subject::Backend { asset, region, backend } => pool_of(asset, region)
                .is_some_and(|id| snapshot.pool(id).servers().any(|server| *server.backend.label == *backend)),
        });
    }
}

/// The checks of these servers, each once.
fn checks<'a>(servers: impl Iterator<Item = &'a Server>) -> Vec<Arc<Check>> {
    let mut seen = std::collections::HashSet::new();
    servers
        .filter_map(|server| server.check.as_ref())
        .filter(|check| seen.insert(Arc::as_ptr(check)))
        .cloned()
        .collect()
}
