//! What a server says of itself in its answers: how busy it is, and that it wants nothing new.
//!
//! A report may come with every answer, so it is not sent to the control plane but left here, the newest over the one
//! before, and looked at once a second; only that there is somebody to look at is told. Workers do not wait for each
//! other: where one is leaving its report, the other's is as good, and is dropped.
//!
//! Most servers say nothing, so a backend has room for this only from its first word on.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError, TryLockError};

use crate::model::LoadReport;

/// See the module.
#[derive(Debug, Default)]
pub struct Words {
    /// The newest report that was not looked at yet. Held for a copy only.
    report: Mutex<Option<LoadReport>>,
    /// Whether the control plane looks here.
    is_watched: AtomicBool,
    /// What its reports come to as a weight, by the control plane alone; the bits of an `f64`, 0: nothing.
    weight: AtomicU64,
    /// The newest utilization that was looked at, likewise.
    utilization: AtomicU64,
    /// It has announced drain, as the control plane has taken it. Written by it alone.
    drains: AtomicBool,
}

impl Words {
    /// Leaves a report. Whether the control plane has to be told to look here; whoever could not tell it calls
    /// [`Words::unwatched`]. `waits`: for another that is being left; never on a request's way.
    pub fn report(&self, report: LoadReport, waits: bool) -> bool {
        match self.report.try_lock() {
            Ok(mut place) => *place = Some(report),
            Err(TryLockError::Poisoned(poisoned)) => *poisoned.into_inner() = Some(report),
            Err(TryLockError::WouldBlock) if waits => {
                *self.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
            }
            Err(TryLockError::WouldBlock) => {}
        }
        !self.is_watched.load(Relaxed) && !self.is_watched.swap(true, Relaxed)
    }

    /// The report that was not looked at yet.
    pub fn take_report(&self) -> Option<LoadReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nobody looks here (any more): the next report says that there is one.
    pub fn unwatched(&self) {
        self.is_watched.store(false, Relaxed);
    }

    /// What its reports come to as a weight.
    pub fn weight(&self) -> Option<f64> {
        some(&self.weight)
    }

    /// The newest utilization it has reported, while its reports count.
    pub fn utilization(&self) -> Option<f64> {
        some(&self.utilization)
    }

    /// What its reports come to. By the control plane alone.
    pub fn set_weight(&self, weight: Option<f64>) {
        self.weight.store(weight.unwrap_or(0.0).to_bits(), Relaxed);
    }

    /// How busy it was last. By the control plane alone.
    pub fn set_utilization(&self, utilization: Option<f64>) {
        self.utilization.store(utilization.unwrap_or(0.0).to_bits(), Relaxed);
    }

    /// Whether it has announced drain.
    pub fn drains(&self) -> bool {
        self.drains.load(Relaxed)
    }

    /// It has, or no longer. By the control plane alone.
    pub(super) fn set_drains(&self, drains: bool) {
        self.drains.store(drains, Relaxed);
    }
}

fn some(bits: &AtomicU64) -> Option<f64> {
    Some(f64::from_bits(bits.load(Relaxed))).filter(|n| *n > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_report_is_taken_once_and_told_of_once() {
        let words = Words::default();
        let report = |utilization| LoadReport { utilization, rps: None, eps: None };
        assert!(words.report(report(0.1), false));
        assert!(!words.report(report(0.2), true));
        assert_eq!(words.take_report(), Some(report(0.2)));
        assert_eq!(words.take_report(), None);
        assert!(!words.report(report(0.3), false));
        words.unwatched();
        assert!(words.report(report(0.4), false));
        let held = words.report.lock().unwrap();
        assert!(!words.report(report(0.5), false), "it does not wait");
        drop(held);
        assert_eq!(words.take_report(), Some(report(0.4)));
        assert_eq!((words.weight(), words.utilization(), words.drains()), (None, None, false));
        words.set_weight(Some(2.5));
        words.set_utilization(Some(0.5));
        assert_eq!((words.weight(), words.utilization()), (Some(2.5), Some(0.5)));
        words.set_weight(None);
        assert_eq!(words.weight(), None);
    }
}
