//! When a second try is due beside a slow first one, and how many there may be: Dean and Barroso, "The Tail at Scale",
//! Communications of the ACM 56(2), 2013.
//!
//! **When**: after the time within which 95 % of the first tries have been answered. That is estimated from a histogram
//! with eight buckets to each doubling, so it is at most an eighth too long and never too short. Counts are halved when there
//! are as many as [`FULL`] samples, so that what is older than a few thousand requests hardly counts. P² (Jain and
//! Chlamtac, 1985) needs five numbers instead of 184 but never forgets, and can be far off when response times come in
//! two groups, which is just what a pool with a slow backend has. The place of the percentile is kept, not looked for, so a
//! sample costs a few additions.
//!
//! A first try that was given up counts with the time for which it was waited for. It is above the percentile, as the
//! whole time would have been; left out, the percentile would sink with every hedge.
//!
//! **How many**: each request puts a twentieth of a hedge into a bucket that begins empty and holds [`BURST`]. So at no
//! time have there been more hedges than one in twenty requests.
//!
//! Kept for the pools that are asked by a route with `hedge`, by each worker for itself: a share of each worker's requests
//! is a share of all.

use std::cell::{Cell, RefCell};
use std::time::Duration;

/// No hedging before so many samples.
const ENOUGH: u32 = 100;
/// Samples, at which they are halved.
const FULL: u32 = 2048;
/// A request in this many may be hedged, and as many may take longer than the percentile.
const ONE_IN: u32 = 20;
/// Hedges that can be saved up.
const BURST: u32 = 10;

/// What one worker knows of one pool.
#[derive(Default)]
pub(crate) struct Hedging {
    times: RefCell<Times>,
    /// In parts of a hedge.
    saved: Cell<u32>,
}

impl Hedging {
    /// A request begins. How long its first try should be waited for, if that is known.
    pub(crate) fn begin(&self) -> Option<Duration> {
        self.saved.set((self.saved.get() + 1).min(BURST * ONE_IN));
        self.times.borrow().percentile()
    }

    /// The first try of a request was answered after so long, or not even then.
    pub(crate) fn took(&self, took: Duration) {
        self.times.borrow_mut().add(took);
    }

    /// Whether there may be a hedge now.
    pub(crate) fn may_hedge(&self) -> bool {
        self.saved.get() >= ONE_IN
    }

    /// There is one.
    pub(crate) fn hedged(&self) {
        self.saved.set(self.saved.get().saturating_sub(ONE_IN));
    }
}

/// Buckets for each doubling, as bits.
const BITS: u32 = 3;
/// Of the longest time that is told apart, in microseconds: a minute.
const DOUBLINGS: u32 = 26;
const BUCKETS: usize = ((DOUBLINGS - BITS) << BITS) as usize;
/// What a sample weighs when it is new: it can be halved six times.
const WEIGHT: u32 = 64;

/// How long first tries took.
struct Times {
    weights: [u32; BUCKETS],
    total: u32,
    /// The bucket with the percentile, and the weight of what is beyond it.
    at: usize,
    beyond: u32,
    /// Samples, up to [`ENOUGH`].
    samples: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self { weights: [0; BUCKETS], total: 0, at: 0, beyond: 0, samples: 0 }
    }
}

impl Times {
    fn add(&mut self, took: Duration) {
        let bucket = bucket(took);
        if let Some(weight) = self.weights.get_mut(bucket) {
            *weight += WEIGHT;
            self.total += WEIGHT;
        }
        if bucket > self.at {
            self.beyond += WEIGHT;
        }
        self.samples = (self.samples + 1).min(ENOUGH);
        if self.total >= FULL * WEIGHT {
            self.weights.iter_mut().for_each(|weight| *weight /= 2);
            self.total = self.weights.iter().sum();
            self.beyond = self.weights.iter().skip(self.at + 1).sum();
        }
        self.settle();
    }

    /// Moves to the first bucket beyond which there is at most one sample in twenty.
    fn settle(&mut self) {
        let most = self.total / ONE_IN;
        while self.beyond > most {
            self.at += 1;
            self.beyond -= self.weight();
        }
        while self.at > 0 && self.beyond + self.weight() <= most {
            self.beyond += self.weight();
            self.at -= 1;
        }
    }

    fn weight(&self) -> u32 {
        self.weights.get(self.at).copied().unwrap_or(0)
    }

    fn percentile(&self) -> Option<Duration> {
        (self.samples >= ENOUGH).then(|| end(self.at))
    }
}

fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).clamp(1 << BITS, (1 << DOUBLINGS) - 1);
    let doubling = micros.ilog2() - BITS;
    let step = (micros >> doubling) & ((1 << BITS) - 1);
    (doubling << BITS) as usize + step as usize
}

/// Where a bucket ends.
fn end(bucket: usize) -> Duration {
    let (doubling, step) = (bucket >> BITS, bucket & ((1 << BITS) - 1));
    Duration::from_micros(((1 << BITS) + step as u64 + 1) << doubling)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    fn after(micros: impl IntoIterator<Item = u64>) -> Option<Duration> {
        let hedging = Hedging::default();
        micros.into_iter().for_each(|micros| hedging.took(Duration::from_micros(micros)));
        hedging.begin()
    }

    #[test]
    fn buckets_are_an_eighth_wide_and_without_gaps() {
        for micros in (1..5000).chain((13..26).map(|bit| 1 << bit)).chain((13..26).map(|bit| (1 << bit) - 1)) {
            let end = end(bucket(Duration::from_micros(micros))).as_micros() as u64;
            assert!(micros < end && end <= (micros.max(8) * 9).div_ceil(8) + 1, "{micros}: {end}");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[test]
    fn nineteen_of_twenty_are_within_the_time_and_not_many_more() {
        let mut random = fastrand::Rng::with_seed(1);
        let uniform: Vec<u64> = (0..1900).map(|_| random.u64(MS..101 * MS)).collect();
        let exponential: Vec<u64> = (0..1900).map(|_| (-random.f64().ln() * 20_000.0) as u64 + 500).collect();
        let groups: Vec<u64> = (0..1900).map(|i| if i % 10 == 0 { 900 * MS } else { 5 * MS + i }).collect();
        let rare: Vec<u64> = (0..1900).map(|i| if i % 25 == 0 { 900 * MS } else { 5 * MS + i % 7 }).collect();
        for (name, samples) in [("uniform", uniform), ("exponential", exponential), ("groups", groups), ("rare", rare)]
        {
            let mut sorted = samples.clone();
            sorted.sort_unstable();
            let exact = sorted[sorted.len() * 95 / 100];
            let got = after(samples).unwrap().as_micros() as u64;
            assert!(got + got / 50 >= exact && got <= exact * 9 / 8 + exact / 50, "{name}: {got}, exactly {exact}");
        }
    }

    #[test]
    fn it_takes_a_hundred_samples() {
        assert_eq!(after(vec![10; 99]), None);
        assert_eq!(after(vec![10; 100]), Some(Duration::from_micros(11)));
        assert_eq!(after(vec![0; 100]), Some(Duration::from_micros(9)));
        assert!(after(vec![u64::MAX; 100]).unwrap() > Duration::from_secs(60));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let slow = || std::iter::repeat_n(400 * MS, 50_000);
        let fast = |n| std::iter::repeat_n(2 * MS, n);
        assert!(after(slow()).unwrap() > Duration::from_millis(400));
        assert!(after(slow().chain(fast(1000))).unwrap() > Duration::from_millis(400));
        assert!(after(slow().chain(fast(6000))).unwrap() < Duration::from_millis(3));
        assert!(after(fast(50_000).chain(slow().take(300))).unwrap() > Duration::from_millis(400));
    }

    #[test]
    fn one_in_twenty_may_be_hedged_and_ten_at_once() {
        let hedging = Hedging::default();
        let mut hedges = 0;
        for request in 1..=1000 {
            hedging.begin();
            if hedging.may_hedge() {
                hedging.hedged();
                hedges += 1;
            }
            assert_eq!(hedges, request / 20);
        }
        for _ in 0..10_000 {
            hedging.begin();
        }
        let at_once = (0..100).filter(|_| hedging.may_hedge()).inspect(|_| hedging.hedged()).count();
        assert_eq!(at_once, 10);
    }
}
