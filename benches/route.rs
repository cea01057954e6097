//! What routing costs: names to a pool's state, and on to a server, with 10, 10,000 and 1,000,000 pools.
//!
//! Keys are uniformly random, so with a million pools nearly every step of a look-up misses the caches: this is the
//! worst case, real traffic has favourites. `alone` makes each look-up wait for the one before, as the look-up of one
//! request does; `stream` lets the processor overlap them.
//!
//! `memory_alone` is one such wait for memory and nothing else, a pool's 192 bytes chosen at random: the floor for whatever
//! ends at a pool's state, on this machine and with its neighbours of the moment. Samples are short, so that on a busy
//! machine some of them run undisturbed: read the column `fastest` there, and `median` on a quiet one.
//!
//! `cargo bench --bench route`

use std::cell::Cell;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::Bencher;
use http::Method;
use shardgate::backend::{Backend, Identity};
use shardgate::balance::{self, Group, Rotation};
use shardgate::message::RequestHead;
use shardgate::model::{
    Action, Address, Asset, AssetId, HeaderEdits, Key, Limits, Log, Plan, Pool, PoolAsset, PoolId, PoolSettings,
    Protocol, Region, RegionId, RetryOverride, Role, Route, Source, SourceKind, TimeoutsOverride,
};
use shardgate::routing::{Chain, Index, PoolState, Server, Snapshot, Table, build};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const REGIONS: u16 = 10;
const POOLS: [usize; 3] = [10, 10_000, 1_000_000];
/// Servers that the pools share: two primaries and a replica each.
const BACKENDS: u32 = 20_000;

static SNAPSHOTS: [LazyLock<Snapshot>; 3] =
    [LazyLock::new(|| snapshot(POOLS[0])), LazyLock::new(|| snapshot(POOLS[1])), LazyLock::new(|| snapshot(POOLS[2]))];

fn main() {
    divan::main();
}

fn of_size(pools: usize) -> &'static Snapshot {
    let size = POOLS.iter().position(|&size| size == pools).expect("one of the sizes");
    &SNAPSHOTS[size]
}

fn asset_name(number: u32) -> String {
    format!("SYM{number:06}")
}

fn region_name(number: u16) -> String {
    format!("region-{number}")
}

fn snapshot(pools: usize) -> Snapshot {
    let assets = pools as u32 / u32::from(REGIONS);
    let settings = Arc::new(PoolSettings::default());
    let pool = |asset, region| Pool {
        asset: PoolAsset::Named(AssetId(asset)),
        region: RegionId(region),
        members: Box::new([]),
        settings: Arc::clone(&settings),
    };
    let region = |me| Region {
        name: region_name(me).into(),
        clients: vec![format!("10.{me}.0.0/16").parse().expect("a prefix")],
        fallback: (0..REGIONS).filter(|&other| other != me).take(2).map(RegionId).collect(),
    };
    let plan = Plan {
        hash: String::new(),
        server: shardgate::model::Server {
            workers: None,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            default_region: RegionId(0),
        },
        listeners: vec![],
        admin: None,
        regions: (0..REGIONS).map(region).collect(),
        assets: (0..assets).map(|i| Asset { name: asset_name(i).into(), aliases: vec![] }).collect(),
        pools: (0..assets)
            .flat_map(|asset| (0..REGIONS).map(move |region| (asset, region)))
            .map(|(a, r)| pool(a, r))
            .collect(),
        routes: vec![route()],
        limits: Limits::default(),
        log: Log::default(),
        max_metric_pools: 0,
        files: Vec::new(),
    };
    let backends: Vec<_> = (0..BACKENDS)
        .map(|i| {
            let address = Address::Ip((std::net::Ipv4Addr::from(0x0a00_0000 + i), 8000).into());
            Backend::new(Identity { region: "r".into(), address, protocol: Protocol::H1, tls: None })
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(1);
    let mut server = || Server::new(Arc::clone(&backends[random.usize(..backends.len())]), None, 1);
    build(Arc::new(Index::new(Arc::new(plan))), 0, std::time::Instant::now(), |_| {
        [vec![server(), server()], vec![server()]]
    })
}

fn route() -> Route {
    let source = |kind| Source { kind, lenient: false };
    Route {
        name: "predict".into(),
        hosts: vec![],
        methods: vec![Method::GET, Method::POST],
        path: Some("/v1/predict/{asset}".into()),
        asset: vec![source(SourceKind::Path("asset".into()))],
        region: vec![
            source(SourceKind::Header("x-region".parse().expect("a name"))),
            source(SourceKind::ClientAddress),
        ],
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

/// Names as they stand in a request: in memory that was just written.
struct Names {
    asset: [u8; 9],
    region: [u8; 8],
}

fn names(pools: usize) -> impl FnMut() -> Names {
    let mut random = fastrand::Rng::with_seed(2);
    move || {
        let asset = asset_name(random.u32(..pools as u32 / u32::from(REGIONS)));
        let region = region_name(random.u16(..REGIONS));
        Names {
            asset: asset.as_bytes().try_into().expect("nine characters"),
            region: region.as_bytes().try_into().expect("eight characters"),
        }
    }
}

/// Asset and region to the pools that may serve them: here three, of three regions. `skip` is 0.
fn chain(index: &Index, names: &Names, skip: usize) -> Chain {
    let asset = std::str::from_utf8(&names.asset[skip..]).unwrap_or_default();
    let region = std::str::from_utf8(&names.region).unwrap_or_default();
    let region = index.region(region).expect("configured");
    index.chain(Key { asset: index.asset(asset), region })
}

/// On to the state of the first.
fn look_up<'a>(snapshot: &'a Snapshot, names: &Names, skip: usize) -> &'a PoolState {
    let first = chain(&snapshot.index, names, skip).iter().next();
    snapshot.pool(first.expect("every asset is everywhere"))
}

#[divan::bench(args = POOLS, sample_count = 5000, sample_size = 200)]
fn key_to_pools_alone(bencher: Bencher<'_, '_>, pools: usize) {
    let snapshot = of_size(pools);
    let (last, zero) = (Cell::new(0), black_box(0));
    bencher.with_inputs(names(pools)).bench_local_values(|names| {
        let chain = chain(&snapshot.index, &names, last.get() & zero);
        last.set(chain.iter().next().map_or(0, PoolId::index));
    });
}

#[divan::bench(args = POOLS, sample_count = 5000, sample_size = 200)]
fn memory_alone(bencher: Bencher<'_, '_>, pools: usize) {
    // Written to, or all of it would be the one page of zeros.
    let memory = vec![[1u64; 24]; pools];
    let (last, zero, mut random) = (Cell::new(0), black_box(0), fastrand::Rng::with_seed(5));
    bencher.with_inputs(|| random.usize(..pools)).bench_local_values(|at| {
        last.set(memory[at ^ (last.get() & zero)][0] as usize);
    });
}

#[divan::bench(args = POOLS, sample_count = 5000, sample_size = 200)]
fn look_up_alone(bencher: Bencher<'_, '_>, pools: usize) {
    let snapshot = of_size(pools);
    let (last, zero) = (Cell::new(0), black_box(0));
    bencher.with_inputs(names(pools)).bench_local_values(|names| {
        let pool = look_up(snapshot, &names, last.get() & zero);
        last.set(usize::from(pool.tiers[0].health));
    });
}

#[divan::bench(args = POOLS, sample_count = 5000, sample_size = 200)]
fn look_up_stream(bencher: Bencher<'_, '_>, pools: usize) {
    let snapshot = of_size(pools);
    bencher.with_inputs(names(pools)).bench_local_values(|names| look_up(snapshot, &names, 0).tiers[0].health);
}

#[divan::bench(args = POOLS, sample_count = 5000, sample_size = 200)]
fn look_up_and_pick_alone(bencher: Bencher<'_, '_>, pools: usize) {
    let snapshot = of_size(pools);
    let (last, zero) = (Cell::new(0), black_box(0));
    let (mut rotation, mut random) = (Rotation::default(), fastrand::Rng::with_seed(3));
    bencher.with_inputs(names(pools)).bench_local_values(|names| {
        let pool = look_up(snapshot, &names, last.get() & zero);
        let tier = &pool.tiers[0];
        let group = Group { servers: &tier.servers, usable: &tier.usable, heaviest: tier.heaviest };
        let rule = pool.rule(Role::Primary, |_| None, std::time::Instant::now);
        let place = balance::pick(rule, group, |_| false, &mut rotation, &mut random);
        last.set(place.expect("all are usable"));
    });
}

/// A whole request, always the same: what routing costs when every line of memory is near.
#[divan::bench]
fn resolve_hot(bencher: Bencher<'_, '_>) {
    let snapshot = of_size(10_000);
    let fields = [("host", "api.example.com"), ("user-agent", "bench"), ("accept", "*/*")];
    let fields = fields.map(|(name, value)| (name, value.as_bytes()));
    let head = RequestHead::new(Method::GET, "/v1/predict/SYM000500?x=1", fields);
    let client = Some([10, 3, 2, 1].into());
    bencher.bench_local(|| {
        let resolved =
            snapshot.index.resolve(black_box(&head), black_box(client)).ok().and_then(|resolved| resolved.target);
        resolved.expect("served").chain.len()
    });
}

/// A fact about one pool: copy its page and the directory.
#[divan::bench(args = POOLS)]
fn one_fact(bencher: Bencher<'_, '_>, pools: usize) {
    let snapshot = of_size(pools);
    let mut random = fastrand::Rng::with_seed(4);
    bencher
        .with_inputs(|| PoolId(random.u32(..pools as u32)))
        .bench_local_values(|id| snapshot.with_changes([(id, snapshot.pool(id).refreshed(std::time::Instant::now()))]));
}

/// A worker asks for the newest Snapshot.
#[divan::bench]
fn read_the_table(bencher: Bencher<'_, '_>) {
    let table = Table::new(snapshot(10));
    let mut reader = table.reader();
    bencher.bench_local(|| reader.current().generation);
}
