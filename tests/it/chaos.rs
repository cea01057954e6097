//! Chaos with real sockets: the real binary among network namespaces, one of its three backends in trouble for six
//! seconds under load, each kind of trouble by itself; and a whole region cut off.
//!
//! What must hold stands in a table of limits beside the troubles. Scenarios run side by side, each with a daemon,
//! backends and networks of its own; one that is beyond a limit that is a matter of chance or of time runs once more, by
//! itself. The table that each test prints goes to standard error in any case. The environment variable CHAOS picks the
//! scenarios whose names contain its value.

mod backends;
mod load;
mod namespaces;
mod region;
mod report;
mod wire;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use crate::support::Proxy;
use backends::{Backends, Fault};
use load::{Sample, every};
use namespaces::Namespace;
use report::{ANY, EVER, Limits, Log, Report};

/// Of each scenario: until the trouble begins, while it lasts, and afterwards.
const BEFORE: Duration = Duration::from_secs(1);
const TROUBLE: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_millis(1500);
/// Between two requests.
const GAP: Duration = Duration::from_millis(10);
/// Scenarios side by side.
const AT_ONCE: usize = 4;

/// These tests run one after the other: each is load enough.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What happens to a backend.
#[derive(Clone, Copy)]
enum Trouble {
    /// In its program.
    Program(Fault),
    /// On its network, whose device is `b1` and whose address there is 10.1.1.2: what brings it about, what ends it.
    Network(&'static [&'static str], &'static [&'static str]),
}

struct Scenario {
    name: &'static str,
    trouble: Trouble,
    limits: Limits,
}

const fn scenario(name: &'static str, trouble: Trouble, limits: Limits) -> Scenario {
    Scenario { name, trouble, limits }
}

const fn program(name: &'static str, fault: Fault, limits: Limits) -> Scenario {
    scenario(name, Trouble::Program(fault), limits)
}

/// For what fails at once.
const QUICK: Limits = Limits { cuts: 0, posts: ANY, p99: 1000, longest: EVER };
/// For answers that break off: ejection must end it.
const BROKEN: Limits = Limits { cuts: 10, ..QUICK };
/// For a backend that keeps what it gets: requests pile up there, so that others are sent past it.
const PILES: Limits = Limits { cuts: 0, posts: 3, p99: EVER, longest: 3100 };
/// For what is only slow.
const SLOW: Limits = Limits { cuts: 0, posts: ANY, p99: EVER, longest: EVER };
const BLACKHOLE: Limits = Limits { cuts: 0, posts: 3, p99: 1000, longest: EVER };

const DROP: &[&str] = &["iptables -w -I INPUT -i b1 -j DROP", "iptables -w -I OUTPUT -o b1 -j DROP"];
const MUTE: &[&str] = &["iptables -w -I OUTPUT -o b1 -j DROP"];
const REJECT: &[&str] = &["iptables -w -I INPUT -i b1 -p tcp -j REJECT --reject-with tcp-reset"];
const LOSE: &[&str] = &[
    "iptables -w -I INPUT -i b1 -m statistic --mode random --probability 0.1 -j DROP",
    "iptables -w -I OUTPUT -o b1 -m statistic --mode random --probability 0.1 -j DROP",
];
const OPEN: &[&str] = &["iptables -w -F"];
const NARROW: &[&str] = &["tc qdisc add dev b1 root tbf rate 256kbit burst 8kb latency 400ms"];
const WIDE: &[&str] = &["tc qdisc del dev b1 root"];

const SCENARIOS: &[Scenario] = &[
    program("refused", Fault::Refused, QUICK),
    program("accept-close", Fault::AcceptClose, QUICK),
    program("accept-reset", Fault::AcceptReset, QUICK),
    program("close", Fault::Close, QUICK),
    program("reset", Fault::Reset, QUICK),
    program("reset in headers", Fault::ResetInHeaders, QUICK),
    program("garbage", Fault::Garbage, QUICK),
    program("huge headers", Fault::HugeHeaders, QUICK),
    program("503", Fault::Unavailable, QUICK),
    program("reset in body", Fault::ResetInBody, BROKEN),
    program("short body", Fault::ShortBody, BROKEN),
    program("slow headers", Fault::SlowHeaders, PILES),
    program("slow body", Fault::SlowBody, SLOW),
    program("hang", Fault::Hang, PILES),
    program("hang at accept", Fault::AcceptHang, PILES),
    scenario("blackhole", Trouble::Network(DROP, OPEN), BLACKHOLE),
    // What else a network does.
    scenario("mute", Trouble::Network(MUTE, OPEN), BLACKHOLE),
    scenario("rejected", Trouble::Network(REJECT, OPEN), QUICK),
    scenario("10 % lost", Trouble::Network(LOSE, OPEN), SLOW),
    scenario("256 kbit/s", Trouble::Network(NARROW, WIDE), SLOW),
];

/// The configuration of the first run.
const TIGHT: &str = include_str!("chaos.toml");

/// That of the second: the defaults, but for two time-outs.
fn plain() -> String {
    let (what_is_there, _) = TIGHT.split_once("# From here on").unwrap();
    format!("{what_is_there}[defaults.timeouts]\nconnect = \"1s\"\nresponse = \"3s\"\n")
}

#[test]
fn a_backend_in_trouble_with_tight_checks_and_time_outs() {
    run_all("chaos.toml", TIGHT);
}

#[test]
fn a_backend_in_trouble_with_the_defaults() {
    run_all("the defaults, connect 1 s, response 3 s", &plain());
}

fn run_all(title: &str, toml: &str) {
    if namespaces::left_out() {
        return;
    }
    let _turn = turn();
    let asked = std::env::var("CHAOS").unwrap_or_default();
    let chosen: Vec<_> = SCENARIOS.iter().filter(|scenario| scenario.name.contains(&asked)).collect();
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = chosen.get(number) else { break };
                    let report = scenario.run(toml);
                    reports.lock().unwrap().insert(number, report);
                }
            });
        }
    });
    let mut reports: Vec<_> = reports.into_inner().unwrap().into_values().collect();
    let mut faults: Vec<_> = reports.iter().flat_map(Report::faults).collect();
    for number in (0..reports.len()).rev().filter(|&number| !reports[number].flukes().is_empty()).collect::<Vec<_>>() {
        let again = chosen[number].run(toml);
        faults.extend([again.faults(), again.flukes()].concat());
        reports.insert(number + 1, again);
    }
    say(title, &reports);
    assert!(faults.is_empty(), "{} limits broken with {title}:\n{}", faults.len(), faults.join("\n"));
}

/// Prints a table, and what daemons complained of where a limit was broken.
fn say(title: &str, reports: &[Report]) {
    let (mut table, mut complaints) = (format!("\n{title}\n{}\n", Report::head()), String::new());
    for report in reports {
        table += &format!("{}\n", report.line());
        if !report.faults().is_empty() || !report.flukes().is_empty() {
            complaints += &format!("{}: {:#?}\n", report.name, report.log.complaints);
        }
    }
    // Past the capture of tests that pass.
    let _ = std::io::stderr().lock().write_all((table + &complaints).as_bytes());
}

impl Scenario {
    fn run(&self, toml: &str) -> Report {
        let (balancer, region) = (Namespace::new(), Namespace::new());
        let addresses = region.region(&balancer, 1, 3);
        let backends = Backends::start(&region, &addresses, 1);
        balancer.within(|| {
            let proxy = Proxy::start(toml);
            let under_load = UnderLoad::start(proxy.address(), every(GAP, Duration::ZERO, BEFORE + TROUBLE + AFTER));
            under_load.wait(BEFORE);
            let (began, wall) = (under_load.start.elapsed(), SystemTime::now());
            self.trouble.begin(&region, &backends);
            under_load.wait(BEFORE + TROUBLE);
            self.trouble.end(&region, &backends);
            let (samples, lag) = under_load.finish();
            let log = read_log(&proxy, addresses[0], wall);
            let (name, limits, runs) = (self.name, self.limits, backends.runs());
            Report { name, limits, samples, lag, runs, began, log }
        })
    }
}

impl Trouble {
    fn begin(self, region: &Namespace, backends: &Backends) {
        match self {
            Self::Program(fault) => backends.set(Some(fault)),
            Self::Network(begin, _) => begin.iter().for_each(|line| region.run(line)),
        }
    }

    fn end(self, region: &Namespace, backends: &Backends) {
        match self {
            Self::Program(_) => backends.set(None),
            Self::Network(_, end) => end.iter().for_each(|line| region.run(line)),
        }
    }
}

/// Load that goes on while this thread does something else.
struct UnderLoad {
    start: Instant,
    thread: std::thread::JoinHandle<(Vec<Sample>, Duration)>,
}

impl UnderLoad {
    /// With requests at these times.
    fn start(target: SocketAddr, times: Vec<Duration>) -> Self {
        let start = Instant::now() + Duration::from_millis(50);
        Self { start, thread: std::thread::spawn(move || load::run(target, start, &times)) }
    }

    /// Until the load is so old. This is no waiting for something to happen: the time is part of the scenario.
    fn wait(&self, age: Duration) {
        std::thread::sleep((self.start + age).saturating_duration_since(Instant::now()));
    }

    fn finish(self) -> (Vec<Sample>, Duration) {
        self.thread.join().unwrap()
    }
}

/// Reads the daemon's log: when this backend was first taken out after `since`, and the complaints.
fn read_log(proxy: &Proxy, backend: SocketAddr, since: SystemTime) -> Log {
    let (mut log, backend) = (Log::default(), backend.to_string());
    for line in proxy.log().lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        if line["level"] != "WARN" && line["level"] != "ERROR" {
            continue;
        }
        let is_it = line["backend"] == *backend;
        let text = |key: &str| line[key].as_str().unwrap_or_default();
        if is_it && log.out.is_none() && (text("to") == "down" || text("message") == "backend is ejected") {
            let at = text("timestamp").parse::<jiff::Timestamp>().map(SystemTime::from);
            log.out = at.ok().and_then(|at| at.duration_since(since).ok());
        }
        log.hits += usize::from(is_it && text("message").starts_with("a "));
        let who = if is_it { "its own" } else { "another's" };
        let complaint = format!("{who}: {} ({}{})", text("message"), text("error"), text("cause"));
        *log.complaints.entry(complaint).or_default() += 1;
    }
    log
}
