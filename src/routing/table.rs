//! The Snapshot in force: one arc-swap, one writer, a reader per worker.
//!
//! A worker's reader keeps an `Arc` of the newest Snapshot it has seen, and hands it out inside an `Rc`. A request that
//! keeps its Snapshot to the end then counts in memory of its own worker: an `Arc` clone per request would have all
//! workers write to one cache line.

use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::Snapshot;

/// The Snapshot in force.
#[derive(Debug)]
pub struct Table {
    /// Written by control alone.
    current: Arc<ArcSwap<Snapshot>>,
}

impl Table {
    /// Begins with this one.
    pub fn new(snapshot: Snapshot) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(snapshot)) }
    }

    /// The newest, for whoever asks rarely.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Puts another in force and gives back the one before. Whoever calls this keeps that until it holds the last
    /// `Arc`, so that freeing a large Snapshot is never a worker's work.
    #[must_use = "keep it until nobody else does"]
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        self.current.swap(Arc::new(snapshot))
    }

    /// A worker's view.
    pub fn reader(&self) -> Reader {
        let mut cache = Cache::new(Arc::clone(&self.current));
        let current = Rc::new(Arc::clone(cache.load()));
        Reader { cache, current }
    }
}

/// One worker's view of a [`Table`].
#[derive(Debug)]
#[expect(clippy::redundant_allocation, reason = "the `Rc` is counted per request, the `Arc` per publication")]
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    current: Rc<Arc<Snapshot>>,
}

impl Reader {
    /// The newest Snapshot: one load of a shared pointer that is rarely written. A request asks once and keeps it.
    pub fn current(&mut self) -> Rc<Arc<Snapshot>> {
        self.refresh();
        Rc::clone(&self.current)
    }

    /// Lets go of a Snapshot that is no longer the newest. For a worker's tick: an idle one would keep an old one.
    pub fn refresh(&mut self) {
        let newest = self.cache.load();
        if !Arc::ptr_eq(newest, &self.current) {
            self.current = Rc::new(Arc::clone(newest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_request_keeps_its_snapshot_and_the_next_sees_the_new_one() {
        let table = Table::new(testing::many_pools(1));
        let mut reader = table.reader();
        let first = reader.current();
        let old = table.publish(first.with_changes([]));
        assert_eq!(first.generation, old.generation);
        let second = reader.current();
        assert_eq!(second.generation, old.generation + 1);
        // `old` and the request that still runs.
        assert_eq!(Arc::strong_count(&old), 2);
        drop(first);
        assert_eq!(Arc::strong_count(&old), 1);
    }

    #[test]
    fn clones_do_not_touch_the_shared_count() {
        let table = Table::new(testing::many_pools(1));
        let mut reader = table.reader();
        let count = || Arc::strong_count(&table.load());
        let before = count();
        let kept: Vec<_> = (0..10).map(|_| reader.current()).collect();
        assert_eq!(count(), before);
        drop(kept);
    }

    #[test]
    fn a_tick_lets_go() {
        let table = Table::new(testing::many_pools(1));
        let mut reader = table.reader();
        let old = table.publish(table.load().with_changes([]));
        assert!(Arc::strong_count(&old) > 1);
        reader.refresh();
        assert_eq!(Arc::strong_count(&old), 1);
    }
}
