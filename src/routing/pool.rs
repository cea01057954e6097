//! One pool as it is now: its servers in two tiers, and which of them may be used.
//!
//! Who is usable is asked once per fact, not per request. Loads over tiers are not kept here: they depend on the other
//! pools of a request's chain, and a fact should touch only its own pool.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::rule::{Tables, tables};
use crate::backend::{Backend, Check, Verdict, Voices, Why, verdicts};
use crate::balance::slow_start::{self, WHOLE};
use crate::balance::{Candidate, load, tiers};
use crate::model::{Operator, Policy, PoolId, PoolSettings};

/// One server of a pool.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its live state, shared with other pools that name it.
    pub backend: Arc<Backend>,
    /// What its checks say; `None`: this pool checks nothing.
    pub check: Option<Arc<Check>>,
    /// Relative capacity, at least 1.
    pub weight: u16,
    /// What the operator says of it in this pool.
    pub operator: Operator,
    /// How much of its weight it has, of [`WHOLE`]; set by whoever judges it.
    pub share: u16,
    /// It gets one request at a time; set by whoever judges it.
    pub is_half_open: bool,
    /// What its own word makes of its weight, of [`WHOLE`], its load reports and its agent together; set likewise.
    pub factor: u16,
    /// What its agent says; `None`: none is asked.
    pub agent: Option<Arc<Check>>,
}

impl Server {
    /// One of which neither the operator nor anyone else says anything.
    pub fn new(backend: Arc<Backend>, check: Option<Arc<Check>>, weight: u16) -> Self {
        Self {
            backend,
            check,
            weight,
            operator: Operator::Ready,
            share: WHOLE,
            factor: WHOLE,
            agent: None,
            is_half_open: false,
        }
    }

    /// Whether both are one: the same backend, which inside TLS has the first of the names that lead to its address.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        let (one, other) = (&self.backend, &other.backend);
        Arc::ptr_eq(one, other) || one.tls.is_some() && one.identity.address == other.identity.address
    }

    /// Whoever is asked how it is: its check and its agent.
    pub fn checks(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.check.iter().chain(&self.agent)
    }

    /// What its own word makes of its weight, if that is not the whole.
    pub fn load_weight(&self) -> Option<f64> {
        (self.factor != WHOLE).then(|| f64::from(self.factor) / f64::from(WHOLE))
    }

    /// Its weight while it warms up, its own word apart: what its tier can be relied on for.
    fn warm_weight(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.share)
    }

    /// How many requests it may have in flight, of as many as the pool's limits allow.
    pub fn at_most(&self, max_requests: u32) -> u32 {
        if self.is_half_open { max_requests.min(1) } else { max_requests }
    }

    /// The same, judged anew.
    fn judged(&self, (share, factor): Shares) -> Self {
        Self { share, factor, ..self.clone() }
    }
}

impl Candidate for Server {
    fn weight(&self) -> u32 {
        // A factor is 25.6 times WHOLE at most, so that this fits.
        let share = u32::from(self.share) * u32::from(self.factor) / u32::from(WHOLE);
        u32::from(self.weight) * share.max(1)
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
/// in the usual case (the first tier whole) is in the first line. So a state begins where a line does, and has three.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
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
    /// How much of its weight is usable, in percent, rounded down; 100 if it has no servers.
    pub usable_percent: u8,
    /// The largest weight, as of [`Candidate::weight`].
    pub heaviest: u32,
    /// All of them, in the order of the file.
    pub servers: Arc<[Server]>,
    /// The places of those that may be used.
    pub usable: Places,
    /// The places of those that may be used when this tier panics.
    pub usable_in_panic: Places,
    /// Weight of the usable.
    pub usable_weight: u64,
}

const _: () = assert!(size_of::<PoolState>() == 192 || size_of::<usize>() != 8);

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

/// One for each server of a pool, primaries first.
type Verdicts = SmallVec<[Verdict; 8]>;

impl PoolState {
    /// A pool with these primaries and replicas, judged `now`.
    pub fn new(id: PoolId, settings: Arc<PoolSettings>, mut servers: [Vec<Server>; 2], now: Instant) -> Self {
        for tier in &mut servers {
            if tier.iter().any(|server| !is_plain(server, &settings)) {
                let shares: SmallVec<[Shares; 8]> = shares(tier, &settings, now).collect();
                tier.iter_mut().zip(shares).for_each(|(server, (share, factor))| {
                    (server.share, server.factor) = (share, factor);
                });
            }
        }
        // An empty slice is the same for all: most pools have no replica.
        let shared = |servers: Vec<Server>| if servers.is_empty() { Arc::default() } else { servers.into() };
        let tables = tables(&settings);
        Self::judged(id, settings, servers.map(shared), tables)
    }

    /// Its servers, primaries first.
    pub fn servers(&self) -> impl Iterator<Item = &Server> + Clone {
        self.tiers.iter().flat_map(|tier| tier.servers.iter())
    }

    /// What is said of each of its servers at this moment, primaries first. It may be newer than what the tiers say.
    pub fn verdicts(&self) -> Verdicts {
        judge(self.servers(), &self.settings)
    }

    /// The same servers, judged anew.
    pub fn refreshed(&self, now: Instant) -> Self {
        let servers = self.tiers.each_ref().map(|tier| {
            if tier.has_shares(&self.settings, now) {
                return Arc::clone(&tier.servers);
            }
            let judged = tier.servers.iter().zip(shares(&tier.servers, &self.settings, now));
            judged.map(|(server, shares)| server.judged(shares)).collect()
        });
        Self::judged(self.id, Arc::clone(&self.settings), servers, self.tables.clone())
    }

    /// Whether a tier has room for requests of other regions: fewer in flight than it is sized for, by the weight that is
    /// usable now. What is in flight is its own load, first of all.
    pub fn has_room(&self, tier: &Tier) -> bool {
        let Some(capacity) = self.settings.failover.capacity else { return true };
        let servers = tier.usable.iter().filter_map(|&place| tier.servers.get(place as usize));
        let in_flight: u64 = servers.map(|server| u64::from(server.backend.in_flight())).sum();
        in_flight < tier.usable_weight.saturating_mul(u64::from(capacity))
    }

    /// The same servers, with what the operator says of them now, judged anew. `None`: that is what they have.
    pub fn commanded(&self, says: impl Fn(&Server) -> Operator, now: Instant) -> Option<Self> {
        if self.servers().all(|server| server.operator == says(server)) {
            return None;
        }
        let servers = self.tiers.each_ref().map(|tier| {
            tier.servers.iter().map(|server| Server { operator: says(server), ..server.clone() }).collect()
        });
        let next = Self::new(self.id, Arc::clone(&self.settings), servers, now);
        Some(Self { tables: self.tables.clone(), ..next })
    }

    /// The same servers, judged anew; `None`: they would be judged as they were.
    pub fn renewed(&self, now: Instant) -> Option<Self> {
        (!self.is_current(now)).then(|| self.refreshed(now))
    }

    fn is_current(&self, now: Instant) -> bool {
        let mut verdicts = &*self.verdicts();
        self.tiers.iter().all(|tier| {
            let (own, rest) = verdicts.split_at(tier.servers.len().min(verdicts.len()));
            verdicts = rest;
            tier.is_judged(own) && are_marked(&tier.servers, own) && tier.has_shares(&self.settings, now)
        })
    }

    /// Whether requests are sent to this backend, as the tiers say, and more than one at a time.
    pub fn uses(&self, backend: &Backend) -> bool {
        self.tiers.iter().any(|tier| {
            let mut servers = tier.usable.iter().filter_map(|&place| tier.servers.get(place as usize));
            servers.any(|server| std::ptr::eq(&*server.backend, backend) && !server.is_half_open)
        })
    }

    /// Whether a server has less than its whole weight, which changes with time.
    pub fn is_warming_up(&self) -> bool {
        self.servers().any(|server| server.share < WHOLE)
    }

    /// The same pool with other primaries and replicas.
    pub fn with_servers(&self, servers: [Vec<Server>; 2], now: Instant) -> Self {
        Self::new(self.id, Arc::clone(&self.settings), servers, now)
    }

    fn judged(id: PoolId, settings: Arc<PoolSettings>, servers: [Arc<[Server]>; 2], tables: Tables) -> Self {
        let verdicts = judge(servers.iter().flat_map(|servers| servers.iter()), &settings);
        let mut rest = &*verdicts;
        let tiers = servers.map(|servers| {
            let (own, others) = rest.split_at(servers.len().min(rest.len()));
            rest = others;
            let servers = match are_marked(&servers, own) {
                true => servers,
                false => servers
                    .iter()
                    .zip(own)
                    .map(|(server, verdict)| Server { is_half_open: is_half_open(verdict), ..server.clone() })
                    .collect(),
            };
            Tier::new(servers, own, settings.failover.overprovisioning)
        });
        Self { tiers, settings, id, tables }
    }
}

fn judge<'a>(servers: impl Iterator<Item = &'a Server> + Clone, settings: &PoolSettings) -> Verdicts {
    let voices = servers.map(|server| Voices {
        backend: &server.backend,
        check: server.check.as_deref(),
        agent: server.agent.as_deref(),
        operator: server.operator,
    });
    verdicts(voices, settings.outlier.as_ref())
}

/// Whether these servers know which of them are half-open.
fn are_marked(servers: &[Server], verdicts: &[Verdict]) -> bool {
    servers.iter().zip(verdicts).all(|(server, verdict)| server.is_half_open == is_half_open(verdict))
}

fn is_half_open(verdict: &Verdict) -> bool {
    verdict.why == Why::HalfOpen
}

/// A server's share and factor.
type Shares = (u16, u16);

/// What each server of a tier has of its weight `now`.
fn shares<'a>(
    servers: &'a [Server],
    settings: &'a PoolSettings,
    now: Instant,
) -> impl Iterator<Item = Shares> + use<'a> {
    // Only these two ask how loaded a server is.
    let asks = matches!(settings.balance, Policy::LeastRequest | Policy::PeakEwma);
    let weight = move |server: &Server| if asks { server.backend.words()?.weight() } else { None };
    let mean = if asks { load::mean(servers.iter().map(weight)) } else { None };
    servers.iter().map(move |server| {
        let percent = server.agent.as_ref().and_then(|agent| agent.agent()?.percent()).unwrap_or(100);
        let factor = load::factor(weight(server), mean) * f64::from(percent) / 100.0;
        let factor = (f64::from(WHOLE) * factor).round().max(1.0) as u16;
        (share(server, settings.slow_start.window, now), factor)
    })
}

/// Whether it has all of its weight and nothing to say about that.
fn is_plain(server: &Server, settings: &PoolSettings) -> bool {
    settings.slow_start.window.is_zero() && server.agent.is_none() && server.backend.words().is_none()
}

fn share(server: &Server, window: Duration, now: Instant) -> u16 {
    if window.is_zero() { WHOLE } else { slow_start::share(server.backend.standing().warm_since, window, now) }
}

impl Tier {
    /// Whether each of its servers has what it would have of its weight `now`.
    fn has_shares(&self, settings: &PoolSettings, now: Instant) -> bool {
        let is_whole = |server: &Server| (server.share, server.factor) == (WHOLE, WHOLE);
        if self.servers.iter().all(|server| is_plain(server, settings)) {
            return self.servers.iter().all(is_whole);
        }
        let same = |(server, shares): (&Server, Shares)| (server.share, server.factor) == shares;
        self.servers.iter().zip(shares(&self.servers, settings, now)).all(same)
    }

    fn is_judged(&self, verdicts: &[Verdict]) -> bool {
        let (mut usable, mut in_panic) = (self.usable.iter(), self.usable_in_panic.iter());
        let same = (0..).zip(verdicts).all(|(place, verdict)| {
            (!verdict.usable || usable.next() == Some(&place))
                && (!verdict.usable_in_panic || in_panic.next() == Some(&place))
        });
        same && usable.next().is_none() && in_panic.next().is_none()
    }

    fn new(servers: Arc<[Server]>, verdicts: &[Verdict], overprovisioning: f64) -> Self {
        let places = |wanted: fn(&Verdict) -> bool| match ALL.get(..verdicts.len()) {
            Some(all) if verdicts.iter().all(wanted) => Cow::Borrowed(all),
            _ => (0..).zip(verdicts).filter(|(_, verdict)| wanted(verdict)).map(|(place, _)| place).collect(),
        };
        let usable = || servers.iter().zip(verdicts).filter(|(_, verdict)| verdict.usable).map(|(server, _)| server);
        let usable_weight = usable().map(|server| u64::from(server.weight)).sum();
        let total_weight = servers.iter().map(|server| u64::from(server.weight)).sum();
        // What warms up can't take its whole load yet, so that a tier that comes back is loaded little by little, too.
        // What servers say of themselves moves load within their tier only: they may all be busy at once.
        let warm_weight = usable().map(Server::warm_weight).sum();
        Self {
            usable: places(|verdict| verdict.usable),
            usable_in_panic: places(|verdict| verdict.usable_in_panic),
            usable_percent: tiers::usable_percent(usable_weight, total_weight),
            usable_weight,
            heaviest: servers.iter().map(Candidate::weight).max().unwrap_or(1),
            health: tiers::health(warm_weight, total_weight * u64::from(WHOLE), overprovisioning),
            servers,
        }
    }
}

#[cfg(test)]
mod tests;
