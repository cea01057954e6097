//! A simulator: thousands of backends in two regions, troubles at random, and the code that decides, in virtual time.
//!
//! What decides is the product's own: pools and loads (`routing`), policies (`balance`), counts, verdicts and breakers
//! (`backend`), rise and fall (`health`), ejections (`control`). What is simulated is the world: time, servers, clients,
//! and the tries of a request, by the rules of docs/failover.md without their pauses and budgets.
//!
//! Everything follows from a seed. A run that fails says which; `SHARDGATE_SEED=N cargo test --test it -- simulation
//! --nocapture` runs that one again and prints its table.

mod report;
mod world;

use std::time::Duration;

use report::Report;
use world::World;

/// The seeds of every run: what has been found once is looked for again.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=6;

fn seeds() -> Vec<u64> {
    match std::env::var("SHARDGATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("SHARDGATE_SEED is a number")],
        Err(_) => SEEDS.collect(),
    }
}

/// Runs a seed and holds it to what must be true of every one.
fn check(seed: u64) -> Report {
    let mut world = World::new(seed);
    let report = world.run(Duration::from_secs(150));
    let must = |holds: bool, what: &str| assert!(holds, "seed {seed}: {what}\n{}\n{report:#?}", Report::HEAD);
    must(report.requests > 50_000, "too little happened");
    must(report.lost_gets == 0, "a GET was lost, though a backend that worked was left for it");
    must(report.repeated_posts == 0, "a POST was repeated that a backend may have run");
    must(report.picked_unusable == 0, "a backend was picked that may not be used");
    must(report.over_allowance == 0, "a pool had more ejected than it may");
    must(report.ejected_at_end == 0, "a backend was still out when all had been well for long");
    must(report.most_cut <= 20, "one backend cut more answers short than ejection should let it");
    must(report.longest_shift <= Duration::from_secs(4), "load did not go elsewhere within one detection interval");
    must(report.spread < 1.6, "load was not even at the end");
    report
}

#[test]
fn whatever_happens_what_works_is_found_and_what_does_not_is_left() {
    let seeds = seeds();
    let mut reports: Vec<_> = std::thread::scope(|scope| {
        let (even, odd): (Vec<u64>, Vec<u64>) = seeds.iter().partition(|seed| *seed % 2 == 0);
        let halves = [even, odd].map(|half| scope.spawn(|| half.into_iter().map(check).collect::<Vec<_>>()));
        halves
            .into_iter()
            .flat_map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    reports.sort_by_key(|report| report.seed);
    eprintln!("{}", Report::HEAD);
    reports.iter().for_each(|report| eprintln!("{report}"));
}

/// The same seed gives the same run, or a failing one could not be looked at again.
#[test]
fn a_run_can_be_repeated() {
    let run = || World::new(7).run(Duration::from_secs(20)).to_string();
    assert_eq!(run(), run());
}
