//! What would happen to a request, and why: the decisions of the data path, told instead of carried out.
//!
//! Route, key and pools come from the very code that serves requests; it has somebody listening here. So does the
//! backend: the policy picks it. Where chance decides, the explanation shows all shares, follows the largest, and gives
//! one draw of the policy.

use std::net::IpAddr;
use std::time::Instant;

use http::request;
use serde::Serialize;

use super::loads::Loads;
use super::resolve::{Ending, Listener, Part};
use super::{Chain, PoolState, Snapshot, Tier};
use crate::backend::{Backend, Verdict};
use crate::balance::{self, Group, Rotation, tiers};
use crate::message::RequestHead;
use crate::message::fields::Known;
use crate::message::framing::origin_form;
use crate::message::key::View;
use crate::model::{Action, HashSource, HostPattern, Key, Policy, Reason, Role, Route, Source, SourceKind};

mod text;

/// What would happen to a request, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The request's method.
    pub method: String,
    /// The request's host, without a port.
    pub host: String,
    /// The request's path, as it was sent.
    pub path: String,
    /// The client's address, if one was given.
    pub client: Option<IpAddr>,
    /// The route that matched.
    pub route: Option<RouteTaken>,
    /// Each source that was read, in order, until one decided.
    pub sources: Vec<SourceRead>,
    /// The asset as the file spells it; a name that is not configured as the request spells it.
    pub asset: Option<String>,
    /// The region asked for.
    pub region: Option<String>,
    /// The pools on the way, in failover order.
    pub pools: Vec<PoolFound>,
    /// The steps of the failover order that have servers.
    pub tiers: Vec<TierSeen>,
    /// The backend that gets it.
    pub pick: Option<Picked>,
    /// Why no backend gets it, if shardgate would answer with an error.
    pub refusal: Option<Refused>,
}

/// A route, and what of it matched.
#[derive(Debug, Clone, Serialize)]
pub struct RouteTaken {
    /// Its name.
    pub name: String,
    /// `forward`, `redirect`, `respond`.
    pub action: &'static str,
    /// What it answers by itself: the status and, for a redirect, where to.
    pub answer: Option<String>,
    /// Which of its hosts, its path and its methods matched.
    pub why: String,
}

/// A source that was read.
#[derive(Debug, Clone, Serialize)]
pub struct SourceRead {
    /// `asset` or `region`.
    pub part: &'static str,
    /// As the file writes it; `default_region` for that.
    pub source: String,
    /// What it said; `null`: nothing.
    pub value: Option<String>,
    /// `absent`, `decides`, `falls-through` (no such name, and the source is lenient), `unknown` (no such name).
    pub result: &'static str,
}

/// A pool on the way.
#[derive(Debug, Clone, Serialize)]
pub struct PoolFound {
    /// As the file spells it; `*` for a region's pool for everything else.
    pub asset: String,
    /// Where.
    pub region: String,
}

/// One step of the failover order.
#[derive(Debug, Clone, Serialize)]
pub struct TierSeen {
    /// Whose pool.
    pub asset: String,
    /// Where.
    pub region: String,
    /// `primary` or `replica`.
    pub role: &'static str,
    /// Its share of the key's load, in percent.
    pub load: u8,
    /// What it could take, in percent.
    pub health: u8,
    /// Whether servers are used again that failed their checks.
    pub panic: bool,
    /// How one of them is picked.
    pub policy: &'static str,
    /// In the order of the file.
    pub servers: Vec<ServerSeen>,
}

/// A server.
#[derive(Debug, Clone, Serialize)]
pub struct ServerSeen {
    /// Its address.
    pub backend: String,
    /// Who it has to be inside TLS; `null`: it is spoken to in clear.
    pub tls: Option<TlsSeen>,
    /// Relative capacity.
    pub weight: u16,
    /// Why it is or is not usable, in a word or two.
    pub state: String,
    /// Whether it may be used now: in its tier's panic, too.
    pub usable: bool,
    /// Requests in flight, over all workers and pools.
    pub in_flight: u32,
    /// Seconds until an answer is to be expected, if the policy asks for that and it has ever answered.
    pub latency: Option<f64>,
    /// What its own word (load reports, its agent) makes of its weight, if not the whole.
    pub load_weight: Option<f64>,
}

/// Who a server has to be inside TLS.
#[derive(Debug, Clone, Serialize)]
pub struct TlsSeen {
    /// The name that its certificate must be for.
    pub name: String,
    /// Whether that is checked; not with `insecure`.
    pub verified: bool,
}

impl TlsSeen {
    /// `None`: it is spoken to in clear.
    pub fn of(backend: &Backend) -> Option<Self> {
        let to = backend.identity.tls.as_ref()?;
        Some(Self { name: to.name.to_str().into_owned(), verified: to.settings.verifies })
    }
}

/// The backend that gets it.
#[derive(Debug, Clone, Serialize)]
pub struct Picked {
    /// Its address.
    pub backend: String,
    /// The region that serves, which may be another than was asked for.
    pub region: String,
    /// `primary` or `replica`.
    pub role: &'static str,
    /// Why this tier, and why this one of it.
    pub why: String,
}

/// Why no backend gets it.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// The word in the answer, the log and the metrics.
    pub reason: &'static str,
    /// A sentence.
    pub why: String,
    /// The methods that would do.
    pub allow: Option<String>,
}

impl Explanation {
    /// Whether the client gets what the configuration means it to get: a backend's answer, or the route's own.
    pub fn is_served(&self) -> bool {
        self.refusal.is_none()
    }
}

/// Explains a request that is not made, `now`. `client`: its address, as far as it would be believed.
pub fn explain(
    snapshot: &Snapshot,
    request: &request::Parts,
    client: Option<IpAddr>,
    now: Instant,
    random: &mut fastrand::Rng,
) -> Explanation {
    let index = &snapshot.index;
    let request = &RequestHead::from(request);
    let view = View::from(request);
    let mut notes = Notes::default();
    let result = index.resolve_told(&view, client, &mut notes);
    let (route, key) = match &result {
        Ok(resolved) => (Some(resolved.route), resolved.target.map(|target| target.key)),
        Err(refusal) => (refusal.route, refusal.key),
    };
    let mut told = Explanation {
        method: view.method.to_string(),
        host: view.host().to_owned(),
        path: view.path.to_owned(),
        client,
        route: route
            .and_then(|number| index.plan.routes.get(number))
            .map(|route| route_taken(route, request, view.host())),
        sources: notes.0,
        asset: None,
        region: None,
        pools: Vec::new(),
        tiers: Vec::new(),
        pick: None,
        refusal: None,
    };
    if let Some(key) = key {
        told.tell_key(snapshot, key);
    }
    match result {
        Ok(resolved) => {
            if let Some(target) = resolved.target {
                told.tell_tiers(&Question { snapshot, head: request, client, now }, &target.chain, random);
            }
        }
        Err(refusal) => {
            let allow = refusal.allow.and_then(|allow| allow.to_str().ok().map(str::to_owned));
            told.refuse(refusal.reason, allow);
        }
    }
    told
}

impl Explanation {
    fn tell_key(&mut self, snapshot: &Snapshot, key: Key) {
        let plan = &snapshot.index.plan;
        let region = plan.regions.get(key.region.index()).map(|region| region.name.to_string());
        if !self.sources.iter().any(|read| read.part == "region" && read.result == "decides") {
            self.sources.push(SourceRead {
                part: "region",
                source: "default_region".into(),
                value: region.clone(),
                result: "decides",
            });
        }
        self.region = region;
        let known = key.asset.and_then(|asset| plan.assets.get(asset.index())).map(|asset| asset.name.to_string());
        let sent = || self.sources.iter().rfind(|read| read.part == "asset").and_then(|read| read.value.clone());
        self.asset = known.or_else(sent);
    }

    fn tell_tiers(&mut self, question: &Question<'_>, chain: &Chain, random: &mut fastrand::Rng) {
        let snapshot = question.snapshot;
        let loads = Loads::new(snapshot, chain);
        for id in chain.iter() {
            let (asset, region) = snapshot.index.pool_labels(id);
            self.pools.push(PoolFound { asset: asset.to_string(), region: region.to_string() });
        }
        for ((pool, role, tier), &load) in snapshot.tiers(chain).zip(loads.shares()) {
            let verdicts = pool.verdicts();
            let (primaries, replicas) = verdicts.split_at(pool.tiers[0].servers.len().min(verdicts.len()));
            let own = if role == Role::Primary { primaries } else { replicas };
            if tier.servers.is_empty() {
                continue;
            }
            let (asset, region) = snapshot.index.pool_labels(pool.id);
            let panic = loads.room.is_panic(pool, tier);
            self.tiers.push(TierSeen {
                asset: asset.to_string(),
                region: region.to_string(),
                role: role.as_str(),
                load,
                health: tier.health,
                panic,
                policy: pool.settings.balance.as_str(),
                servers: servers_seen(pool, tier, panic, own, question.now),
            });
        }
        self.pick = question.pick(chain, &loads, random);
        if self.pick.is_none() {
            let full = self.tiers.iter().flat_map(|tier| &tier.servers).any(|server| server.usable);
            self.refuse(if full { Reason::Overloaded } else { Reason::NoHealthyBackend }, None);
        }
    }

    fn refuse(&mut self, reason: Reason, allow: Option<String>) {
        let why = match reason {
            Reason::NoRoute => "no route has this host and path".to_owned(),
            Reason::MethodNotAllowed => format!("the route does not take {}", self.method),
            Reason::NoAsset => "no source named an asset".to_owned(),
            Reason::UnknownRegion => "a source named a region that is not configured".to_owned(),
            Reason::UnknownAsset => "no pool serves this asset, here or in a fallback region".to_owned(),
            Reason::NoHealthyBackend => "no tier has a usable backend".to_owned(),
            Reason::Overloaded => {
                "every usable backend has max_requests in flight; requests wait in the pool's queue".to_owned()
            }
            other => other.to_string(),
        };
        self.refusal = Some(Refused { reason: reason.as_str(), why, allow });
    }
}

/// What was heard while the key was read.
#[derive(Default)]
struct Notes(Vec<SourceRead>);

impl Listener for Notes {
    fn source(&mut self, part: Part, source: &Source, value: Option<&[u8]>, ending: Ending) {
        self.0.push(SourceRead {
            part: match part {
                Part::Asset => "asset",
                Part::Region => "region",
            },
            source: source_text(source),
            value: value.map(|value| String::from_utf8_lossy(value).into_owned()),
            result: match ending {
                Ending::Absent => "absent",
                Ending::Decides => "decides",
                Ending::FallsThrough => "falls-through",
                Ending::Unknown => "unknown",
            },
        });
    }
}

pub(super) fn source_text(source: &Source) -> String {
    kind_text(&source.kind, if source.lenient { "?" } else { "" })
}

fn kind_text(kind: &SourceKind, mark: &str) -> String {
    let (kind, name) = match kind {
        SourceKind::Path(name) => ("path", name.as_str()),
        SourceKind::Query(name) => ("query", name.as_str()),
        SourceKind::Header(name) => ("header", name.as_str()),
        SourceKind::Cookie(name) => ("cookie", name.as_str()),
        SourceKind::Host(name) => ("host", name.as_str()),
        SourceKind::Const(value) => ("const", value.as_str()),
        SourceKind::ClientAddress => ("client-address", ""),
    };
    let colon = if name.is_empty() { "" } else { ":" };
    format!("{kind}{mark}{colon}{name}")
}

fn route_taken(route: &Route, request: &RequestHead, host: &str) -> RouteTaken {
    let pattern = route.hosts.iter().find(|pattern| pattern_fits(pattern, host)).map(pattern_text);
    let methods: Vec<_> = route.methods.iter().map(http::Method::as_str).collect();
    let why = format!(
        "{}, {}, {}",
        pattern.map_or_else(|| "any host".to_owned(), |pattern| format!("host {pattern}")),
        route.path.as_ref().map_or_else(|| "any target".to_owned(), |path| format!("path {path}")),
        if methods.is_empty() { "any method".to_owned() } else { format!("method {}", methods.join(" or ")) },
    );
    let action = match route.action {
        Action::Forward => "forward",
        Action::Redirect(_) => "redirect",
        Action::Respond { .. } => "respond",
    };
    // With its port, as a redirect repeats it.
    let sent = request.fields.get(Known::Host).and_then(|host| str::from_utf8(host).ok()).unwrap_or(host);
    let target = origin_form(request.target());
    let answer = route.action.own_answer(&request.method, sent, &String::from_utf8_lossy(&target)).map(
        |(status, to)| match to {
            Some(to) => format!("{} to {to}", status.as_u16()),
            None => status.as_u16().to_string(),
        },
    );
    RouteTaken { name: route.name.clone(), action, answer, why }
}

fn pattern_fits(pattern: &HostPattern, host: &str) -> bool {
    let before = |suffix: &str| {
        let (label, rest) = host.split_at_checked(host.len().checked_sub(suffix.len())?)?;
        (rest.eq_ignore_ascii_case(suffix) && !label.is_empty()).then_some(label)
    };
    match pattern {
        HostPattern::Exact(name) => name.eq_ignore_ascii_case(host),
        HostPattern::Wildcard(suffix) => before(suffix).is_some(),
        HostPattern::Capture { suffix, .. } => before(suffix).is_some_and(|label| !label.contains('.')),
    }
}

fn pattern_text(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(name) => name.clone(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}"),
        HostPattern::Capture { name, suffix } => format!("{{{name}}}{suffix}"),
    }
}

fn servers_seen(pool: &PoolState, tier: &Tier, panic: bool, verdicts: &[Verdict], now: Instant) -> Vec<ServerSeen> {
    let usable = places(tier, panic);
    let measured = pool.settings.balance == Policy::PeakEwma;
    let seen = (0..).zip(tier.servers.iter()).zip(verdicts).map(|((place, server), verdict)| ServerSeen {
        backend: server.backend.label.to_string(),
        tls: TlsSeen::of(&server.backend),
        weight: server.weight,
        state: verdict.why.to_string(),
        usable: usable.contains(&place),
        in_flight: server.backend.in_flight(),
        latency: if measured { server.backend.latency().measured(now) } else { None },
        load_weight: server.load_weight(),
    });
    seen.collect()
}

fn places(tier: &Tier, panic: bool) -> &[u32] {
    if panic { &tier.usable_in_panic } else { &tier.usable }
}

/// A request that is not made, and when.
struct Question<'a> {
    snapshot: &'a Snapshot,
    head: &'a RequestHead,
    client: Option<IpAddr>,
    now: Instant,
}

impl Question<'_> {
    /// By what the pool's policy spreads it.
    fn hash<'p>(&self, pool: &'p PoolState) -> Option<(&'p HashSource, u64)> {
        self.snapshot.index.hash(self.head, || self.client, &pool.settings.hash_on)
    }

    /// Follows the largest share, or where its hash leads; from there the tiers after it, then those before it, as the
    /// data path does when a tier has nobody.
    fn pick(&self, chain: &Chain, loads: &Loads, random: &mut fastrand::Rng) -> Option<Picked> {
        let tiers: Vec<_> = self.snapshot.tiers(chain).collect();
        let home = tiers.first().and_then(|(pool, ..)| self.hash(pool));
        let first = match home {
            Some((_, hash)) => tiers::choose(loads.shares(), balance::percent(hash)),
            None => {
                let largest = loads.shares().iter().copied().max().unwrap_or(0);
                loads.shares().iter().position(|&share| share == largest)
            }
        };
        let first = first.unwrap_or(0);
        (first..tiers.len()).chain(0..first).find_map(|at| {
            let &(pool, role, tier) = tiers.get(at)?;
            if at / Role::ALL.len() > 0 && !pool.has_room(tier) {
                return None;
            }
            let panic = loads.room.is_panic(pool, tier);
            let usable = places(tier, panic);
            let group = Group { servers: &tier.servers, usable, heaviest: tier.heaviest };
            let max = pool.settings.limits.max_requests;
            let is_full = |place: usize| {
                tier.servers.get(place).is_none_or(|server| !server.backend.has_room(server.at_most(max)))
            };
            let hashed = self.hash(pool);
            let rule = pool.rule(role, |_| hashed.map(|(_, hash)| hash), || self.now);
            let place = balance::pick(rule, group, is_full, &mut Rotation::default(), random)?;
            let server = tier.servers.get(place)?;
            let (_, region) = self.snapshot.index.pool_labels(pool.id);
            Some(Picked {
                backend: server.backend.label.to_string(),
                region: region.to_string(),
                role: role.as_str(),
                why: why(pool, hashed, tier, loads.shares().get(at).copied().unwrap_or(0), panic),
            })
        })
    }
}

fn why(pool: &PoolState, hashed: Option<(&HashSource, u64)>, tier: &Tier, load: u8, panic: bool) -> String {
    let (total, usable) = (tier.servers.len(), places(tier, panic).len());
    let share = match (panic, load) {
        (true, _) => format!("panic: {} % of the tier is usable and no other has room", tier.usable_percent),
        (false, 100) => "its tier takes all load".to_owned(),
        (false, load) => format!("its tier takes {load} % of the load"),
    };
    let policy = pool.settings.balance;
    let by = match (policy, hashed) {
        (Policy::Maglev, Some((HashSource::Uri, _))) => " by uri".to_owned(),
        (Policy::Maglev, Some((HashSource::Part(kind), _))) => format!(" by {}", kind_text(kind, "")),
        (Policy::Maglev, None) => ", but no source yields: random".to_owned(),
        _ => String::new(),
    };
    format!("{share}; {}{by} among {usable} of {total}", policy.as_str())
}

#[cfg(test)]
mod tests;
