//! What a worker keeps for each key and pool it has met: its metric cells and its balancing state.
//!
//! Looked up by the numbers of one Plan, so it is emptied when another Plan comes in force. Labels are resolved here,
//! once, and never per request. Nothing here keeps an Index or a backend alive: freeing a large Plan is the control
//! plane's work, and a backend that has left its name must be able to go.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::budget::Budget;
use super::hedging::Hedging;
use crate::backend::Observation;
use crate::backend::queue::{Queue, Queues};
use crate::balance::Rotation;
use crate::model::{Key, Outlier, PoolId, PoolSettings, Role};
use crate::routing::{Index, Server, Tier};
use crate::telemetry::{BackendCells, KeyCells, Metrics, PoolCells, UNKNOWN, WorkerMetrics};

/// One worker's slots for one Plan.
pub(crate) struct Slots {
    metrics: WorkerMetrics,
    reports: Rc<Reports>,
    /// Whose numbers these are. Its place in memory is not another's while this is held.
    index: Weak<Index>,
    /// Names of routes, by number. Those of the Index have counts that all workers would write.
    routes: Vec<Option<Rc<str>>>,
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
    /// Found when a request has to wait.
    queue: OnceCell<Arc<Queue>>,
    /// By role, for policies that remember.
    pub(crate) rotations: [RefCell<Rotation>; 2],
    /// Of the routes that hedge. In memory of its own, because few do.
    hedging: OnceCell<Box<Hedging>>,
    /// By role.
    tiers: [RefCell<TierSlot>; 2],
}

/// The cells of a tier's servers, by their place. Those of a server that went may have ended, and if it comes back it
/// needs new ones.
struct TierSlot {
    servers: Weak<[Server]>,
    slots: Vec<Option<Rc<ServerSlot>>>,
}

/// A server's label and cells. What a request keeps of a backend is this: counting a reference to the backend itself
/// would have every worker write to one more line.
pub(crate) struct ServerSlot {
    pub(crate) label: Arc<str>,
    pub(crate) cells: Rc<BackendCells>,
    /// As the pool says.
    pub(crate) outlier: Option<Outlier>,
    pub(crate) reports: Rc<Reports>,
}

/// The way of observations to the control plane.
pub(crate) struct Reports {
    sender: mpsc::Sender<Observation>,
    metrics: Arc<Metrics>,
}

impl Reports {
    /// Never waits: what is lost while the control plane is behind is said again with the next error, or answer. False:
    /// it is lost.
    pub(crate) fn send(&self, observation: Observation) -> bool {
        let sent = self.sender.try_send(observation).is_ok();
        if !sent {
            self.metrics.limit_hit("observations");
        }
        sent
    }
}

impl PoolSlot {
    #[cold]
    fn new(metrics: &WorkerMetrics, index: &Index, id: PoolId) -> Rc<Self> {
        let (asset, region) = index.pool_labels(id);
        Rc::new(Self {
            cells: metrics.pool(&asset, &region),
            asset,
            region,
            budget: Rc::default(),
            queue: OnceCell::new(),
            rotations: Default::default(),
            hedging: OnceCell::new(),
            tiers: TierSlot::none(),
        })
    }

    /// When its requests are hedged, where a route wants that.
    pub(crate) fn hedging(&self) -> &Hedging {
        self.hedging.get_or_init(Box::default)
    }

    /// Where the pool's requests wait.
    pub(crate) fn queue(&self, queues: &Queues) -> &Arc<Queue> {
        self.queue.get_or_init(|| queues.queue(&self.asset, &self.region))
    }
}

impl TierSlot {
    /// Of both tiers, before anything is known of their servers.
    fn none() -> [RefCell<Self>; 2] {
        Role::ALL.map(|_| RefCell::new(Self { servers: Weak::<[Server; 0]>::new(), slots: Vec::new() }))
    }

    /// The tier has other servers now, or the same with other weights.
    fn follow(&mut self, servers: &Arc<[Server]>) {
        self.slots.resize(servers.len(), None);
        for (slot, server) in self.slots.iter_mut().zip(servers.iter()) {
            if slot.as_ref().is_some_and(|slot| !Arc::ptr_eq(&slot.label, &server.backend.label)) {
                *slot = None;
            }
        }
        self.servers = Arc::downgrade(servers);
    }
}

/// Assets that are not configured, and requests that never got a key.
const UNKNOWN_ASSET: u32 = u32::MAX;
/// Requests that never got a region.
const NO_REGION: u16 = u16::MAX;

impl Slots {
    pub(crate) fn new(metrics: WorkerMetrics, observations: mpsc::Sender<Observation>) -> Self {
        Self {
            reports: Rc::new(Reports { sender: observations, metrics: Arc::clone(metrics.metrics()) }),
            metrics,
            index: Weak::new(),
            routes: Vec::new(),
            keys: FxHashMap::default(),
            pools: FxHashMap::default(),
        }
    }

    /// Forgets everything if the numbers of this index are not the ones it knows.
    pub(crate) fn follow(&mut self, index: &Arc<Index>) {
        if self.index.as_ptr() != Arc::as_ptr(index) {
            self.routes.clear();
            self.keys.clear();
            self.pools.clear();
            self.index = Arc::downgrade(index);
        }
    }

    /// The name of a route.
    pub(crate) fn route(&mut self, index: &Index, number: usize) -> Rc<str> {
        if self.routes.len() <= number {
            self.routes.resize(number + 1, None);
        }
        let name = || Rc::from(&**index.route_name(number));
        match self.routes.get_mut(number) {
            Some(known) => Rc::clone(known.get_or_insert_with(name)),
            None => name(),
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
    #[inline(always)]
    pub(crate) fn pool(&mut self, index: &Index, id: PoolId) -> Rc<PoolSlot> {
        // A request may still go by the numbers of an older Plan, when it has waited or is tried again.
        if !std::ptr::eq(self.index.as_ptr(), index) {
            return PoolSlot::new(&self.metrics, index, id);
        }
        let metrics = &self.metrics;
        Rc::clone(self.pools.entry(id).or_insert_with(|| PoolSlot::new(metrics, index, id)))
    }

    /// The slot of the server at this place of a pool's tier.
    pub(crate) fn server(
        &self,
        pool: &PoolSlot,
        settings: &PoolSettings,
        role: Role,
        tier: &Tier,
        place: usize,
    ) -> Option<Rc<ServerSlot>> {
        let server = tier.servers.get(place)?;
        let mut slot = pool.tiers.get(role as usize)?.borrow_mut();
        if !std::ptr::eq(slot.servers.as_ptr(), Arc::as_ptr(&tier.servers)) {
            slot.follow(&tier.servers);
        }
        let label = &server.backend.label;
        let new = || {
            Rc::new(ServerSlot {
                label: Arc::clone(label),
                cells: self.metrics.backend(&pool.asset, &pool.region, label),
                outlier: settings.outlier,
                reports: Rc::clone(&self.reports),
            })
        };
        slot.slots.get_mut(place).map(|slot| Rc::clone(slot.get_or_insert_with(new)))
    }

    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, Identity};
    use crate::model::{Address, PoolSettings, Protocol};
    use crate::routing::PoolState;
    use crate::telemetry::Subject;

    fn server(port: u16) -> Server {
        let address = Address::Ip(([127, 0, 0, 1], port).into());
        let identity = Identity { region: "r".into(), address, protocol: Protocol::H1, tls: None };
        Server::new(Backend::new(identity), None, 1)
    }

    #[test]
    fn a_server_that_comes_back_has_cells_that_are_seen() {
        let metrics = Metrics::new(10);
        let slots = Slots::new(metrics.worker(), mpsc::channel(1).0);
        let now = std::time::Instant::now();
        let slot = PoolSlot {
            region: "r".into(),
            asset: "a".into(),
            cells: slots.metrics.pool(&"a".into(), &"r".into()),
            budget: Rc::default(),
            queue: OnceCell::new(),
            rotations: Default::default(),
            hedging: OnceCell::new(),
            tiers: TierSlot::none(),
        };
        let (one, two) = (server(1), server(2));
        let both =
            PoolState::new(PoolId(0), Arc::new(PoolSettings::default()), [vec![one.clone(), two.clone()], vec![]], now);
        let count = |pool: &PoolState, place: usize| {
            let server = slots.server(&slot, &pool.settings, Role::Primary, &pool.tiers[0], place).unwrap();
            server.cells.attempt(crate::model::Outcome::Ok);
        };
        let shown = |n: u32| {
            let page = metrics.encode();
            let line = page.lines().find(|line| line.contains("outcome=\"ok\"") && line.contains("127.0.0.1:2"));
            line.is_some_and(|line| line.ends_with(&format!(" {n}")))
        };
        let references = Arc::strong_count(&two.backend);
        count(&both, 1);
        count(&both, 1);
        assert_eq!(Arc::strong_count(&two.backend), references);
        // A verdict that changes leaves everything where it is.
        count(&both.refreshed(now), 1);
        assert!(shown(3), "{}", metrics.encode());

        let alone = both.with_servers([vec![one.clone()], vec![]], now);
        count(&alone, 0);
        metrics.retain(|subject| !matches!(subject, Subject::Backend { backend: "127.0.0.1:2", .. }));
        assert!(!metrics.encode().contains("127.0.0.1:2"));
        count(&alone.with_servers([vec![one], vec![two]], now), 0);
        let back = PoolState::new(PoolId(0), Arc::new(PoolSettings::default()), [vec![server(2)], vec![]], now);
        count(&back, 0);
        assert!(shown(1), "{}", metrics.encode());
        assert!(slots.server(&slot, &back.settings, Role::Primary, &back.tiers[0], 1).is_none());
    }

    const FILE: &str = "listeners = [{ bind = '127.0.0.1:0' }]\nroutes = [{ path = '/{asset}' }]\nregions.r = {}\n\
                        pools.x.r.primaries = ['127.0.0.1:1']\n";

    #[test]
    fn a_request_of_an_older_plan_leaves_the_slots_of_the_newer_alone() {
        let index = |file: &str| Arc::new(Index::new(Arc::new(crate::config::load_str(file).unwrap().plan)));
        let older = index(&FILE.replace("pools.x", "pools.w.r.primaries = ['127.0.0.1:1']\npools.x"));
        let newer = index(FILE);
        let label = |slots: &mut Slots, index: &Index, id| slots.pool(index, PoolId(id)).asset.to_string();
        let mut slots = Slots::new(Metrics::new(10).worker(), mpsc::channel(1).0);
        slots.follow(&older);
        let names = |slots: &mut Slots| [0, 1].map(|id| label(slots, &older, id));
        assert_eq!(names(&mut slots), ["w", "x"]);
        slots.follow(&newer);
        assert_eq!(names(&mut slots), ["w", "x"]);
        assert_eq!(label(&mut slots, &newer, 0), "x");
        assert_eq!(names(&mut slots), ["w", "x"]);
    }

    #[test]
    fn no_index_is_kept_alive() {
        let mut slots = Slots::new(Metrics::new(10).worker(), mpsc::channel(1).0);
        let index = || Arc::new(Index::new(Arc::new(crate::config::load_str(FILE).unwrap().plan)));
        let first = index();
        slots.follow(&first);
        let key = Key { asset: first.asset("x"), region: crate::model::RegionId(0) };
        slots.key(&first, Some(key));
        assert_eq!((Arc::strong_count(&first), slots.keys.len()), (1, 1));
        slots.follow(&first);
        assert_eq!(slots.keys.len(), 1);
        slots.follow(&index());
        assert!(slots.keys.is_empty());
    }
}
