//! The cells that things are counted in, and their sums.
//!
//! A cell has one writer, so a count is a relaxed load, an addition and a relaxed store: no locked instruction, and no
//! cache line that two workers write (blocks are padded as a whole, see [`Block`]). A scrape reads them while they
//! change; each number it sees was true at some moment of the scrape, and none ever goes back. The idea is that of
//! per-CPU counters in the kernel ("Is Parallel Programming Hard", P. McKenney, chapter 5).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::model::{Outcome, Reason, Role};

/// The upper bounds of every histogram's buckets, in seconds; +Inf follows.
pub(super) const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The same in nanoseconds, which is what is compared.
const BOUNDS_NANOS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// 1xx to 5xx.
pub(super) const CLASSES: usize = 5;

/// One number. It wraps, which at a billion per second takes 584 years.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// Adds. Only the cell's one writer may call this: a second writer's additions could be lost.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes away; as `add`. In a sum over workers, one that is below zero and one above still add up.
    pub(super) fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Adds, whoever else may be adding.
    pub(super) fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes away, whoever else may be counting.
    pub(super) fn sub_shared(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// What it is now.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How durations are distributed.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Count; BOUNDS.len() + 1],
    sum_nanos: Count,
}

impl Histogram {
    /// Counts one.
    pub(super) fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS_NANOS.partition_point(|bound| *bound < nanos);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
            self.sum_nanos.add(nanos);
        }
    }
}

/// The sum of several workers' histograms.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Distribution {
    /// Not cumulative; the last one is beyond every bound.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    /// Of all durations, in nanoseconds.
    pub(super) sum_nanos: u128,
}

impl Distribution {
    /// Adds one worker's.
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.sum_nanos += u128::from(histogram.sum_nanos.get());
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counts under a few keys that are met one by one: a list that only grows, read and extended without a lock. It is
/// walked from the front, so it is for keys that are few: limits, the regions that a pool falls back on.
#[derive(Debug)]
pub(super) struct Tally<K>(OnceLock<Box<Entry<K>>>);

#[derive(Debug)]
pub(super) struct Entry<K> {
    pub(super) key: K,
    pub(super) count: Count,
    next: Tally<K>,
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<K> Tally<K> {
    /// The cell of the key that `is` recognises; if there is none yet, `make` says what it is.
    pub(super) fn cell(&self, is: impl Fn(&K) -> bool, make: impl Fn() -> K) -> &Count {
        let mut at = self;
        loop {
            // Whoever loses a race for the end of the list looks at the winner's key, and goes on.
            let entry =
                at.0.get_or_init(|| Box::new(Entry { key: make(), count: Count::default(), next: Self::default() }));
            if is(&entry.key) {
                return &entry.count;
            }
            at = &entry.next;
        }
    }

    /// Every key met so far.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<K>> {
        std::iter::successors(self.0.get(), |entry| entry.next.0.get()).map(|entry| &**entry)
    }
}

/// What became of a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryResult {
    /// It was made, and a backend's answer went to the client.
    Success,
    /// It was made, and failed too.
    Failure,
    /// It was not made: the budget was used up.
    NoBudget,
}

impl RetryResult {
    /// Every one, in the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::NoBudget];

    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::NoBudget => "no_budget",
        }
    }
}

/// What became of a second try that was made, or due, while the first was still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeResult {
    /// Its answer went to the client.
    Won,
    /// It was made in vain.
    Lost,
    /// It was not made: the share of hedges or the retry budget was used up.
    NoBudget,
}

impl HedgeResult {
    /// Every one, in the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::NoBudget];

    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::NoBudget => "no_budget",
        }
    }
}

/// Where a request went that its first tier could not take.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) region: Arc<str>,
    pub(super) role: Role,
}

impl Step {
    /// Whether it leads there. The names of one Plan are one allocation each, so the pointers nearly always decide.
    pub(super) fn leads_to(&self, region: &Arc<str>, role: Role) -> bool {
        self.role == role && (Arc::ptr_eq(&self.region, region) || self.region == *region)
    }
}

/// One worker's cells of one key: an asset and the region asked for.
#[derive(Debug, Default)]
pub(super) struct KeyBlock {
    /// Requests that a backend answered, or that a route answers itself, by class.
    pub(super) answered: [Count; CLASSES],
    /// Requests that ended with a reason; made at the first, because most keys never have one.
    pub(super) refused: OnceLock<Box<Refused>>,
    pub(super) in_flight: Count,
    /// Of these, tunnels; and how many there have been.
    pub(super) tunnels_open: Count,
    pub(super) tunnels: Count,
    pub(super) bytes_in: Count,
    pub(super) bytes_out: Count,
    pub(super) duration: Histogram,
    pub(super) retries: [Count; RetryResult::ALL.len()],
    pub(super) hedges: [Count; HedgeResult::ALL.len()],
    pub(super) failovers: Tally<Step>,
}

/// Requests that ended with a reason, by reason and class.
#[derive(Debug)]
pub(super) struct Refused([[Count; CLASSES]; Reason::ALL.len()]);

impl Default for Refused {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Default::default()))
    }
}

impl Refused {
    /// By reason, in the order of `Reason::ALL`.
    pub(super) fn rows(&self) -> &[[Count; CLASSES]] {
        &self.0
    }
}

impl KeyBlock {
    /// The cell that a finished request is counted in.
    pub(super) fn requests(&self, status: u16, reason: Option<Reason>) -> Option<&Count> {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        match reason {
            None => self.answered.get(class),
            Some(reason) => self.refused.get_or_init(Default::default).rows().get(reason.index())?.get(class),
        }
    }
}

/// One worker's cells of one pool.
#[derive(Debug, Default)]
pub(super) struct PoolBlock {
    pub(super) duration: Histogram,
    pub(super) connect: Histogram,
    /// Made when the first request waits, because in most pools none ever does.
    pub(super) queue: OnceLock<Box<QueueBlock>>,
}

/// The requests of one pool that wait for a place at a backend.
#[derive(Debug, Default)]
pub(super) struct QueueBlock {
    pub(super) length: Count,
    pub(super) duration: Histogram,
}

/// One worker's cells of one backend in one pool.
#[derive(Debug, Default)]
pub(super) struct BackendBlock {
    pub(super) attempts: [Count; Outcome::ALL.len()],
    /// Load reports that were used, and that were ignored.
    pub(super) reports: [Count; 2],
}

/// Cells of one worker, on cache lines of their own.
pub(super) type Block<B> = Arc<CachePadded<B>>;

/// The cells of all workers for one set of label values.
#[derive(Debug)]
pub(super) struct Series<B, const LABELS: usize> {
    pub(super) labels: [Arc<str>; LABELS],
    /// By worker. Held only to find or add one: by a worker at first use, and by a scrape for as long as it copies
    /// pointers.
    blocks: Mutex<Vec<(usize, Block<B>)>>,
}

impl<B: Default, const LABELS: usize> Series<B, LABELS> {
    /// Without cells yet.
    pub(super) fn new(labels: [Arc<str>; LABELS]) -> Self {
        Self { labels, blocks: Mutex::default() }
    }

    /// The cells of one worker.
    pub(super) fn block(&self, worker: usize) -> Block<B> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = blocks.iter().find(|(of, _)| *of == worker) {
            return block.clone();
        }
        let block = Block::<B>::default();
        blocks.push((worker, block.clone()));
        block
    }

    /// The cells of all workers.
    pub(super) fn blocks(&self) -> Vec<Block<B>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, block)| block.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for (millis, bucket) in [(0, 0), (1, 0), (2, 1), (5, 2), (6, 3), (10_000, 12), (10_001, 13), (1 << 40, 13)] {
            let before = histogram.buckets[bucket].get();
            histogram.observe(Duration::from_millis(millis));
            assert_eq!(histogram.buckets[bucket].get(), before + 1, "{millis} ms");
        }
        let mut sum = Distribution::default();
        sum.add(&histogram);
        assert_eq!(sum.count(), 8);
        for (bound, nanos) in BOUNDS.iter().zip(BOUNDS_NANOS) {
            assert_eq!((bound * 1e9).round() as u64, nanos);
        }
    }

    #[test]
    fn a_tally_keeps_its_keys_apart_whoever_comes_first() {
        let tally = Tally::<&'static str>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in ["a", "b", "c"].iter().cycle().take(300) {
                        tally.cell(|known| known == key, || key).add_shared(1);
                    }
                });
            }
        });
        let mut counts: Vec<_> = tally.iter().map(|entry| (entry.key, entry.count.get())).collect();
        counts.sort_unstable();
        assert_eq!(counts, [("a", 400), ("b", 400), ("c", 400)]);
    }

    #[test]
    fn odd_status_codes_have_a_class() {
        let block = KeyBlock::default();
        for status in [0, 99, 100, 299, 999] {
            assert!(block.requests(status, None).is_some());
            assert!(block.requests(status, Some(Reason::UpstreamTruncated)).is_some());
        }
    }
}
