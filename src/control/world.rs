//! One Plan and what it has to do with the world: whose facts concern which of its pools.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use crate::backend::{Backend, Check, Status, outlier};
use crate::model::{Address, Plan, Pool, PoolId};
use crate::routing::{Index, PoolState, Server, Snapshot};

/// Addresses of names, as discovery last found them.
pub(super) type Answers = HashMap<Arc<str>, Vec<IpAddr>>;

/// One Plan, and which of its pools each fact concerns.
pub(super) struct World {
    pub(super) index: Arc<Index>,
    /// By the backend's place in memory, which the entry keeps from being reused; pools in ascending order.
    by_backend: FxHashMap<usize, (Arc<Backend>, Vec<PoolId>)>,
    /// By the check's place in memory, with how many servers it speaks of.
    checks: FxHashMap<usize, (Arc<Check>, usize)>,
    /// The pools with so many servers that comparing them means something.
    comparable: BTreeSet<PoolId>,
    /// The pools whose limits adapt.
    adaptive: BTreeSet<PoolId>,
    /// The pools in which a server may be warming up.
    pub(super) warming: BTreeSet<PoolId>,
    by_name: HashMap<Arc<str>, Vec<PoolId>>,
    /// The pools with servers that no name leads to any more, see [`World::keep_what_works`].
    changing: BTreeSet<PoolId>,
}

impl World {
    pub(super) fn new(index: Arc<Index>) -> Self {
        let mut by_name: HashMap<Arc<str>, Vec<PoolId>> = HashMap::new();
        for (id, pool) in pools(&index) {
            for member in &pool.members {
                if let Address::Name(host, _) = &*member.address {
                    let pools = by_name.entry(Arc::clone(host)).or_default();
                    if pools.last() != Some(&id) {
                        pools.push(id);
                    }
                }
            }
        }
        Self {
            index,
            by_backend: FxHashMap::default(),
            checks: FxHashMap::default(),
            comparable: BTreeSet::new(),
            adaptive: BTreeSet::new(),
            warming: BTreeSet::new(),
            by_name,
            changing: BTreeSet::new(),
        }
    }

    /// Learns whom each fact concerns. Sorting is the quick way: a look-up per server would wait for memory each time.
    pub(super) fn learn(&mut self, snapshot: &Snapshot) {
        let pools_that = |are: fn(&PoolState) -> bool| snapshot.pools().filter(move |pool| are(pool));
        self.comparable = pools_that(is_comparable).map(|pool| pool.id).collect();
        self.adaptive = pools_that(|pool| pool.settings.limits.adaptive).map(|pool| pool.id).collect();
        self.warming = pools_that(PoolState::is_warming_up).map(|pool| pool.id).collect();
        let servers = snapshot.pools().flat_map(|pool| pool.servers().map(move |server| (server, pool.id)));
        let mut concerned: Vec<_> = servers.collect();
        concerned.sort_unstable_by_key(|(server, id)| (place(&server.backend), *id));
        for of_one in concerned.chunk_by(|(one, _), (other, _)| Arc::ptr_eq(&one.backend, &other.backend)) {
            let Some((first, _)) = of_one.first() else { continue };
            let mut pools: Vec<_> = of_one.iter().map(|(_, id)| *id).collect();
            pools.dedup();
            self.by_backend.insert(place(&first.backend), (Arc::clone(&first.backend), pools));
            // Nearly always they are all the same.
            for of_check in of_one.chunk_by(|(one, _), (other, _)| check_place(one) == check_place(other)) {
                if let Some(check) = of_check.first().and_then(|(server, _)| server.check.as_ref()) {
                    self.checks.entry(place(check)).or_insert_with(|| (Arc::clone(check), 0)).1 += of_check.len();
                }
            }
            for agent in of_one.iter().filter_map(|(server, _)| server.agent.as_ref()) {
                self.checks.entry(place(agent)).or_insert_with(|| (Arc::clone(agent), 0)).1 += 1;
            }
        }
    }

    /// The pools that a backend is in.
    pub(super) fn pools_of(&self, backend: &Arc<Backend>) -> &[PoolId] {
        self.by_backend.get(&place(backend)).map_or(&[], |(_, pools)| pools)
    }

    /// Whether a backend is in any of its pools.
    pub(super) fn has(&self, backend: &Arc<Backend>) -> bool {
        self.by_backend.contains_key(&place(backend))
    }

    /// Whether a backend is in a pool with a slow start.
    pub(super) fn warms_up(&self, backend: &Arc<Backend>) -> bool {
        let pools = self.pools_of(backend).iter().filter_map(|id| self.index.plan.pools.get(id.index()));
        pools.into_iter().any(|pool| !pool.settings.slow_start.window.is_zero())
    }

    /// The pools with so many servers that comparing them means something.
    pub(super) fn comparable(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.comparable.iter().copied()
    }

    /// The pools whose limits adapt.
    pub(super) fn adaptive(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.adaptive.iter().copied()
    }

    /// A pool gets other servers; what it then is.
    pub(super) fn replace(&mut self, pool: &PoolState, servers: [Vec<Server>; 2], now: Instant) -> PoolState {
        self.release(pool);
        let pool = pool.with_servers(servers, now);
        for server in pool.servers() {
            let new = || (Arc::clone(&server.backend), Vec::new());
            let (_, pools) = self.by_backend.entry(place(&server.backend)).or_insert_with(new);
            if let Err(at) = pools.binary_search(&pool.id) {
                pools.insert(at, pool.id);
            }
            for check in server.checks() {
                self.checks.entry(place(check)).or_insert_with(|| (Arc::clone(check), 0)).1 += 1;
            }
        }
        if pool.is_warming_up() {
            self.warming.insert(pool.id);
        }
        if is_comparable(&pool) {
            self.comparable.insert(pool.id);
        } else {
            self.comparable.remove(&pool.id);
        }
        pool
    }

    /// Adds to the servers that a pool is about to get those of its own that work, while one of the others has not been
    /// checked yet.
    pub(super) fn keep_what_works(&mut self, pool: &PoolState, servers: &mut [Vec<Server>; 2]) {
        self.changing.remove(&pool.id);
        if servers.iter().flatten().all(is_checked) {
            return;
        }
        for (tier, next) in pool.tiers.iter().zip(servers) {
            for server in tier.servers.iter().filter(|server| works(server)) {
                if !next.iter().any(|other| other.is_at_the_place_of(server)) {
                    next.push(server.clone());
                    self.changing.insert(pool.id);
                }
            }
        }
    }

    /// The pools of which each server has been checked by now, since one of them was not.
    pub(super) fn checked_by_now(&self, snapshot: &Snapshot) -> impl Iterator<Item = PoolId> {
        self.changing.iter().copied().filter(|id| snapshot.pool(*id).servers().all(is_checked))
    }

    /// Whether a pool names a name.
    pub(super) fn has_names(pool: &Pool) -> bool {
        pool.members.iter().any(|member| matches!(*member.address, Address::Name(..)))
    }

    /// Every check, once.
    pub(super) fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.checks.values().map(|(check, _)| check)
    }

    /// Whether a check concerns any of its pools.
    pub(super) fn knows(&self, check: &Arc<Check>) -> bool {
        self.checks.contains_key(&place(check))
    }

    /// Whether there is no name to be resolved.
    pub(super) fn has_no_names(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The names that have to be resolved.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }

    /// The pools that name any name.
    pub(super) fn pools_with_names(&self) -> BTreeSet<PoolId> {
        self.by_name.values().flatten().copied().collect()
    }

    /// This pool's servers are about to be others: what is said of those that it has does not concern it any more.
    fn release(&mut self, pool: &PoolState) {
        for server in pool.servers() {
            if let Some((_, pools)) = self.by_backend.get_mut(&place(&server.backend)) {
                pools.retain(|id| *id != pool.id);
                if pools.is_empty() {
                    self.by_backend.remove(&place(&server.backend));
                }
            }
            for check in server.checks() {
                if let Some((_, uses)) = self.checks.get_mut(&place(check)) {
                    *uses = uses.saturating_sub(1);
                    if *uses == 0 {
                        self.checks.remove(&place(check));
                    }
                }
            }
        }
    }

    /// The pools that a name's addresses concern.
    pub(super) fn pools_of_name(&self, name: &str) -> &[PoolId] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The names in a Plan that have to be resolved, each once.
pub fn names(plan: &Plan) -> Vec<Arc<str>> {
    let members = plan.pools.iter().flat_map(|pool| &pool.members);
    let names: BTreeSet<_> = members
        .filter_map(|member| match &*member.address {
            Address::Name(host, _) => Some(Arc::clone(host)),
            _ => None,
        })
        .collect();
    names.into_iter().collect()
}

/// Every pool of an index with its number.
pub(super) fn pools(index: &Index) -> impl Iterator<Item = (PoolId, &Pool)> {
    (0..).map(PoolId).zip(&index.plan.pools)
}

/// Whether its servers are enough to compare them.
fn is_comparable(pool: &PoolState) -> bool {
    pool.settings.outlier.is_some() && pool.servers().count() >= outlier::MIN_BACKENDS
}

fn is_checked(server: &Server) -> bool {
    server.checks().all(|check| check.status() != Status::Unchecked)
}

fn works(server: &Server) -> bool {
    server.checks().all(|check| check.status() == Status::Up)
}

fn place<T>(of: &Arc<T>) -> usize {
    Arc::as_ptr(of) as usize
}

fn check_place(server: &Server) -> Option<usize> {
    server.check.as_ref().map(place)
}
