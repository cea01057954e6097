//! `/api/v1/status`: what is configured and how it is, as JSON.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;

use super::operator::Shown;
use super::view;
use crate::backend::{self, Passive, Verdict, Why};
use crate::balance::slow_start::WHOLE;
use crate::control::States;
use crate::model::{Operator, Policy, RegionId, Role, Target};
use crate::routing::{Server, Snapshot, TlsSeen};

/// All of it.
#[derive(Serialize)]
pub(super) struct Status<'s> {
    version: &'static str,
    /// `ready`, or why not.
    readiness: &'static str,
    /// Of the configuration in force; as in `config_info`.
    config_hash: &'s str,
    /// Counts what was published: it changes with every fact.
    generation: u64,
    listeners: Vec<Listener<'s>>,
    regions: Vec<Region<'s>>,
    assets: Vec<Asset<'s>>,
    pools: Vec<Pool<'s>>,
}

#[derive(Serialize)]
struct Listener<'s> {
    name: &'s str,
    /// As configured.
    bind: String,
}

#[derive(Serialize)]
struct Region<'s> {
    name: &'s str,
    fallback: Vec<&'s str>,
    /// What an operator has said of it; none: it is ready.
    operator: Option<Shown<'s>>,
}

#[derive(Serialize)]
struct Asset<'s> {
    name: &'s str,
    aliases: &'s [String],
}

#[derive(Serialize)]
struct Pool<'s> {
    asset: String,
    region: String,
    balance: &'static str,
    /// What an operator has said of it.
    operator: Option<Shown<'s>>,
    /// Those of a request for this asset in this region, in failover order; the first are the pool's own.
    tiers: Vec<Tier>,
    backends: Vec<Backend<'s>>,
}

#[derive(Serialize)]
struct Tier {
    region: String,
    role: &'static str,
    /// 0 to 100: the usable share of its weight, overprovisioning included.
    health: u8,
    /// 0 to 100: its share of the requests.
    load: u8,
    /// Whether it uses backends that failed their checks.
    panic: bool,
}

#[derive(Serialize)]
struct Backend<'s> {
    address: &'s str,
    /// Who it has to be inside TLS; none: it is spoken to in clear.
    tls: Option<TlsSeen>,
    role: &'static str,
    weight: u16,
    /// `up`, `down`, `unchecked` (not yet), `not-checked` (checks are off), `ejected`, `spared` (it would be ejected, but
    /// too many are), `half-open`, `announced-drain` (it says so itself), `drain`, `maintenance`.
    state: &'static str,
    /// Whether it gets requests.
    usable: bool,
    /// Why it is in drain or maintenance: what holds of what has been said of it, its pool and its region.
    operator: Option<Shown<'s>>,
    /// Why it is down or ejected; in what it has announced drain.
    cause: Option<String>,
    /// Seconds since its state changed; none without checks.
    since: Option<f64>,
    /// Seconds until an ejection ends, if it is ejected.
    ejected_for: Option<f64>,
    /// How much of its weight it has, 0 to 1, while that grows.
    slow_start: Option<f64>,
    /// How busy it says it is; none: it has not said so lately.
    utilization: Option<f64>,
    /// What its load reports and its agent make of its weight, if not the whole.
    load_weight: Option<f64>,
    /// The last line of its agent that said anything.
    agent: Option<String>,
    in_flight: u32,
    /// How many requests at once are good for it, where `limits.adaptive` finds that out.
    limit: Option<u32>,
    connections: u32,
    /// Seconds until an answer is to be expected: with `peak-ewma`, of one that has ever answered.
    latency: Option<f64>,
}

/// What operators have said, at one time.
#[derive(Clone, Copy)]
struct Words<'s> {
    states: &'s States,
    now: Timestamp,
}

impl<'s> Words<'s> {
    /// Of this very thing.
    fn of(self, target: impl FnOnce() -> Target) -> Option<Shown<'s>> {
        let said = if self.states.is_empty() { None } else { self.states.get(&target()) };
        said.map(|said| Shown::new(said, self.now))
    }

    /// What keeps a server out of a pool.
    fn holding(self, pool: &view::PoolView<'_>, server: &Server) -> Option<Shown<'s>> {
        if server.operator == Operator::Ready {
            return None;
        }
        let said = self.states.holding(&pool.asset, &pool.region, &server.backend.label)?;
        Some(Shown::new(said, self.now))
    }
}

impl<'s> Status<'s> {
    /// As it is `now`.
    pub(super) fn new(
        snapshot: &'s Snapshot,
        states: &'s States,
        readiness: Result<(), &'static str>,
        now: Instant,
    ) -> Self {
        let said = Words { states, now: Timestamp::now() };
        let plan = &snapshot.index.plan;
        let name = |region: &RegionId| plan.regions.get(region.index()).map(|region| &*region.name);
        let listeners = plan.listeners.iter().map(|l| Listener { name: &l.name, bind: l.bind.to_string() });
        let regions = plan.regions.iter().map(|region| Region {
            name: &region.name,
            fallback: region.fallback.iter().filter_map(name).collect(),
            operator: said.of(|| Target::Region(Arc::clone(&region.name))),
        });
        let assets = plan.assets.iter().map(|asset| Asset { name: &asset.name, aliases: &asset.aliases });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            readiness: readiness.err().unwrap_or("ready"),
            config_hash: &plan.hash,
            generation: snapshot.generation,
            listeners: listeners.collect(),
            regions: regions.collect(),
            assets: assets.collect(),
            pools: view::pools(snapshot).map(|pool| Pool::new(snapshot, said, &pool, now)).collect(),
        }
    }
}

impl<'s> Pool<'s> {
    fn new(snapshot: &'s Snapshot, said: Words<'s>, pool: &view::PoolView<'s>, now: Instant) -> Self {
        let tiers = view::tiers(snapshot, pool.state);
        let verdicts = pool.state.verdicts();
        let roles =
            pool.state.tiers.iter().zip(Role::ALL).flat_map(|(tier, role)| tier.servers.iter().map(move |_| role));
        let measured = pool.state.settings.balance == Policy::PeakEwma;
        Self {
            asset: pool.asset.to_string(),
            region: pool.region.to_string(),
            balance: pool.state.settings.balance.as_str(),
            operator: said.of(|| Target::Pool(Arc::clone(&pool.asset), Arc::clone(&pool.region))),
            tiers: tiers.iter().map(Tier::new).collect(),
            backends: pool
                .state
                .servers()
                .zip(roles)
                .zip(&verdicts)
                .map(|((server, role), verdict)| {
                    let operator = said.holding(pool, server);
                    Backend { operator, ..Backend::new(server, role, *verdict, measured, now) }
                })
                .collect(),
        }
    }
}

impl Tier {
    fn new(view: &view::TierView<'_>) -> Self {
        Self {
            region: view.region.to_string(),
            role: view.role.as_str(),
            health: view.tier.health,
            load: view.load,
            panic: view.panic,
        }
    }
}

impl<'s> Backend<'s> {
    fn new(server: &'s Server, role: Role, verdict: Verdict, measured: bool, now: Instant) -> Self {
        let ejection = server.backend.standing().ejection.filter(|_| server.backend.passive() != Passive::Trusted);
        let left = ejection.map(|ejection| ejection.until.saturating_duration_since(now).as_secs_f64());
        let since = server.check.as_ref().map(|check| now.saturating_duration_since(check.status_since().1));
        Self {
            address: &server.backend.label,
            tls: TlsSeen::of(&server.backend),
            role: role.as_str(),
            weight: server.weight,
            state: verdict.why.as_str(),
            usable: verdict.usable,
            operator: None,
            cause: match verdict.why {
                Why::Down(cause) => Some(cause.to_string()),
                Why::Announced(by) => Some(by.as_str().to_owned()),
                Why::Ejected | Why::Spared | Why::HalfOpen => ejection.map(|e| e.detector.as_str().to_owned()),
                _ => None,
            },
            since: since.map(|since| since.as_secs_f64()),
            ejected_for: left,
            slow_start: (server.share < WHOLE).then(|| f64::from(server.share) / f64::from(WHOLE)),
            utilization: server.backend.words().and_then(backend::Words::utilization),
            load_weight: server.load_weight(),
            agent: server.agent.as_ref().and_then(|agent| agent.agent()?.line()),
            in_flight: server.backend.in_flight(),
            limit: server.backend.limit(),
            connections: server.backend.connections(),
            latency: if measured { server.backend.latency().measured(now) } else { None },
        }
    }
}
