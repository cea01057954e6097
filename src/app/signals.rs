//! The signals that mean something to us.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stream of each.
pub(super) struct Signals {
    pub(super) hup: Signal,
    pub(super) term: Signal,
    pub(super) int: Signal,
    pub(super) usr1: Signal,
    pub(super) usr2: Signal,
}

impl Signals {
    /// From now on they do what we do with them, not what the system does.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }
}
