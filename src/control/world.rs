//! One Plan and what it has to do with the world: whose facts concern which of its pools.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use crate::backend::{Check, Identity, Registry};
use crate::model::{Address, Plan, Pool, PoolId, Role};
use crate::routing::{Index, PoolState, Server};

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

    /// The live servers of a pool, primaries and replicas.
    pub(super) fn servers(&mut self, id: PoolId, registry: &mut Registry, answers: &Answers) -> [Vec<Server>; 2] {
        let mut servers = [Vec::new(), Vec::new()];
        let index = Arc::clone(&self.index);
        let Some(pool) = index.plan.pools.get(id.index()) else { return servers };
        let Some(region) = index.plan.regions.get(pool.region.index()) else { return servers };
        let now = Instant::now();
        for member in &pool.members {
            let [primaries, replicas] = &mut servers;
            let tier = match member.role {
                Role::Primary => primaries,
                Role::Replica => replicas,
            };
            for address in addresses(&member.address, answers) {
                let protocol = pool.settings.protocol;
                let backend = registry.backend(Identity { region: Arc::clone(&region.name), address, protocol });
                // Two names may lead to one address; it is one backend all the same.
                if tier.iter().any(|server: &Server| Arc::ptr_eq(&server.backend, &backend)) {
                    continue;
                }
                let check = pool.settings.health.as_ref().map(|health| registry.check(&backend, health, now));
                if let Some(check) = &check {
                    self.concern(check, id);
                }
                tier.push(Server { backend, check, weight: member.weight });
            }
        }
        servers
    }

    /// The pools that a check's result concerns.
    pub(super) fn pools_of_check(&self, check: &Arc<Check>) -> &[PoolId] {
        self.by_check.get(&place(check)).map_or(&[], |(_, pools)| pools)
    }

    /// These servers, which a pool had in the Plan before, are its servers in this one.
    pub(super) fn adopt(&mut self, id: PoolId, pool: &PoolState) {
        for check in pool.servers().filter_map(|server| server.check.as_ref()) {
            self.concern(check, id);
        }
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

    /// The names that have to be resolved.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }

    /// The pools that name any name.
    pub(super) fn pools_with_names(&self) -> BTreeSet<PoolId> {
        self.by_name.values().flatten().copied().collect()
    }

    fn concern(&mut self, check: &Arc<Check>, id: PoolId) {
        let (_, pools) = self.by_check.entry(place(check)).or_insert_with(|| (Arc::clone(check), Vec::new()));
        // Built in the order of the numbers, so this nearly always is at the end.
        if let Err(at) = pools.binary_search(&id) {
            pools.insert(at, id);
        }
    }

    /// This pool's servers are about to be others: their checks do not concern it any more.
    pub(super) fn release(&mut self, pool: &PoolState) {
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

fn addresses(address: &Address, answers: &Answers) -> Vec<Address> {
    match address {
        Address::Name(host, port) => {
            let found = answers.get(host).map_or(&[][..], Vec::as_slice);
            found.iter().map(|ip| Address::Ip((*ip, *port).into())).collect()
        }
        other => vec![other.clone()],
    }
}

fn place(check: &Arc<Check>) -> usize {
    Arc::as_ptr(check) as usize
}
