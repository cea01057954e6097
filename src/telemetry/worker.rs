//! The handles that one worker counts with.
//!
//! They are not `Send`: that a cell has one writer is then something the compiler knows. To get one takes a lock, so a
//! worker does that once per Plan and keeps it at the key's, the pool's or the backend's number.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::cells::{BackendBlock, Block, HedgeResult, KeyBlock, PoolBlock, QueueBlock, RetryResult, Step};
use super::metrics::Metrics;
use crate::model::{Outcome, Reason, Role};

/// What binds a handle to the thread that made it.
type Local = PhantomData<Rc<()>>;

/// One worker's door to the metrics.
#[derive(Debug)]
pub struct WorkerMetrics {
    metrics: Arc<Metrics>,
    number: usize,
    local: Local,
}

impl WorkerMetrics {
    pub(super) fn new(metrics: Arc<Metrics>, number: usize) -> Self {
        Self { metrics, number, local: PhantomData }
    }

    /// The cells of a key, by the labels of docs/metrics.md: the asset's configured name, `*` or [`UNKNOWN`], and the
    /// region asked for ([`UNKNOWN`] for a request that never got one). The same labels give the same cells, before a
    /// reload and after it.
    ///
    /// [`UNKNOWN`]: super::UNKNOWN
    pub fn key(&self, asset: &Arc<str>, region: &Arc<str>) -> Rc<KeyCells> {
        Rc::new(KeyCells { block: self.metrics.key_series(asset, region).block(self.number), local: PhantomData })
    }

    /// The cells of a pool, by its own asset (`*` for a catch-all) and region.
    pub fn pool(&self, asset: &Arc<str>, region: &Arc<str>) -> Rc<PoolCells> {
        Rc::new(PoolCells { block: self.metrics.pool_series(asset, region).block(self.number), local: PhantomData })
    }

    /// The cells of a backend in a pool.
    pub fn backend(&self, asset: &Arc<str>, region: &Arc<str>, backend: &Arc<str>) -> Rc<BackendCells> {
        let series = self.metrics.backend_series(asset, region, backend);
        Rc::new(BackendCells { block: series.block(self.number), local: PhantomData })
    }

    /// What all workers count in.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// One worker's counts of the requests for one key.
#[derive(Debug)]
pub struct KeyCells {
    block: Block<KeyBlock>,
    local: Local,
}

impl KeyCells {
    /// A request for this key begins: it is in flight until the guard is finished or dropped.
    pub fn started(self: &Rc<Self>) -> InFlight {
        self.block.in_flight.add(1);
        InFlight { cells: self.clone(), is_tunnel: false }
    }

    /// What became of a retry.
    pub fn retry(&self, result: RetryResult) {
        if let Some(cell) = self.block.retries.get(result as usize) {
            cell.add(1);
        }
    }

    /// What became of a hedge.
    pub fn hedge(&self, result: HedgeResult) {
        if let Some(cell) = self.block.hedges.get(result as usize) {
            cell.add(1);
        }
    }

    /// A request goes to a tier that is not the first of its order. `to_region` is compared by pointer first: pass the
    /// Plan's own.
    pub fn failover(&self, to_region: &Arc<str>, to_role: Role) {
        let step = || Step { region: to_region.clone(), role: to_role };
        self.block.failovers.cell(|known| known.leads_to(to_region, to_role), step).add(1);
    }
}

/// A request in flight. Dropped without [`InFlight::finished`] it only stops being in flight, and is not counted.
#[derive(Debug)]
pub struct InFlight {
    cells: Rc<KeyCells>,
    is_tunnel: bool,
}

impl InFlight {
    /// It has become a tunnel: how long it takes says nothing about how fast requests are answered.
    pub fn tunnelled(&mut self) {
        if !std::mem::replace(&mut self.is_tunnel, true) {
            self.cells.block.tunnels.add(1);
            self.cells.block.tunnels_open.add(1);
        }
    }

    /// The request is over: `status` as in the access log, `reason` unless a backend (or a route) answered, `took` from
    /// the request's head to the end of the response, the bytes of both bodies.
    pub fn finished(self, status: u16, reason: Option<Reason>, took: Duration, bytes_in: u64, bytes_out: u64) {
        let block = &self.cells.block;
        if let Some(cell) = block.requests(status, reason) {
            cell.add(1);
        }
        block.bytes_in.add(bytes_in);
        block.bytes_out.add(bytes_out);
        if !self.is_tunnel {
            block.duration.observe(took);
        }
    }

    /// The cells it is counted in.
    pub fn cells(&self) -> &Rc<KeyCells> {
        &self.cells
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.cells.block.in_flight.sub(1);
        if self.is_tunnel {
            self.cells.block.tunnels_open.sub(1);
        }
    }
}

/// One worker's measurements of one pool.
#[derive(Debug)]
pub struct PoolCells {
    block: Block<PoolBlock>,
    local: Local,
}

impl PoolCells {
    /// How long one try took, from its start to its response head or its failure.
    pub fn upstream(&self, took: Duration) {
        self.block.duration.observe(took);
    }

    /// How long a connection took that was made.
    pub fn connect(&self, took: Duration) {
        self.block.connect.observe(took);
    }

    /// A request begins to wait: it does until the guard is dropped.
    pub fn queued(self: &Rc<Self>) -> Queued {
        self.queue().length.add(1);
        Queued { cells: Rc::clone(self) }
    }

    /// How long a request that had to wait did so, all in all.
    pub fn waited(&self, took: Duration) {
        self.queue().duration.observe(took);
    }

    fn queue(&self) -> &QueueBlock {
        self.block.queue.get_or_init(Box::default)
    }
}

/// A request that waits for a place at a backend.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct Queued {
    cells: Rc<PoolCells>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.cells.queue().length.sub(1);
    }
}

/// One worker's counts of the tries at one backend of one pool.
#[derive(Debug)]
pub struct BackendCells {
    block: Block<BackendBlock>,
    local: Local,
}

impl BackendCells {
    /// A response had a load report: one that was used, or one that could not be.
    pub fn load_report(&self, is_used: bool) {
        let [used, ignored] = &self.block.reports;
        if is_used { used } else { ignored }.add(1);
    }

    /// A try is over.
    pub fn attempt(&self, outcome: Outcome) {
        if let Some(cell) = self.block.attempts.get(outcome.index()) {
            cell.add(1);
        }
    }
}
