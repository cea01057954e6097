//! A Snapshot from a Plan and the facts.

use std::sync::Arc;
use std::time::Instant;

use super::{Index, PoolState, Server, Snapshot};
use crate::model::PoolId;

/// The first Snapshot of a Plan, judged `now`. `servers` gives a pool's primaries and replicas, resolved; it is asked once per pool,
/// in the order of their numbers.
pub fn build(
    index: Arc<Index>,
    generation: u64,
    now: Instant,
    mut servers: impl FnMut(PoolId) -> [Vec<Server>; 2],
) -> Snapshot {
    let plan = Arc::clone(&index.plan);
    let pools = (0..).map(PoolId).zip(&plan.pools);
    let states = pools.map(|(id, pool)| PoolState::new(id, Arc::clone(&pool.settings), servers(id), now));
    Snapshot::new(generation, index, states)
}

/// Where a pool's state comes from, when another Plan comes in force.
#[derive(Debug)]
pub enum Origin {
    /// It had this number, and nothing that the Plan says of it has changed.
    Kept(PoolId),
    /// It has these primaries and replicas.
    New([Vec<Server>; 2]),
}

/// The first Snapshot of a Plan that comes after another one, and shares with it what it can. `origin` is asked once per
/// pool, in the order of their numbers.
pub fn rebuild(old: &Snapshot, index: Arc<Index>, now: Instant, origin: impl FnMut(PoolId) -> Origin) -> Snapshot {
    old.of_another_plan(index, now, origin)
}
