//! What the control plane has decided about a backend because of how its requests went, and what made it.

use std::sync::Arc;
use std::time::Instant;

use super::Backend;
use crate::model::{Announcement, Detector, Outlier};

/// What a backend's errors have come to: the states of its breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Passive {
    /// Nothing: closed.
    Trusted,
    /// It gets nothing new: open.
    Ejected,
    /// One request at a time, to see: half-open.
    HalfOpen,
}

impl Passive {
    pub(super) const fn number(self) -> u32 {
        self as u32
    }

    pub(super) const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Trusted,
            1 => Self::Ejected,
            _ => Self::HalfOpen,
        }
    }
}

/// Why a backend is out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// When it began. Where not all may be out, those that went first stay out.
    pub since: Instant,
    /// When it is half-open at the latest.
    pub until: Instant,
    /// What found it.
    pub detector: Detector,
    /// A check that passes says that it is over. Else only one that passes after one that failed does: it can see what
    /// is wrong.
    pub shallow: bool,
}

impl Ejection {
    /// Whether a check that has passed ends it. `began`: when the check did. `saw`: one before it failed, or nobody
    /// listened there.
    pub fn ends_by_check(&self, began: Instant, saw: bool) -> bool {
        (self.shallow || saw) && began >= self.since
    }
}

/// A backend said in an answer that it wants nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// When.
    pub since: Instant,
    /// When that is over, unless something ends it before.
    pub until: Instant,
}

/// What the control plane has decided about a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Of one that is ejected or half-open.
    pub ejection: Option<Ejection>,
    /// When it was added to a running process, or came back: from then on it is loaded little by little.
    pub warm_since: Option<Instant>,
    /// Of one that has announced drain.
    pub announced: Option<Announced>,
}

/// What a worker has to say about a backend; the control plane decides what comes of it.
#[derive(Debug, Clone)]
pub enum Observation {
    /// Too many errors in a row, by these terms.
    Failing(Arc<Backend>, Outlier),
    /// A request went well at one that was half-open.
    Recovered(Arc<Backend>),
    /// An answer says this, and it is news.
    Announced(Arc<Backend>, Announcement),
    /// There is a first load report to be looked at.
    Reports(Arc<Backend>),
}
