//! In which order the backends of a request are tried.
//!
//! The first tier is drawn by load; then come the tiers after it, then those before it. Within a tier the pool's policy
//! picks, never the same backend twice.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::slots::{PoolSlot, Slots};
use super::tries::FREE_PER_TIER;
use crate::backend::Backend;
use crate::balance::{self, Group, tiers};
use crate::model::Role;
use crate::routing::{Chain, Index, PoolState, Server, Snapshot, Tier};

/// Regions of a chain times the two roles of each.
const MAX_TIERS: usize = 2 * Chain::MAX;

/// The tiers of one request, and where it is among them.
pub(crate) struct Order<'a> {
    pools: [Option<&'a PoolState>; Chain::MAX],
    count: usize,
    first: usize,
    /// How many tiers have been left behind.
    passed: usize,
    unseen: u32,
    room: u8,
    tried: Vec<*const Backend>,
    pub(crate) random: fastrand::Rng,
}

/// Where the next try goes.
pub(crate) struct Next<'a> {
    pub(crate) pool: &'a PoolState,
    pub(crate) slot: Rc<PoolSlot>,
    pub(crate) server: &'a Server,
    pub(crate) role: Role,
    pub(crate) is_first_tier: bool,
}

impl<'a> Order<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, chain: &Chain, mut random: fastrand::Rng) -> Self {
        let mut pools = [None; Chain::MAX];
        let mut count = 0;
        for (place, id) in pools.iter_mut().zip(chain.iter()) {
            *place = Some(snapshot.pool(id));
            count += 2;
        }
        let mut order =
            Self { pools, count, first: 0, passed: 0, unseen: 0, room: 100, tried: Vec::new(), random: random.fork() };
        // Nearly always the first tier is whole, and nothing else has to be looked at.
        if order.tier(0).is_none_or(|(_, tier, _)| tier.health < 100) {
            let mut loads = [0; MAX_TIERS];
            for (i, load) in loads.iter_mut().enumerate().take(count) {
                *load = order.tier(i).map_or(0, |(_, tier, _)| tier.health);
            }
            let loads = loads.get_mut(..count).unwrap_or_default();
            order.room = tiers::loads(loads);
            order.first = tiers::choose(loads, random.u8(0..100)).unwrap_or(0);
        }
        order
    }

    /// The pool whose settings rule the request as a whole.
    pub(crate) fn home(&self) -> Option<&'a PoolState> {
        self.pools[0]
    }

    /// The next backend that was not tried yet.
    pub(crate) fn next(&mut self, slots: &RefCell<Slots>, index: &Index) -> Option<Next<'a>> {
        while self.passed < self.count {
            let at = self.at(self.passed);
            if self.unseen < FREE_PER_TIER
                && let Some((pool, tier, role)) = self.tier(at)
            {
                let slot = slots.borrow_mut().pool(index, pool.id);
                if let Some(place) = self.pick(pool, tier, role, &slot)
                    && let Some(server) = tier.servers.get(place)
                {
                    self.tried.push(Arc::as_ptr(&server.backend));
                    return Some(Next { pool, slot, server, role, is_first_tier: at == 0 });
                }
            }
            self.passed += 1;
            self.unseen = 0;
        }
        None
    }

    /// Whether there is a backend that was not tried yet.
    pub(crate) fn has_next(&self) -> bool {
        (self.passed..self.count).any(|passed| {
            let fresh = passed > self.passed || self.unseen < FREE_PER_TIER;
            let tier = self.tier(self.at(passed)).filter(|_| fresh);
            tier.is_some_and(|(pool, tier, _)| {
                let untried =
                    |&place: &u32| tier.servers.get(place as usize).is_some_and(|server| !self.was_tried(server));
                self.usable(pool, tier).iter().any(untried)
            })
        })
    }

    /// The last try failed before a byte was written.
    pub(crate) fn note_unseen(&mut self) {
        self.unseen += 1;
    }

    /// The tier that comes after so many others.
    fn at(&self, passed: usize) -> usize {
        let after_first = self.count - self.first;
        if passed < after_first { self.first + passed } else { passed - after_first }
    }

    fn tier(&self, at: usize) -> Option<(&'a PoolState, &'a Tier, Role)> {
        let pool = self.pools.get(at / 2).copied().flatten()?;
        let role = Role::ALL[at % 2];
        Some((pool, &pool.tiers[at % 2], role))
    }

    fn usable(&self, pool: &'a PoolState, tier: &'a Tier) -> &'a [u32] {
        let percent = pool.settings.failover.panic_percent;
        let panic = tiers::is_panic(tier.usable_weight, tier.total_weight, percent, self.room);
        if panic { &tier.usable_in_panic } else { &tier.usable }
    }

    fn was_tried(&self, server: &Server) -> bool {
        self.tried.contains(&Arc::as_ptr(&server.backend))
    }

    fn pick(&mut self, pool: &'a PoolState, tier: &'a Tier, role: Role, slot: &PoolSlot) -> Option<usize> {
        let usable = self.usable(pool, tier);
        let group = Group { servers: &tier.servers, usable, heaviest: tier.heaviest };
        let tried = &self.tried;
        let was_tried =
            |place: usize| tier.servers.get(place).is_none_or(|server| tried.contains(&Arc::as_ptr(&server.backend)));
        let mut rotation = slot.rotations[role as usize].borrow_mut();
        balance::pick(pool.settings.balance, group, was_tried, &mut rotation, &mut self.random)
    }
}
