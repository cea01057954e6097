//! What a reload changes, and what it can't.

use std::fmt;
use std::sync::Arc;

use crate::model::{AssetId, Plan, PoolAsset, PoolId, PoolSettings};
use crate::routing::Index;

/// What a reload can't change, by its name in the file; empty: nothing of that kind differs.
pub fn unchangeable(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let mut names = Vec::new();
    if old.server.workers != new.server.workers {
        names.push("server.workers");
    }
    if old.admin.as_ref().map(|admin| &admin.bind) != new.admin.as_ref().map(|admin| &admin.bind) {
        names.push("admin.bind");
    }
    let has_tls = |plan: &Plan| plan.admin.as_ref().is_some_and(|admin| admin.tls.is_some());
    if has_tls(old) != has_tls(new) && old.admin.is_some() == new.admin.is_some() {
        names.push("admin.tls");
    }
    if old.admin.as_ref().map(|admin| &admin.state_file) != new.admin.as_ref().map(|admin| &admin.state_file)
        && old.admin.is_some() == new.admin.is_some()
    {
        names.push("admin.state_file");
    }
    names
}

/// How many pools a reload adds, changes and removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Pools in force now.
    pub pools: usize,
    /// That were not there before.
    pub added: usize,
    /// With other members or settings.
    pub changed: usize,
    /// That are gone.
    pub removed: usize,
}

/// How two Plans differ, pool by pool.
pub(super) struct Diff {
    pub(super) summary: Summary,
    /// By pool of the new Plan: the number it had, if nothing that is said of it has changed.
    pub(super) same: Vec<Option<PoolId>>,
}

impl Diff {
    /// Of going from one Plan to another. Pools are told apart by the names of their asset and region.
    pub(super) fn new(old: &Index, new: &Index) -> Self {
        let regions: Vec<_> = new.plan.regions.iter().map(|region| old.region_spelled(&region.name)).collect();
        let mut diff = Self {
            summary: Summary { pools: new.plan.pools.len(), ..Summary::default() },
            same: Vec::with_capacity(new.plan.pools.len()),
        };
        let mut found = 0;
        // An asset's pools are neighbours, and so mostly are pools of the same settings: each is asked for once.
        let mut asset = (PoolAsset::Any, None);
        let mut settings: Option<(&Arc<PoolSettings>, &Arc<PoolSettings>, bool)> = None;
        for pool in &new.plan.pools {
            if pool.asset != asset.0 {
                asset = (pool.asset, old_asset(old, &new.plan, pool.asset));
            }
            let was = match (asset, regions.get(pool.region.index()).copied().flatten()) {
                ((PoolAsset::Any, _), Some(region)) => old.own_pool(None, region),
                ((PoolAsset::Named(_), Some(asset)), Some(region)) => old.own_pool(Some(asset), region),
                _ => None,
            };
            let Some((was, before)) = was.and_then(|was| Some((was, old.plan.pools.get(was.index())?))) else {
                diff.summary.added += 1;
                diff.same.push(None);
                continue;
            };
            found += 1;
            let same_settings = match settings {
                Some((one, other, same))
                    if Arc::ptr_eq(one, &before.settings) && Arc::ptr_eq(other, &pool.settings) =>
                {
                    same
                }
                _ => {
                    let same = before.settings == pool.settings;
                    settings = Some((&before.settings, &pool.settings, same));
                    same
                }
            };
            let same = same_settings && before.members == pool.members;
            diff.summary.changed += usize::from(!same);
            diff.same.push(same.then_some(was));
        }
        diff.summary.removed = old.plan.pools.len() - found;
        diff
    }
}

/// The asset that was spelled like this.
fn old_asset(old: &Index, new: &Plan, asset: PoolAsset) -> Option<AssetId> {
    let PoolAsset::Named(id) = asset else { return None };
    old.asset_spelled(&new.assets.get(id.index())?.name)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pools, added, changed, removed } = self;
        write!(f, "{pools} pools: {added} added, {changed} changed, {removed} removed")
    }
}
