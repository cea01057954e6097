//! How a key's load spreads over its tiers at this moment: the pools of its chain, each primaries then replicas.

use super::{Chain, PoolState, Snapshot, Tier};
use crate::balance::tiers;
use crate::model::Role;

/// Tiers at most.
const MAX: usize = 2 * Chain::MAX;

/// Shares of one key's load, in failover order.
#[derive(Debug, Clone, Copy)]
pub struct Loads {
    shares: [u8; MAX],
    len: usize,
    /// What all tiers together can take.
    pub room: Room,
}

/// How much of a key's load its tiers can take together, in percent.
#[derive(Debug, Clone, Copy)]
pub struct Room(u8);

impl Loads {
    /// Of this chain, in this Snapshot.
    pub fn new(snapshot: &Snapshot, chain: &Chain) -> Self {
        let mut shares = [0; MAX];
        let mut len = 0;
        for (share, (_, _, tier)) in shares.iter_mut().zip(snapshot.tiers(chain)) {
            *share = tier.health;
            len += 1;
        }
        let room = Room(tiers::loads(shares.get_mut(..len).unwrap_or_default()));
        Self { shares, len, room }
    }

    /// In percent, by tier: they sum to 100, or are all 0 if nothing is usable.
    pub fn shares(&self) -> &[u8] {
        self.shares.get(..self.len).unwrap_or_default()
    }
}

impl Room {
    /// Whether this tier uses servers again that it would not.
    pub fn is_panic(self, pool: &PoolState, tier: &Tier) -> bool {
        let percent = pool.settings.failover.panic_percent;
        // With nobody to fall back on, as when all were drained or refuse, there is nothing to panic with.
        !tier.usable_in_panic.is_empty() && tiers::is_panic(tier.usable_percent, percent, self.0)
    }
}

impl Snapshot {
    /// The tiers of a chain, in failover order. Some have no servers.
    pub fn tiers<'a>(&'a self, chain: &'a Chain) -> impl Iterator<Item = (&'a PoolState, Role, &'a Tier)> {
        chain.iter().flat_map(|id| {
            let pool = self.pool(id);
            Role::ALL.into_iter().zip(&pool.tiers).map(move |(role, tier)| (pool, role, tier))
        })
    }
}
