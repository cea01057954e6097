//! What a server's own word of its load makes of its weight: gRFC A58, "client-side weighted round robin".
//!
//! A server that does `qps` requests a second at a utilization `u` would do `qps / u` of them when it has all to do, so
//! that is its capacity, less what its errors say: `qps / (u + eps/qps · penalty)`. The number means something only
//! beside those of the others, so a tier's are divided by their mean. A server of which nothing usable is known counts
//! as the mean. Where fewer than two are known, there is nothing to compare.
//!
//! A server that has only begun to report is not warm yet, and its first numbers are those of a start: for
//! [`BLACKOUT`] they are not used. After [`EXPIRY`] without a report the last one is forgotten.
//!
//! Two differences from A58. A report without a rate is completed by what this proxy has itself sent there; and the
//! result multiplies the configured weight, within [`LEAST`] and [`MOST`], so that no server's word can draw all the
//! traffic, or send all of it away. Pure: the time is passed in.

use std::time::{Duration, Instant};

use crate::model::LoadReport;

/// After the first report, or the first after an expiry: so long it is not used.
pub const BLACKOUT: Duration = Duration::from_secs(10);
/// A weight is forgotten so long after its last report.
pub const EXPIRY: Duration = Duration::from_secs(180);
/// What errors count, beside utilization.
const PENALTY: f64 = 1.0;
/// The bounds of what a report makes of a configured weight.
pub const LEAST: f64 = 0.1;
/// The upper one.
pub const MOST: f64 = 10.0;
/// The mean lifetime of what the measured rates go by.
const SMOOTHING: f64 = 10.0;

/// Requests and errors a second that this proxy has sent and seen itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meter {
    at: Instant,
    tally: (u32, u32),
    rates: Option<(f64, f64)>,
}

impl Meter {
    /// From this count of requests and errors on. Both may wrap.
    pub fn new(tally: (u32, u32), now: Instant) -> Self {
        Self { at: now, tally, rates: None }
    }

    /// So far the count has come.
    pub fn note(&mut self, tally: (u32, u32), now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        if seconds < 1e-3 {
            return;
        }
        let rate = |new: u32, old: u32| f64::from(new.wrapping_sub(old)) / seconds;
        let (rps, eps) = (rate(tally.0, self.tally.0), rate(tally.1, self.tally.1));
        let share = 1.0 - (-seconds / SMOOTHING).exp();
        self.rates = Some(match self.rates {
            None => (rps, eps),
            Some((old_rps, old_eps)) => (old_rps + share * (rps - old_rps), old_eps + share * (eps - old_eps)),
        });
        (self.at, self.tally) = (now, tally);
    }

    /// Requests and errors a second; 0 while nothing is known.
    pub fn rates(&self) -> (f64, f64) {
        self.rates.unwrap_or_default()
    }
}

/// The weight by one report. `measured`: requests and errors a second, where it does not say. `None`: that comes to no
/// weight.
pub fn weight(report: &LoadReport, measured: (f64, f64)) -> Option<f64> {
    let (qps, eps) = match report.rps {
        Some(rps) => (rps, report.eps.unwrap_or(0.0)),
        // The errors of the same requests: those of all its clients would be too many for these.
        None => measured,
    };
    if qps <= 0.0 {
        return None;
    }
    let weight = qps / (report.utilization + eps / qps * PENALTY);
    (weight.is_finite() && weight > 0.0).then_some(weight)
}

/// What is remembered of one server's reports.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    /// The weight, since when there is one, and when it was last said.
    said: Option<(f64, Instant, Instant)>,
}

impl Memory {
    /// A report has come to this weight.
    pub fn note(&mut self, weight: f64, now: Instant) {
        let since = self.said.filter(|said| !is_over(said, now)).map_or(now, |(_, since, _)| since);
        self.said = Some((weight, since, now));
    }

    /// The weight that counts now.
    pub fn weight(&self, now: Instant) -> Option<f64> {
        let said = self.said.filter(|said| !is_over(said, now))?;
        (now.saturating_duration_since(said.1) >= BLACKOUT).then_some(said.0)
    }

    /// Whether there is nothing to remember any more.
    pub fn is_over(&self, now: Instant) -> bool {
        self.said.is_none_or(|said| is_over(&said, now))
    }
}

fn is_over((_, _, last): &(f64, Instant, Instant), now: Instant) -> bool {
    now.saturating_duration_since(*last) >= EXPIRY
}

/// The mean of a tier's weights, if enough of its servers have one.
pub fn mean(weights: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (n, sum) = weights.flatten().fold((0_u32, 0.0), |(n, sum), weight| (n + 1, sum + weight));
    let mean = sum / f64::from(n.max(1));
    (n >= 2 && mean.is_finite() && mean > 0.0).then_some(mean)
}

/// What a configured weight is multiplied by.
pub fn factor(weight: Option<f64>, mean: Option<f64>) -> f64 {
    match (weight, mean) {
        (Some(weight), Some(mean)) => (weight / mean).clamp(LEAST, MOST),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(utilization: f64, rps: f64, eps: f64) -> LoadReport {
        LoadReport::new(utilization, rps, eps).unwrap()
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn weights_by_hand() {
        let none = (0.0, 0.0);
        for (report, measured, expected) in [
            (report(0.5, 100.0, 0.0), none, Some(200.0)),
            (report(2.0, 100.0, 0.0), none, Some(50.0)),
            // A tenth of the requests are errors: 100 / (0.4 + 0.1).
            (report(0.4, 100.0, 10.0), none, Some(200.0)),
            // All of them: 100 / (0.25 + 1).
            (report(0.25, 100.0, 100.0), none, Some(80.0)),
            // Its own rates go before those that were measured, and without them those of one measurement go together.
            (report(0.5, 100.0, 0.0), (10.0, 10.0), Some(200.0)),
            (report(0.5, 0.0, 0.0), (10.0, 0.0), Some(20.0)),
            (report(0.5, 0.0, 9.0), (10.0, 5.0), Some(10.0)),
            (report(0.5, 0.0, 0.0), none, None),
            (report(f64::MIN_POSITIVE, f64::MAX, 0.0), none, None),
            (report(f64::MAX, 1e-300, 0.0), none, None),
        ] {
            let got = weight(&report, measured);
            let same = match (got, expected) {
                (Some(got), Some(expected)) => f64::abs(got - expected) < 1e-9,
                (got, expected) => got == expected,
            };
            assert!(same, "{report:?} {measured:?}: {got:?}");
        }
    }

    #[test]
    fn a_first_report_waits_and_an_old_one_is_forgotten() {
        let start = Instant::now();
        let mut memory = Memory::default();
        assert!(memory.is_over(start) && memory.weight(start).is_none());
        memory.note(7.0, start);
        for (after, expected) in [(0, None), (9, None), (10, Some(7.0)), (179, Some(7.0)), (180, None), (999, None)] {
            assert_eq!(memory.weight(start + seconds(after)), expected, "{after} s");
            assert_eq!(memory.is_over(start + seconds(after)), after >= 180);
        }
        // One that goes on reporting has no second blackout; one that had stopped has.
        memory.note(8.0, start + seconds(100));
        assert_eq!(memory.weight(start + seconds(100)), Some(8.0));
        assert_eq!(memory.weight(start + seconds(279)), Some(8.0));
        memory.note(9.0, start + seconds(280));
        assert_eq!(memory.weight(start + seconds(289)), None);
        assert_eq!(memory.weight(start + seconds(290)), Some(9.0));
    }

    #[test]
    fn rates_are_measured_between_two_looks() {
        let start = Instant::now();
        let mut meter = Meter::new((u32::MAX - 9, 0), start);
        assert_eq!(meter.rates(), (0.0, 0.0));
        meter.note((u32::MAX, 0), start);
        assert_eq!(meter.rates(), (0.0, 0.0), "no time has passed");
        // 20 requests, over the end of the count, and 4 errors in 2 s.
        meter.note((10, 4), start + seconds(2));
        assert_eq!(meter.rates(), (10.0, 2.0));
        // Then nothing for 10 s: 1/e of it is left.
        meter.note((10, 4), start + seconds(12));
        let (rps, eps) = meter.rates();
        assert!((rps - 10.0 / std::f64::consts::E).abs() < 1e-9 && (eps - 2.0 / std::f64::consts::E).abs() < 1e-9);
    }

    #[test]
    fn a_tiers_mean_and_what_it_makes_of_each() {
        let factors = |weights: &[Option<f64>]| -> Vec<f64> {
            let mean = mean(weights.iter().copied());
            weights.iter().map(|weight| factor(*weight, mean)).collect()
        };
        assert_eq!(factors(&[]), [0.0; 0]);
        assert_eq!(factors(&[Some(5.0), None]), [1.0, 1.0], "one alone says nothing");
        assert_eq!(factors(&[Some(300.0), Some(100.0)]), [1.5, 0.5]);
        assert_eq!(factors(&[Some(300.0), None, Some(100.0)]), [1.5, 1.0, 0.5]);
        assert_eq!(factors(&[Some(1.0), Some(10_000.0)])[0], LEAST);
        let many: Vec<_> = std::iter::once(Some(1e9)).chain(std::iter::repeat_n(Some(1.0), 30)).collect();
        assert_eq!(factors(&many)[0], MOST);
        assert_eq!(factors(&[Some(f64::MAX), Some(f64::MAX)]), [1.0, 1.0], "a mean that is none");
    }

    proptest! {
        /// Whatever is reported: within the bounds.
        #[test]
        fn always_a_factor(reports in prop::collection::vec((any::<f64>(), any::<f64>(), any::<f64>()), 0..9)) {
            let weights: Vec<_> = reports
                .iter()
                .map(|&(utilization, rps, eps)| weight(&LoadReport::new(utilization, rps, eps)?, (3.0, 1.0)))
                .collect();
            let mean = mean(weights.iter().copied());
            for weight in weights {
                let factor = factor(weight, mean);
                prop_assert!((LEAST..=MOST).contains(&factor));
            }
        }
    }
}
