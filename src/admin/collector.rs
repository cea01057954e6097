//! The metrics that are not counted but read: the state of pools, tiers and backends, from the Snapshot in force at the
//! moment of a scrape.

use std::collections::HashSet;
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::view;
use crate::backend::Words;
use crate::control::Handle;
use crate::model::Role;
use crate::telemetry::{Family, Kind, Spec};

const BACKEND: &[&str] = &["asset", "region", "backend", "role"];
const RESULT: &[&str] = &["asset", "region", "backend", "result"];
const TIER: &[&str] = &["asset", "region", "to_region", "role"];

/// Every metric that is read from the Snapshot.
pub(super) const SPECS: [Spec; 10] = [
    gauge("backend_up", BACKEND, "Whether a backend may be used."),
    gauge("backend_requests_in_flight", BACKEND, "Requests at a backend now, over all pools that it is in."),
    gauge(
        "backend_connections",
        BACKEND,
        "Open connections to a backend, idle ones included, over all pools that it is in.",
    ),
    gauge("backend_request_limit", BACKEND, "How many requests at once are good for a backend, where limits adapt."),
    gauge("backend_weight", BACKEND, "Weight of a backend in its pool."),
    gauge(
        "backend_load_weight",
        BACKEND,
        "What its load reports and its agent make of a backend's weight, as a factor.",
    ),
    gauge("backend_utilization", BACKEND, "How busy a backend says it is, 1 being all that it can do."),
    Spec { name: "health_checks_total", help: "Active health checks.", kind: Kind::Counter, labels: RESULT },
    gauge("tier_load_ratio", TIER, "Share of the requests for an asset in a region that goes to a tier."),
    gauge(
        "pool_panic",
        TIER,
        "Whether a tier uses backends that failed their checks, because too few are left anywhere.",
    ),
];

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Spec {
    Spec { name, help, kind: Kind::Gauge, labels }
}

/// Reads the Snapshot at each scrape.
pub(super) struct State {
    handle: Handle,
    descs: Vec<Desc>,
}

impl State {
    /// Of this daemon.
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, descs: SPECS.iter().filter_map(|spec| spec.desc().ok()).collect() }
    }
}

impl Collector for State {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let snapshot = self.handle.snapshot();
        let mut families = SPECS.map(|spec| spec.family());
        let [up, in_flight, connections, limit, weight, load_weight, utilization, checks, load, panic] = &mut families;
        // Pools that have no series of their own have no place in `_other` either: a sum of states says nothing.
        for pool in view::pools(&snapshot).filter(|pool| self.handle.metrics().admit(&pool.asset, &pool.region)) {
            let verdicts = pool.state.verdicts();
            let mut verdicts = verdicts.iter();
            let mut checked = HashSet::new();
            for (tier, role) in pool.state.tiers.iter().zip(Role::ALL) {
                for server in tier.servers.iter() {
                    let is_up = verdicts.next().is_some_and(|verdict| verdict.usable);
                    let labels = [&*pool.asset, &*pool.region, &*server.backend.label, role.as_str()];
                    up.push(&labels, f64::from(u8::from(is_up)));
                    in_flight.push(&labels, f64::from(server.backend.in_flight()));
                    connections.push(&labels, f64::from(server.backend.connections()));
                    if let Some(found) = server.backend.limit() {
                        limit.push(&labels, f64::from(found));
                    }
                    weight.push(&labels, f64::from(server.weight));
                    if let Some(factor) = server.load_weight() {
                        load_weight.push(&labels, factor);
                    }
                    if let Some(busy) = server.backend.words().and_then(Words::utilization) {
                        utilization.push(&labels, busy);
                    }
                    let Some(check) = &server.check else { continue };
                    // Of a backend that is in the pool twice, under a name and under its address, once.
                    if !checked.insert(Arc::as_ptr(check)) {
                        continue;
                    }
                    for (result, count) in [("success", check.passes()), ("failure", check.failures())] {
                        checks.push(&[labels[0], labels[1], labels[2], result], count as f64);
                    }
                }
            }
            for tier in view::tiers(&snapshot, pool.state) {
                let labels = [&*pool.asset, &*pool.region, &*tier.region, tier.role.as_str()];
                load.push(&labels, f64::from(tier.load) / 100.0);
                panic.push(&labels, f64::from(u8::from(tier.panic)));
            }
        }
        families.map(Family::into_proto).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_names_every_metric_with_its_labels() {
        let reference = include_str!("../../docs/metrics.md");
        for spec in SPECS {
            let row = reference.lines().find(|line| line.starts_with(&format!("| `{}` |", spec.full_name())));
            let labels: Vec<_> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
            assert!(row.is_some_and(|row| row.contains(&labels.join(" "))), "{}: {row:?}", spec.full_name());
            assert!(spec.desc().is_ok());
        }
    }
}
