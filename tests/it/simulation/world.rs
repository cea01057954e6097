//! The simulated world. Events in the order of their times; ties in the order in which they were planned.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::report::Report;
use shardgate::backend::{Backend, Cause, Check, InFlight, Observation, Passive, Registry, Status, Why};
use shardgate::backend::{Identity, outlier::allowance};
use shardgate::balance::{self, Group, Rotation, tiers};
use shardgate::control::{Ejections, What};
use shardgate::health::RiseFall;
use shardgate::model::{AssetId, HealthCheck, Key, PoolId, RegionId, Role};
use shardgate::routing::{Index, Loads, PoolState, Server, Snapshot, Tier, build};

const ASSETS: usize = 160;
const REGIONS: [&str; 2] = ["near", "far"];
/// Requests in a second, over all.
const RATE: f64 = 700.0;
/// When no new trouble comes any more, of the whole run.
const TROUBLED: f64 = 0.3;
/// Of every backend, when all is well.
const SERVICE: Duration = Duration::from_millis(20);
/// Until an answer must be there.
const RESPONSE: Duration = Duration::from_secs(1);
/// Facts are gathered for so long before they are published.
const GATHER: Duration = Duration::from_millis(10);
const RETRIES: u32 = 2;
const FREE: u32 = 8;

/// What a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Nobody listens.
    Crashed,
    /// It accepts and never answers, not even a check.
    Hanging,
    /// It takes thirty times as long.
    Slow,
    /// It answers 503, and its checks pass.
    Refusing,
    /// It cuts its answers short, and its checks pass.
    Cutting,
}

struct Machine {
    backend: Arc<Backend>,
    check: Arc<Check>,
    rise_fall: RiseFall,
    failed: bool,
    mood: Mood,
    /// Since when its mood is what it is, for requests that were under way.
    since: Instant,
    cuts: u32,
}

enum Event {
    Arrive,
    /// A try at a machine is over.
    Over(Box<Request>, usize, InFlight, Outcome),
    Check(usize),
    Mood(usize, Mood),
    Publish,
    Tick,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    Refused,
    /// Broken, or not in time.
    Lost,
    Unavailable,
    Cut,
}

struct Request {
    key: Key,
    is_get: bool,
    tried: Vec<*const Backend>,
    retries: u32,
    free: u32,
    /// How many backends may have run it.
    ran: u32,
    /// Pools in which it waited in vain, once for each time.
    silent: Vec<PoolId>,
}

pub struct World {
    start: Instant,
    now: Instant,
    end: Instant,
    random: fastrand::Rng,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    planned: BTreeMap<u64, Event>,
    number: u64,
    snapshot: Snapshot,
    machines: Vec<Machine>,
    /// Machines by the place of their backend in memory.
    places: BTreeMap<*const Backend, usize>,
    pools_of: Vec<Vec<PoolId>>,
    ejections: Ejections,
    dirty: BTreeSet<PoolId>,
    rotations: BTreeMap<(PoolId, usize), Rotation>,
    /// Begun in the last stretch, by machine.
    begun: Vec<u64>,
    report: Report,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = Arc::new(shardgate::config::load_str(&file(&mut random)).expect("a good file").plan);
        let mut registry = Registry::default();
        let (mut machines, mut places) = (Vec::new(), BTreeMap::new());
        let mut pools_of: Vec<Vec<PoolId>> = Vec::new();
        let index = Arc::new(Index::new(Arc::clone(&plan)));
        let snapshot = build(Arc::clone(&index), 1, start, |id| {
            let mut tiers = [Vec::new(), Vec::new()];
            let pool = &plan.pools[id.index()];
            for member in &pool.members {
                let region = Arc::clone(&plan.regions[pool.region.index()].name);
                let address = (*member.address).clone();
                let backend = registry.backend(Identity { region, address, protocol: Default::default(), tls: None });
                let check = registry.check(&backend, &HealthCheck::default(), start);
                check.set(Status::Up, start);
                let place = *places.entry(Arc::as_ptr(&backend)).or_insert_with(|| {
                    machines.push(Machine {
                        backend: Arc::clone(&backend),
                        check: Arc::clone(&check),
                        rise_fall: RiseFall::resume(Status::Up, true),
                        failed: false,
                        mood: Mood::Well,
                        since: start,
                        cuts: 0,
                    });
                    pools_of.push(Vec::new());
                    machines.len() - 1
                });
                pools_of[place].push(id);
                tiers[member.role as usize].push(Server::new(backend, Some(check), member.weight));
            }
            tiers
        });
        let mut world = Self {
            start,
            now: start,
            end: start,
            random,
            events: BinaryHeap::new(),
            planned: BTreeMap::new(),
            number: 0,
            snapshot,
            begun: vec![0; machines.len()],
            report: Report { seed, backends: machines.len(), ..Report::default() },
            machines,
            places,
            pools_of,
            ejections: Ejections::new(start),
            dirty: BTreeSet::new(),
            rotations: BTreeMap::new(),
        };
        for place in 0..world.machines.len() {
            let after = Duration::from_micros(world.random.u64(0..2_000_000));
            world.plan(after, Event::Check(place));
        }
        world
    }

    pub fn run(&mut self, long: Duration) -> Report {
        self.end = self.start + long;
        self.plan_troubles(long.mul_f64(TROUBLED));
        self.plan(Duration::ZERO, Event::Arrive);
        self.plan(Duration::ZERO, Event::Tick);
        while let Some(Reverse((at, number))) = self.events.pop() {
            if at > self.end {
                break;
            }
            self.now = at;
            let event = self.planned.remove(&number).expect("it was planned");
            self.handle(event);
        }
        self.finish()
    }

    fn plan(&mut self, after: Duration, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + after, self.number)));
        self.planned.insert(self.number, event);
    }

    /// Troubles of single backends, of a good part of a pool, and once of most of a region.
    fn plan_troubles(&mut self, until: Duration) {
        const MOODS: [Mood; 5] = [Mood::Crashed, Mood::Hanging, Mood::Slow, Mood::Refusing, Mood::Cutting];
        for _ in 0..60 {
            let at = until.mul_f64(self.random.f64());
            let place = self.random.usize(..self.machines.len());
            let mood = MOODS[self.random.usize(..MOODS.len())];
            let lasts = Duration::from_millis(self.random.u64(500..12_000));
            self.trouble(place, mood, at, lasts);
        }
        let at = until.mul_f64(0.4 + 0.3 * self.random.f64());
        let mood = if self.random.bool() { Mood::Crashed } else { Mood::Hanging };
        for place in 0..self.machines.len() {
            if *self.machines[place].backend.identity.region == *REGIONS[0] && self.random.u8(0..10) < 9 {
                self.trouble(place, mood, at, Duration::from_secs(5));
            }
        }
    }

    fn trouble(&mut self, place: usize, mood: Mood, at: Duration, lasts: Duration) {
        self.report.troubles += 1;
        self.plan(at, Event::Mood(place, mood));
        self.plan(at + lasts, Event::Mood(place, Mood::Well));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let gap = -self.random.f64().max(1e-9).ln() / RATE;
                self.plan(Duration::from_secs_f64(gap), Event::Arrive);
                let request = self.request();
                self.report.requests += 1;
                self.send(Box::new(request));
            }
            Event::Over(request, place, in_flight, outcome) => self.over(request, place, &in_flight, outcome),
            Event::Check(place) => self.check(place),
            Event::Mood(place, mood) => {
                let machine = &mut self.machines[place];
                (machine.mood, machine.since, machine.cuts) = (mood, self.now, 0);
            }
            Event::Publish => {
                let dirty = std::mem::take(&mut self.dirty);
                let snapshot = &self.snapshot;
                let anew: Vec<_> = dirty.iter().map(|&id| (id, snapshot.pool(id).refreshed(self.now))).collect();
                self.snapshot = snapshot.with_changes(anew);
                dirty.iter().for_each(|&id| self.count_ejected(id));
            }
            Event::Tick => {
                self.plan(Duration::from_millis(500), Event::Tick);
                let pools: Vec<_> = self.snapshot.pools().map(|pool| pool.id).collect();
                let mut changes = self.ejections.tick(&self.snapshot, pools.into_iter(), |_| true, self.now);
                // They come in the order of addresses in memory, of which a seed says nothing.
                changes.sort_by_key(|change| self.places[&Arc::as_ptr(&change.backend)]);
                changes.into_iter().for_each(|change| self.touch(&change.backend));
            }
        }
    }

    fn request(&mut self) -> Request {
        // A few assets have most of the requests.
        let asset = ((self.random.f64() * self.random.f64()) * ASSETS as f64) as u32;
        let region = self.random.u16(0..REGIONS.len() as u16);
        let key = Key { asset: Some(AssetId(asset)), region: RegionId(region) };
        let is_get = self.random.u8(0..4) > 0;
        Request { key, is_get, tried: Vec::new(), retries: 0, free: 0, ran: 0, silent: Vec::new() }
    }

    /// The next try, or the end of the request.
    fn send(&mut self, mut request: Box<Request>) {
        let Some((place, in_flight)) = self.pick(&mut request) else { return self.lose(&request) };
        let machine = &self.machines[place];
        self.begun[place] += u64::from(self.now + Duration::from_secs(20) > self.end);
        let queued = u64::from(machine.backend.in_flight()) / 16;
        let jitter = Duration::from_micros(self.random.u64(0..10_000));
        let service = SERVICE + jitter + SERVICE * queued as u32;
        let (after, outcome) = match machine.mood {
            Mood::Well => (service, Outcome::Good),
            Mood::Crashed => (Duration::from_micros(200), Outcome::Refused),
            Mood::Hanging => (RESPONSE, Outcome::Lost),
            Mood::Slow if service * 30 > RESPONSE => (RESPONSE, Outcome::Lost),
            Mood::Slow => (service * 30, Outcome::Good),
            Mood::Refusing => (service, Outcome::Unavailable),
            Mood::Cutting => (service, Outcome::Cut),
        };
        self.plan(after, Event::Over(request, place, in_flight, outcome));
    }

    fn pick(&mut self, request: &mut Request) -> Option<(usize, InFlight)> {
        let chain = self.snapshot.index.chain(request.key);
        let loads = Loads::new(&self.snapshot, &chain);
        let all: Vec<(&PoolState, Role, &Tier)> = self.snapshot.tiers(&chain).collect();
        let first = tiers::choose(loads.shares(), self.random.u8(0..100)).unwrap_or(0);
        for &(pool, role, tier) in all[first..].iter().chain(&all[..first]) {
            // Two that let it wait in vain are enough of one pool.
            if request.silent.iter().filter(|silent| **silent == pool.id).count() >= 2 {
                continue;
            }
            let usable = if loads.room.is_panic(pool, tier) { &tier.usable_in_panic } else { &tier.usable };
            let group = Group { servers: &tier.servers, usable, heaviest: tier.heaviest };
            let rotation = self.rotations.entry((pool.id, role as usize)).or_default();
            loop {
                let tried = |at: usize| request.tried.contains(&Arc::as_ptr(&tier.servers[at].backend));
                let rule = pool.rule(role, |_| None, || self.now);
                let Some(at) = balance::pick(rule, group, tried, rotation, &mut self.random) else { break };
                let backend = &tier.servers[at].backend;
                request.tried.push(Arc::as_ptr(backend));
                self.report.picked_unusable += u64::from(!usable.contains(&(at as u32)));
                if let Some(in_flight) = backend.try_request(pool.settings.limits.max_requests) {
                    return Some((self.places[&Arc::as_ptr(backend)], in_flight));
                }
            }
        }
        None
    }

    fn over(&mut self, mut request: Box<Request>, place: usize, in_flight: &InFlight, outcome: Outcome) {
        let now = self.now;
        let machine = &mut self.machines[place];
        // What was under way when the machine crashed is broken.
        let crashed = machine.mood == Mood::Crashed && outcome != Outcome::Refused;
        let outcome = if crashed { Outcome::Lost } else { outcome };
        let terms = self.snapshot.pool(PoolId(0)).settings.outlier.expect("on by default");
        let observation = match outcome {
            Outcome::Good => in_flight.succeeded(Some(&terms)),
            Outcome::Refused => {
                machine.backend.note_connect(true);
                in_flight.failed(true, &terms)
            }
            Outcome::Lost | Outcome::Unavailable | Outcome::Cut => in_flight.failed(false, &terms),
        };
        let is_seen = matches!(machine.mood, Mood::Crashed | Mood::Hanging);
        if outcome != Outcome::Good && is_seen && matches!(machine.check.status(), Status::Up) {
            self.report.longest_shift = self.report.longest_shift.max(now - machine.since);
        }
        if let Some(observation) = observation {
            self.observe(observation);
        }
        request.ran += u32::from(outcome != Outcome::Refused);
        self.report.repeated_posts += u64::from(!request.is_get && request.ran > 1);
        if outcome == Outcome::Lost {
            request.silent.push(self.pools_of[place][0]);
        }
        match outcome {
            Outcome::Good => {}
            Outcome::Cut => {
                let machine = &mut self.machines[place];
                machine.cuts += 1;
                self.report.most_cut = self.report.most_cut.max(machine.cuts);
                self.report.cut += 1;
            }
            Outcome::Refused if request.free < FREE => {
                request.free += 1;
                self.send(request);
            }
            _ if request.is_get && request.retries < RETRIES => {
                request.retries += 1;
                self.send(request);
            }
            _ => {
                self.lose(&request);
            }
        }
    }

    fn lose(&mut self, request: &Request) {
        if !request.is_get {
            self.report.lost_posts += 1;
            return;
        }
        // It is no fault if there was hardly anything but trouble.
        let chain = self.snapshot.index.chain(request.key);
        let machines = self.snapshot.tiers(&chain).flat_map(|(.., tier)| tier.servers.iter());
        let moods = machines.map(|server| self.machines[self.places[&Arc::as_ptr(&server.backend)]].mood);
        let (well, ill): (Vec<Mood>, Vec<Mood>) = moods.partition(|mood| *mood == Mood::Well);
        self.report.lost_gets += u64::from(well.len() > ill.len());
    }

    fn observe(&mut self, observation: Observation) {
        if let Some(change) = self.ejections.observe(observation, self.now) {
            debug_assert!(matches!(change.what, What::Ejected(_) | What::Closed));
            self.touch(&change.backend);
        }
    }

    fn check(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        let result = match machine.mood {
            Mood::Crashed => Err(Cause::Refused),
            Mood::Hanging => Err(Cause::Timeout),
            Mood::Well | Mood::Slow | Mood::Refusing | Mood::Cutting => Ok(()),
        };
        let (was_refused, before) = (machine.backend.last_connect_refused(), machine.rise_fall.status());
        machine.backend.note_connect(result == Err(Cause::Refused));
        let settings = &machine.check.settings;
        machine.rise_fall.note(result, settings.rise, settings.fall);
        let after = machine.rise_fall.status();
        let ejection = machine.backend.standing().ejection;
        let clears =
            result.is_ok() && ejection.is_some_and(|e| e.ends_by_check(self.now, machine.failed || was_refused));
        machine.failed = result.is_err();
        let fast = machine.rise_fall.in_transition();
        let next = if fast { settings.fast_interval } else { settings.interval };
        let backend = Arc::clone(&machine.backend);
        if before != after {
            machine.check.set(after, self.now);
            self.touch(&backend);
        }
        if clears && self.ejections.cleared(&backend, self.now).is_some() {
            self.touch(&backend);
        }
        self.plan(next, Event::Check(place));
    }

    fn touch(&mut self, backend: &Arc<Backend>) {
        if self.dirty.is_empty() {
            self.plan(GATHER, Event::Publish);
        }
        self.dirty.extend(&self.pools_of[self.places[&Arc::as_ptr(backend)]]);
    }

    fn count_ejected(&mut self, id: PoolId) {
        let pool = self.snapshot.pool(id);
        let verdicts = pool.verdicts();
        let ejected = verdicts.iter().filter(|verdict| verdict.why == Why::Ejected).count();
        let left = verdicts.iter().filter(|v| v.usable && v.why != Why::Spared).count();
        let percent = pool.settings.outlier.map_or(0, |terms| terms.max_ejected_percent);
        self.report.most_ejected = self.report.most_ejected.max(ejected);
        self.report.over_allowance += u64::from(ejected > allowance(verdicts.len(), left, percent));
    }

    fn finish(&mut self) -> Report {
        let mut spreads = Vec::new();
        for pool in self.snapshot.pools() {
            let begun: Vec<u64> =
                pool.tiers[0].servers.iter().map(|s| self.begun[self.places[&Arc::as_ptr(&s.backend)]]).collect();
            let mean = begun.iter().sum::<u64>() as f64 / begun.len() as f64;
            if mean >= 40.0 {
                spreads.push(begun.iter().copied().max().unwrap_or(0) as f64 / mean);
            }
        }
        let mut report = std::mem::take(&mut self.report);
        report.spread = spreads.iter().sum::<f64>() / spreads.len().max(1) as f64;
        report.ejected_at_end =
            self.machines.iter().filter(|machine| machine.backend.passive() != Passive::Trusted).count();
        report
    }
}

/// Pools of three to eight primaries and up to two replicas in each region; each region is the other's fallback.
fn file(random: &mut fastrand::Rng) -> String {
    let mut text = String::from(
        "[server]\ndefault_region = \"near\"\n[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/{asset}\"\n\
         [regions.near]\nfallback = [\"far\"]\n[regions.far]\nfallback = [\"near\"]\n[defaults.outlier]\n\
         base_ejection = \"10s\"\n",
    );
    let mut address = 0u32;
    let mut list = |n: usize| {
        let addresses = (0..n).map(|_| {
            address += 1;
            format!("\"{}:80\"", std::net::Ipv4Addr::from(0x0a00_0000 + address))
        });
        addresses.collect::<Vec<_>>().join(", ")
    };
    for asset in 0..ASSETS {
        for region in REGIONS {
            let (primaries, replicas) = (list(random.usize(3..=8)), list(random.usize(0..=2)));
            let policy = ["least-request", "round-robin", "random", "peak-ewma"][random.usize(..4)];
            text += &format!(
                "[pools.a{asset:03}.{region}]\nprimaries = [{primaries}]\nreplicas = [{replicas}]\nbalance = \"{policy}\"\n"
            );
        }
    }
    text
}
