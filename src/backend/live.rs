//! What is known of a server right now, and the guards that keep it true.
//!
//! Counts are kept by guards that count down when dropped, so that a request cancelled at any point gives back what
//! it took (tower's `load` and Pingora's `pingora-limits/src/inflight.rs` do the same).
//!
//! The counts stand together with the reference count of their allocation: a request that takes a guard writes that
//! one cache line and no other memory that workers share. The allocation fills 128 bytes, because processors fetch
//! lines in pairs, so that no other backend's counts are next to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use super::{Identity, Latency};

/// One server. See the module's own words.
pub struct Backend {
    /// Which.
    pub identity: Identity,
    /// Its address as text: in labels, logs and the API.
    pub label: Arc<str>,
    line: Arc<Line>,
    /// Whether the newest attempt to connect, by anyone, was refused. Written only when it changes.
    refused: AtomicBool,
    /// A worker found no connection left and had none of its own: the others then close theirs instead of keeping
    /// them. Set by a failed [`Backend::try_connection`], cleared by the next connection that closes.
    starved: AtomicBool,
}

/// What every request writes. With the two counts of `Arc` before it, 128 bytes.
struct Line {
    /// Requests that hold an [`InFlight`], over all workers.
    in_flight: AtomicU32,
    /// Connections that hold a [`Connection`], idle ones included, over all workers.
    connections: AtomicU32,
    latency: Latency,
    _rest: [u64; 9],
}

const _: () = assert!(size_of::<Line>() + 2 * size_of::<usize>() == 128 || size_of::<usize>() != 8);

impl Backend {
    /// A server of which nothing is known yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            label: identity.address.to_string().into(),
            identity,
            line: Arc::new(Line {
                in_flight: AtomicU32::new(0),
                connections: AtomicU32::new(0),
                latency: Latency::default(),
                _rest: [0; 9],
            }),
            refused: AtomicBool::new(false),
            starved: AtomicBool::new(false),
        }
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.line.in_flight.load(Relaxed)
    }

    /// Open connections, idle ones included, over all workers. Connections of health checks are not among them.
    pub fn connections(&self) -> u32 {
        self.line.connections.load(Relaxed)
    }

    /// How long it takes to answer, as far as a policy has it measured.
    pub fn latency(&self) -> &Latency {
        &self.line.latency
    }

    /// Counts one more request, unless `max` are in flight already.
    pub fn try_request(&self, max: u32) -> Option<InFlight> {
        take(&self.line.in_flight, max).then(|| InFlight(self.line.clone()))
    }

    /// Counts one more connection, unless `max` are open already; then the backend counts as [starved](Self::starved).
    pub fn try_connection(self: &Arc<Self>, max: u32) -> Option<Connection> {
        if take(&self.line.connections, max) {
            return Some(Connection(self.clone()));
        }
        self.starved.store(true, Relaxed);
        None
    }

    /// Whether somebody waits for a connection that there is no room for: close an idle one rather than keep it.
    pub fn starved(&self) -> bool {
        self.starved.load(Relaxed)
    }

    /// How an attempt to connect ended: refused (nobody listens there), or not. Traffic and checks both say it.
    pub fn note_connect(&self, refused: bool) {
        if self.refused.load(Relaxed) != refused {
            self.refused.store(refused, Relaxed);
        }
    }

    /// Whether the newest attempt to connect was refused.
    pub fn last_connect_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("region", &self.identity.region)
            .field("address", &self.label)
            .field("in_flight", &self.in_flight())
            .field("connections", &self.connections())
            .field("refused", &self.last_connect_refused())
            .finish()
    }
}

/// One request in flight at a backend, until dropped.
#[must_use = "dropped at once, it counts nothing"]
pub struct InFlight(Arc<Line>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

/// One open connection to a backend, until dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct Connection(Arc<Backend>);

impl Connection {
    /// To whom.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.line.connections.fetch_sub(1, Relaxed);
        if self.0.starved() {
            self.0.starved.store(false, Relaxed);
        }
    }
}

/// Counts up, but never beyond `max`. Nothing else is published through a count, so relaxed order does.
fn take(count: &AtomicU32, max: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |n| (n < max).then(|| n + 1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Address, Protocol};

    fn backend() -> Arc<Backend> {
        let address = Address::Ip("10.1.0.11:8000".parse().unwrap());
        Arc::new(Backend::new(Identity { region: "north".into(), address, protocol: Protocol::H1 }))
    }

    #[test]
    fn guards_count_down_when_dropped() {
        let backend = backend();
        assert_eq!(&*backend.label, "10.1.0.11:8000");
        let one = backend.try_request(2);
        let two = backend.try_request(2);
        assert!(one.is_some() && two.is_some());
        assert!(backend.try_request(2).is_none());
        assert_eq!(backend.in_flight(), 2);
        drop(one);
        assert_eq!(backend.in_flight(), 1);
        assert!(backend.try_request(2).is_some());
        assert_eq!(backend.in_flight(), 1);
        drop(two);
        assert_eq!(backend.in_flight(), 0);
        assert!(backend.try_request(0).is_none());
    }

    #[test]
    fn a_full_backend_is_starved_until_a_connection_closes() {
        let backend = backend();
        let held = backend.try_connection(1).unwrap();
        assert!(!backend.starved());
        assert!(backend.try_connection(1).is_none());
        assert!(backend.starved());
        assert_eq!(held.backend().connections(), 1);
        drop(held);
        assert!(!backend.starved());
        assert_eq!(backend.connections(), 0);
    }

    #[test]
    fn the_limit_holds_over_threads() {
        let backend = backend();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let guard = backend.try_request(3);
                        assert!(backend.in_flight() <= 3);
                        drop(guard);
                    }
                });
            }
        });
        assert_eq!(backend.in_flight(), 0);
    }

    #[test]
    fn the_last_connect_counts() {
        let backend = backend();
        assert!(!backend.last_connect_refused());
        backend.note_connect(true);
        assert!(backend.last_connect_refused());
        backend.note_connect(false);
        assert!(!backend.last_connect_refused());
    }
}
