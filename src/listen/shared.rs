//! What the workers share about client connections: how many there are, in all, per worker and per client address, and
//! where to hand one on.
//!
//! The counts are atomics. The table of client addresses, needed only where `max_connections_per_client` is set, is in
//! parts behind short locks, taken when a connection is accepted and when it ends, never on a request's path.
//!
//! A client is an IPv4 address, or a /64 of IPv6: that is what one subscriber has, with all its 2^64 addresses.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;
use tokio::sync::mpsc;

use super::server::Accepted;
use crate::model::Limits;
use crate::telemetry::Metrics;

/// A worker that holds more than the least loaded one by this keeps no new connection.
const SLACK: u32 = 8;

/// Connections on their way to another worker.
const INBOX: usize = 256;

const PARTS: usize = 64;

/// What the workers share about client connections. One for the process.
pub struct Shared {
    workers: Box<[Worker]>,
    total: CachePadded<AtomicU32>,
    clients: [Mutex<HashMap<IpAddr, u32>>; PARTS],
    hasher: RandomState,
    pub(super) metrics: Arc<Metrics>,
}

struct Worker {
    open: CachePadded<AtomicU32>,
    inbox: mpsc::Sender<Accepted>,
    /// Taken by the worker when it starts.
    receiver: Mutex<Option<mpsc::Receiver<Accepted>>>,
}

impl Shared {
    /// For so many workers.
    pub fn new(workers: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        let workers = (0..workers.max(1)).map(|_| {
            let (inbox, receiver) = mpsc::channel(INBOX);
            Worker { open: CachePadded::default(), inbox, receiver: Mutex::new(Some(receiver)) }
        });
        Arc::new(Self {
            workers: workers.collect(),
            total: CachePadded::default(),
            clients: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            metrics,
        })
    }

    /// Open client connections, over all workers.
    pub fn connections(&self) -> u32 {
        self.total.load(Relaxed)
    }

    /// How many workers it is for.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Connections that wait for this worker. Once; `None` for a worker that is not there.
    pub(super) fn inbox(&self, worker: usize) -> Option<mpsc::Receiver<Accepted>> {
        self.workers.get(worker).and_then(|worker| locked(&worker.receiver).take())
    }

    /// Counts a connection in, or names the limit that it would break. `open`: those of its listener, which may have
    /// this many.
    pub(super) fn admit(
        self: &Arc<Self>,
        worker: usize,
        open: &Arc<AtomicU32>,
        most: Option<u32>,
        limits: &Limits,
    ) -> Result<Place, &'static str> {
        // Dropping the place takes back what had been counted.
        let place = Place { shared: Arc::clone(self), worker, listener: Arc::clone(open), client: None };
        self.count(worker, 1);
        let of_listener = open.fetch_add(1, Relaxed);
        if self.total.fetch_add(1, Relaxed) >= limits.max_connections {
            return Err("max_connections");
        }
        if most.is_some_and(|most| of_listener >= most) {
            return Err("listener_max_connections");
        }
        Ok(place)
    }

    /// Who should serve a connection that this worker has accepted.
    pub(super) fn choose(&self, worker: usize) -> usize {
        let load = |worker: &Worker| worker.open.load(Relaxed);
        let own = self.workers.get(worker).map_or(0, load);
        let least = self.workers.iter().enumerate().min_by_key(|(_, worker)| load(worker));
        least.filter(|(_, least)| own > load(least) + SLACK).map_or(worker, |(least, _)| least)
    }

    /// Gives a connection to another worker. Back, if that one has too many waiting.
    pub(super) fn hand_over(&self, mut accepted: Accepted, to: usize) -> Result<(), Box<Accepted>> {
        let Some(worker) = self.workers.get(to) else { return Err(Box::new(accepted)) };
        let from = accepted.place.worker;
        accepted.place.move_to(to);
        worker.inbox.try_send(accepted).map_err(|e| {
            let mut accepted = e.into_inner();
            accepted.place.move_to(from);
            Box::new(accepted)
        })
    }

    fn count(&self, worker: usize, change: i32) {
        if let Some(worker) = self.workers.get(worker) {
            worker.open.fetch_add(change.cast_unsigned(), Relaxed);
        }
    }

    fn part(&self, client: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        locked(&self.clients[self.hasher.hash_one(client) as usize % PARTS])
    }
}

/// A panic while a count was being changed leaves a count, and counts are all there is behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place in the counts, given up when dropped.
pub(super) struct Place {
    shared: Arc<Shared>,
    worker: usize,
    /// How many its listener has.
    listener: Arc<AtomicU32>,
    /// Set if it is counted for its client.
    client: Option<IpAddr>,
}

impl Place {
    /// Counts the connection for its client, once that is known, or names the limit that it would break.
    pub(super) fn count_for(&mut self, client: Option<IpAddr>, limits: &Limits) -> Result<(), &'static str> {
        let most = limits.max_connections_per_client;
        let Some(client) = client.filter(|_| most > 0).map(subscriber) else { return Ok(()) };
        let mut part = self.shared.part(client);
        let count = part.entry(client).or_default();
        if *count >= most {
            return Err("max_connections_per_client");
        }
        *count += 1;
        self.client = Some(client);
        Ok(())
    }

    fn move_to(&mut self, worker: usize) {
        self.shared.count(self.worker, -1);
        self.shared.count(worker, 1);
        self.worker = worker;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.count(self.worker, -1);
        self.shared.total.fetch_sub(1, Relaxed);
        self.listener.fetch_sub(1, Relaxed);
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut entry) = self.shared.part(client).entry(client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// What counts as one client.
fn subscriber(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(all: u32, each: u32) -> Limits {
        Limits { max_connections: all, max_connections_per_client: each, ..Limits::default() }
    }

    #[test]
    fn limits_hold_over_all_workers_and_places_come_back() {
        let shared = Shared::new(2, Metrics::new(1));
        let (open, limits) = (Arc::default(), limits(2, 0));
        let admit = |worker| shared.admit(worker, &open, None, &limits);
        let one = admit(0).unwrap();
        let _two = admit(1).unwrap();
        assert_eq!(admit(0).err(), Some("max_connections"));
        assert_eq!(shared.connections(), 2);
        drop(one);
        assert!(admit(1).is_ok());
        assert_eq!((shared.connections(), open.load(Relaxed)), (1, 1));
    }

    #[test]
    fn one_listener_can_t_take_all() {
        let shared = Shared::new(1, Metrics::new(1));
        let (one, other, limits) = (Arc::default(), Arc::default(), limits(10, 0));
        let first = shared.admit(0, &one, Some(1), &limits).unwrap();
        assert_eq!(shared.admit(0, &one, Some(1), &limits).err(), Some("listener_max_connections"));
        let _other = shared.admit(0, &other, Some(1), &limits).unwrap();
        drop(first);
        assert!(shared.admit(0, &one, Some(1), &limits).is_ok());
    }

    #[test]
    fn one_client_can_t_take_all() {
        let shared = Shared::new(1, Metrics::new(1));
        let limits = limits(10, 1);
        let admit = |client: &str| {
            let mut place = shared.admit(0, &Arc::default(), None, &limits).unwrap();
            place.count_for(client.parse().ok(), &limits).map(|()| place)
        };
        for (a, also_a, b) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:2::1"),
        ] {
            let first = admit(a).unwrap();
            assert_eq!(admit(also_a).err(), Some("max_connections_per_client"));
            let _other = admit(b).unwrap();
            drop(first);
            assert!(admit(also_a).is_ok());
            assert!(shared.clients.iter().map(|part| locked(part).len()).sum::<usize>() == 1);
        }
        assert_eq!(shared.connections(), 0);
    }

    #[test]
    fn a_worker_that_has_many_more_than_another_hands_on() {
        let shared = Shared::new(2, Metrics::new(1));
        let places: Vec<_> = (0..9).map(|_| shared.admit(0, &Arc::default(), None, &limits(100, 0)).unwrap()).collect();
        assert_eq!(shared.choose(0), 1);
        assert_eq!(shared.choose(1), 1);
        drop(places);
        assert_eq!(shared.choose(0), 0);
    }
}
