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

/// A connection that knows where it leads.
pub(crate) trait To {
    /// To whom.
    fn backend(&self) -> &Arc<Backend>;
}

struct Entry<C> {
    backend: Arc<Backend>,
    stack: Vec<(C, Instant)>,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { idle: RefCell::new(FxHashMap::default()) }
    }
}

impl<C> Pool<C> {
    /// The newest connection that `usable` agrees to; those that it does not are dropped.
    pub(crate) fn take(
        &self,
        backend: &Arc<Backend>,
        now: Instant,
        mut usable: impl FnMut(&mut C) -> bool,
    ) -> Option<C> {
        let mut idle = self.idle.borrow_mut();
        let entry = idle.get_mut(&key(backend))?;
        while let Some((mut connection, until)) = entry.stack.pop() {
            if until > now && usable(&mut connection) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection to this backend until then.
    pub(crate) fn put(&self, connection: C, until: Instant)
    where
        C: To,
    {
        let mut idle = self.idle.borrow_mut();
        let backend = connection.backend();
        let entry =
            idle.entry(key(backend)).or_insert_with(|| Entry { backend: Arc::clone(backend), stack: Vec::new() });
        entry.stack.push((connection, until));
    }

    /// Drops what is past its time or not usable any more, and forgets backends that nobody else knows.
    pub(crate) fn sweep(&self, now: Instant, mut usable: impl FnMut(&mut C) -> bool) {
        self.idle.borrow_mut().retain(|_, entry| {
            entry.stack.retain_mut(|(connection, until)| *until > now && usable(connection));
            !entry.stack.is_empty() && Arc::strong_count(&entry.backend) > 1
        });
    }
}

fn key(backend: &Arc<Backend>) -> usize {
    Arc::as_ptr(backend) as usize
}
