//! The long steps of a Plan on its way into force, apart from the controller so that they can run on a thread of their
//! own: at a million pools they take seconds, and the control plane has health to act on meanwhile.
//!
//! Each step is given all that it needs and gives it back: the Snapshot in force, and what is known of the world, which
//! for so long nobody else has. No lock is held over a step, so that a thread of low priority keeps nobody waiting.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Summary;
use super::diff::Diff;
use super::orders::Orders;
use super::states::States;
use super::world::{Answers, World};
use crate::backend::{Backend, Check, Identity, Registry};
use crate::model::{Address, Plan, Pool, PoolId, RegionId, Role};
use crate::routing::{Index, Origin, Server, Snapshot, rebuild};

/// What is known of the world.
#[derive(Default)]
pub(super) struct Known {
    pub(super) registry: Registry,
    pub(super) answers: Answers,
    /// Backends that were not there before.
    pub(super) added: Vec<Arc<Backend>>,
}

/// A backend, and its check and its agent by the settings of the pool that asked.
type Found = (Arc<Backend>, [Option<Arc<Check>>; 2]);

/// Finds the live servers of one Plan's pools.
pub(super) struct Finder<'a> {
    known: &'a mut Known,
    index: &'a Index,
    /// What was found for a line of the Plan, by the places in memory of its address and settings, which are shared by
    /// equal ones, and by its region: a backend of many pools is asked for once.
    found: FxHashMap<(usize, usize, RegionId), Found>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(known: &'a mut Known, index: &'a Index) -> Self {
        Self { known, index, found: FxHashMap::default() }
    }

    /// A pool's primaries and replicas.
    pub(super) fn servers(&mut self, id: PoolId) -> [Vec<Server>; 2] {
        let mut servers = [Vec::new(), Vec::new()];
        let Some(pool) = self.index.plan.pools.get(id.index()) else { return servers };
        for member in &pool.members {
            let [primaries, replicas] = &mut servers;
            let tier = match member.role {
                Role::Primary => primaries,
                Role::Replica => replicas,
            };
            let mut add = |(backend, [check, agent]): Found| {
                // Two names may lead to one address.
                let server = Server { agent, ..Server::new(backend, check, member.weight) };
                if !tier.iter().any(|other| other.is_at_the_place_of(&server)) {
                    tier.push(server);
                }
            };
            if let Address::Name(host, port) = &*member.address {
                let answers = self.known.answers.get(host).map_or(&[][..], Vec::as_slice);
                let addresses: Vec<_> = answers.iter().map(|ip| Address::Ip((*ip, *port).into())).collect();
                addresses.into_iter().for_each(|at| add(find(self.known, self.index, pool, &member.address, at)));
            } else {
                let place = (Arc::as_ptr(&member.address) as usize, Arc::as_ptr(&pool.settings) as usize, pool.region);
                let find = || find(self.known, self.index, pool, &member.address, (*member.address).clone());
                add(self.found.entry(place).or_insert_with(find).clone());
            }
        }
        servers
    }
}

/// `named`: as the file has it; `address`: one of those it stands for.
fn find(known: &mut Known, index: &Index, pool: &Pool, named: &Address, address: Address) -> Found {
    let registry = &mut known.registry;
    let before = registry.len();
    let region = index.plan.regions.get(pool.region.index()).map_or_else(|| "".into(), |region| region.name.clone());
    let tls = pool.settings.tls_to(named);
    let backend = registry.backend(Identity { region, address, protocol: pool.settings.protocol, tls });
    if registry.len() > before {
        known.added.push(Arc::clone(&backend));
    }
    let check = pool.settings.health.as_ref().map(|health| registry.check(&backend, health, Instant::now()));
    // Beside a Unix socket there is no other port.
    let agent = pool.settings.agent.filter(|_| matches!(backend.identity.address, Address::Ip(_)));
    let agent = agent.map(|agent| registry.check(&backend, &agent.as_check(), Instant::now()));
    (backend, [check, agent])
}

/// A Plan, its backends known and its Snapshot built.
pub(super) struct Next {
    pub(super) world: World,
    pub(super) snapshot: Snapshot,
    pub(super) summary: Summary,
}

/// The first step: the backends and the Snapshot of a Plan. See [`Staging::run`].
pub struct Staging {
    pub(super) known: Known,
    pub(super) plan: Arc<Plan>,
    pub(super) answers: Vec<(Arc<str>, Vec<IpAddr>)>,
    pub(super) current: Arc<Snapshot>,
}

/// What came of [`Staging`].
pub struct Staged {
    pub(super) known: Known,
    pub(super) next: Next,
}

impl Staging {
    /// Takes the step.
    pub fn run(self) -> Staged {
        let Self { mut known, plan, answers, current } = self;
        known.answers.extend(answers);
        let index = Arc::new(Index::new(plan));
        let Diff { summary, same } = Diff::new(&current.index, &index);
        let mut finder = Finder::new(&mut known, &index);
        let mut pools = index.plan.pools.iter().zip(same);
        let snapshot = rebuild(&current, Arc::clone(&index), Instant::now(), |id| match pools.next() {
            // A name may have other addresses now.
            Some((pool, Some(was))) if !World::has_names(pool) => Origin::Kept(was),
            _ => Origin::New(finder.servers(id)),
        });
        let mut world = World::new(Arc::clone(&index));
        world.learn(&snapshot);
        if current.index.plan.pools.is_empty() {
            // When the process starts, everything is equally cold.
            known.added.clear();
        }
        known.added.retain(|backend| world.warms_up(backend));
        if !known.added.is_empty() {
            // Who is spoken to in another way only, such as with another certificate, is as warm as it was.
            let place = |backend: &Arc<Backend>| (backend.identity.region.clone(), backend.identity.address.clone());
            let servers = current.pools().flat_map(|pool| pool.servers());
            let before: FxHashSet<_> = servers.map(|server| place(&server.backend)).collect();
            known.added.retain(|backend| !before.contains(&place(backend)));
        }
        Staged { known, next: Next { world, snapshot, summary } }
    }
}

/// The last step before a Plan is put in force: its Snapshot by what the first round of checks has found and by what
/// operators have said. See
/// [`Settling::run`].
pub struct Settling {
    pub(super) known: Known,
    pub(super) next: Next,
    pub(super) states: Arc<States>,
}

/// What came of [`Settling`].
pub struct Settled {
    pub(super) known: Known,
    pub(super) next: Next,
}

impl Settling {
    /// Takes the step.
    pub fn run(self) -> Settled {
        let Self { mut known, next: Next { mut world, mut snapshot, summary }, states } = self;
        let orders = Orders::new(&states, &world.index);
        // Names may have got other addresses since.
        let named = world.pools_with_names();
        if !named.is_empty() {
            let index = Arc::clone(&world.index);
            let mut finder = Finder::new(&mut known, &index);
            let anew = |id| {
                let mut servers = finder.servers(id);
                world.keep_what_works(snapshot.pool(id), &mut servers);
                orders.mark(id, &mut servers);
                (id, world.replace(snapshot.pool(id), servers, Instant::now()))
            };
            let changes: Vec<_> = named.into_iter().map(anew).collect();
            snapshot = snapshot.with_changes(changes);
        }
        let now = Instant::now();
        snapshot.revise(|pool| orders.commanded(pool, now).or_else(|| pool.renewed(now)));
        // Who has come back since the Snapshot was built.
        world.warming.extend(snapshot.pools().filter(|pool| pool.is_warming_up()).map(|pool| pool.id));
        Settled { known, next: Next { world, snapshot, summary } }
    }
}
