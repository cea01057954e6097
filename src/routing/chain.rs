//! The pools of one request, in failover order.

use crate::model::PoolId;

/// The pools of one request: that of its region, then those of the fallback regions. Owned and without allocation, so
/// that a request can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    pools: [PoolId; Self::MAX],
    len: u8,
}

impl Chain {
    /// Pools at most. What a longer list of fallback regions names beyond that is not tried: a request that has been
    /// to fifteen other regions has been to enough.
    pub const MAX: usize = 16;

    /// No pools.
    pub const EMPTY: Self = Self { pools: [PoolId(0); Self::MAX], len: 0 };

    /// Adds a pool at the end. False: it is full.
    pub(super) fn push(&mut self, pool: PoolId) -> bool {
        let Some(place) = self.pools.get_mut(usize::from(self.len)) else { return false };
        *place = pool;
        self.len += 1;
        true
    }

    /// In failover order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = PoolId> + '_ {
        self.pools.iter().take(usize::from(self.len)).copied()
    }

    /// The one that comes after so many others.
    pub fn get(&self, place: usize) -> Option<PoolId> {
        self.pools.get(..self.len())?.get(place).copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nothing serves this key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
