//! Which server of a tier gets a request, and how a request's load spreads over tiers. Pure: no clock, no runtime, the
//! random numbers are handed in, and a server is whatever has a weight and a number of requests in flight.
//!
//! Nothing here can fail: there is a server or there is none.
//!
//! - [`tiers`]: shares of load over failover tiers (Envoy's priority levels), and when a tier is in panic.
//! - [`slow_start`]: how much of its weight a server has that has just come back.
//! - [`load`]: what a server's own word of its load makes of its weight.
//! - [`pick`] and a file for each policy: one server out of one tier.
//!
//! A policy gets the servers of a tier, the places of those that may be used now, and a question it must ask before
//! it settles: was this one tried already for this request? So one policy serves first tries, retries and panic alike.

pub mod tiers;
mod least_request;
pub mod load;
mod maglev;
mod peak_ewma;
mod random;
mod round_robin;
pub mod slow_start;

use std::time::Instant;

pub use maglev::{Table, hash, percent};
pub use round_robin::Rotation;

/// What a policy needs to know of a server.
pub trait Candidate {
    /// Relative capacity at this moment, at least 1.
    fn weight(&self) -> u32;
    /// Requests in flight at it, over all pools and workers.
    fn in_flight(&self) -> u32;
    /// Seconds until an answer of it is to be expected; `None`: it was never asked.
    fn latency(&self, now: Instant) -> Option<f64>;
}

/// A [`Policy`](crate::model::Policy), with what it has to know of the request.
#[derive(Debug, Clone, Copy)]
pub enum Rule<'a> {
    /// The less loaded of two drawn at random.
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The one that the request's hash leads to.
    Maglev {
        /// Of all servers of the tier.
        table: &'a Table,
        /// The request's.
        hash: u64,
    },
    /// Of two drawn at random, the one that is expected to answer sooner.
    PeakEwma {
        /// The time.
        now: Instant,
    },
}

/// The servers of one tier, and which of them may be used now.
#[derive(Debug)]
pub struct Group<'a, C> {
    /// All of them. Places count in this slice, so that they stay the same while health changes.
    pub servers: &'a [C],
    /// The places of those that may be used, ascending, each at most once.
    pub usable: &'a [u32],
    /// The largest weight in `usable`, or more: what is lighter is drawn less often. Too large costs time only.
    pub heaviest: u32,
}

impl<C> Clone for Group<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Group<'_, C> {}

/// The place of the server that gets the next request: a usable one that `tried` does not know, if there is any.
///
/// `rotation` is this worker's memory for this tier; only round robin writes to it.
pub fn pick<C: Candidate>(
    rule: Rule<'_>,
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    rotation: &mut Rotation,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    match rule {
        Rule::LeastRequest => least_request::pick(group, tried, rng),
        Rule::RoundRobin => round_robin::pick(group, tried, rotation, rng),
        Rule::Random => random::pick(group, tried, rng),
        Rule::Maglev { table, hash } => maglev::pick(group, tried, table, hash),
        Rule::PeakEwma { now } => peak_ewma::pick(group, tried, now, rng),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    pub(super) struct Mock {
        pub(super) weight: u32,
        pub(super) in_flight: u32,
        pub(super) latency: Option<f64>,
    }

    impl Candidate for Mock {
        fn weight(&self) -> u32 {
            self.weight
        }
        fn in_flight(&self) -> u32 {
            self.in_flight
        }
        fn latency(&self, _: Instant) -> Option<f64> {
            self.latency
        }
    }

    /// Of the rules below.
    const RULES: std::ops::Range<usize> = 0..5;

    fn rule(number: usize, table: &Table, hash: u64) -> Rule<'_> {
        let now = Instant::now();
        let rules =
            [Rule::LeastRequest, Rule::RoundRobin, Rule::Random, Rule::Maglev { table, hash }, Rule::PeakEwma { now }];
        rules[number]
    }

    fn table(servers: &[Mock]) -> Table {
        let labels: Vec<_> = (0..servers.len()).map(|i| format!("10.0.0.{i}:80")).collect();
        Table::new(
            labels
                .iter()
                .map(String::as_str)
                .zip(servers.iter().map(|server| u16::try_from(server.weight).unwrap_or(u16::MAX))),
        )
    }

    fn servers() -> impl Strategy<Value = Vec<(Mock, bool, bool)>> {
        let weight = prop_oneof![3 => 1..=10u32, 1 => Just(1000u32), 1 => Just(u32::MAX)];
        let latency = prop::option::of(0.0..5.0f64);
        let server =
            (weight, 0..50u32, latency).prop_map(|(weight, in_flight, latency)| Mock { weight, in_flight, latency });
        prop::collection::vec((server, any::<bool>(), any::<bool>()), 0..20)
    }

    fn usable_of(servers: &[(Mock, bool, bool)]) -> Vec<u32> {
        servers.iter().zip(0..).filter(|(s, _)| s.1).map(|(_, i)| i).collect()
    }

    proptest! {
        /// A pick is usable and not tried; and there is a pick whenever there is such a server.
        #[test]
        fn picks_what_may_be_picked(drawn in servers(), policy in RULES, seed: u64) {
            let servers: Vec<_> = drawn.iter().map(|s| s.0.clone()).collect();
            let usable = usable_of(&drawn);
            let heaviest = servers.iter().map(|s| s.weight).max().unwrap_or(1);
            let group = Group { servers: &servers, usable: &usable, heaviest };
            let (mut rotation, mut rng) = (Rotation::default(), fastrand::Rng::with_seed(seed));
            let table = table(&servers);
            for key in 0..5 {
                let got = pick(rule(policy, &table, seed ^ key), group, |i| drawn[i].2, &mut rotation, &mut rng);
                match got {
                    Some(i) => prop_assert!(drawn[i].1 && !drawn[i].2, "{i}"),
                    None => prop_assert!(drawn.iter().all(|s| !s.1 || s.2)),
                }
            }
        }

        /// Asked again and again with what it gave before as tried, a policy gives every usable server once, then none.
        #[test]
        fn never_repeats_and_ends(drawn in servers(), policy in RULES, seed: u64) {
            let servers: Vec<_> = drawn.iter().map(|s| s.0.clone()).collect();
            let usable = usable_of(&drawn);
            let heaviest = servers.iter().map(|s| s.weight).max().unwrap_or(1);
            let group = Group { servers: &servers, usable: &usable, heaviest };
            let (mut rotation, mut rng) = (Rotation::default(), fastrand::Rng::with_seed(seed));
            let table = table(&servers);
            let mut tried = BTreeSet::new();
            while let Some(i) = pick(rule(policy, &table, seed), group, |i| tried.contains(&i), &mut rotation, &mut rng) {
                prop_assert!(tried.insert(i));
            }
            prop_assert_eq!(tried.len(), usable.len());
        }

        /// With nothing in flight, every policy spreads by weight.
        #[test]
        fn spreads_by_weight(weights in prop::collection::vec(1..=9u32, 2..6), policy in RULES, seed: u64) {
            let servers: Vec<_> = weights.iter().map(|&weight| Mock { weight, in_flight: 0, latency: None }).collect();
            let usable: Vec<u32> = (0..).take(servers.len()).collect();
            let group = Group { servers: &servers, usable: &usable, heaviest: 9 };
            let (mut rotation, mut rng) = (Rotation::default(), fastrand::Rng::with_seed(seed));
            let rounds = 4000u32;
            let mut got = vec![0u32; servers.len()];
            let table = table(&servers);
            for key in 0..rounds {
                let key = hash(&key.to_le_bytes());
                let i = pick(rule(policy, &table, key), group, |_| false, &mut rotation, &mut rng).expect("all are usable");
                got[i] += 1;
            }
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for (i, &weight) in weights.iter().enumerate() {
                let share = f64::from(weight) / total;
                // Six standard deviations of a binomial draw.
                let slack = 6.0 * (f64::from(rounds) * share * (1.0 - share)).sqrt() + 1.0;
                let off = (f64::from(got[i]) - f64::from(rounds) * share).abs();
                prop_assert!(off <= slack, "server {i}: {got:?} for {weights:?}");
            }
        }
    }
}
