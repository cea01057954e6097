//! Smooth weighted round robin: nginx's algorithm (`ngx_http_upstream_round_robin.c`, 2012). Weights 5, 1, 1 give
//! a a b a c a a, not a a a a a b c: in any stretch each server has its share to within one turn.
//!
//! Every turn adds its weight to each eligible server's count; the highest count wins and pays the sum of the weights.

use super::{Candidate, Group};

/// One worker's memory of one tier: where the turn is. Starts anew when the number of servers changes.
#[derive(Debug, Clone, Default)]
pub struct Rotation {
    counts: Vec<i64>,
}

/// Turns skipped at most when a memory starts, so that the workers, and the many pools that share their backends, do
/// not all begin with the first server of the list.
const SKIP: usize = 16;

pub(super) fn pick<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    rotation: &mut Rotation,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    if rotation.counts.len() != group.servers.len() {
        rotation.counts.clear();
        rotation.counts.resize(group.servers.len(), 0);
        for _ in 0..rng.usize(..=group.usable.len().min(SKIP)) {
            turn(group, |_| false, rotation);
        }
    }
    turn(group, tried, rotation)
}

fn turn<C: Candidate>(group: Group<'_, C>, tried: impl Fn(usize) -> bool, rotation: &mut Rotation) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, i64)> = None;
    for &place in group.usable {
        let place = place as usize;
        if tried(place) {
            continue;
        }
        let (Some(server), Some(count)) = (group.servers.get(place), rotation.counts.get_mut(place)) else { continue };
        let weight = i64::from(server.weight());
        *count += weight;
        total += weight;
        if best.is_none_or(|(_, highest)| *count > highest) {
            best = Some((place, *count));
        }
    }
    let (place, _) = best?;
    *rotation.counts.get_mut(place)? -= total;
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Mock;
    use super::*;

    fn turns(weights: &[u32], usable: &[u32], n: usize) -> Vec<usize> {
        let servers: Vec<_> = weights.iter().map(|&weight| Mock { weight, in_flight: 0, latency: None }).collect();
        let group = Group { servers: &servers, usable, heaviest: 9 };
        let mut rotation = Rotation { counts: vec![0; weights.len()] };
        (0..n).map(|_| turn(group, |_| false, &mut rotation).unwrap()).collect()
    }

    #[test]
    fn smooth_as_in_nginx() {
        assert_eq!(turns(&[5, 1, 1], &[0, 1, 2], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[1, 1, 1], &[0, 1, 2], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&[1, 9, 2], &[0, 2], 6), [2, 0, 2, 2, 0, 2]);
    }

    #[test]
    fn a_new_number_of_servers_starts_anew() {
        let servers = [1, 1, 1].map(|weight| Mock { weight, in_flight: 0, latency: None });
        let mut rotation = Rotation { counts: vec![1_000_000] };
        let group = Group { servers: &servers, usable: &[0, 1, 2], heaviest: 1 };
        let mut rng = fastrand::Rng::with_seed(1);
        let mut got: Vec<_> = (0..3).map(|_| pick(group, |_| false, &mut rotation, &mut rng).unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2]);
    }
}
