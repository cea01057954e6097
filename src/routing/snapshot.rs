//! Everything the data path reads, at one moment.
//!
//! Pool states lie in pages of 1,024 behind a directory. A Snapshot that differs in a few pools shares all other pages
//! with the one before: with a million pools, a fact copies one page and a directory of 977 pointers instead of a
//! million. (A tree would copy less, but each look-up would pay for it with another load that misses the caches. For the
//! same reason a page holds the states themselves, not pointers to them: a copy then costs more, by some ten
//! microseconds on a thread that has time, and each request waits for memory once less.)

use std::sync::Arc;

use super::{Index, PoolState};
use crate::model::PoolId;

/// Pools in one page.
pub(super) const PAGE: usize = 1024;

type Page = Arc<[PoolState]>;

/// Everything the data path reads, at one moment. Immutable.
#[derive(Debug)]
pub struct Snapshot {
    /// Goes up by one with each that is published.
    pub generation: u64,
    /// Names to numbers. Shared by all Snapshots of one Plan: whoever keeps numbers compares it by address.
    pub index: Arc<Index>,
    pages: Box<[Page]>,
}

impl Snapshot {
    pub(super) fn new(generation: u64, index: Arc<Index>, mut pools: impl Iterator<Item = PoolState>) -> Self {
        let pages = std::iter::from_fn(|| {
            let page: Page = pools.by_ref().take(PAGE).collect();
            (!page.is_empty()).then_some(page)
        });
        Self { generation, index, pages: pages.collect() }
    }

    /// A pool of this Snapshot's Plan.
    ///
    /// # Panics
    /// With the number of a pool of another Plan that has more of them.
    #[inline]
    pub fn pool(&self, id: PoolId) -> &PoolState {
        &self.pages[id.index() / PAGE][id.index() % PAGE]
    }

    /// All pools, in the order of their numbers.
    pub fn pools(&self) -> impl Iterator<Item = &PoolState> {
        self.pages.iter().flat_map(|page| page.iter())
    }

    /// The next Snapshot of the same Plan, in which these pools are as given here. Copies the pages they are on, and
    /// shares all others.
    pub fn with_changes(&self, changes: impl IntoIterator<Item = (PoolId, PoolState)>) -> Self {
        let mut pages = self.pages.clone();
        for (id, pool) in changes {
            // The first change on a page copies it, the next ones find it unshared.
            if let Some(page) = pages.get_mut(id.index() / PAGE)
                && let Some(place) = Arc::make_mut(page).get_mut(id.index() % PAGE)
            {
                *place = pool;
            }
        }
        Self { generation: self.generation + 1, index: Arc::clone(&self.index), pages }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_change_copies_its_pages_and_no_others() {
        let snapshot = testing::many_pools(3 * PAGE + 5);
        let ids = [PoolId(0), PoolId(1023), PoolId(3 * 1024 + 4)];
        let changed = snapshot.with_changes(ids.map(|id| (id, snapshot.pool(id).refreshed())));
        let shared: Vec<_> = snapshot.pages.iter().zip(&changed.pages).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [false, true, true, false]);
        assert!(Arc::ptr_eq(&snapshot.index, &changed.index));
        assert_eq!(changed.generation, snapshot.generation + 1);
        assert_eq!(changed.pools().count(), 3 * PAGE + 5);
        assert!(changed.pools().enumerate().all(|(i, pool)| pool.id.index() == i));
    }

    #[test]
    fn the_old_one_stays_as_it_was() {
        let snapshot = testing::many_pools(10);
        let servers = || [testing::servers("r", 1, &[None]), vec![]];
        let changed = snapshot.with_changes([(PoolId(3), snapshot.pool(PoolId(3)).with_servers(servers()))]);
        let sizes = |snapshot: &Snapshot| snapshot.pools().map(|pool| pool.tiers[0].servers.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&snapshot), [0; 10]);
        assert_eq!(sizes(&changed), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}
