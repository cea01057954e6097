//! What came of a run of the simulator.

use std::fmt;
use std::time::Duration;

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    pub seed: u64,
    pub backends: usize,
    pub requests: u64,
    pub troubles: u32,
    /// Though a machine of its key that was well was left.
    pub lost_gets: u64,
    pub lost_posts: u64,
    pub cut: u64,
    pub repeated_posts: u64,
    pub picked_unusable: u64,
    pub over_allowance: u64,
    pub most_ejected: usize,
    pub ejected_at_end: usize,
    /// Of one trouble of one backend.
    pub most_cut: u32,
    /// Of troubles that checks see: from the begin to the last request that met it before the checks took it out. The
    /// others end by the number of requests, not by time.
    pub longest_shift: Duration,
    /// The busiest backend of a pool against the mean, by requests, in the last stretch: the mean over large pools.
    pub spread: f64,
}

impl Report {
    pub const HEAD: &str =
        "seed backends requests troubles  lost: GETs POSTs  cut  most of one  most ejected  longest shift  spread";
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>4} {:>8} {:>8} {:>8} {:>11} {:>5} {:>4} {:>12} {:>13} {:>12.2} s {:>7.2}",
            self.seed,
            self.backends,
            self.requests,
            self.troubles,
            self.lost_gets,
            self.lost_posts,
            self.cut,
            self.most_cut,
            self.most_ejected,
            self.longest_shift.as_secs_f64(),
            self.spread
        )
    }
}
