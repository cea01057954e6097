//! The less loaded of two drawn at random, load being requests in flight over weight.
//!
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996): one look at a second server takes the
//! longest queue from log n / log log n to log log n, and unlike a search for the least loaded of all it does not send
//! every worker to the same server at once. Both are drawn by weight and a tie goes to the first, so that an idle tier
//! is used by weight; as load grows, requests in flight even out by weight.

use super::{Candidate, Group, random};

pub(super) fn pick<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    random::better_of_two(group, tried, rng, |a, b| {
        // a.in_flight / a.weight against b.in_flight / b.weight, without dividing.
        let (load_a, load_b) =
            (u64::from(a.in_flight()) * u64::from(b.weight()), u64::from(b.in_flight()) * u64::from(a.weight()));
        load_b < load_a
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::Mock;
    use super::*;

    proptest! {
        /// Of two servers, always the one with less in flight for its weight.
        #[test]
        fn of_two_the_less_loaded(loads in prop::array::uniform2((1..20u32, 0..100u32)), seed: u64) {
            let servers = loads.map(|(weight, in_flight)| Mock { weight, in_flight, latency: None });
            let group = Group { servers: &servers, usable: &[0, 1], heaviest: 20 };
            let got = pick(group, |_| false, &mut fastrand::Rng::with_seed(seed)).unwrap();
            let load = |i: usize| f64::from(loads[i].1) / f64::from(loads[i].0);
            prop_assert!(load(got) <= load(1 - got));
        }

        /// Requests that stay spread evenly by weight, far better than by chance.
        #[test]
        fn what_stays_evens_out(weights in prop::collection::vec(1..5u32, 2..8), seed: u64) {
            let mut servers: Vec<_> = weights.iter().map(|&weight| Mock { weight, in_flight: 0, latency: None }).collect();
            let usable: Vec<u32> = (0..).take(servers.len()).collect();
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..2000 {
                let group = Group { servers: &servers, usable: &usable, heaviest: 5 };
                let got = pick(group, |_| false, &mut rng).unwrap();
                servers[got].in_flight += 1;
            }
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            for server in &servers {
                let fair = 2000.0 * f64::from(server.weight) / total;
                prop_assert!((f64::from(server.in_flight) - fair).abs() < 40.0, "{servers:?}");
            }
        }
    }
}
