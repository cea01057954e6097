//! What a pool can be told about backends that fail requests, and about those that have come back.

use std::time::Duration;

/// When the errors of requests take a backend out (ejection), for how long, and how many may be out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// So many errors in a row eject a backend.
    pub consecutive_errors: u32,
    /// How long the first ejection lasts; the next one in a row twice as long, then three times.
    pub base_ejection: Duration,
    /// No ejection lasts longer.
    pub max_ejection: Duration,
    /// So many of a pool's backends may be ejected at once, in percent, counted with the one in question. One may
    /// always be, while another is left.
    pub max_ejected_percent: u8,
    /// `false`: ejections are counted and logged only.
    pub enforce: bool,
}

impl Default for Outlier {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejected_percent: 50,
            enforce: true,
        }
    }
}

/// How a backend that was added or has come back is loaded: little by little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SlowStart {
    /// From a tenth of its weight to all of it. Zero: at once.
    pub window: Duration,
}

/// What found that a backend fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Detector {
    /// So many errors in a row.
    ConsecutiveErrors,
    /// Far more errors than the others of its pool.
    SuccessRate,
}

impl Detector {
    /// The word in logs, labels and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::SuccessRate => "success_rate",
        }
    }
}
