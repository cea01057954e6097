//! Plans and Snapshots for the tests of this room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use super::{Index, Server, Snapshot, build};
use crate::backend::{Check, Identity, Registry, Status};
use crate::model::{
    Action, Address, Asset, AssetId, HeaderEdits, HealthCheck, HostPattern, Limits, Log, Member, Plan, Pool, PoolAsset,
    PoolSettings, Region, RegionId, RetryOverride, Role, Route, Source, SourceKind, TimeoutsOverride,
};

/// A Plan without pools or routes: regions by name, and each falls back to all others in order.
pub(super) fn plan(regions: &[&str], assets: &[&str]) -> Plan {
    let others = |me: usize| (0..regions.len()).filter(move |&i| i != me).map(|i| RegionId(i as u16)).collect();
    Plan {
        hash: String::new(),
        server: crate::model::Server {
            workers: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            default_region: RegionId(0),
        },
        listeners: vec![],
        admin: None,
        regions: regions
            .iter()
            .enumerate()
            .map(|(i, &name)| Region { name: name.into(), clients: vec![], fallback: others(i) })
            .collect(),
        assets: assets.iter().map(|&name| Asset { name: name.into(), aliases: vec![] }).collect(),
        pools: vec![],
        routes: vec![],
        limits: Limits::default(),
        log: Log::default(),
        max_metric_pools: 0,
        files: Vec::new(),
    }
}

/// A route that forwards, with default everything.
pub(super) fn route(name: &str, hosts: &[&str], methods: &[Method], path: Option<&str>) -> Route {
    Route {
        name: name.into(),
        hosts: hosts.iter().map(|host| host_pattern(host)).collect(),
        methods: methods.to_vec(),
        path: path.map(str::to_owned),
        asset: vec![strict(SourceKind::Path("asset".into()))],
        region: vec![],
        timeout: Duration::from_secs(15),
        retry: RetryOverride::default(),
        idempotency_key: false,
        hedge: false,
        timeouts: TimeoutsOverride::default(),
        max_body_bytes: None,
        upgrade: Vec::new(),
        action: Action::Forward,
        rewrite: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

fn host_pattern(text: &str) -> HostPattern {
    if let Some((name, suffix)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return HostPattern::Capture { name: name.into(), suffix: suffix.into() };
    }
    match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(text.into()),
    }
}

/// A source that decides when it says anything.
pub(super) fn strict(kind: SourceKind) -> Source {
    Source { kind, lenient: false }
}

/// A source that lets the next one speak when it names nothing known.
pub(super) fn lenient(kind: SourceKind) -> Source {
    Source { kind, lenient: true }
}

/// A pool of one primary and no checks. `asset`: `None` for `*`. Pools have to be added in the order of a Plan.
pub(super) fn pool(asset: Option<u32>, region: u16, settings: &Arc<PoolSettings>) -> Pool {
    let address = Arc::new(Address::Ip(([10, 0, 0, 1], 80).into()));
    Pool {
        asset: asset.map_or(PoolAsset::Any, |asset| PoolAsset::Named(AssetId(asset))),
        region: RegionId(region),
        members: Box::new([Member { address, weight: 1, role: Role::Primary }]),
        settings: Arc::clone(settings),
    }
}

/// A Snapshot of so many pools of one asset each, in one region, without servers.
pub(super) fn many_pools(n: usize) -> Snapshot {
    let names: Vec<_> = (0..n).map(|i| format!("a{i}")).collect();
    let mut plan = plan(&["r"], &names.iter().map(String::as_str).collect::<Vec<_>>());
    let settings = Arc::default();
    plan.pools = (0..n).map(|i| pool(Some(i as u32), 0, &settings)).collect();
    build(Arc::new(Index::new(Arc::new(plan))), 1, Instant::now(), |_| [vec![], vec![]])
}

/// Servers with these states (`None`: not checked), all of weight 1.
pub(super) fn servers(region: &str, first_port: u16, states: &[Option<Status>]) -> Vec<Server> {
    let mut registry = Registry::default();
    let now = Instant::now();
    let server = |(port, state): (u16, &Option<Status>)| {
        let address = Address::Ip(([10, 0, 0, 1], port).into());
        let identity = Identity { region: region.into(), address, protocol: Default::default(), tls: None };
        let backend = registry.backend(identity);
        let check = state.map(|state| {
            let check = Check::new(Arc::clone(&backend), HealthCheck::default(), now);
            check.set(state, now);
            Arc::new(check)
        });
        Server::new(backend, check, 1)
    };
    (first_port..).zip(states).map(server).collect()
}
