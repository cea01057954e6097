//! A whole region is lost under load: nothing of it answers any more, and the other region takes over.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::backends::{Backends, Fault};
use super::load::{Outcome, every};
use super::namespaces::{self, Namespace};
use super::report::{ANY, EVER, Limits, Report};
use super::{BEFORE, GAP, TIGHT, UnderLoad, read_log, say, turn};
use crate::support::Proxy;

/// By the figures of chaos.toml: 500 ms until a check, three of them 500 ms apart, and 300 ms until the last has failed.
const DETECTION: Duration = Duration::from_millis(500 + 2 * 500 + 300);
/// How long the load goes on after the loss.
const LOST: Duration = Duration::from_secs(5);
/// Between two requests where there is little traffic.
const QUIET: Duration = Duration::from_millis(250);
/// What a busy machine may add to a time.
const SLACK: Duration = Duration::from_millis(500);
/// Backends 1 to 3 are in the region that is lost, the others are not.
const OF_A: usize = 3;

const LIMITS: Limits = Limits { cuts: 0, posts: ANY, p99: EVER, longest: EVER };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Every program dies.
    Killed,
    /// Packets vanish, as when a router dies.
    Dropped,
    /// Cables are pulled.
    Pulled,
    /// Packets vanish, and there is little traffic: so many idle connections to the region are left that a request may
    /// be written to one after the other and wait for an answer on each.
    InQuiet,
}

/// Two regions, one of which stands in for the other.
fn config() -> String {
    let two = "[regions.a]\nfallback = [\"b\"]\n[regions.b]\n[server]\ndefault_region = \"a\"\n[pools.BTC.b]\n\
               primaries = [\"10.2.1.2:8000\", \"10.2.2.2:8000\", \"10.2.3.2:8000\"]\n";
    let config = TIGHT.replace("[regions.a]\n", two);
    assert_ne!(config, TIGHT);
    config
}

#[test]
fn a_lost_region_costs_no_get_and_the_other_takes_over() {
    if namespaces::left_out() {
        return;
    }
    let _turn = turn();
    let losses = [
        ("all killed", Loss::Killed),
        ("all packets lost", Loss::Dropped),
        ("all cables pulled", Loss::Pulled),
        ("lost in quiet", Loss::InQuiet),
    ];
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (name, loss) in losses {
            let results = &results;
            scope.spawn(move || {
                let report = lose(name, loss);
                results.lock().unwrap().push(report);
            });
        }
    });
    let mut reports = results.into_inner().unwrap();
    reports.sort_by_key(|report| report.name);
    say("a region is lost", &reports);
    let faults: Vec<_> = reports.iter().flat_map(|report| [report.faults(), take_over(report)].concat()).collect();
    assert!(faults.is_empty(), "{} limits broken:\n{}", faults.len(), faults.join("\n"));
}

fn lose(name: &'static str, loss: Loss) -> Report {
    let (balancer, a, b) = (Namespace::new(), Namespace::new(), Namespace::new());
    let (of_a, of_b) = (a.region(&balancer, 1, 3), b.region(&balancer, 2, 3));
    let in_a = Backends::start(&a, &of_a, 1);
    let in_b = Backends::start(&b, &of_b, 1 + OF_A);
    balancer.within(|| {
        let proxy = Proxy::start(&config());
        let gap = if loss == Loss::InQuiet { QUIET } else { GAP };
        let times = [every(GAP, Duration::ZERO, BEFORE), every(gap, BEFORE, BEFORE + LOST)].concat();
        let under_load = UnderLoad::start(proxy.address(), times);
        under_load.wait(BEFORE);
        let (began, wall) = (under_load.start.elapsed(), SystemTime::now());
        match loss {
            Loss::Killed => in_a.set_all(Some(Fault::Refused)),
            Loss::Dropped | Loss::InQuiet => {
                a.run("iptables -w -I INPUT -j DROP");
                a.run("iptables -w -I OUTPUT -j DROP");
            }
            Loss::Pulled => (1..=3).for_each(|b| a.run(&format!("ip link set b{b} down"))),
        }
        let (samples, lag) = under_load.finish();
        let log = read_log(&proxy, of_a[0], wall);
        let runs = [in_a.runs(), in_b.runs()].concat();
        Report { name, limits: LIMITS, samples, lag, runs, began, log }
    })
}

/// What is wrong with how the other region took over.
fn take_over(report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    let (lost, over) = (report.began, report.began + DETECTION + SLACK);
    let by_b = |outcome| matches!(outcome, Outcome::Good(number) if number > OF_A);
    if let Some(early) = report.samples.iter().find(|sample| sample.at + sample.took < lost && by_b(sample.outcome)) {
        faults.push(format!("{}: the other region served before the loss: {early:?}", report.name));
    }
    let served =
        report.samples.iter().filter(|sample| by_b(sample.outcome)).map(|sample| sample.at + sample.took).min();
    match served {
        Some(first) if first <= over => {}
        first => faults.push(format!("{}: the other region first served at {first:?}, lost at {lost:?}", report.name)),
    }
    let late: Vec<_> = report.samples.iter().filter(|sample| sample.at > over && !by_b(sample.outcome)).collect();
    if !late.is_empty() {
        faults.push(format!("{}: not served by the other region when all was known: {late:?}", report.name));
    }
    faults
}
