//! How long a tunnel lasts: until nothing has gone either way for too long, or a while after its client was told that this
//! server is going away.
//!
//! Over HTTP/1.1 a connection becomes a tunnel, over HTTP/2 a stream does. Both are looked at by the same sweep, which leaves
//! orders here and wakes the task.

use std::cell::Cell;
use std::time::Duration;

use super::watch::{Clock, DRAINED, IDLE_TUNNEL};
use crate::message::Conn;

/// How long a client has for its own Close after ours.
const PARTING: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Lasting {
    /// How long it may be idle; `None`: for ever.
    idle: Option<Duration>,
    /// When it has been idle for too long; moves on with every byte.
    deadline: Cell<u32>,
    /// Bytes both ways when the sweep looked last.
    seen: Cell<u64>,
    /// The drain has come to it.
    leaving: Cell<bool>,
    /// The client has been told.
    told: Cell<bool>,
    /// When it is over in any case.
    last: Cell<u32>,
    over: Cell<bool>,
}

impl Lasting {
    /// From now on.
    pub(super) fn new(idle: Option<Duration>, clock: &Clock) -> Self {
        let lasting = Self {
            idle,
            deadline: Cell::default(),
            seen: Cell::default(),
            leaving: Cell::default(),
            told: Cell::default(),
            last: Cell::new(u32::MAX),
            over: Cell::default(),
        };
        lasting.restart(clock);
        lasting
    }

    fn restart(&self, clock: &Clock) {
        self.deadline.set(self.idle.map_or(u32::MAX, |idle| clock.after(idle)));
    }

    /// A sweep's part. `passed`: bytes both ways so far; `is_drained`: the drain has come to the connection. Whether the task
    /// has something to do.
    pub(super) fn sweep(&self, conn: &Conn, passed: u64, clock: &Clock, is_drained: bool) -> bool {
        if self.seen.replace(passed) != passed {
            self.restart(clock);
        }
        if self.told.get() && self.last.get() == u32::MAX {
            self.last.set(clock.after(PARTING));
        }
        if clock.now() >= self.deadline.get().min(self.last.get()) {
            conn.set_fault(IDLE_TUNNEL);
            return !self.over.replace(true);
        }
        is_drained && !self.leaving.replace(true)
    }

    /// Whether the client should be told that this server is going away.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// It has been told, and has a while to close.
    pub(super) fn tell(&self, conn: &Conn) {
        conn.set_fault(DRAINED);
        self.told.set(true);
    }

    /// Whether it has been idle for too long, or that while is over.
    pub(super) fn is_over(&self) -> bool {
        self.over.get()
    }
}
