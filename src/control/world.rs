//! One Plan and what it has to do with the world: whose facts concern which of its pools.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::backend::Check;
use crate::model::{Address, Plan, Pool, PoolId};
use crate::routing::{Index, PoolState, Server, Snapshot};

/// Addresses of names, as discovery last found them.
pub(super) type Answers = HashMap<Arc<str>, Vec<IpAddr>>;

/// One Plan, and which of its pools each fact concerns.
pub(super) struct World {
    pub(super) index: Arc<Index>,
    /// By the check's place in memory, which the entry keeps from being reused; pools in ascending order.
    by_check: FxHashMap<usize, (Arc<Check>, Vec<PoolId>)>,
    by_name: HashMap<Arc<str>, Vec<PoolId>>,
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
        Self { index, by_check: FxHashMap::default(), by_name }
    }

    /// Learns whom each check concerns. Sorting is the quick way: a look-up per server would wait for memory each time.
    pub(super) fn learn(&mut self, snapshot: &Snapshot) {
        let mut concerned: Vec<_> = snapshot
            .pools()
            .flat_map(|pool| pool.servers().map(move |server| (server, pool.id)))
            .filter_map(|(server, id)| Some((server.check.as_ref()?, id)))
            .collect();
        concerned.sort_unstable_by_key(|(check, id)| (place(check), *id));
        concerned.dedup_by_key(|(check, id)| (place(check), *id));
        for of_one in concerned.chunk_by(|(one, _), (other, _)| Arc::ptr_eq(one, other)) {
            if let Some((check, _)) = of_one.first() {
                let pools = of_one.iter().map(|(_, id)| *id).collect();
                self.by_check.insert(place(check), (Arc::clone(check), pools));
            }
        }
    }

    /// The pools that a check's result concerns.
    pub(super) fn pools_of_check(&self, check: &Arc<Check>) -> &[PoolId] {
        self.by_check.get(&place(check)).map_or(&[], |(_, pools)| pools)
    }

    /// A pool gets other servers; what it then is.
    pub(super) fn replace(&mut self, pool: &PoolState, servers: [Vec<Server>; 2]) -> PoolState {
        self.release(pool);
        let pool = pool.with_servers(servers);
        for check in pool.servers().filter_map(|server| server.check.as_ref()) {
            let (_, pools) = self.by_check.entry(place(check)).or_insert_with(|| (Arc::clone(check), Vec::new()));
            if let Err(at) = pools.binary_search(&pool.id) {
                pools.insert(at, pool.id);
            }
        }
        pool
    }

    /// Whether a pool names a name.
    pub(super) fn has_names(pool: &Pool) -> bool {
        pool.members.iter().any(|member| matches!(*member.address, Address::Name(..)))
    }

    /// Every check, once.
    pub(super) fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.by_check.values().map(|(check, _)| check)
    }

    /// Whether a check concerns any of its pools.
    pub(super) fn knows(&self, check: &Arc<Check>) -> bool {
        self.by_check.contains_key(&place(check))
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

    /// This pool's servers are about to be others: their checks do not concern it any more.
    fn release(&mut self, pool: &PoolState) {
        for server in pool.servers() {
            let Some(check) = &server.check else { continue };
            if let Some((_, pools)) = self.by_check.get_mut(&place(check)) {
                pools.retain(|id| *id != pool.id);
                if pools.is_empty() {
                    self.by_check.remove(&place(check));
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

fn place(check: &Arc<Check>) -> usize {
    Arc::as_ptr(check) as usize
}
