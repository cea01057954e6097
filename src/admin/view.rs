//! A Snapshot as it is shown: which pools there are, and how the load of a key spreads over its tiers.
//!
//! The loads are worked out by what works them out for the data path.

use std::sync::Arc;

use crate::model::{Key, PoolAsset, Role};
use crate::routing::{Loads, PoolState, Snapshot, Tier};

/// A pool, by the labels of its series.
pub(super) struct PoolView<'s> {
    pub(super) asset: Arc<str>,
    pub(super) region: Arc<str>,
    pub(super) state: &'s PoolState,
}

/// One tier of a key, with its share of the key's requests.
pub(super) struct TierView<'s> {
    pub(super) region: Arc<str>,
    pub(super) role: Role,
    pub(super) tier: &'s Tier,
    /// In percent.
    pub(super) load: u8,
    pub(super) panic: bool,
}

/// Every pool, in the order of the Plan.
pub(super) fn pools(snapshot: &Snapshot) -> impl Iterator<Item = PoolView<'_>> {
    snapshot.pools().map(|state| {
        let (asset, region) = snapshot.index.pool_labels(state.id);
        PoolView { asset, region, state }
    })
}

/// The tiers of the requests for a pool's asset in its region, in failover order.
pub(super) fn tiers<'s>(snapshot: &'s Snapshot, pool: &PoolState) -> Vec<TierView<'s>> {
    let Some(planned) = snapshot.index.plan.pools.get(pool.id.index()) else { return Vec::new() };
    let asset = match planned.asset {
        PoolAsset::Named(asset) => Some(asset),
        PoolAsset::Any => None,
    };
    let chain = snapshot.index.chain(Key { asset, region: planned.region });
    let loads = Loads::new(snapshot, &chain);
    let mut shares = loads.shares().iter();
    let mut views = Vec::new();
    for state in chain.iter().map(|id| snapshot.pool(id)) {
        let (_, region) = snapshot.index.pool_labels(state.id);
        for (tier, role) in state.tiers.iter().zip(Role::ALL) {
            let load = shares.next().copied().unwrap_or(0);
            views.push(TierView { region: region.clone(), role, tier, load, panic: loads.room.is_panic(state, tier) });
        }
    }
    // A role that nobody has is no tier.
    views.retain(|view| !view.tier.servers.is_empty());
    views
}
