//! Everything the data path reads, at one moment.
//!
//! Pool states lie in pages of 1,024 behind a directory. A Snapshot that differs in a few pools shares all other pages
//! with the one before: with a million pools, a fact copies one page and a directory of 977 pointers instead of a
//! million. (A tree would copy less, but each look-up would pay for it with another load that misses the caches. For the
//! same reason a page holds the states themselves, not pointers to them: a copy then costs more, by some ten
//! microseconds on a thread that has time, and each request waits for memory once less.)

use std::sync::Arc;
use std::time::Instant;

use super::build::Origin;
use super::{Index, PoolState};
use crate::model::{Pool, PoolId};

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

    /// The first Snapshot of another Plan. A page of pools that are all as they were under the same number is shared.
    pub(super) fn of_another_plan(
        &self,
        index: Arc<Index>,
        now: Instant,
        mut origin: impl FnMut(PoolId) -> Origin,
    ) -> Self {
        let mut pools = (0..).map(PoolId).zip(&index.plan.pools).peekable();
        let mut pages = Vec::with_capacity(index.plan.pools.len().div_ceil(PAGE));
        while pools.peek().is_some() {
            let page: Vec<_> = pools.by_ref().take(PAGE).map(|(id, pool)| (id, pool, origin(id))).collect();
            let before = self.pages.get(pages.len()).filter(|before| {
                let same = |(id, _, origin): &(PoolId, _, Origin)| matches!(origin, Origin::Kept(was) if was == id);
                before.len() == page.len() && page.iter().all(same)
            });
            let state = |(id, pool, origin): (PoolId, &Pool, Origin)| match origin {
                Origin::Kept(was) => PoolState { id, ..self.pool(was).clone() },
                Origin::New(servers) => PoolState::new(id, Arc::clone(&pool.settings), servers, now),
            };
            pages.push(before.map_or_else(|| page.into_iter().map(state).collect(), Arc::clone));
        }
        Self { generation: self.generation + 1, index, pages: pages.into() }
    }

    /// Looks at every pool; what it is to be instead, or `None`. Pages of which no pool changes stay shared.
    pub fn revise(&mut self, anew: impl Fn(&PoolState) -> Option<PoolState>) {
        for page in &mut self.pages {
            for place in 0..page.len() {
                if let Some(pool) = page.get(place).and_then(&anew)
                    && let Some(place) = Arc::make_mut(page).get_mut(place)
                {
                    *place = pool;
                }
            }
        }
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
        let changed = snapshot.with_changes(ids.map(|id| (id, snapshot.pool(id).refreshed(Instant::now()))));
        let shared: Vec<_> = snapshot.pages.iter().zip(&changed.pages).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [false, true, true, false]);
        assert!(Arc::ptr_eq(&snapshot.index, &changed.index));
        assert_eq!(changed.generation, snapshot.generation + 1);
        assert_eq!(changed.pools().count(), 3 * PAGE + 5);
        assert!(changed.pools().enumerate().all(|(i, pool)| pool.id.index() == i));
    }

    #[test]
    fn another_plan_shares_the_pages_of_pools_that_are_as_they_were() {
        let snapshot = testing::many_pools(4 * PAGE + 5);
        let next = |pools: usize, origin: &dyn Fn(PoolId) -> Origin| {
            let index = Arc::clone(&testing::many_pools(pools).index);
            let next = snapshot.of_another_plan(index, Instant::now(), origin);
            assert_eq!((next.pools().count(), next.generation), (pools, snapshot.generation + 1));
            assert!(next.pools().enumerate().all(|(i, pool)| pool.id.index() == i));
            snapshot.pages.iter().zip(&next.pages).map(|(a, b)| Arc::ptr_eq(a, b)).collect::<Vec<_>>()
        };
        assert_eq!(next(4 * PAGE + 5, &Origin::Kept), [true; 5]);
        let one = |id: PoolId| if id.0 == 2000 { Origin::New([vec![], vec![]]) } else { Origin::Kept(id) };
        assert_eq!(next(4 * PAGE + 5, &one), [true, false, true, true, true]);
        let gone = |id: PoolId| Origin::Kept(PoolId(id.0 + u32::from(id.0 >= 2050)));
        assert_eq!(next(4 * PAGE + 4, &gone), [true, true, false, false, false]);
        assert_eq!(next(PAGE + 3, &Origin::Kept), [true, false], "a page that is longer is another");
    }

    #[test]
    fn a_revision_copies_only_the_pages_of_those_judged_otherwise() {
        use crate::backend::Status;
        let index = Arc::clone(&testing::many_pools(2 * PAGE).index);
        let servers = testing::servers("r", 1, &[Some(Status::Unchecked), Some(Status::Up)]);
        let of = |id: PoolId| [vec![servers[usize::from(id.0 != 1500)].clone()], vec![]];
        let snapshot = super::super::build(index, 1, Instant::now(), of);
        let mut next = snapshot.with_changes([]);
        next.revise(|pool| pool.renewed(Instant::now()));
        assert!(snapshot.pages.iter().zip(&next.pages).all(|(a, b)| Arc::ptr_eq(a, b)));
        servers[0].check.as_ref().unwrap().set(Status::Up, Instant::now());
        next.revise(|pool| pool.renewed(Instant::now()));
        let shared: Vec<_> = snapshot.pages.iter().zip(&next.pages).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
        assert_eq!(shared, [true, false]);
        let health = |snapshot: &Snapshot| snapshot.pool(PoolId(1500)).tiers[0].health;
        assert_eq!((health(&snapshot), health(&next)), (0, 100));
    }

    #[test]
    fn the_old_one_stays_as_it_was() {
        let snapshot = testing::many_pools(10);
        let servers = || [testing::servers("r", 1, &[None]), vec![]];
        let changed =
            snapshot.with_changes([(PoolId(3), snapshot.pool(PoolId(3)).with_servers(servers(), Instant::now()))]);
        let sizes = |snapshot: &Snapshot| snapshot.pools().map(|pool| pool.tiers[0].servers.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&snapshot), [0; 10]);
        assert_eq!(sizes(&changed), [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
}
