//! In which order the backends of a request are tried.
//!
//! The first tier is drawn by load; then come the tiers after it, then those before it. Within a tier the pool's policy
//! picks, never the same backend twice. A backend that was full is not spent: when all have been asked, the request may
//! wait for it. A tier that was left because connections failed there is come back to when all
//! others have been asked: two dead servers of five must not hide the other three.
//!
//! When two servers of one pool let the request wait in vain, it is likely the region that is lost, and a request has no
//! time to find that out server by server: the next try is in another pool.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::slots::{PoolSlot, ServerSlot, Slots};
use super::tries::{FREE_PER_TIER, SILENT_PER_POOL};
use crate::backend::queue::Target;
use crate::backend::{Backend, InFlight};
use crate::balance::{self, Group, tiers};
use crate::message::RequestHead;
use crate::message::conn::Conn;
use crate::model::{HashSource, Role};
use crate::routing::{Chain, Index, Loads, PoolState, Room, Server, Snapshot, Tier};

/// The tiers of one request, and where it is among them.
pub(crate) struct Order<'a> {
    snapshot: &'a Snapshot,
    chain: &'a Chain,
    count: usize,
    first: usize,
    /// How many tiers have been left behind.
    passed: usize,
    /// All tiers have been asked once; what is left in those that were left early comes now.
    again: bool,
    /// Tries of this tier that failed before a byte was written.
    unseen: u32,
    /// Tries in this pool that got no answer in time.
    silent: u32,
    /// `None`: the first tier is whole, so it takes everything and no tier is in panic.
    room: Option<Room>,
    /// Those it was sent to first, then those that were full.
    tried: Tried,
    /// How many it was sent to.
    spent: usize,
    sender: Sender<'a>,
    pub(crate) random: fastrand::Rng,
}

/// Backends, by their place in memory.
pub(crate) type Tried = SmallVec<[*const Backend; 4]>;

/// What a policy may ask of a request.
pub(crate) struct Sender<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) conn: Rc<Conn>,
    pub(crate) started: Instant,
}

impl Sender<'_> {
    fn hash(&self, index: &Index, sources: &[HashSource]) -> Option<u64> {
        let (conn, fields) = (&*self.conn, &self.head.fields);
        let client = || conn.client(fields);
        index.hash(self.head, client, sources).map(|(_, hash)| hash)
    }
}

/// Where the next try goes.
pub(crate) struct Next<'a> {
    pub(crate) pool: &'a PoolState,
    pub(crate) slot: Rc<PoolSlot>,
    pub(crate) server_slot: Rc<ServerSlot>,
    pub(crate) server: &'a Server,
    pub(crate) role: Role,
    pub(crate) is_first_tier: bool,
}

impl<'a> Order<'a> {
    /// `tried`: where the request has been sent already.
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        chain: &'a Chain,
        sender: Sender<'a>,
        random: fastrand::Rng,
        tried: Tried,
    ) -> Self {
        let count = chain.len() * Role::ALL.len();
        let (passed, spent) = (0, tried.len());
        let (first, again, unseen, silent, room) = (0, false, 0, 0, None);
        let mut order =
            Self { snapshot, chain, count, first, passed, again, unseen, silent, room, tried, spent, sender, random };
        // Nearly always the first tier is whole, and nothing else has to be looked at.
        if order.tier(0).is_none_or(|(_, tier, _)| tier.health < 100) {
            let loads = Loads::new(snapshot, chain);
            // By hash, where there is one: a key stays in its tier as well.
            let home = order.tier(0).map(|(home, ..)| home).filter(|home| !home.settings.hash_on.is_empty());
            let hash = home.and_then(|home| order.sender.hash(&snapshot.index, &home.settings.hash_on));
            let draw = hash.map_or_else(|| order.random.u8(0..100), balance::percent);
            order.first = tiers::choose(loads.shares(), draw).unwrap_or(0);
            order.room = Some(loads.room);
        }
        order
    }

    /// Where the request has been sent, for the next order.
    pub(crate) fn into_spent(mut self) -> (Tried, fastrand::Rng) {
        self.tried.truncate(self.spent);
        (self.tried, self.random)
    }

    /// The backend of this place, if it is still there; else the next that was not tried yet.
    pub(crate) fn next(&mut self, slots: &RefCell<Slots>, index: &Index, place: Option<&InFlight>) -> Option<Next<'a>> {
        if let Some(place) = place
            && let Some(next) = self.of(place, slots, index)
        {
            return Some(next);
        }
        loop {
            if self.passed == self.count {
                if self.again {
                    return None;
                }
                self.again = true;
                self.passed = 0;
            }
            let at = self.at(self.passed);
            let stays = self.unseen < FREE_PER_TIER && self.silent < SILENT_PER_POOL;
            if (self.again || stays)
                && let Some((pool, tier, role)) = self.tier(at)
                && Self::is_roomy(at, pool, tier)
            {
                let slot = slots.borrow_mut().pool(index, pool.id);
                if let Some(place) = self.pick(index, pool, tier, role, &slot)
                    && let Some(next) = self.to(at, place, slot, slots)
                {
                    return Some(next);
                }
            }
            self.passed += 1;
            self.unseen = 0;
            if self.at(self.passed) / 2 != at / 2 {
                self.silent = 0;
            }
        }
    }

    /// Whether there is a backend that was not tried yet.
    pub(crate) fn has_next(&self) -> bool {
        self.roomy().any(|(pool, tier)| {
            let servers = self.usable(pool, tier).iter().filter_map(|&place| tier.servers.get(place as usize));
            servers.into_iter().any(|server| !self.was_tried(server))
        })
    }

    /// Whether any that were asked were full.
    pub(crate) fn has_full(&self) -> bool {
        self.tried.len() > self.spent
    }

    /// The request was sent to this one; it was not full.
    pub(crate) fn note_spent(&mut self, backend: &Arc<Backend>) {
        let unspent = self.tried.iter().skip(self.spent);
        if let Some(place) = unspent.copied().position(|tried| tried == Arc::as_ptr(backend)) {
            self.tried.swap(self.spent, self.spent + place);
            self.spent += 1;
        }
    }

    /// The last one was not asked at all.
    pub(crate) fn put_back(&mut self) {
        if self.has_full() {
            self.tried.pop();
        }
    }

    /// Every backend that the request could wait for; `lacking`: those that had no connection for it.
    pub(crate) fn targets(&self, lacking: &[*const Backend]) -> Vec<Target> {
        let mut targets = Vec::new();
        for (pool, tier) in self.roomy() {
            let servers = self.usable(pool, tier).iter().filter_map(|&place| tier.servers.get(place as usize));
            for server in servers {
                let (backend, limits) = (&server.backend, &pool.settings.limits);
                let place = Arc::as_ptr(backend);
                if !self.tried.iter().take(self.spent).any(|spent| *spent == place) {
                    let max = server.at_most(limits.max_requests);
                    targets.push(Target::new(backend, max, limits, lacking.contains(&place)));
                }
            }
        }
        targets
    }

    /// Whether another region has backends for it, but no room.
    pub(crate) fn lacks_room(&self) -> bool {
        (0..self.count).any(|at| {
            self.tier(at).is_some_and(|(pool, tier, _)| !tier.usable.is_empty() && !Self::is_roomy(at, pool, tier))
        })
    }

    /// The home pool's room is a matter of its limits; another region's is what its own load leaves.
    fn is_roomy(at: usize, pool: &PoolState, tier: &Tier) -> bool {
        at / Role::ALL.len() == 0 || pool.has_room(tier)
    }

    /// Every tier, without those of other regions that have no room.
    fn roomy(&self) -> impl Iterator<Item = (&'a PoolState, &'a Tier)> + '_ {
        let tier = |at: usize| self.tier(at).filter(|(pool, tier, _)| Self::is_roomy(at, pool, tier));
        (0..self.count).filter_map(tier).map(|(pool, tier, _)| (pool, tier))
    }

    /// The last try failed before a byte was written.
    pub(crate) fn note_unseen(&mut self) {
        self.unseen += 1;
    }

    /// The last try got no answer in time.
    pub(crate) fn note_silent(&mut self) {
        self.silent += 1;
    }

    #[cold]
    fn of(&mut self, place: &InFlight, slots: &RefCell<Slots>, index: &Index) -> Option<Next<'a>> {
        (0..self.count).find_map(|at| {
            let (pool, tier, _) = self.tier(at)?;
            let place = tier.servers.iter().position(|server| server.backend.gave(place))?;
            let slot = slots.borrow_mut().pool(index, pool.id);
            self.to(at, place, slot, slots)
        })
    }

    /// A try at the server at this place of a tier.
    #[inline(always)]
    fn to(&mut self, at: usize, place: usize, slot: Rc<PoolSlot>, slots: &RefCell<Slots>) -> Option<Next<'a>> {
        let (pool, tier, role) = self.tier(at)?;
        let server = tier.servers.get(place)?;
        let server_slot = slots.borrow().server(&slot, &pool.settings, role, tier, place)?;
        self.tried.push(Arc::as_ptr(&server.backend));
        Some(Next { pool, slot, server_slot, server, role, is_first_tier: at == 0 })
    }

    /// The tier that comes after so many others.
    fn at(&self, passed: usize) -> usize {
        let after_first = self.count - self.first;
        if passed < after_first { self.first + passed } else { passed - after_first }
    }

    fn tier(&self, at: usize) -> Option<(&'a PoolState, &'a Tier, Role)> {
        let pool = self.snapshot.pool(self.chain.get(at / 2)?);
        let role = Role::ALL[at % 2];
        Some((pool, &pool.tiers[at % 2], role))
    }

    fn usable(&self, pool: &'a PoolState, tier: &'a Tier) -> &'a [u32] {
        let panic = self.room.is_some_and(|room| room.is_panic(pool, tier));
        if panic { &tier.usable_in_panic } else { &tier.usable }
    }

    fn was_tried(&self, server: &Server) -> bool {
        self.tried.contains(&Arc::as_ptr(&server.backend))
    }

    fn pick(
        &mut self,
        index: &Index,
        pool: &'a PoolState,
        tier: &'a Tier,
        role: Role,
        slot: &PoolSlot,
    ) -> Option<usize> {
        let usable = self.usable(pool, tier);
        let group = Group { servers: &tier.servers, usable, heaviest: tier.heaviest };
        let tried = &self.tried;
        let was_tried =
            |place: usize| tier.servers.get(place).is_none_or(|server| tried.contains(&Arc::as_ptr(&server.backend)));
        let mut rotation = slot.rotations[role as usize].borrow_mut();
        // The first try begins when the request does; before another one time has passed.
        let now = || if tried.is_empty() { self.sender.started } else { Instant::now() };
        let rule = pool.rule(role, |sources| self.sender.hash(index, sources), || now().into_std());
        balance::pick(rule, group, was_tried, &mut rotation, &mut self.random)
    }
}
