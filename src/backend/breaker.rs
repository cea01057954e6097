//! For how long an ejected backend stays out, and how it comes back: a circuit breaker.
//!
//! Closed, it serves. Errors trip it: open, it gets nothing, for `base_ejection` times the number of ejections so far.
//! Then it is half-open: one request at a time goes there, and how that ends decides: closed again, or open for longer.
//! `base_ejection` without a word closes it, too.
//! An ejection is forgotten for each `base_ejection` that passes without one, so that a backend that fails once a day is
//! not punished like one that fails all day.
//!
//! Sources: Nygard, "Release It!" (circuit breaker); Envoy, `outlier_detection.proto` (`base_ejection_time` times the
//! number of ejections, which falls again in healthy intervals). Pure: the time is passed in.

use std::time::{Duration, Instant};

use crate::model::Outlier;

/// One backend's breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    /// Ejections that are not forgotten yet.
    ejections: u32,
    /// Since when there was nothing to hold against it, up to what has been forgiven.
    calm_since: Instant,
    base: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { since: Instant },
}

/// What time has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    Same,
    /// One request at a time may try it now.
    HalfOpened,
    /// Half-open for as long as a first ejection without an error: closed.
    Closed,
    /// Closed, and everything is forgotten: there is nothing left to remember of it.
    Forgotten,
}

impl Breaker {
    /// Closed, and without a past.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Closed, ejections: 0, calm_since: now, base: Duration::ZERO }
    }

    /// Errors ask for an ejection. `Some`: it is ejected, until then. `None`: it already was.
    pub fn trip(&mut self, now: Instant, terms: &Outlier) -> Option<Instant> {
        if matches!(self.state, State::Open { .. }) {
            return None;
        }
        self.ejections = self.ejections.saturating_add(1);
        self.base = terms.base_ejection;
        let lasts = terms.base_ejection.saturating_mul(self.ejections).min(terms.max_ejection);
        let until = now + lasts;
        self.state = State::Open { until };
        Some(until)
    }

    /// A request went well while it was half-open, or a check has shown that what was wrong is over. False: it was
    /// closed already.
    pub fn close(&mut self, now: Instant) -> bool {
        if self.state == State::Closed {
            return false;
        }
        self.state = State::Closed;
        self.calm_since = now;
        true
    }

    /// To be called every now and then.
    pub fn tick(&mut self, now: Instant) -> Tick {
        match self.state {
            State::Open { until } if until <= now => {
                self.state = State::HalfOpen { since: now };
                Tick::HalfOpened
            }
            // The request that decides may be one that goes on for hours, or none may come.
            State::HalfOpen { since } if now.saturating_duration_since(since) >= self.base => {
                self.close(now);
                Tick::Closed
            }
            State::Closed => {
                while self.ejections > 0 && now.saturating_duration_since(self.calm_since) >= self.base {
                    self.ejections -= 1;
                    self.calm_since += self.base;
                }
                if self.ejections == 0 { Tick::Forgotten } else { Tick::Same }
            }
            _ => Tick::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Outlier = Outlier {
        consecutive_errors: 5,
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(100),
        max_ejected_percent: 50,
        enforce: true,
    };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn each_ejection_in_a_row_lasts_longer_up_to_the_most() {
        let start = Instant::now();
        let mut breaker = Breaker::new(start);
        let mut now = start;
        for lasts in [30, 60, 90, 100, 100] {
            assert_eq!(breaker.trip(now, &TERMS), Some(now + seconds(lasts)));
            assert_eq!(breaker.trip(now, &TERMS), None, "it is out already");
            assert_eq!(breaker.tick(now + seconds(lasts) - Duration::from_millis(1)), Tick::Same);
            now += seconds(lasts);
            assert_eq!(breaker.tick(now), Tick::HalfOpened);
            assert_eq!(breaker.tick(now), Tick::Same);
        }
        assert_eq!(breaker.tick(now + seconds(29)), Tick::Same);
        assert_eq!(breaker.tick(now + seconds(30)), Tick::Closed);
        assert!(!breaker.close(now));
    }

    #[test]
    fn ejections_are_forgotten_one_by_one() {
        let start = Instant::now();
        let mut breaker = Breaker::new(start);
        for _ in 0..3 {
            breaker.trip(start, &TERMS);
            breaker.close(start);
        }
        for (after, left, tick) in [(29, 3, Tick::Same), (30, 2, Tick::Same), (89, 1, Tick::Same)] {
            assert_eq!((breaker.tick(start + seconds(after)), breaker.ejections), (tick, left), "{after} s");
        }
        // In between comes another one: it counts on from what is left.
        let now = start + seconds(89);
        assert_eq!(breaker.trip(now, &TERMS), Some(now + seconds(60)));
        assert_eq!(breaker.tick(now + seconds(60)), Tick::HalfOpened);
        assert!(breaker.close(now + seconds(61)));
        assert_eq!(breaker.tick(now + seconds(61 + 59)), Tick::Same);
        assert_eq!(breaker.tick(now + seconds(61 + 60)), Tick::Forgotten);
    }

    proptest! {
        /// Whatever happens: it is never out for longer than the most, and left alone it comes back and forgets.
        #[test]
        fn it_always_comes_back(steps in prop::collection::vec((0..4u8, 0..200u64), 0..60)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(now);
            let mut out_since = None;
            for (what, after) in steps {
                now += seconds(after);
                match what {
                    0 => if breaker.trip(now, &TERMS).is_some() { out_since = Some(now) },
                    1 => { breaker.close(now); out_since = None; }
                    _ => if breaker.tick(now) != Tick::Same { out_since = None },
                }
                if let (Some(since), State::Open { until }) = (out_since, breaker.state) {
                    prop_assert!(until <= since + TERMS.max_ejection);
                }
            }
            now += TERMS.max_ejection;
            breaker.tick(now);
            let is_open = matches!(breaker.state, State::Open { .. });
            prop_assert!(!is_open);
            breaker.close(now);
            now += TERMS.base_ejection * (breaker.ejections + 1);
            prop_assert_eq!(breaker.tick(now), Tick::Forgotten);
        }
    }
}
