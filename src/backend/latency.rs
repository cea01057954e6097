//! How long a server takes to answer: an average that follows a peak at once and forgets it slowly.
//!
//! Finagle's peak EWMA (`finagle-core/.../loadbalancer/PeakEwma.scala`), which linkerd and tower took over. Answers come
//! at uneven times, so an answer's weight depends on how long ago the one before it was (Eckner, "Algorithms for Unevenly
//! Spaced Time Series", 2.1): after a time t the old average keeps `exp(-t/τ)`. An answer that took longer than the
//! average replaces it. Whoever reads sees the average fall while no answers come, so that a server which nobody asks
//! because it was slow is asked again some day.
//!
//! Two differences. Reading does not write here: it works out what the average has fallen to. And where Finagle gives a
//! server without a history a cost of 0 while it has nothing to do, else a prohibitive one, here the first request that
//! goes to such a server leaves a [guess](GUESS) behind, which its answer replaces: the effect is the same, one request
//! to begin with, but it holds as well when the server is busy with requests of other pools, whom nobody measures.
//!
//! It stands in the line that a request writes anyway, in one word (whole updates without a lock), and is written only
//! for pools whose policy reads it.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The average's mean lifetime τ: after so long without an answer it counts for 1/e.
const LIFETIME: Duration = Duration::from_secs(10);
/// What a server is expected to take before its first answer is there (tower's default in linkerd).
const GUESS: f32 = 1.0;
/// Times before this, seen from a time later on, belong to a clock that was read on another thread.
const BACKWARDS: u32 = u32::MAX - 3_600_000;

/// How long a server takes to answer. Written and read by all workers.
#[derive(Debug, Default)]
pub struct Latency {
    /// The time of the first request: from here times are counted.
    epoch: OnceLock<Instant>,
    /// 0: never asked. High to low: 32 bits of milliseconds since the epoch, in which 50 days are 0 again; the average in
    /// seconds, an `f32`, negative while it is a guess.
    word: AtomicU64,
}

/// What a word says.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Average {
    at: u32,
    seconds: f32,
    is_guess: bool,
}

impl Average {
    fn unpack(word: u64) -> Option<Self> {
        let value = f32::from_bits(word as u32);
        (word != 0).then_some(Self {
            at: (word >> 32) as u32,
            seconds: value.abs(),
            is_guess: value.is_sign_negative(),
        })
    }

    fn pack(self) -> u64 {
        // Never 0, and so never a word that says nothing.
        let seconds = self.seconds.max(f32::MIN_POSITIVE);
        u64::from(self.at) << 32 | u64::from(if self.is_guess { -seconds } else { seconds }.to_bits())
    }

    /// What is left of it after so long, of 1.
    fn share(self, now: u32) -> f32 {
        let age = now.wrapping_sub(self.at);
        let age = if age > BACKWARDS { 0.0 } else { f64::from(age) };
        (-age / LIFETIME.as_millis() as f64).exp() as f32
    }

    fn left(self, now: u32) -> f32 {
        self.seconds * self.share(now)
    }
}

impl Latency {
    /// Seconds until an answer is to be expected; `None`: it was never asked.
    pub fn seconds(&self, now: Instant) -> Option<f64> {
        let average = Average::unpack(self.word.load(Relaxed))?;
        Some(f64::from(average.left(self.time(now)?)))
    }

    /// The same of answers alone, without a guess: for people.
    pub fn measured(&self, now: Instant) -> Option<f64> {
        let average = Average::unpack(self.word.load(Relaxed)).filter(|average| !average.is_guess)?;
        Some(f64::from(average.left(self.time(now)?)))
    }

    /// A request goes to it.
    pub fn asked(&self, now: Instant) {
        if self.word.load(Relaxed) == 0 {
            self.epoch.get_or_init(|| now);
            self.update(now, |at, average| match average {
                None => Some(Average { at, seconds: GUESS, is_guess: true }),
                Some(_) => None,
            });
        }
    }

    /// It answered after so long, or failed in a way that counts as so long.
    pub fn took(&self, time: Duration, now: Instant) {
        self.update(now, |at, average| {
            let took = time.as_secs_f32();
            let seconds = match average {
                Some(old) if !old.is_guess && old.seconds > took => {
                    let share = old.share(at);
                    old.seconds * share + took * (1.0 - share)
                }
                _ => took,
            };
            Some(Average { at, seconds, is_guess: false })
        });
    }

    /// It has not answered for so long, and nobody waits for it any more.
    pub fn kept_silent(&self, time: Duration, now: Instant) {
        self.update(now, |at, average| {
            let seconds = time.as_secs_f32();
            let is_more = average.is_none_or(|old| old.left(at) < seconds);
            is_more.then_some(Average { at, seconds, is_guess: false })
        });
    }

    fn time(&self, now: Instant) -> Option<u32> {
        Some(now.saturating_duration_since(*self.epoch.get()?).as_millis() as u32)
    }

    fn update(&self, now: Instant, change: impl Fn(u32, Option<Average>) -> Option<Average>) {
        let Some(at) = self.time(now) else { return };
        // An error: there was nothing to change.
        let _ = self.word.fetch_update(Relaxed, Relaxed, |word| change(at, Average::unpack(word)).map(Average::pack));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn near(got: Option<f64>, wanted: f64) {
        assert!(got.is_some_and(|got| (got - wanted).abs() < wanted * 1e-4), "{got:?}, not {wanted}");
    }

    #[test]
    fn a_peak_counts_at_once_and_goes_slowly() {
        let (latency, start) = (Latency::default(), Instant::now());
        latency.asked(start);
        latency.took(seconds(0.010), start);
        near(latency.seconds(start), 0.010);
        latency.took(seconds(5.0), start);
        near(latency.seconds(start), 5.0);
        // Unasked, it falls with τ.
        near(latency.seconds(start + LIFETIME), 5.0 / std::f64::consts::E);
        // A better answer has the weight of the time since the last one.
        let later = start + LIFETIME;
        latency.took(seconds(0.010), later);
        let left = (-1.0f64).exp();
        near(latency.seconds(later), 5.0 * left + 0.010 * (1.0 - left));
        latency.took(seconds(0.010), later);
        near(latency.seconds(later), 5.0 * left + 0.010 * (1.0 - left));
    }

    #[test]
    fn the_first_answer_replaces_the_guess() {
        let (latency, start) = (Latency::default(), Instant::now());
        assert_eq!(latency.seconds(start), None);
        // Nobody was told that it is asked, so there is nothing to count from.
        latency.took(seconds(1.0), start);
        assert_eq!(latency.seconds(start), None);
        latency.asked(start);
        near(latency.seconds(start), 1.0);
        // A guess goes, too: what never answers is asked again.
        near(latency.seconds(start + LIFETIME * 3), (-3.0f64).exp());
        latency.asked(start + LIFETIME);
        near(latency.seconds(start + LIFETIME), (-1.0f64).exp());
        assert_eq!(latency.measured(start), None);
        latency.took(seconds(0.002), start);
        near(latency.seconds(start), 0.002);
        near(latency.measured(start), 0.002);
    }

    #[test]
    fn silence_counts_if_it_is_longer() {
        let (latency, start) = (Latency::default(), Instant::now());
        latency.asked(start);
        latency.kept_silent(seconds(0.5), start);
        near(latency.seconds(start), 1.0);
        latency.kept_silent(seconds(2.0), start);
        near(latency.seconds(start), 2.0);
        latency.took(Duration::ZERO, start + LIFETIME * 1000);
        assert!(
            latency.seconds(start + LIFETIME * 1000).is_some_and(|left| left < 1e-30),
            "known, though it is nothing"
        );
    }

    #[test]
    fn clocks_of_other_threads_may_be_behind() {
        let (latency, start) = (Latency::default(), Instant::now());
        latency.asked(start);
        latency.took(seconds(1.0), start + seconds(3.0));
        near(latency.seconds(start + seconds(2.0)), 1.0);
        near(latency.seconds(start.checked_sub(seconds(1.0)).unwrap()), 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Whatever is measured, the average lies between the least and the most of it, and is never below the newest.
        #[test]
        fn an_average_lies_between(answers in prop::collection::vec((0.0001..20.0f64, 0..60_000u64), 1..40)) {
            let (latency, mut now) = (Latency::default(), Instant::now());
            latency.asked(now);
            let (mut least, mut most) = (f64::MAX, 0.0f64);
            for (took, after) in answers {
                now += Duration::from_millis(after);
                latency.took(seconds(took), now);
                (least, most) = (least.min(took), most.max(took));
                let got = latency.seconds(now).unwrap();
                prop_assert!((least * 0.9999..=most * 1.0001).contains(&got) && got >= took * 0.9999, "{got}");
            }
        }

        /// Many answers in a row, and all times of less than a millisecond: it comes down all the same.
        #[test]
        fn it_settles(took in 0.0005..0.1f64, gap in 200..50_000u64) {
            let (latency, mut now) = (Latency::default(), Instant::now());
            latency.asked(now);
            latency.took(seconds(1.0), now);
            let end = now + LIFETIME * 12;
            while now < end {
                now += Duration::from_micros(gap);
                latency.took(seconds(took), now);
            }
            let got = latency.seconds(now).unwrap();
            prop_assert!((took * 0.999..took * 1.05).contains(&got), "{got} of {took}");
        }
    }
}
