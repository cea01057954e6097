//! One pool as it is now: its servers in two tiers, and which of them may be used.
//!
//! Who is usable is asked once per fact, not per request. Loads over tiers are not kept here: they depend on the other
//! pools of a request's chain, and a fact should touch only its own pool.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::rule::{Tables, tables};
use crate::backend::{Backend, Check, Verdict, verdict};
use crate::balance::{Candidate, tiers};
use crate::model::{PoolId, PoolSettings};

/// One server of a pool.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its live state, shared with other pools that name it.
    pub backend: Arc<Backend>,
    /// What its checks say; `None`: this pool checks nothing.
    pub check: Option<Arc<Check>>,
    /// Relative capacity, at least 1.
    pub weight: u16,
}

impl Candidate for Server {
    fn weight(&self) -> u16 {
        self.weight
    }

    fn in_flight(&self) -> u32 {
        self.backend.in_flight()
    }

    fn latency(&self, now: Instant) -> Option<f64> {
        self.backend.latency().seconds(now)
    }
}

/// One pool as it is now.
///
/// In the order of the memory: with many pools, the one that a request needs is in no cache, and what a request reads
/// in the usual case (the first tier whole) is in the first line.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct PoolState {
    /// Primaries, replicas: the order of [`Role::ALL`](crate::model::Role::ALL).
    pub tiers: [Tier; 2],
    /// As the Plan says.
    pub settings: Arc<PoolSettings>,
    /// Which.
    pub id: PoolId,
    /// Where its policy wants them.
    pub(super) tables: Tables,
}

/// The servers of one role.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct Tier {
    /// How much of a request's load it can take, in percent: see [`tiers::health`]. 0 if it has no servers.
    pub health: u8,
    /// The largest weight.
    pub heaviest: u16,
    /// All of them, in the order of the file.
    pub servers: Arc<[Server]>,
    /// The places of those that may be used.
    pub usable: Places,
    /// The places of those that may be used when this tier panics.
    pub usable_in_panic: Places,
    /// Weight of the usable.
    pub usable_weight: u64,
    /// Weight of all.
    pub total_weight: u64,
}

/// Places in a tier, ascending. All of a few are a slice that everyone shares: nothing to allocate for it, and nothing
/// to miss a cache.
pub type Places = Cow<'static, [u32]>;

/// As many as have a shared slice of all.
const SHARED: usize = 32;

static ALL: [u32; SHARED] = {
    let mut all = [0; SHARED];
    let mut place = 0;
    while place < SHARED {
        all[place] = place as u32;
        place += 1;
    }
    all
};

impl PoolState {
    /// A pool with these primaries and replicas, judged now.
    pub fn new(id: PoolId, settings: Arc<PoolSettings>, servers: [Vec<Server>; 2]) -> Self {
        let overprovisioning = settings.failover.overprovisioning;
        // An empty slice is the same for all: most pools have no replica.
        let shared = |servers: Vec<Server>| if servers.is_empty() { Arc::default() } else { servers.into() };
        let tables = tables(&settings);
        Self { id, tiers: servers.map(|servers| Tier::new(shared(servers), overprovisioning)), settings, tables }
    }

    /// Its servers, primaries first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.tiers.iter().flat_map(|tier| tier.servers.iter())
    }

    /// The same servers, judged anew.
    pub fn refreshed(&self) -> Self {
        let overprovisioning = self.settings.failover.overprovisioning;
        let tiers = self.tiers.each_ref().map(|tier| Tier::new(Arc::clone(&tier.servers), overprovisioning));
        Self { id: self.id, settings: Arc::clone(&self.settings), tiers, tables: self.tables.clone() }
    }

    /// Whether its servers would be judged as they were.
    pub fn is_current(&self) -> bool {
        self.tiers.iter().all(Tier::is_current)
    }

    /// The same pool with other primaries and replicas.
    pub fn with_servers(&self, servers: [Vec<Server>; 2]) -> Self {
        Self::new(self.id, Arc::clone(&self.settings), servers)
    }
}

impl Tier {
    fn is_current(&self) -> bool {
        let (mut usable, mut in_panic) = (self.usable.iter(), self.usable_in_panic.iter());
        let same = (0..).zip(&*self.servers).all(|(place, server)| {
            let verdict = verdict(&server.backend, server.check.as_deref());
            (!verdict.usable || usable.next() == Some(&place))
                && (!verdict.usable_in_panic || in_panic.next() == Some(&place))
        });
        same && usable.next().is_none() && in_panic.next().is_none()
    }

    fn new(servers: Arc<[Server]>, overprovisioning: f64) -> Self {
        let verdicts: Vec<_> = servers.iter().map(|server| verdict(&server.backend, server.check.as_deref())).collect();
        let places = |wanted: fn(&Verdict) -> bool| match ALL.get(..verdicts.len()) {
            Some(all) if verdicts.iter().all(wanted) => Cow::Borrowed(all),
            _ => (0..).zip(&verdicts).filter(|(_, verdict)| wanted(verdict)).map(|(place, _)| place).collect(),
        };
        let weight = |server: &Server| u64::from(server.weight);
        let usable_weight = servers.iter().zip(&verdicts).filter(|(_, v)| v.usable).map(|(s, _)| weight(s)).sum();
        let total_weight = servers.iter().map(weight).sum();
        Self {
            usable: places(|verdict| verdict.usable),
            usable_in_panic: places(|verdict| verdict.usable_in_panic),
            usable_weight,
            total_weight,
            heaviest: servers.iter().map(|server| server.weight).max().unwrap_or(1),
            health: tiers::health(usable_weight, total_weight, overprovisioning),
            servers,
        }
    }
}
