//! The same server for the same key: Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, 3.4) with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded
//! Loads", 2016).
//!
//! A table has many more slots than there are servers. Each server has its own order of all slots, from the hash of its
//! address; in turns each claims the first slot of its order that is free. So all get their share to within a slot or
//! so, and a server more or less moves few slots of the others. A request's hash leads to a slot.
//!
//! **Agreement.** Orders come from addresses, and turns go by address, so that two instances with the same servers and
//! weights have the same table, in whatever order their files name them. The hash is SipHash-1-3 with a key of zeros, of
//! bytes, which is the same everywhere and always.
//!
//! **Turns by weight.** The next turn has whoever has taken the fewest for its weight; in the beginning everyone has
//! one, so that each server has a slot at least.
//!
//! **Two sizes.** The paper wants a hundred slots for each server or more, and says that the size must not change: with
//! another size nearly every key goes elsewhere. So there are only two: enough for a hundred servers, in bytes, and the
//! paper's own for more.
//!
//! **Who can't be used is passed over.** The table is of all servers of the tier, up or not. A request goes on from its
//! slot to the next ones until it meets a server that it may use; that order depends on the key alone. So when a server
//! goes, only its keys move, and when it comes back they return.
//!
//! **Bounded load.** A server takes no more than 1.25 times its share by weight of what the usable ones have in flight, this
//! request included (and always one); a request beyond that goes on to the next server in its order. That is enough to
//! keep a popular key, or a chosen one, from drowning a server.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{self, Hasher128};

use super::{Candidate, Group};

/// Servers at most for the small table, in which a place is a byte.
const FEW: usize = 100;
/// Slots of the small table: the smallest prime of two hundred for each server. With one hundred a server less of sixty
/// to a hundred moved up to 2.15 % of the others' keys in forty draws, with two hundred up to 1.2 %.
const FEW_SLOTS: usize = 20_011;
/// Slots of the large one: the paper's. A prime, too.
const MANY_SLOTS: usize = 65_537;

/// By slot, the place of a server in its tier.
pub struct Table(Slots);

enum Slots {
    Few(Box<[u8]>),
    Many(Box<[u32]>),
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table of {} slots", self.len())
    }
}

impl Table {
    /// Of these servers: address and weight, in the order of their places.
    pub fn new<'a>(servers: impl IntoIterator<Item = (&'a str, u16)>) -> Self {
        let servers: Vec<_> = servers.into_iter().collect();
        if servers.len() <= FEW {
            // At most a hundred: they fit into a byte.
            Self(Slots::Few(fill(&servers, FEW_SLOTS).into_iter().map(|place| place as u8).collect()))
        } else {
            Self(Slots::Many(fill(&servers, MANY_SLOTS).into()))
        }
    }

    fn len(&self) -> usize {
        match &self.0 {
            Slots::Few(slots) => slots.len(),
            Slots::Many(slots) => slots.len(),
        }
    }

    fn get(&self, slot: usize) -> usize {
        let place = match &self.0 {
            Slots::Few(slots) => slots.get(slot).map(|&place| usize::from(place)),
            Slots::Many(slots) => slots.get(slot).map(|&place| place as usize),
        };
        place.unwrap_or(usize::MAX)
    }

    /// Where a key's servers begin.
    fn slot(&self, hash: u64) -> usize {
        // By a constant each, which is cheaper than by a variable.
        let slot = match &self.0 {
            Slots::Few(_) => hash % FEW_SLOTS as u64,
            Slots::Many(_) => hash % MANY_SLOTS as u64,
        };
        slot as usize
    }

    /// A key's servers, beginning with its own; each many times.
    fn order(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let (start, len) = (self.slot(hash), self.len());
        (start..len).chain(0..start).map(|slot| self.get(slot))
    }
}

/// The hash of a request's key.
pub fn hash(key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(key);
    hasher.finish()
}

/// A number of `0..100` for a key, of which its slot says nothing.
pub fn percent(hash: u64) -> u8 {
    (((hash >> 32) * 100) >> 32) as u8
}

/// A server that takes its turns.
struct Turn {
    turns: u64,
    weight: u64,
    /// In the order of addresses.
    rank: usize,
    place: u32,
    /// The slot that it would like next, and the step to the one after that.
    next: usize,
    skip: usize,
}

impl Turn {
    fn key(&self, other: &Self) -> (u64, usize) {
        (self.turns * other.weight, self.rank)
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key(other).cmp(&other.key(self))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// `size` is prime, so that every step leads to all slots.
fn fill(servers: &[(&str, u16)], size: usize) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut sorted: Vec<_> = (0..).zip(servers).collect();
    sorted.sort_by_key(|(_, (label, _))| *label);
    let turn = |(rank, (place, (label, weight))): (usize, (u32, &(&str, u16)))| {
        let mut hasher = sip128::SipHasher13::new();
        hasher.write(label.as_bytes());
        let hash = hasher.finish128();
        let next = (hash.h1 % size as u64) as usize;
        let skip = (hash.h2 % (size as u64 - 1)) as usize + 1;
        Reverse(Turn { turns: 0, weight: u64::from(*weight).max(1), rank, place, next, skip })
    };
    let mut turns: BinaryHeap<_> = sorted.into_iter().enumerate().map(turn).collect();
    let mut slots = vec![FREE; if servers.is_empty() { 0 } else { size }];
    for _ in 0..slots.len() {
        let Some(mut first) = turns.peek_mut() else { break };
        let turn = &mut first.0;
        while let Some(slot) = slots.get_mut(turn.next) {
            turn.next = (turn.next + turn.skip) % size;
            if *slot == FREE {
                *slot = turn.place;
                break;
            }
        }
        turn.turns += 1;
    }
    slots
}

pub(super) fn pick<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    table: &Table,
    hash: u64,
) -> Option<usize> {
    let is_usable = |place: usize| {
        group.usable.len() == group.servers.len()
            || u32::try_from(place).is_ok_and(|p| group.usable.binary_search(&p).is_ok())
    };
    let in_flight = |place: usize| group.servers.get(place).map_or(u32::MAX, Candidate::in_flight);
    // One that has nothing to do may always have it, and nobody else has to be looked at.
    let own = table.get(table.slot(hash));
    if in_flight(own) == 0 && is_usable(own) && !tried(own) {
        return Some(own);
    }
    let usable = || group.usable.iter().map(|&place| place as usize);
    let of = |server: &C| (u128::from(server.in_flight()), u128::from(server.weight()));
    let (total, weight) = usable()
        .filter_map(|place| group.servers.get(place))
        .map(of)
        .fold((1, 0), |(total, weight), (one, its)| (total + one, weight + its));
    // n + 1 ≤ ⌈1.25 · total · w / W⌉, which for whole n is n < 1.25 · total · w / W, without dividing.
    let has_room = |place: usize| {
        group.servers.get(place).map(of).is_some_and(|(n, its)| n == 0 || 4 * n * weight < 5 * total * its)
    };
    // Among all that are usable somebody has room, but it may have been tried.
    let bounded = usable().any(|place| !tried(place) && has_room(place));
    if !bounded && usable().all(&tried) {
        return None;
    }
    let fits = |&place: &usize| is_usable(place) && !tried(place) && (!bounded || has_room(place));
    // A tier of more servers than slots has some that have none.
    table.order(hash).find(fits).or_else(|| usable().find(|place| !tried(*place)))
}

#[cfg(test)]
mod tests;
