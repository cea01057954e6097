//! Idle connections of one worker, by backend.
//!
//! The most recently used one is taken first (a LIFO stack): the fewest connections stay warm, the rest age out. Each
//! has a time after which it is not used any more, shorter than the server is believed to keep it, because a request
//! written to a connection that the server is just closing may or may not have been seen.

use std::cell::RefCell;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use crate::backend::Backend;

/// Idle connections, by the backend's place in memory, which the entry keeps from being reused.
pub(crate) struct Pool<C> {
    idle: RefCell<FxHashMap<usize, Entry<C>>>,
}

struct Entry<C> {
    backend: Arc<Backend>,
    stack: Vec<(C, Instant)>,
}

impl<C> Pool<C> {
    pub(crate) fn new() -> Self {
        Self { idle: RefCell::new(FxHashMap::default()) }
    }

    /// The newest connection that `usable` agrees to; those that it does not are dropped.
    pub(crate) fn take(&self, backend: &Arc<Backend>, now: Instant, usable: impl Fn(&C) -> bool) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        let entry = idle.get_mut(&key(backend))?;
        while let Some((connection, until)) = entry.stack.pop() {
            if until > now && usable(&connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection until then.
    pub(crate) fn put(&self, backend: &Arc<Backend>, connection: C, until: Instant) {
        let mut idle = self.idle.borrow_mut();
        let entry =
            idle.entry(key(backend)).or_insert_with(|| Entry { backend: Arc::clone(backend), stack: Vec::new() });
        entry.stack.push((connection, until));
    }

    /// Drops what is past its time or not usable any more, and forgets backends that nobody else knows.
    pub(crate) fn sweep(&self, now: Instant, usable: impl Fn(&C) -> bool) {
        let mut gone = Vec::new();
        self.idle.borrow_mut().retain(|_, entry| {
            let mut kept = Vec::with_capacity(entry.stack.len());
            for (connection, until) in entry.stack.drain(..) {
                if until > now && usable(&connection) { kept.push((connection, until)) } else { gone.push(connection) }
            }
            entry.stack = kept;
            !entry.stack.is_empty() && Arc::strong_count(&entry.backend) > 1
        });
        // Dropping a connection may wake a task that looks at this pool, so it happens after the borrow has ended.
        drop(gone);
    }
}

fn key(backend: &Arc<Backend>) -> usize {
    Arc::as_ptr(backend) as usize
}
