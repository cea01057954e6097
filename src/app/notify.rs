//! Telling systemd how things stand (`sd_notify(3)`, `Type=notify-reload`). Without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Listening, and the first round of checks is over.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. The clock goes along in the same message: systemd tells this reload from an earlier one by it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "can't tell systemd about the reload"),
    }
}

/// Draining has begun.
pub(super) fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// A sign of life.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants a sign of life: half of the time after which it would kill us. `None`: it does not ask.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
