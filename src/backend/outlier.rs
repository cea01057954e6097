//! Who stands out: which backends of a pool fail more than the others, and how many may be out at once.
//!
//! Errors in a row find a backend that fails everything. One that fails every third request never has five in a row; it
//! is found by comparing: its share of requests that went well is far below that of its neighbours. Comparing needs
//! enough neighbours and enough requests, or chance would eject.
//!
//! Source: Envoy, `source/common/upstream/outlier_detection_impl.cc` (success rate: at least 5 hosts with at least 100
//! requests in an interval of 10 s; below mean - 1.9 standard deviations). Unlike there, a backend must also have
//! [`MIN_ERRORS`] errors, and be below the mean by five points: of n backends of which one has a single error, that one is
//! always the root of n - 1 deviations away. Pure.

use std::time::Duration;

/// How long requests are gathered before backends are compared.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Fewer backends than this, with enough requests each, are not compared.
pub const MIN_BACKENDS: usize = 5;
/// Fewer requests than this in an interval say nothing of a backend.
pub const MIN_REQUESTS: u32 = 100;
/// Fewer errors than this in an interval are chance.
pub const MIN_ERRORS: u32 = 5;
/// How many standard deviations below the mean stand out.
const DEVIATIONS: f64 = 1.9;
/// And by how much at least: where all others are without an error, one error in a million is far from the mean, too.
const MIN_GAP: f64 = 0.05;

/// The places of those that stand out. `rates`: each backend's requests and errors in an interval.
pub fn outliers(rates: &[(u32, u32)]) -> Vec<usize> {
    let success = |(requests, errors): (u32, u32)| {
        (requests >= MIN_REQUESTS).then(|| 1.0 - f64::from(errors.min(requests)) / f64::from(requests))
    };
    let known: Vec<(usize, f64)> =
        rates.iter().enumerate().filter_map(|(place, rate)| Some((place, success(*rate)?))).collect();
    if known.len() < MIN_BACKENDS {
        return Vec::new();
    }
    let n = known.len() as f64;
    let mean = known.iter().map(|(_, rate)| rate).sum::<f64>() / n;
    let variance = known.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n;
    let bar = (mean - DEVIATIONS * variance.sqrt()).min(mean - MIN_GAP);
    let errors = |place: usize| rates.get(place).map_or(0, |(_, errors)| *errors);
    known
        .into_iter()
        .filter(|(place, rate)| *rate < bar && errors(*place) >= MIN_ERRORS)
        .map(|(place, _)| place)
        .collect()
}

/// How many of a pool's `backends` may be ejected at once: so many that their share, counted with the last one, is at
/// most `percent`. One may always be, if any is left (`left`: usable ones that are not ejected).
pub fn allowance(backends: usize, left: usize, percent: u8) -> usize {
    (backends * usize::from(percent) / 100).max(usize::from(left > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_out() {
        let good = (1000, 0);
        assert_eq!(outliers(&[good, good, good, good, (1000, 300)]), [4]);
        assert_eq!(outliers(&[good, (1000, 300), good, good, good, good, good]), [1]);
        assert_eq!(outliers(&[good; 7]), [] as [usize; 0]);
        // A few errors among many are chance, however good the others are.
        assert_eq!(outliers(&[good, good, good, good, good, (1000, 1)]), [] as [usize; 0]);
        assert_eq!(outliers(&[good, good, good, good, good, (1000, 40)]), [] as [usize; 0]);
        assert_eq!(outliers(&[(100, 0), (100, 0), (100, 0), (100, 0), (100, 0), (100, 4)]), [] as [usize; 0]);
        assert_eq!(outliers(&[good, good, good, good, good, (1000, 80)]), [5]);
        // Too few, or too few requests to say.
        assert_eq!(outliers(&[good, good, good, (1000, 300)]), [] as [usize; 0]);
        assert_eq!(outliers(&[good, good, good, good, (99, 99)]), [] as [usize; 0]);
        assert_eq!(outliers(&[good, good, good, good, good, (99, 99)]), [] as [usize; 0]);
        // All are bad: nobody stands out.
        assert_eq!(outliers(&[(1000, 300); 6]), [] as [usize; 0]);
        // Half of them are bad: that is no outlier either.
        let bad = (1000, 500);
        assert_eq!(outliers(&[good, good, good, bad, bad, bad]), [] as [usize; 0]);
        // Errors may have begun in the interval before.
        assert_eq!(outliers(&[good, good, good, good, (100, 250)]), [4]);
        assert_eq!(outliers(&[]), [] as [usize; 0]);
    }

    #[test]
    fn the_share_is_counted_with_the_one_in_question() {
        for (backends, left, percent, expected) in [
            (1, 0, 50, 0),
            (2, 1, 50, 1),
            (3, 2, 50, 1),
            (4, 2, 50, 2),
            (10, 9, 50, 5),
            (10, 9, 5, 1),
            (10, 0, 5, 0),
            (2, 1, 0, 1),
            (2, 0, 0, 0),
            (3, 0, 100, 3),
            (1, 0, 100, 1),
        ] {
            assert_eq!(allowance(backends, left, percent), expected, "{backends} backends, {left} left, {percent} %");
        }
    }
}
