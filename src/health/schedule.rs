//! Who is due when: n backends times m balancers must never be asked in a burst.
//!
//! Every check has a phase, a fraction of its interval, and is due whenever the clock passes that phase. Phases follow
//! the golden ratio's multiples: however many there are, they lie evenly (Knuth, TAOCP 6.4, theorem S), so none has to
//! move when others come or go. A random start keeps several balancers apart. After a check out of turn (the first, or
//! one in transition) the next falls on the phase again.
//!
//! A heap holds the due times. Should many be due at once all the same (a clock that jumped, a busy thread), they are
//! started at no more than 1.5 times the mean rate, with a small burst: the generic cell rate algorithm (ITU-T I.371).
//!
//! Checks start on a grid of 10 ms: those of one tick share a wake-up, which costs more than a check's own work.
//!
//! Pure: the time is passed in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Many new checks are first done within this, so that a start or a reload waits no longer.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// The first checks of few come this close together.
const FIRST_GAP: Duration = Duration::from_millis(2);
/// Starts per second that need no spreading.
const UNHURRIED: f64 = 500.0;
/// How far above the mean rate late checks may be started.
const HASTE: f64 = 1.5;
/// Checks start at multiples of this.
const TICK: Duration = Duration::from_millis(10);

/// Due times of all checks. `T` tells whose they are.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    epoch: Instant,
    /// The phase that comes next, in 2^64ths.
    phase: u64,
    heap: BinaryHeap<Reverse<(Instant, T)>>,
    /// Checks per second, by the intervals now in force.
    rate: f64,
    /// When a steady stream of starts at the highest rate would have come to where it is.
    paced: Instant,
}

/// The place of a check in its interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase(u64);

impl<T: Ord> Schedule<T> {
    /// An empty one. `seed`: any number, better not the same in every process.
    pub(super) fn new(epoch: Instant, seed: u64) -> Self {
        Self { epoch, phase: seed, heap: BinaryHeap::new(), rate: 0.0, paced: epoch }
    }

    /// A phase for one more check.
    pub(super) fn phase(&mut self) -> Phase {
        // 2^64 divided by the golden ratio, made odd.
        self.phase = self.phase.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Phase(self.phase)
    }

    /// The next time that this phase of this interval comes, half an interval from now or later.
    pub(super) fn regular(&self, phase: Phase, interval: Duration, now: Instant) -> Instant {
        let interval = interval.as_secs_f64().max(0.001);
        let earliest = now.saturating_duration_since(self.epoch).as_secs_f64() + interval / 2.0;
        let phase = interval * (phase.0 as f64 / 2f64.powi(64));
        let turns = ((earliest - phase) / interval).ceil().max(0.0);
        self.epoch + Duration::from_secs_f64(turns * interval + phase)
    }

    /// Checks are due. Whoever is pushed twice is given out twice.
    pub(super) fn push(&mut self, due: Instant, who: T) {
        self.heap.push(Reverse((due, who)));
    }

    /// One interval was replaced by another; `None`: the check came or went.
    pub(super) fn reckon(&mut self, old: Option<Duration>, new: Option<Duration>) {
        let rate = |d: Option<Duration>| d.map_or(0.0, |d| 1.0 / d.as_secs_f64().max(0.001));
        self.rate = (self.rate + rate(new) - rate(old)).max(0.0);
    }

    /// Who is to be started now, and how long ago that was due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(T, Duration)> {
        if self.wake()? > now {
            return None;
        }
        let Reverse((due, who)) = self.heap.pop()?;
        let gap = Duration::from_secs_f64(1.0 / (HASTE * self.rate.max(UNHURRIED)));
        self.paced = self.paced.max(now) + gap;
        Some((who, now.saturating_duration_since(due)))
    }

    /// When [`Schedule::pop`] gives something out again.
    pub(super) fn wake(&self) -> Option<Instant> {
        let Reverse((due, _)) = self.heap.peek()?;
        // A tick's worth may start before its pace would have it, or a tick could start but one.
        let at = self.paced.checked_sub(TICK).map_or(*due, |paced| paced.max(*due));
        let after = at.saturating_duration_since(self.epoch);
        let into_tick = (after.as_nanos() % TICK.as_nanos()) as u32;
        Some(if into_tick == 0 { at } else { at + (TICK - Duration::from_nanos(into_tick.into())) })
    }
}

/// When the `k`th of `n` new checks is first done: soon, but not all at once.
pub(super) fn first(k: usize, n: usize, now: Instant) -> Instant {
    now + first_gap(n) * u32::try_from(k).unwrap_or(u32::MAX)
}

/// The time between two first checks, of `n` new ones.
pub(super) fn first_gap(n: usize) -> Duration {
    FIRST_GAP.min(FIRST_ROUND / u32::try_from(n.max(1)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(50);

    /// The most starts in any window of 50 ms, wherever it begins.
    fn busiest(mut times: Vec<Instant>) -> usize {
        times.sort();
        let mut from = 0;
        let count = |(i, t): (usize, &Instant)| {
            while *t - times[from] >= WINDOW {
                from += 1;
            }
            i + 1 - from
        };
        times.iter().enumerate().map(count).max().unwrap_or(0)
    }

    /// Runs `n` checks for `rounds` intervals, each check done in no time, the clock in steps of a millisecond; the
    /// clock stands still where `stall` says so. Gives all starts.
    fn simulate(
        n: usize,
        interval: Duration,
        rounds: u32,
        seed: u64,
        stall: Option<(Duration, Duration)>,
    ) -> Vec<Instant> {
        let epoch = Instant::now();
        let mut schedule = Schedule::new(epoch, seed);
        let phases: Vec<_> = (0..n).map(|_| schedule.phase()).collect();
        for k in 0..n {
            schedule.push(first(k, n, epoch), k);
            schedule.reckon(None, Some(interval));
        }
        let mut starts = Vec::new();
        let mut after = Duration::ZERO;
        while after < interval * rounds {
            after += Duration::from_millis(1);
            if let Some((at, length)) = stall
                && after == at
            {
                after += length;
            }
            let now = epoch + after;
            while let Some((k, _)) = schedule.pop(now) {
                starts.push(now);
                let due = schedule.regular(phases[k], interval, now);
                assert!(due >= now + interval / 2 - Duration::from_micros(1), "twice in half an interval");
                assert!(due <= now + interval * 3 / 2 + Duration::from_micros(1), "left out");
                schedule.push(due, k);
            }
        }
        starts
    }

    #[test]
    fn a_thousand_in_two_seconds_never_burst() {
        for seed in [0, 1, u64::MAX / 3, 0xdead_beef_0bad_cafe] {
            let starts = simulate(1_000, Duration::from_secs(2), 6, seed, None);
            let mean = 25;
            assert!(busiest(starts.clone()) <= 2 * mean, "{}", busiest(starts));
            let (epoch, settled) = (starts[0], Duration::from_secs(3));
            let later: Vec<_> = starts.into_iter().filter(|t| *t - epoch >= settled).collect();
            assert!(busiest(later.clone()) <= mean * 13 / 10, "{}", busiest(later));
        }
    }

    #[test]
    fn a_stall_is_made_up_for_without_a_burst() {
        let stall = Some((Duration::from_millis(5_000), Duration::from_millis(700)));
        let starts = simulate(1_000, Duration::from_secs(2), 6, 7, stall);
        assert!(busiest(starts.clone()) <= 50, "{}", busiest(starts));
    }

    #[test]
    fn the_first_round_is_short() {
        let now = Instant::now();
        assert_eq!(first(0, 1, now), now);
        assert_eq!(first(9, 10, now), now + Duration::from_millis(18));
        assert!(first(99_999, 100_000, now) < now + Duration::from_secs(1));
    }

    #[test]
    fn nothing_due_nothing_given() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, 0);
        assert_eq!(schedule.wake(), None);
        assert_eq!(schedule.pop(now), None);
        schedule.push(now + WINDOW, 'a');
        schedule.push(now, 'b');
        assert_eq!(schedule.pop(now), Some(('b', Duration::ZERO)));
        assert_eq!(schedule.pop(now), None);
        assert_eq!(schedule.wake(), Some(now + WINDOW));
        assert_eq!(schedule.pop(now + 2 * WINDOW), Some(('a', WINDOW)));
    }

    #[test]
    fn starts_are_on_the_grid_for_years() {
        let epoch = Instant::now();
        let mut schedule = Schedule::new(epoch, 0);
        for days in [0, 1, 500, 10_000] {
            let day = epoch + Duration::from_secs(days * 86_400);
            schedule.push(day + Duration::from_micros(10_001), days);
            assert_eq!(schedule.wake(), Some(day + 2 * TICK));
            assert_eq!(schedule.pop(day + TICK), None);
            assert_eq!(schedule.pop(day + 2 * TICK).map(|(who, _)| who), Some(days));
            let phase = schedule.phase();
            let next = schedule.regular(phase, Duration::from_secs(2), day);
            assert!(next > day && next < day + Duration::from_secs(4));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Any number, any interval, any seed: once settled, at most twice the mean and a few.
        #[test]
        fn spread_for_all(n in 1usize..3_000, millis in 200u64..10_000, seed in any::<u64>()) {
            let interval = Duration::from_millis(millis);
            let starts = simulate(n, interval, 5, seed, None);
            let epoch = starts[0];
            let later: Vec<_> = starts.into_iter().filter(|t| *t - epoch >= interval * 3 / 2 + FIRST_ROUND).collect();
            let mean = n as f64 * WINDOW.as_secs_f64() / interval.as_secs_f64();
            prop_assert!(busiest(later.clone()) as f64 <= 2.0 * mean + 3.0, "{} over {mean}", busiest(later));
        }
    }
}
