//! At random, by weight.
//!
//! The draw is by rejection: a place uniformly, kept with probability weight / heaviest. With equal weights that is
//! one draw, whatever the number of servers; a cumulative scan would cost as many steps as there are servers. When
//! luck or tried servers use the draws up, a scan decides, with the same odds.

use super::{Candidate, Group};

/// Draws before the scan.
const DRAWS: usize = 16;

pub(super) fn pick<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    if group.usable.is_empty() {
        return None;
    }
    for _ in 0..DRAWS {
        let place = *group.usable.get(rng.usize(..group.usable.len()))? as usize;
        let weight = group.servers.get(place)?.weight();
        if (weight >= group.heaviest || rng.u32(..group.heaviest) < weight) && !tried(place) {
            return Some(place);
        }
    }
    scan(group, tried, rng)
}

/// Of two that are drawn by weight the second if it is better than the first, else the first; or the only one.
pub(super) fn better_of_two<C: Candidate>(
    group: Group<'_, C>,
    tried: impl Fn(usize) -> bool,
    rng: &mut fastrand::Rng,
    is_second_better: impl FnOnce(&C, &C) -> bool,
) -> Option<usize> {
    let first = pick(group, &tried, rng)?;
    if group.usable.len() == 1 {
        return Some(first);
    }
    let Some(second) = pick(group, |place| place == first || tried(place), rng) else {
        return Some(first);
    };
    let (a, b) = (group.servers.get(first)?, group.servers.get(second)?);
    Some(if is_second_better(a, b) { second } else { first })
}

/// The same odds in two passes over all that may be drawn.
fn scan<C: Candidate>(group: Group<'_, C>, tried: impl Fn(usize) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
    let eligible = || {
        let places = group.usable.iter().map(|&place| place as usize).filter(|&place| !tried(place));
        places.filter_map(|place| Some((place, u64::from(group.servers.get(place)?.weight().max(1)))))
    };
    let total: u64 = eligible().map(|(_, weight)| weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.u64(..total);
    for (place, weight) in eligible() {
        match left.checked_sub(weight) {
            Some(less) => left = less,
            None => return Some(place),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::Mock;
    use super::*;

    #[test]
    fn the_scan_draws_by_weight_too() {
        let servers = [1, 2, 5].map(|weight| Mock { weight, in_flight: 0, latency: None });
        let group = Group { servers: &servers, usable: &[0, 1, 2], heaviest: 5 };
        let mut rng = fastrand::Rng::with_seed(7);
        let mut got = [0u32; 3];
        for _ in 0..6000 {
            got[scan(group, |i| i == 1, &mut rng).unwrap()] += 1;
        }
        assert_eq!(got[1], 0);
        assert!((850..1150).contains(&got[0]), "{got:?}");
    }
}
