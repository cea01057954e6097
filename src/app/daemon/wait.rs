//! What the control plane's loop waits for, where it may be absent.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until};

use super::super::reload::{Job, Step};
use super::Drain;

/// The next step of the configuration on its way; without one, never.
pub(super) async fn step(job: &mut Option<Job>) -> Step {
    match job {
        Some(job) => job.step.as_mut().await,
        None => std::future::pending().await,
    }
}

/// At this time; `None`: never.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// When draining goes on to its next step; never, while nothing drains.
pub(super) async fn drained(drain: &mut Drain) {
    match drain {
        Drain::No => std::future::pending().await,
        Drain::Delay(until) => sleep_until(*until).await,
        Drain::Ending(done) => done.as_mut().await,
    }
}

/// At the next tick; `None`: never.
pub(super) async fn due(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// A tick each period; one that comes late shifts the next.
pub(super) fn interval(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
