//! What operators have said, for one Plan: by its numbers instead of by names. And which of its things a name means.

use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::states::{States, usual};
use crate::config::nearest;
use crate::model::{Operator, PoolAsset, PoolId, RegionId, Target};
use crate::routing::{Index, PoolState, Server, Snapshot};

/// With more names than this, whoever misspells one is not told which they meant: that would take the control plane
/// longer than it should be kept.
const HINTS: usize = 2_000;

/// What operators have said, for one Plan.
pub(super) struct Orders {
    index: Arc<Index>,
    regions: Box<[Operator]>,
    pools: FxHashMap<PoolId, OfPool>,
    /// Nobody has said anything: the usual case, which a step over all pools should not pay for.
    is_empty: bool,
}

#[derive(Default)]
struct OfPool {
    pool: Operator,
    backends: Vec<(Arc<str>, Operator)>,
}

impl Orders {
    /// What of this a Plan knows.
    pub(super) fn new(states: &States, index: &Arc<Index>) -> Self {
        let mut orders = Self {
            index: Arc::clone(index),
            regions: vec![Operator::Ready; index.plan.regions.len()].into(),
            pools: FxHashMap::default(),
            is_empty: states.is_empty(),
        };
        for said in states.iter() {
            match &said.target {
                Target::Region(region) => {
                    let place = index.region(&**region).and_then(|id| orders.regions.get_mut(id.index()));
                    if let Some(place) = place {
                        *place = said.state;
                    }
                }
                Target::Pool(asset, region) => {
                    if let Some(id) = own(index, asset, region) {
                        orders.pools.entry(id).or_default().pool = said.state;
                    }
                }
                Target::Backend(asset, region, address) => {
                    if let Some(id) = own(index, asset, region) {
                        orders.pools.entry(id).or_default().backends.push((usual(address), said.state));
                    }
                }
            }
        }
        orders
    }

    /// What holds for a backend of a pool.
    pub(super) fn of(&self, id: PoolId, label: &str) -> Operator {
        if self.is_empty {
            return Operator::Ready;
        }
        let region = self.index.plan.pools.get(id.index()).map(|pool| pool.region);
        let region = region.and_then(|region| self.regions.get(region.index())).copied().unwrap_or_default();
        let Some(of_pool) = self.pools.get(&id) else { return region };
        let backend = of_pool.backends.iter().find(|(address, _)| **address == *label).map_or(Operator::Ready, |b| b.1);
        region.max(of_pool.pool).max(backend)
    }

    /// Writes it into servers that were just found.
    pub(super) fn mark(&self, id: PoolId, servers: &mut [Vec<Server>; 2]) {
        servers.iter_mut().flatten().for_each(|server| server.operator = self.of(id, &server.backend.label));
    }

    /// A pool as it is by that; `None`: it is so already.
    pub(super) fn commanded(&self, pool: &PoolState, now: Instant) -> Option<PoolState> {
        pool.commanded(|server| self.of(pool.id, &server.backend.label), now)
    }
}

/// What a name means in one Plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    Region(RegionId),
    Pool(PoolId),
    /// The one of this address.
    Backend(PoolId, Arc<str>),
}

/// Nothing that is configured has this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// `region`, `pool`, `backend`: the part of the name that is wrong.
    pub level: &'static str,
    /// What there is instead.
    pub help: String,
}

/// What a name means, and how the configuration spells it.
pub(super) fn find(snapshot: &Snapshot, target: &Target) -> Result<(Scope, Target), Unknown> {
    let index = &snapshot.index;
    let [Some(region), asset, address] = target.parts() else { return Err(unknown("region", String::new())) };
    let Some(region_id) = index.region(&**region) else {
        let names: Vec<&str> = index.plan.regions.iter().map(|region| &*region.name).collect();
        return Err(unknown("region", format!("there is no region {region}{}", choice(region, &names))));
    };
    let spelled = index.plan.regions.get(region_id.index()).map_or_else(|| Arc::clone(region), |r| Arc::clone(&r.name));
    let Some(asset) = asset else { return Ok((Scope::Region(region_id), Target::Region(spelled))) };
    let Some(id) = pool(index, asset, region) else {
        let of_region = index.plan.pools.iter().filter(|pool| pool.region == region_id);
        let names: Vec<&str> = of_region
            .take(HINTS + 1)
            .map(|pool| match pool.asset {
                PoolAsset::Any => "*",
                PoolAsset::Named(id) => index.plan.assets.get(id.index()).map_or("", |asset| &*asset.name),
            })
            .collect();
        return Err(unknown("pool", format!("{asset} has no pool in {spelled}{}", choice(asset, &names))));
    };
    let (asset, region) = index.pool_labels(id);
    let Some(address) = address.map(usual) else { return Ok((Scope::Pool(id), Target::Pool(asset, region))) };
    if !snapshot.pool(id).servers().any(|server| server.backend.label == address) {
        let names: Vec<&str> = snapshot.pool(id).servers().map(|server| &*server.backend.label).collect();
        let help = format!("{asset}/{region} has no backend {address}{}", choice(&address, &names));
        return Err(unknown("backend", help));
    }
    Ok((Scope::Backend(id, Arc::clone(&address)), Target::Backend(asset, region, address)))
}

/// Whether a Plan speaks of this: of an address, whether the file has it or a name leads to it.
pub(super) fn is_configured(snapshot: &Snapshot, target: &Target) -> bool {
    let plan = &snapshot.index.plan;
    match target {
        Target::Backend(asset, region, address) => own(&snapshot.index, asset, region).is_some_and(|id| {
            let address = &*usual(address);
            let members = plan.pools.get(id.index()).map_or(&[][..], |pool| &pool.members);
            members.iter().any(|member| *member.address.to_string() == *address)
                || snapshot.pool(id).servers().any(|server| *server.backend.label == *address)
        }),
        Target::Pool(asset, region) => own(&snapshot.index, asset, region).is_some(),
        Target::Region(region) => snapshot.index.region(&**region).is_some(),
    }
}

/// The pools that a name means in one Plan.
pub(super) fn pools_of<'i>(index: &'i Index, target: &Target) -> Box<dyn Iterator<Item = PoolId> + 'i> {
    match target {
        Target::Region(region) => {
            let region = index.region(&**region);
            let pools = super::world::pools(index);
            Box::new(pools.filter(move |(_, pool)| Some(pool.region) == region).map(|(id, _)| id))
        }
        Target::Pool(asset, region) | Target::Backend(asset, region, _) => {
            Box::new(own(index, asset, region).into_iter())
        }
    }
}

/// The pool that this was said of: an asset that has become another's alias is none any more, so that what was said of it
/// does not hold for the other.
fn own(index: &Index, asset: &str, region: &str) -> Option<PoolId> {
    let id = pool(index, asset, region)?;
    let (name, _) = index.pool_labels(id);
    name.eq_ignore_ascii_case(asset).then_some(id)
}

/// The pool that an operator means, by whatever name of its asset.
fn pool(index: &Index, asset: &str, region: &str) -> Option<PoolId> {
    let asset = if asset == "*" { None } else { Some(index.asset(asset)?) };
    index.own_pool(asset, index.region(region)?)
}

fn unknown(level: &'static str, help: String) -> Unknown {
    Unknown { level, help }
}

/// ": did you mean …?", or what there is.
fn choice(word: &str, names: &[&str]) -> String {
    if names.len() > HINTS {
        return String::new();
    }
    match (nearest(word, names.iter().copied()), names) {
        (Some(near), _) => format!("; did you mean {near}?"),
        (None, [_, ..]) if names.len() <= 16 => format!("; there is {}", names.join(", ")),
        _ => String::new(),
    }
}
