//! What a scrape shows: every metric's name, help and labels, and the sums of its cells.
//!
//! `prometheus` gives the families, the registry and the text format; the numbers are ours, so each family is made of
//! plain messages. All names are in one list, [`families`], which the reference of the metrics is tested against.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto;

use super::cells::{BOUNDS, Distribution, HedgeResult, KeyBlock, Refused, RetryResult};
use super::metrics::{Cause, Handshake, State, lock};
use crate::model::{Outcome, Reason, Role};

/// The media type of [`Metrics::encode`](super::Metrics::encode).
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "shardgate_";

/// How a metric is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of durations.
    Histogram,
}

/// A metric: what it is called and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Without the prefix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// How to read it.
    pub kind: Kind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
}

/// A family of series while it is being collected.
#[derive(Debug)]
pub struct Family {
    spec: Spec,
    metrics: Vec<proto::Metric>,
}

impl Spec {
    /// With the prefix.
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// As `prometheus` describes it. Our own names are well formed, so this does not fail; a test makes them all.
    pub fn desc(&self) -> Result<Desc, prometheus::Error> {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.full_name(), self.help.to_owned(), labels, Default::default())
    }

    /// Without series yet.
    pub fn family(&self) -> Family {
        Family { spec: *self, metrics: Vec::new() }
    }
}

impl Family {
    /// One series of a counter or a gauge, with the values of its labels in order.
    pub fn push(&mut self, labels: &[&str], value: f64) {
        let mut metric = self.metric(labels);
        match self.spec.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// One series of a histogram, unless nothing was observed.
    pub(super) fn push_distribution(&mut self, labels: &[&str], distribution: &Distribution) {
        if distribution.count() == 0 {
            return;
        }
        let mut metric = self.metric(labels);
        let mut histogram = proto::Histogram::default();
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(BOUNDS.len());
        for (bound, count) in BOUNDS.iter().zip(distribution.buckets) {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(distribution.count());
        histogram.set_sample_sum(distribution.sum_nanos as f64 / 1e9);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    /// As `prometheus` takes it.
    pub fn into_proto(self) -> proto::MetricFamily {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.spec.full_name());
        family.set_help(self.spec.help.to_owned());
        family.set_field_type(match self.spec.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
            Kind::Histogram => proto::MetricType::HISTOGRAM,
        });
        family.set_metric(self.metrics);
        family
    }

    fn metric(&self, labels: &[&str]) -> proto::Metric {
        debug_assert_eq!(labels.len(), self.spec.labels.len(), "{}", self.spec.name);
        let pairs = self.spec.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        proto::Metric::from_label(pairs.collect())
    }
}

macro_rules! specs {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $id: Spec = Spec { name: $name, help: $help, kind: Kind::$kind, labels: &[$($label),*] };)*
        const SPECS: &[Spec] = &[$($id),*];
    };
}

specs! {
    REQUESTS: Counter "requests_total" ["asset", "region", "code", "reason"]
        "Requests finished, by class of status; the reason is empty when a backend answered.";
    REQUEST_DURATION: Histogram "request_duration_seconds" ["asset", "region"]
        "From a request's head to the end of its response; tunnels are not in it.";
    REQUESTS_IN_FLIGHT: Gauge "requests_in_flight" ["asset", "region"]
        "Requests begun and not yet finished, tunnels among them.";
    TUNNELS_OPEN: Gauge "tunnels_open" ["asset", "region"]
        "Tunnels, such as WebSockets, that have not ended.";
    TUNNELS: Counter "tunnels_total" ["asset", "region"]
        "Requests that became tunnels.";
    REQUEST_BYTES: Counter "request_bytes_total" ["asset", "region"]
        "Bytes of request bodies received from clients.";
    RESPONSE_BYTES: Counter "response_bytes_total" ["asset", "region"]
        "Bytes of response bodies sent to clients.";
    FAILOVERS: Counter "failovers_total" ["asset", "region", "to_region", "to_role"]
        "Requests sent to a tier that is not the first of their order.";
    RETRIES: Counter "retries_total" ["asset", "region", "result"]
        "Repeated tries at a backend, and those that the retry budget did not allow.";
    HEDGES: Counter "hedges_total" ["asset", "region", "result"]
        "Second tries beside a slow first one, and those that the share of hedges or the retry budget did not allow.";
    UPSTREAM_ATTEMPTS: Counter "upstream_attempts_total" ["asset", "region", "backend", "outcome"]
        "Tries at a backend, by how they ended.";
    UPSTREAM_DURATION: Histogram "upstream_duration_seconds" ["asset", "region"]
        "From the start of a try at a backend to its response head or its failure.";
    UPSTREAM_CONNECT_DURATION: Histogram "upstream_connect_duration_seconds" ["asset", "region"]
        "Time to make a connection to a backend.";
    QUEUE_LENGTH: Gauge "queue_length" ["asset", "region"]
        "Requests that wait until a backend has room for them.";
    QUEUE_DURATION: Histogram "queue_duration_seconds" ["asset", "region"]
        "How long requests waited that had to.";
    BACKEND_TRANSITIONS: Counter "backend_transitions_total" ["asset", "region", "backend", "to", "cause"]
        "Changes of a backend's state.";
    OUTLIER_EJECTIONS: Counter "outlier_ejections_total" ["asset", "region", "backend", "detector", "enforced"]
        "Times that the errors of requests asked for a backend's ejection.";
    LOAD_REPORTS: Counter "load_reports_total" ["asset", "region", "backend", "result"]
        "Load reports in responses of a backend, by whether they could be used.";
    CLIENT_CONNECTIONS: Gauge "client_connections" ["listener"]
        "Open connections of clients.";
    CLIENT_CONNECTIONS_TOTAL: Counter "client_connections_total" ["listener"]
        "Connections accepted from clients.";
    TLS_HANDSHAKES: Counter "tls_handshakes_total" ["listener", "result"]
        "TLS handshakes with clients, by how they ended.";
    TLS_CERTIFICATE_EXPIRY: Gauge "tls_certificate_expiry_timestamp_seconds" ["listener", "certificate"]
        "When a certificate ends, in Unix time.";
    TLS_RELOADS: Counter "tls_reloads_total" ["result"]
        "Certificates, keys and authorities read anew because their files changed.";
    LIMIT_HITS: Counter "limit_hits_total" ["limit"]
        "Times that a limit turned a client away or cut it short.";
    LOG_LINES_DROPPED: Counter "log_lines_dropped_total" ["log"]
        "Log lines lost because their reader was too slow or gone, or the disk full.";
    PANICS: Counter "panics_total" []
        "Bugs that ended a task or a thread.";
    CONFIG_RELOADS: Counter "config_reloads_total" ["result"]
        "Reloads of the configuration.";
    CONFIG_LAST_RELOAD_SUCCESSFUL: Gauge "config_last_reload_successful" []
        "Whether the last configuration that was read is in force.";
    CONFIG_LAST_RELOAD_TIME: Gauge "config_last_reload_success_timestamp_seconds" []
        "When the configuration in force was taken, in Unix time.";
    CONFIG_INFO: Gauge "config_info" ["hash"]
        "The configuration in force.";
    BUILD_INFO: Gauge "build_info" ["version"]
        "The version that is running.";
    DRAINING: Gauge "draining" []
        "Whether the process is finishing what it has and takes nothing new.";
}

/// Every metric that this room shows, in the order of the reference.
pub fn families() -> &'static [Spec] {
    SPECS
}

/// The collector of all cells.
pub(super) struct Export {
    state: Arc<State>,
    descs: Vec<Desc>,
}

impl Export {
    pub(super) fn new(state: Arc<State>) -> Self {
        Self { state, descs: SPECS.iter().filter_map(|spec| spec.desc().ok()).collect() }
    }

    fn keys(&self, out: &mut Vec<proto::MetricFamily>) {
        let mut requests = REQUESTS.family();
        let mut duration = REQUEST_DURATION.family();
        let mut in_flight = REQUESTS_IN_FLIGHT.family();
        let mut tunnels_open = TUNNELS_OPEN.family();
        let mut tunnels = TUNNELS.family();
        let mut bytes_in = REQUEST_BYTES.family();
        let mut bytes_out = RESPONSE_BYTES.family();
        let mut failovers = FAILOVERS.family();
        let mut retries = RETRIES.family();
        let mut hedges = HEDGES.family();
        let gone = lock(&self.state.regions_gone).clone();
        for series in self.state.keys.all() {
            let labels @ [asset, region] = [&*series.labels[0], &*series.labels[1]];
            let blocks = series.blocks();
            let sum =
                |cell: &dyn Fn(&KeyBlock) -> u64| blocks.iter().fold(0_u64, |sum, block| sum.wrapping_add(cell(block)));
            let refused: Vec<&Refused> = blocks.iter().filter_map(|b| b.refused.get().map(|r| &**r)).collect();
            for (class, code) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
                let n = sum(&|block| block.answered[class].get());
                push_some(&mut requests, &[asset, region, code, ""], n);
                for reason in Reason::ALL.iter().filter(|_| !refused.is_empty()) {
                    let n = refused.iter().map(|refused| refused.rows()[reason.index()][class].get()).sum();
                    push_some(&mut requests, &[asset, region, code, reason.as_str()], n);
                }
            }
            let mut distribution = Distribution::default();
            blocks.iter().for_each(|block| distribution.add(&block.duration));
            duration.push_distribution(&labels, &distribution);
            // A request that ends between the reading of two cells can make this look negative for one scrape.
            in_flight.push(&labels, (sum(&|block| block.in_flight.get()) as i64).max(0) as f64);
            let made = sum(&|block| block.tunnels.get());
            push_some(&mut tunnels, &labels, made);
            if made > 0 {
                tunnels_open.push(&labels, (sum(&|block| block.tunnels_open.get()) as i64).max(0) as f64);
            }
            bytes_in.push(&labels, sum(&|block| block.bytes_in.get()) as f64);
            bytes_out.push(&labels, sum(&|block| block.bytes_out.get()) as f64);
            for (at, result) in RetryResult::ALL.iter().enumerate() {
                push_some(&mut retries, &[asset, region, result.as_str()], sum(&|block| block.retries[at].get()));
            }
            for (at, result) in HedgeResult::ALL.iter().enumerate() {
                push_some(&mut hedges, &[asset, region, result.as_str()], sum(&|block| block.hedges[at].get()));
            }
            let mut steps: Vec<(&Arc<str>, Role, u64)> = Vec::new();
            for entry in blocks.iter().flat_map(|block| block.failovers.iter()) {
                match steps.iter_mut().find(|(region, role, _)| entry.key.leads_to(region, *role)) {
                    Some((_, _, n)) => *n += entry.count.get(),
                    None => steps.push((&entry.key.region, entry.key.role, entry.count.get())),
                }
            }
            for (to, role, n) in steps {
                if !gone.contains(to) {
                    push_some(&mut failovers, &[asset, region, to, role.as_str()], n);
                }
            }
        }
        let all =
            [requests, duration, in_flight, tunnels_open, tunnels, bytes_in, bytes_out, failovers, retries, hedges];
        out.extend(all.map(Family::into_proto));
    }

    fn pools(&self, out: &mut Vec<proto::MetricFamily>) {
        let mut duration = UPSTREAM_DURATION.family();
        let mut connect = UPSTREAM_CONNECT_DURATION.family();
        let mut length = QUEUE_LENGTH.family();
        let mut waited = QUEUE_DURATION.family();
        for series in self.state.pools.all() {
            let labels = [&*series.labels[0], &*series.labels[1]];
            let mut sums = [Distribution::default(), Distribution::default(), Distribution::default()];
            let mut queued = None;
            for block in series.blocks() {
                sums[0].add(&block.duration);
                sums[1].add(&block.connect);
                if let Some(queue) = block.queue.get() {
                    sums[2].add(&queue.duration);
                    queued = Some(queued.unwrap_or(0_u64).wrapping_add(queue.length.get()));
                }
            }
            duration.push_distribution(&labels, &sums[0]);
            connect.push_distribution(&labels, &sums[1]);
            waited.push_distribution(&labels, &sums[2]);
            if let Some(queued) = queued {
                length.push(&labels, (queued as i64).max(0) as f64);
            }
        }
        out.extend([duration, connect, length, waited].map(Family::into_proto));
    }

    fn backends(&self, out: &mut Vec<proto::MetricFamily>) {
        let mut attempts = UPSTREAM_ATTEMPTS.family();
        let mut reports = LOAD_REPORTS.family();
        for series in self.state.backends.all() {
            let [asset, region, backend] = [&*series.labels[0], &*series.labels[1], &*series.labels[2]];
            let blocks = series.blocks();
            for outcome in Outcome::ALL {
                let n = blocks.iter().map(|block| block.attempts[outcome.index()].get()).sum();
                push_some(&mut attempts, &[asset, region, backend, outcome.as_str()], n);
            }
            for (at, result) in ["used", "ignored"].into_iter().enumerate() {
                let n = blocks.iter().map(|block| block.reports[at].get()).sum();
                push_some(&mut reports, &[asset, region, backend, result], n);
            }
        }
        let mut transitions = BACKEND_TRANSITIONS.family();
        for (([asset, region, backend], cause), counts) in lock(&self.state.transitions).iter() {
            for (to, n) in ["up", "down"].iter().zip(counts) {
                push_some(&mut transitions, &[asset, region, backend, to, Cause::as_str(*cause)], *n);
            }
        }
        let mut ejections = OUTLIER_EJECTIONS.family();
        for (([asset, region, backend], detector, enforced), n) in lock(&self.state.ejections).iter() {
            let enforced = if *enforced { "true" } else { "false" };
            push_some(&mut ejections, &[asset, region, backend, detector.as_str(), enforced], *n);
        }
        out.extend([attempts, transitions, ejections, reports].map(Family::into_proto));
    }

    fn process(&self, out: &mut Vec<proto::MetricFamily>) {
        let state = &*self.state;
        let mut open = CLIENT_CONNECTIONS.family();
        let mut total = CLIENT_CONNECTIONS_TOTAL.family();
        let mut handshakes = TLS_HANDSHAKES.family();
        for cells in lock(&state.listeners).iter() {
            open.push(&[&cells.name], (cells.open.get() as i64).max(0) as f64);
            total.push(&[&cells.name], cells.total.get() as f64);
            for (result, count) in Handshake::ALL.iter().zip(&cells.handshakes) {
                push_some(&mut handshakes, &[&cells.name, result.as_str()], count.get());
            }
        }
        let mut expiry = TLS_CERTIFICATE_EXPIRY.family();
        for end in lock(&state.certificates).iter() {
            expiry.push(&[&end.listener, &end.certificate], end.not_after as f64);
        }
        let mut limits = LIMIT_HITS.family();
        for entry in state.limits.iter() {
            limits.push(&[entry.key], entry.count.get() as f64);
        }
        let mut dropped = LOG_LINES_DROPPED.family();
        dropped.push(&["access"], state.dropped_access.load(Ordering::Relaxed) as f64);
        dropped.push(&["main"], state.dropped_main.load(Ordering::Relaxed) as f64);
        let mut panics = PANICS.family();
        panics.push(&[], state.panics.load(Ordering::Relaxed) as f64);
        let mut reloads = CONFIG_RELOADS.family();
        for (result, n) in ["success", "failure"].iter().zip(&state.reloads) {
            reloads.push(&[result], n.load(Ordering::Relaxed) as f64);
        }
        let mut tls_reloads = TLS_RELOADS.family();
        for (result, n) in ["success", "failure"].iter().zip(&state.tls_reloads) {
            tls_reloads.push(&[result], n.load(Ordering::Relaxed) as f64);
        }
        let mut last_good = CONFIG_LAST_RELOAD_SUCCESSFUL.family();
        let mut last_time = CONFIG_LAST_RELOAD_TIME.family();
        let mut config = CONFIG_INFO.family();
        if let Some(hash) = lock(&state.config_hash).as_deref() {
            last_good.push(&[], state.last_reload_good.load(Ordering::Relaxed) as f64);
            last_time.push(&[], state.last_reload_millis.load(Ordering::Relaxed) as f64 / 1e3);
            config.push(&[hash], 1.0);
        }
        let mut build = BUILD_INFO.family();
        build.push(&[env!("CARGO_PKG_VERSION")], 1.0);
        let mut draining = DRAINING.family();
        draining.push(&[], state.draining.load(Ordering::Relaxed) as f64);
        out.extend([open, total, handshakes, expiry, tls_reloads, limits, dropped, panics].map(Family::into_proto));
        out.extend([reloads, last_good, last_time, config, build, draining].map(Family::into_proto));
    }
}

impl Collector for Export {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let mut out = Vec::with_capacity(SPECS.len());
        self.keys(&mut out);
        self.pools(&mut out);
        self.backends(&mut out);
        self.process(&mut out);
        out
    }
}

/// A counter that has counted something: those at zero are left out, or each pool would have a series per reason.
fn push_some(family: &mut Family, labels: &[&str], n: u64) {
    if n > 0 {
        family.push(labels, n as f64);
    }
}
