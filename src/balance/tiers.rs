//! Shares of load over failover tiers: Envoy's priority levels (`docs/root/intro/arch_overview/upstream/
//! load_balancing/priority.rst`, `source/extensions/load_balancing_policies/common/load_balancer_impl.cc`).
//!
//! A tier's health is its usable share times an overprovisioning factor: with 1.4, a tier keeps all its load down to
//! 72 % usable and then spills gradually, what it loses going to the next tier that has room. One step instead (use
//! the next tier when this one is empty) would overload the last server of a tier before any other takes part.
//!
//! Two places where we differ, both for small tiers. A tier with anything usable has a health of at least 1, so that
//! one server of two hundred is found when nothing else is left. And what rounding leaves over goes to the largest
//! remainders instead of all to the first tier, so that no share is off by more than one.

/// A tier's health in percent, 0 to 100, from the weights of its usable servers and of all of them.
///
/// `overprovisioning` is counted in hundredths, at least 1.
pub fn health(usable_weight: u64, total_weight: u64, overprovisioning: f64) -> u8 {
    if usable_weight == 0 || total_weight == 0 {
        return 0;
    }
    let percent = (overprovisioning * 100.0).round() as u64;
    (percent.saturating_mul(usable_weight) / total_weight).clamp(1, 100) as u8
}

/// Turns healths (0 to 100 each, in failover order) into loads in place: they sum to 100, or are all 0 if all were 0.
/// Returns the sum of the healths, at most 100: less means that the tiers together lack capacity.
///
/// `load(i) = min(100 − Σ earlier, 100 · health(i) / T)` with `T = min(100, Σ health)`.
pub fn loads(tiers: &mut [u8]) -> u8 {
    let total = tiers.iter().map(|&health| u32::from(health)).sum::<u32>().min(100);
    if total == 0 {
        return 0;
    }
    let mut left: u32 = 100;
    if total == 100 {
        for tier in tiers {
            *tier = (*tier).min(left as u8);
            left -= u32::from(*tier);
        }
        return 100;
    }
    // Scarce: all of it is used, in proportion. Whole percents first, then one each to the largest remainders. The
    // remainder of 100 · health / total is found again from the load given, so nothing has to be kept: load · total is
    // 100 · health less the remainder, and 0 < total < 100.
    let exact = |health: u8| (100 * u32::from(health) / total, 100 * u32::from(health) % total);
    left -= tiers.iter().map(|&health| exact(health).0).sum::<u32>();
    // `left` is the sum of the remainders over `total`, so less than the number of tiers with a remainder. The bar is
    // the remainder that still gets one; among those that equal it, the earlier tiers go first.
    let at_least = |tiers: &[u8], bar: u32| tiers.iter().filter(|&&health| exact(health).1 >= bar).count() as u32;
    let bar = (1..total).rev().find(|&bar| at_least(tiers, bar) >= left).unwrap_or(1);
    let mut at_bar = left.saturating_sub(at_least(tiers, bar + 1));
    for tier in tiers {
        let (whole, remainder) = exact(*tier);
        let one = remainder > bar || (remainder == bar && at_bar > 0);
        if remainder == bar && one {
            at_bar -= 1;
        }
        *tier = (whole + u32::from(one && left > 0)) as u8;
    }
    total as u8
}

/// The tier that a random number of `0..100` falls to; `None` if the loads are all 0.
pub fn choose(loads: &[u8], random: u8) -> Option<usize> {
    let mut left = u32::from(random);
    for (tier, &load) in loads.iter().enumerate() {
        match left.checked_sub(u32::from(load)) {
            Some(less) => left = less,
            None => return Some(tier),
        }
    }
    None
}

/// How much of a tier's weight is usable, in whole percents, rounded down: what [`is_panic`] compares. All of nothing.
pub fn usable_percent(usable_weight: u64, total_weight: u64) -> u8 {
    (usable_weight * 100).checked_div(total_weight).unwrap_or(100).min(100) as u8
}

/// Whether a tier uses servers again that it would not: less than `panic_percent` of its weight is usable, while the
/// tiers together lack capacity (`room`, what [`loads`] returned, is below 100). Better to send a request to a server
/// that may be down than to break the rest by overload; and when most of a tier looks down, the checks may be wrong.
pub fn is_panic(usable_percent: u8, panic_percent: u8, room: u8) -> bool {
    room < 100 && usable_percent < panic_percent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Loads for shares of usable weight in percent, with the default overprovisioning.
    fn spread(shares: &[u64]) -> Vec<u8> {
        let mut tiers: Vec<_> = shares.iter().map(|&share| health(share, 100, 1.4)).collect();
        loads(&mut tiers);
        tiers
    }

    #[test]
    fn the_published_numbers() {
        for (shares, expected) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[0, 100], &[0, 100]),
            (&[25, 25, 100], &[35, 35, 30]),
            (&[25, 25, 20], &[36, 36, 28]),
            (&[0, 0, 0], &[0, 0, 0]),
            (&[100], &[100]),
            (&[10], &[100]),
            (&[], &[]),
        ] {
            assert_eq!(spread(shares), expected, "{shares:?}");
        }
    }

    #[test]
    fn one_usable_server_counts() {
        assert_eq!(health(1, 200, 1.4), 1);
        assert_eq!(health(0, 200, 1.4), 0);
        assert_eq!(health(0, 0, 1.4), 0);
        assert_eq!(health(u64::from(u32::MAX), u64::from(u32::MAX), 1000.0), 100);
        assert_eq!(health(50, 100, 1.0), 50);
    }

    #[test]
    fn chosen_by_share() {
        let count = |loads: &[u8], tier| (0..100).filter(|&r| choose(loads, r) == Some(tier)).count();
        assert_eq!((count(&[70, 0, 30], 0), count(&[70, 0, 30], 1), count(&[70, 0, 30], 2)), (70, 0, 30));
        assert_eq!(choose(&[0, 0], 0), None);
    }

    #[test]
    fn panic_needs_both() {
        let percent = usable_percent;
        assert!(is_panic(percent(49, 100), 50, 99) && is_panic(percent(499_999, 1_000_000), 50, 99));
        assert!(!is_panic(percent(50, 100), 50, 99) && !is_panic(percent(1, 2), 50, 99));
        assert!(!is_panic(percent(0, 100), 50, 100));
        assert!(!is_panic(percent(0, 100), 0, 0));
        assert!(!is_panic(percent(0, 0), 100, 0), "nobody is there to be used again");
        assert_eq!(percent(u64::from(u32::MAX), u64::from(u32::MAX)), 100);
    }

    proptest! {
        #[test]
        fn all_or_nothing(healths in prop::collection::vec(prop_oneof![Just(0u8), 0..=100u8, 0..=5u8], 0..33)) {
            let mut got = healths.clone();
            let room = loads(&mut got);
            let sum: u32 = got.iter().map(|&load| u32::from(load)).sum();
            let total: u32 = healths.iter().map(|&health| u32::from(health)).sum();
            prop_assert_eq!(u32::from(room), total.min(100));
            prop_assert_eq!(sum, if total == 0 { 0 } else { 100 });
            for (load, health) in got.iter().zip(&healths) {
                prop_assert!(*health > 0 || *load == 0, "load on a tier with nothing usable");
                if (1..100).contains(&total) {
                    let exact = 100.0 * f64::from(*health) / f64::from(total);
                    prop_assert!((f64::from(*load) - exact).abs() < 1.0, "{got:?}");
                }
            }
            for random in 0..100 {
                prop_assert_eq!(choose(&got, random).is_some(), total > 0);
            }
        }
    }
}
