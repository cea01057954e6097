//! What picking one server of a tier costs, by policy and size; what Maglev's tables cost to make, and the hash of a request
//! to find.
//!
//! `idle`: nobody has anything to do, so that Maglev looks at one server only. `busy`: everybody has, so that it adds up
//! what the tier has in flight, too. Everything is near in these: one tier, again and again.
//!
//! `cargo bench --bench balance`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use http::Method;
use shardgate::backend::{Backend, Identity, InFlight};
use shardgate::balance::{self, Group, Rotation, Table};
use shardgate::config;
use shardgate::message::RequestHead;
use shardgate::model::{Address, HashSource, Policy, PoolId, PoolSettings, Protocol, Role, SourceKind};
use shardgate::routing::{Index, PoolState, Server};

/// As in the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SIZES: [usize; 3] = [3, 10, 100];

fn main() {
    divan::main();
}

fn address(number: usize) -> Address {
    Address::Ip((std::net::Ipv4Addr::from(0x0a01_0000 + number as u32), 8000).into())
}

fn pool(policy: Policy, count: usize) -> PoolState {
    let server = |number| {
        let identity = Identity { region: "r".into(), address: address(number), protocol: Protocol::H1, tls: None };
        let backend = Backend::new(identity);
        backend.latency().asked(Instant::now());
        backend.latency().took(Duration::from_millis(1 + number as u64 % 3), Instant::now());
        Server::new(backend, None, 1)
    };
    let settings = PoolSettings { balance: policy, hash_on: vec![HashSource::Uri], ..PoolSettings::default() };
    PoolState::new(PoolId(0), Arc::new(settings), [(0..count).map(server).collect(), vec![]], Instant::now())
}

fn picks(bencher: Bencher<'_, '_>, policy: Policy, count: usize, busy: bool) {
    let pool = pool(policy, count);
    let tier = &pool.tiers[0];
    let requests = tier.servers.iter().filter(|_| busy).filter_map(|server| server.backend.try_request(9));
    let _in_flight: Vec<InFlight> = requests.collect();
    let (mut rotation, mut random, now) = (Rotation::default(), fastrand::Rng::with_seed(1), Instant::now());
    let mut keys = fastrand::Rng::with_seed(2);
    bencher.bench_local(|| {
        let rule = pool.rule(Role::Primary, |_| Some(keys.u64(..)), || now);
        let group = Group { servers: &tier.servers, usable: &tier.usable, heaviest: tier.heaviest };
        balance::pick(rule, group, |_| false, &mut rotation, &mut random)
    });
}

#[divan::bench(args = SIZES)]
fn idle_least_request(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, Policy::LeastRequest, count, false);
}

#[divan::bench(args = SIZES)]
fn idle_peak_ewma(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, Policy::PeakEwma, count, false);
}

#[divan::bench(args = SIZES)]
fn idle_maglev(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, Policy::Maglev, count, false);
}

#[divan::bench(args = SIZES)]
fn busy_maglev(bencher: Bencher<'_, '_>, count: usize) {
    picks(bencher, Policy::Maglev, count, true);
}

/// The table of so many servers.
#[divan::bench(args = [3, 10, 100, 101, 1000])]
fn make_a_table(bencher: Bencher<'_, '_>, count: usize) {
    let labels: Vec<_> = (0..count).map(|number| address(number).to_string()).collect();
    bencher.bench_local(|| Table::new(labels.iter().map(|label| (label.as_str(), 1))));
}

/// What a request is spread by: a field, or a capture, for which its path is matched once more.
#[divan::bench(args = ["field", "capture"])]
fn hash_a_request(bencher: Bencher<'_, '_>, what: &str) {
    let text = "[[listeners]]\nbind = '127.0.0.1:0'\n[regions.r]\n[[routes]]\npath = '/v1/{asset}/{user}'\n\
                [pools.x.r]\nprimaries = ['127.0.0.1:1']\n";
    let index = Index::new(Arc::new(config::load_str(text).expect("a good file").plan));
    let fields = [("host", &b"api.example.com"[..]), ("accept", b"*/*"), ("x-user", b"8d2f7a10-55aa-4c1e")];
    let head = RequestHead::new(Method::GET, "/v1/x/8d2f7a10-55aa-4c1e", fields);
    let source = match what {
        "field" => SourceKind::Header("x-user".parse().expect("a name")),
        _ => SourceKind::Path("user".into()),
    };
    let sources = [HashSource::Part(source)];
    bencher.bench_local(|| index.hash(black_box(&head), || None, &sources).map(|(_, hash)| hash));
}
