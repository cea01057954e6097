//! What a worker keeps for each key and pool it has met: its metric cells and its balancing state.
//!
//! Looked up by the numbers of one Plan, so it is emptied when another Plan comes in force. Labels are resolved here,
//! once, and never per request.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::budget::Budget;
use crate::backend::Backend;
use crate::balance::Rotation;
use crate::model::{Key, PoolId};
use crate::routing::Index;
use crate::telemetry::{BackendCells, KeyCells, PoolCells, UNKNOWN, WorkerMetrics};

/// One worker's slots for one Plan.
pub(crate) struct Slots {
    metrics: WorkerMetrics,
    plan: Option<Arc<Index>>,
    keys: FxHashMap<(u32, u16), Rc<KeySlot>>,
    pools: FxHashMap<PoolId, Rc<PoolSlot>>,
}

/// A key's labels and cells.
pub(crate) struct KeySlot {
    pub(crate) asset: Arc<str>,
    pub(crate) region: Arc<str>,
    pub(crate) cells: Rc<KeyCells>,
}

/// A pool's labels, cells and state.
pub(crate) struct PoolSlot {
    pub(crate) region: Arc<str>,
    asset: Arc<str>,
    pub(crate) cells: Rc<PoolCells>,
    pub(crate) budget: Rc<Budget>,
    /// By role, for policies that remember.
    pub(crate) rotations: [RefCell<Rotation>; 2],
    /// By the backend's place in memory, which the entry keeps from being reused.
    backends: RefCell<FxHashMap<usize, Counted>>,
}

type Counted = (Arc<Backend>, Rc<BackendCells>);

/// Assets that are not configured, and requests that never got a key.
const UNKNOWN_ASSET: u32 = u32::MAX;
/// Requests that never got a region.
const NO_REGION: u16 = u16::MAX;

impl Slots {
    pub(crate) fn new(metrics: WorkerMetrics) -> Self {
        Self { metrics, plan: None, keys: FxHashMap::default(), pools: FxHashMap::default() }
    }

    /// Forgets everything if the numbers of this index are not the ones it knows.
    pub(crate) fn follow(&mut self, index: &Arc<Index>) {
        if !self.plan.as_ref().is_some_and(|known| Arc::ptr_eq(known, index)) {
            self.keys.clear();
            self.pools.clear();
            self.plan = Some(Arc::clone(index));
        }
    }

    /// The slot of a key; without one, of requests that never got so far.
    pub(crate) fn key(&mut self, index: &Index, key: Option<Key>) -> Rc<KeySlot> {
        let number = key
            .map_or((UNKNOWN_ASSET, NO_REGION), |key| (key.asset.map_or(UNKNOWN_ASSET, |asset| asset.0), key.region.0));
        let metrics = &self.metrics;
        let slot = self.keys.entry(number).or_insert_with(|| {
            let (asset, region) = match key {
                Some(key) => (index.asset_label(key), Arc::clone(&index.plan.regions[key.region.index()].name)),
                None => (UNKNOWN.into(), UNKNOWN.into()),
            };
            let cells = metrics.key(&asset, &region);
            Rc::new(KeySlot { asset, region, cells })
        });
        Rc::clone(slot)
    }

    /// The slot of a pool.
    pub(crate) fn pool(&mut self, index: &Index, id: PoolId) -> Rc<PoolSlot> {
        let metrics = &self.metrics;
        let slot = self.pools.entry(id).or_insert_with(|| {
            let (asset, region) = index.pool_labels(id);
            let cells = metrics.pool(&asset, &region);
            Rc::new(PoolSlot {
                cells,
                asset,
                region,
                budget: Rc::default(),
                rotations: Default::default(),
                backends: RefCell::default(),
            })
        });
        Rc::clone(slot)
    }

    /// The cells of a backend in a pool.
    pub(crate) fn backend(&self, pool: &PoolSlot, backend: &Arc<Backend>) -> Rc<BackendCells> {
        let key = Arc::as_ptr(backend) as usize;
        let mut backends = pool.backends.borrow_mut();
        let (_, cells) = backends.entry(key).or_insert_with(|| {
            let cells = self.metrics.backend(&pool.asset, &pool.region, &backend.label);
            (Arc::clone(backend), cells)
        });
        Rc::clone(cells)
    }

    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }
}
