//! What a reload changes, and what it can't.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::model::{Plan, PoolAsset};

/// What a reload can't change, by its name in the file; empty: nothing of that kind differs.
pub fn unchangeable(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let mut names = Vec::new();
    if old.server.workers != new.server.workers {
        names.push("server.workers");
    }
    if old.admin.as_ref().map(|admin| &admin.bind) != new.admin.as_ref().map(|admin| &admin.bind) {
        names.push("admin.bind");
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

impl Summary {
    /// Of going from one Plan to another. Pools are told apart by the names of their asset and region.
    pub fn new(old: &Plan, new: &Plan) -> Self {
        let before: HashMap<_, _> = (0..old.pools.len()).map(|i| (names(old, i), i)).collect();
        let mut seen = HashSet::new();
        let mut summary = Self { pools: new.pools.len(), ..Self::default() };
        for (i, pool) in new.pools.iter().enumerate() {
            match before.get(&names(new, i)) {
                None => summary.added += 1,
                Some(&was) => {
                    seen.insert(was);
                    let old = old.pools.get(was);
                    let same = old.is_some_and(|old| old.members == pool.members && old.settings == pool.settings);
                    summary.changed += usize::from(!same);
                }
            }
        }
        summary.removed = old.pools.len() - seen.len();
        summary
    }
}

type Names = (Option<Arc<str>>, Option<Arc<str>>);

fn names(plan: &Plan, pool: usize) -> Option<Names> {
    let pool = plan.pools.get(pool)?;
    let asset = match pool.asset {
        PoolAsset::Named(id) => plan.assets.get(id.index()).map(|asset| asset.name.clone()),
        PoolAsset::Any => None,
    };
    Some((asset, plan.regions.get(pool.region.index()).map(|region| region.name.clone())))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pools, added, changed, removed } = self;
        write!(f, "{pools} pools: {added} added, {changed} changed, {removed} removed")
    }
}
