//! Of two servers drawn at random, the one that is expected to work off a request sooner: by how long it takes to answer
//! (peak EWMA, see `backend::Latency`) and how many requests it has in flight, over its weight.
//!
//! `cost = seconds · (in flight + 1) / weight`, as in Finagle and linkerd, with the weight as the measure of how much a
//! server does at a time. Both are drawn by weight, as for the least loaded of two. A server that was never asked costs
//! nothing, so that it is asked; its first request leaves a guess that the others go by until its answer is there.

use std::time::Instant;

use super::{Candidate, Group, random};

pub(super) fn pick<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    now: Instant,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    random::better_of_two(group, tried, rng, |a, b| cost(b, now) < cost(a, now))
}

fn cost<C: Candidate>(server: &C, now: Instant) -> f64 {
    let seconds = server.latency(now).unwrap_or(0.0);
    seconds * (f64::from(server.in_flight()) + 1.0) / f64::from(server.weight().max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::Mock;
    use super::*;

    proptest! {
        /// Of two servers, always the one of less cost; one that was never asked goes first.
        #[test]
        fn of_two_the_cheaper(
            drawn in prop::array::uniform2((1..20u32, 0..100u32, prop::option::of(0.001..5.0f64))), seed: u64,
        ) {
            let servers = drawn.map(|(weight, in_flight, latency)| Mock { weight, in_flight, latency });
            let group = Group { servers: &servers, usable: &[0, 1], heaviest: 20 };
            let got = pick(group, |_| false, Instant::now(), &mut fastrand::Rng::with_seed(seed)).unwrap();
            let cost = |i: usize| {
                let (weight, in_flight, latency) = drawn[i];
                latency.map_or(0.0, |latency| latency * f64::from(in_flight + 1) / f64::from(weight))
            };
            prop_assert!(cost(got) <= cost(1 - got));
        }
    }

    /// Requests that stay, at servers of which one takes ten times as long: it gets about a tenth of another's.
    #[test]
    fn a_slow_server_gets_less() {
        let mut servers = [0.01, 0.01, 0.1].map(|latency| Mock { weight: 1, in_flight: 0, latency: Some(latency) });
        let (mut rng, now) = (fastrand::Rng::with_seed(1), Instant::now());
        for _ in 0..2100 {
            let group = Group { servers: &servers, usable: &[0, 1, 2], heaviest: 1 };
            servers[pick(group, |_| false, now, &mut rng).unwrap()].in_flight += 1;
        }
        let got = servers.map(|server| server.in_flight);
        assert!((90..=110).contains(&got[2]) && got[0].abs_diff(got[1]) < 50, "{got:?}");
    }
}
