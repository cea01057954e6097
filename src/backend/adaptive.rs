//! How many requests a backend takes before they only wait in it: a limit that follows the response time.
//!
//! A server answers as fast with ten requests at once as with one, until it is busy; from there on, more at once only
//! make each slower (Little's law). So the response time of a window is compared with the shortest that was seen lately:
//! while it is near that, the limit may grow, by about its root; as it gets longer, the limit shrinks in proportion.
//! What is over it goes to another backend, waits in the pool's queue, or is told at once that the pool is full, and
//! what is let in is answered as fast as ever.
//!
//! The shortest time is only known from when little is going on. So it begins low and grows fast until a response time
//! first gets longer; and every so often it goes down to a third for one window, in which what waited in the backend is
//! worked off, and the shortest time is learned anew. So a limit that had drifted up comes down again, and a backend that
//! has become slower for good is measured by what it can do now.
//!
//! Source: the gradient limiters of Netflix's concurrency-limits (`Gradient2Limit`) and Envoy (`adaptive_concurrency`,
//! which goes down to three for its measurements; a third turns fewer requests away). Pure: the windows are passed in.

use std::time::Duration;

use super::{Backend, InFlight};

/// The limit at first.
const START: f64 = 4.0;
/// The least.
const LEAST: f64 = 2.0;
/// Answers that make a window; with fewer it goes on.
const MIN_SAMPLES: u32 = 10;
/// A response time so many times the shortest is still a good one.
const TOLERANCE: f64 = 1.5;
/// How much of the difference one window makes up for.
const SMOOTHING: f64 = 0.5;
/// What a window multiplies the limit by while it has never been too high.
const FAST: f64 = 1.5;
/// After so many windows one is spent at a third.
const PROBE_EVERY: u32 = 60;

/// One backend's limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gradient {
    limit: f64,
    /// The shortest mean response time, in seconds, since it was last learned anew.
    shortest: f64,
    /// It has never been too high.
    fast: bool,
    /// Windows since the last probe; after the last the limit is a third.
    windows: u32,
    /// What makes the window so far.
    answers: u32,
    took: Duration,
}

impl Default for Gradient {
    fn default() -> Self {
        Self { limit: START, shortest: f64::INFINITY, fast: true, windows: 0, answers: 0, took: Duration::ZERO }
    }
}

impl Gradient {
    /// Takes in so many answers, which took so long together, and how many requests are in flight after them.
    pub fn note(&mut self, answers: u32, took: Duration, in_flight: u32) {
        self.answers = self.answers.saturating_add(answers);
        self.took = self.took.saturating_add(took);
        if self.answers < MIN_SAMPLES {
            return;
        }
        let mean = (self.took.as_secs_f64() / f64::from(self.answers)).max(1e-6);
        (self.answers, self.took) = (0, Duration::ZERO);
        self.windows += 1;
        if self.windows > PROBE_EVERY + 1 {
            // The second window at a third is over; the answers of the first were to requests from before.
            self.windows = 0;
            self.shortest = mean;
            return;
        }
        self.shortest = self.shortest.min(mean);
        if self.windows >= PROBE_EVERY {
            return;
        }
        let gradient = (TOLERANCE * self.shortest / mean).clamp(0.5, 1.0);
        self.fast &= gradient >= 1.0;
        // With few in flight it is not the limit that holds them back, and a higher one would say nothing.
        if gradient >= 1.0 && f64::from(in_flight) * 2.0 < self.limit() as f64 {
            return;
        }
        if self.fast {
            self.limit *= FAST;
        } else {
            let aim = self.limit * gradient + self.limit.sqrt();
            self.limit += SMOOTHING * (aim - self.limit);
        }
        self.limit = self.limit.clamp(LEAST, f64::from(u32::MAX));
    }

    /// The limit.
    pub fn limit(&self) -> u32 {
        let probing = self.windows >= PROBE_EVERY;
        (if probing { self.limit / 3.0 } else { self.limit }).max(LEAST) as u32
    }
}

impl InFlight {
    /// An answer took so long, or there was none after so long.
    pub fn answered(&self, took: Duration) {
        self.backend().line.answered(took);
    }
}

impl Backend {
    /// There was no answer after so long, and it is not waited for any longer.
    pub fn kept_silent(&self, took: Duration) {
        self.line.answered(took);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A server that does so many at once, each in so many seconds, and has others wait; with so many that want to.
    fn run(limiter: &mut Gradient, at_once: f64, service: f64, wanted: u32, windows: u32) -> f64 {
        let mut response = service;
        for _ in 0..windows {
            let in_flight = wanted.min(limiter.limit());
            response = service * (f64::from(in_flight) / at_once).max(1.0);
            let answers = (f64::from(in_flight) / response).max(f64::from(MIN_SAMPLES)) as u32;
            limiter.note(answers, Duration::from_secs_f64(response * f64::from(answers)), in_flight);
        }
        response
    }

    proptest! {
        /// However much is wanted of whatever server, it is kept busy, and answers in at most 2.5 times its own time,
        /// from whatever limit it begins.
        #[test]
        fn it_settles_near_what_a_server_can_do(at_once in 8..300u32, service in 0.001..1.0f64, start in 2.0..2000.0f64) {
            let mut limiter = Gradient { limit: start, fast: false, ..Gradient::default() };
            run(&mut limiter, f64::from(at_once), service, 100_000, 20 * PROBE_EVERY);
            while limiter.windows != PROBE_EVERY - 1 {
                run(&mut limiter, f64::from(at_once), service, 100_000, 1);
            }
            let response = run(&mut limiter, f64::from(at_once), service, 100_000, 1);
            prop_assert!(limiter.limit >= f64::from(at_once), "{limiter:?}");
            prop_assert!(response <= 2.5 * service, "{response}, {limiter:?}");
        }

        /// It never leaves its bounds, whatever is measured.
        #[test]
        fn it_is_always_a_limit(windows in prop::collection::vec((0..10_000u32, 0..u64::MAX / 2, any::<u32>()), 0..300)) {
            let mut limiter = Gradient::default();
            for (answers, nanos, in_flight) in windows {
                limiter.note(answers, Duration::from_nanos(nanos), in_flight);
                prop_assert!(limiter.limit >= LEAST && limiter.limit.is_finite());
            }
        }
    }

    #[test]
    fn little_load_changes_little_and_a_slower_server_is_found_out() {
        let mut limiter = Gradient::default();
        run(&mut limiter, 100.0, 0.01, 5, 100);
        assert!(limiter.limit < 16.0, "{limiter:?}");
        run(&mut limiter, 100.0, 0.01, 1000, 20);
        assert!((100.0..300.0).contains(&limiter.limit), "within ten seconds: {limiter:?}");
        // It can do a tenth of that now, at the same pace.
        run(&mut limiter, 10.0, 0.01, 1000, 200);
        assert!(limiter.limit < 40.0, "{limiter:?}");
        // Ten times slower for good: after a while that is what it is measured by.
        run(&mut limiter, 10.0, 0.1, 1000, 400);
        assert!((10.0..40.0).contains(&limiter.limit), "{limiter:?}");
    }

    #[test]
    fn slow_answers_make_a_window_together() {
        let mut limiter = Gradient::default();
        for _ in 0..3 {
            limiter.note(3, Duration::from_secs(3), 4);
        }
        assert_eq!(limiter.limit(), 4);
        limiter.note(1, Duration::from_secs(1), 4);
        assert_eq!(limiter.limit(), 6);
    }
}
