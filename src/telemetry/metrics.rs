//! The metrics of the process: which series there are, when they begin and when they end.
//!
//! A series begins with the first use of its cells. That bounds the number of series by what happens rather than by
//! what is configured, and `metrics.max_pools` bounds it again: the pairs of asset and region that come after so many
//! share one pair of labels, [`OTHER`]. It ends when [`Metrics::retain`] is told that the configuration does not speak
//! of it any more; a request that is still counting in its cells then counts where nobody looks.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_utils::CachePadded;
use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;

use super::cells::{BackendBlock, Count, KeyBlock, PoolBlock, Series, Tally};
use super::export::Export;
use super::worker::WorkerMetrics;
use crate::model::Detector;

/// The label of everything that came after `metrics.max_pools`.
pub const OTHER: &str = "_other";

/// The label of an asset that is not configured, and of the region of a request that never got one.
pub const UNKNOWN: &str = "_unknown";

/// Everything that is scraped. One for the process.
pub struct Metrics {
    pub(super) state: Arc<State>,
    registry: prometheus::Registry,
}

/// What is counted. Apart from [`Metrics`], because the registry owns a collector that owns this.
#[derive(Default)]
pub(super) struct State {
    workers: AtomicUsize,
    max_pools: AtomicUsize,
    /// The pairs of asset and region that have series of their own.
    admitted: Mutex<HashSet<Labels<2>>>,
    pub(super) keys: Table<KeyBlock, 2>,
    pub(super) pools: Table<PoolBlock, 2>,
    pub(super) backends: Table<BackendBlock, 3>,
    /// To up and to down, by cause. Only the control plane counts these, so a lock does.
    pub(super) transitions: Mutex<HashMap<(Labels<3>, Cause), [u64; 2]>>,
    /// By detector and whether they were enforced. Counted by the control plane, too.
    pub(super) ejections: Mutex<HashMap<(Labels<3>, Detector, bool), u64>>,
    pub(super) listeners: Mutex<Vec<Arc<ListenerCells>>>,
    pub(super) certificates: Mutex<Vec<CertificateEnd>>,
    pub(super) limits: Tally<&'static str>,
    /// Regions that `retain` was told are gone: what failed over to them is not shown.
    pub(super) regions_gone: Mutex<HashSet<Arc<str>>>,
    pub(super) reloads: [AtomicU64; 2],
    /// Of certificates, keys and authorities whose files changed: read anew, and not.
    pub(super) tls_reloads: [AtomicU64; 2],
    /// 1: the last reload was good.
    pub(super) last_reload_good: AtomicU64,
    /// Unix time in milliseconds of the last configuration that was taken.
    pub(super) last_reload_millis: AtomicI64,
    pub(super) config_hash: Mutex<Option<String>>,
    pub(super) draining: AtomicU64,
    pub(super) dropped_main: Arc<AtomicU64>,
    pub(super) dropped_access: Arc<AtomicU64>,
    pub(super) panics: Arc<AtomicU64>,
}

/// The values of some labels: asset, region, and perhaps a backend.
type Labels<const N: usize> = [Arc<str>; N];

/// All series that have these labels.
pub(super) struct Table<B, const LABELS: usize>(Mutex<HashMap<Labels<LABELS>, Arc<Series<B, LABELS>>>>);

impl<B, const LABELS: usize> Default for Table<B, LABELS> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B: Default, const LABELS: usize> Table<B, LABELS> {
    fn series(&self, labels: [Arc<str>; LABELS]) -> Arc<Series<B, LABELS>> {
        let mut series = lock(&self.0);
        series.entry(labels).or_insert_with_key(|labels| Arc::new(Series::new(labels.clone()))).clone()
    }

    /// All of them. The lock is held for copying pointers only, so that a worker that meets a key for the first time
    /// does not wait for a scrape.
    pub(super) fn all(&self) -> Vec<Arc<Series<B, LABELS>>> {
        lock(&self.0).values().cloned().collect()
    }

    fn retain(&self, keep: impl Fn(&[Arc<str>; LABELS]) -> bool) {
        lock(&self.0).retain(|labels, _| keep(labels));
    }
}

/// What [`Metrics::retain`] asks about: does the configuration still speak of it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of docs/metrics.md, in its order")]
pub enum Subject<'a> {
    /// A region of `[regions]`.
    Region(&'a str),
    /// The label of an asset: its name, or `*` if there is a catch-all pool.
    Asset(&'a str),
    /// A pool; its asset may be `*`.
    Pool { asset: &'a str, region: &'a str },
    /// A backend of a pool, by the text of its address.
    Backend { asset: &'a str, region: &'a str, backend: &'a str },
}

/// Why a backend's state changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// An active health check.
    Active,
    /// Errors of requests.
    Passive,
    /// The operator's word.
    Admin,
    /// What the backend says of itself, or its agent.
    Announced,
}

impl Cause {
    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::Admin => "admin",
            Self::Announced => "announced",
        }
    }
}

impl Metrics {
    /// Nothing counted yet. At most `max_pools` pairs of asset and region get series of their own.
    pub fn new(max_pools: usize) -> Arc<Self> {
        let state = Arc::new(State { max_pools: AtomicUsize::new(max_pools), ..State::default() });
        let metrics = Self { state: state.clone(), registry: prometheus::Registry::new() };
        metrics.add_collector(Box::new(Export::new(state)));
        metrics.add_collector(Box::new(ProcessCollector::for_self()));
        Arc::new(metrics)
    }

    /// Cells for one more worker. It stays on the thread that asks.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        WorkerMetrics::new(self.clone(), self.state.workers.fetch_add(1, Ordering::Relaxed))
    }

    /// Adds what is worked out at each scrape. Names that are taken already are a mistake of the program: they are
    /// logged, and the collector is left out.
    pub fn add_collector(&self, collector: Box<dyn Collector>) {
        if let Err(error) = self.registry.register(collector) {
            tracing::error!(%error, "these metrics can't be shown");
        }
    }

    /// Everything in Prometheus's text format. Takes long where there are many series: not for a data path's thread.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "not all metrics could be written");
        }
        text
    }

    /// Whether a pair of asset and region has series of its own; takes a place for it while there is one.
    pub fn admit(&self, asset: &Arc<str>, region: &Arc<str>) -> bool {
        if **asset == *UNKNOWN {
            return true; // As many as there are regions.
        }
        let mut admitted = lock(&self.state.admitted);
        let labels = [asset.clone(), region.clone()];
        admitted.contains(&labels)
            || (admitted.len() < self.state.max_pools.load(Ordering::Relaxed) && admitted.insert(labels))
    }

    fn pair(&self, asset: &Arc<str>, region: &Arc<str>) -> [Arc<str>; 2] {
        if self.admit(asset, region) { [asset.clone(), region.clone()] } else { [OTHER.into(), OTHER.into()] }
    }

    fn triple(&self, asset: &Arc<str>, region: &Arc<str>, backend: &Arc<str>) -> [Arc<str>; 3] {
        match self.admit(asset, region) {
            true => [asset.clone(), region.clone(), backend.clone()],
            false => [OTHER.into(), OTHER.into(), OTHER.into()],
        }
    }

    pub(super) fn key_series(&self, asset: &Arc<str>, region: &Arc<str>) -> Arc<Series<KeyBlock, 2>> {
        self.state.keys.series(self.pair(asset, region))
    }

    pub(super) fn pool_series(&self, asset: &Arc<str>, region: &Arc<str>) -> Arc<Series<PoolBlock, 2>> {
        self.state.pools.series(self.pair(asset, region))
    }

    pub(super) fn backend_series(
        &self,
        asset: &Arc<str>,
        region: &Arc<str>,
        backend: &Arc<str>,
    ) -> Arc<Series<BackendBlock, 3>> {
        self.state.backends.series(self.triple(asset, region, backend))
    }

    /// A backend went up or down. Called once for each pool that it is in.
    pub fn transition(&self, asset: &Arc<str>, region: &Arc<str>, backend: &Arc<str>, to_up: bool, cause: Cause) {
        let labels = self.triple(asset, region, backend);
        lock(&self.state.transitions).entry((labels, cause)).or_default()[usize::from(!to_up)] += 1;
    }

    /// Errors of requests asked for a backend's ejection. Called once for each pool that it is in.
    pub fn ejection(
        &self,
        asset: &Arc<str>,
        region: &Arc<str>,
        backend: &Arc<str>,
        detector: Detector,
        enforced: bool,
    ) {
        let labels = self.triple(asset, region, backend);
        *lock(&self.state.ejections).entry((labels, detector, enforced)).or_default() += 1;
    }

    /// A limit turned a client away or cut it short; `limit` is its key in the configuration.
    pub fn limit_hit(&self, limit: &'static str) {
        self.state.limits.cell(|known| *known == limit, || limit).add_shared(1);
    }

    /// The cells of a listener; they are the same for the same name.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerCells> {
        let mut listeners = lock(&self.state.listeners);
        if let Some(cells) = listeners.iter().find(|cells| cells.name == *name) {
            return cells.clone();
        }
        let cells = Arc::new(ListenerCells {
            name: name.clone(),
            open: CachePadded::default(),
            total: Count::default(),
            handshakes: Default::default(),
        });
        listeners.push(cells.clone());
        cells
    }

    /// The certificates in use from now on. Of those that a listener has under one name, the first to expire counts.
    pub fn certificates(&self, mut in_use: Vec<CertificateEnd>) {
        in_use.sort_by(|a, b| {
            (&a.listener, &a.certificate, a.not_after).cmp(&(&b.listener, &b.certificate, b.not_after))
        });
        in_use.dedup_by(|a, b| (&a.listener, &a.certificate) == (&b.listener, &b.certificate));
        *lock(&self.state.certificates) = in_use;
    }

    /// Ends a listener's series.
    pub fn remove_listener(&self, name: &str) {
        lock(&self.state.listeners).retain(|cells| *cells.name != *name);
    }

    /// A reload was taken or refused. The configuration of the start is none: it is told by [`Metrics::config`] alone.
    pub fn reload(&self, taken: bool) {
        self.state.reloads[usize::from(!taken)].fetch_add(1, Ordering::Relaxed);
        self.state.last_reload_good.store(u64::from(taken), Ordering::Relaxed);
    }

    /// A file of TLS that changed was read anew, or could not be used.
    pub fn tls_reload(&self, taken: bool) {
        self.state.tls_reloads[usize::from(!taken)].fetch_add(1, Ordering::Relaxed);
    }

    /// The configuration with this hash is in force from `now` on. `max_pools` as in [`Metrics::new`]; pairs that have
    /// series already keep them.
    pub fn config(&self, hash: &str, max_pools: usize, now: SystemTime) {
        self.state.max_pools.store(max_pools, Ordering::Relaxed);
        *lock(&self.state.config_hash) = Some(hash.to_owned());
        let millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.state.last_reload_millis.store(i64::try_from(millis).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.state.last_reload_good.store(1, Ordering::Relaxed);
    }

    /// Whether the process is on its way out.
    pub fn draining(&self, draining: bool) {
        self.state.draining.store(u64::from(draining), Ordering::Relaxed);
    }

    /// The counter of lost lines of the main log.
    pub(super) fn dropped_main(&self) -> Arc<AtomicU64> {
        self.state.dropped_main.clone()
    }

    /// The counter of lost lines of the access log.
    pub(super) fn dropped_access(&self) -> Arc<AtomicU64> {
        self.state.dropped_access.clone()
    }

    /// The counter of panics.
    pub(super) fn panics(&self) -> Arc<AtomicU64> {
        self.state.panics.clone()
    }

    /// After a reload: ends every series that speaks of something that is gone. Called when the new Snapshot is out; a
    /// worker that still finishes a request of the old one may bring a series back, until the next reload.
    pub fn retain(&self, lives: impl Fn(Subject<'_>) -> bool) {
        let state = &self.state;
        let region_lives = |region: &str| matches!(region, OTHER | UNKNOWN) || lives(Subject::Region(region));
        let asset_lives = |asset: &str| matches!(asset, OTHER | UNKNOWN) || lives(Subject::Asset(asset));
        let pair_lives = |[asset, region]: &[Arc<str>; 2]| asset_lives(asset) && region_lives(region);
        let pool_lives = |[asset, region]: &[Arc<str>; 2]| **asset == *OTHER || lives(Subject::Pool { asset, region });
        let backend_lives = |[asset, region, backend]: &[Arc<str>; 3]| {
            **asset == *OTHER || lives(Subject::Backend { asset, region, backend })
        };

        lock(&state.admitted).retain(pair_lives);
        state.keys.retain(pair_lives);
        state.pools.retain(pool_lives);
        state.backends.retain(backend_lives);
        lock(&state.transitions).retain(|(labels, _), _| backend_lives(labels));
        lock(&state.ejections).retain(|(labels, ..), _| backend_lives(labels));

        // A region that some key failed over to has cells inside that key's: they can't be taken out, but hidden.
        let failed_over_to = state.keys.all().into_iter().flat_map(|series| series.blocks());
        let mut gone = HashSet::new();
        for block in failed_over_to {
            gone.extend(block.failovers.iter().map(|e| &e.key.region).filter(|r| !region_lives(r)).cloned());
        }
        *lock(&state.regions_gone) = gone;
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The connections of clients at one listener. Counted once per connection, so workers may share these.
#[derive(Debug)]
pub struct ListenerCells {
    pub(super) name: Arc<str>,
    pub(super) open: CachePadded<Count>,
    pub(super) total: Count,
    pub(super) handshakes: [Count; Handshake::ALL.len()],
}

/// When a certificate ends.
#[derive(Debug, Clone)]
pub struct CertificateEnd {
    /// Where it is used.
    pub listener: Arc<str>,
    /// What it is called.
    pub certificate: Arc<str>,
    /// In Unix time.
    pub not_after: i64,
}

/// How a TLS handshake with a client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// With all there is to it.
    Full,
    /// With a ticket of an earlier one.
    Resumed,
    /// One side did not like what the other said.
    Failed,
    /// Not in time.
    Timeout,
    /// The client spoke HTTP in clear.
    PlainHttp,
    /// The client went away before it said anything.
    Closed,
}

impl Handshake {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Full, Self::Resumed, Self::Failed, Self::Timeout, Self::PlainHttp, Self::Closed];

    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::PlainHttp => "plain_http",
            Self::Closed => "closed",
        }
    }
}

impl ListenerCells {
    /// A connection was accepted: it is open until the guard is dropped, on whatever thread.
    pub fn connected(self: &Arc<Self>) -> ClientConnection {
        self.open.add_shared(1);
        self.total.add_shared(1);
        ClientConnection { cells: self.clone() }
    }

    /// A handshake has ended.
    pub fn handshake(&self, result: Handshake) {
        self.handshakes[result as usize].add_shared(1);
    }
}

/// An open connection of a client.
#[derive(Debug)]
pub struct ClientConnection {
    cells: Arc<ListenerCells>,
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.cells.open.sub_shared(1);
    }
}

/// Locks. A panic elsewhere leaves counts that are as good as any.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
