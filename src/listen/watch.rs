//! Time-outs of client connections, on one coarse tick per worker.
//!
//! A timer per request costs over a thousand instructions; a cell per connection that a sweep looks at four times a
//! second costs a few. So every time here is exact to a quarter of a second, always late and never early.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::lasting::Lasting;
use crate::message::Conn;
use crate::message::framing::Fault;
use crate::model::{Limits, Reason};

/// Between two sweeps.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// Ticks over which `min_body_rate` is measured: the 10 s of grace, and after that again each 10 s in which the client
/// was being waited for. One more than fit, since the first is not a whole one.
const WINDOW: u32 = 41;

pub(super) const DRAINED: Fault = Fault::new(Reason::Draining, "cut off by the drain");
pub(super) const IDLE_TUNNEL: Fault = Fault::new(Reason::TunnelTimeout, "the tunnel was idle");
const TOO_LONG: Fault = Fault::new(Reason::ExchangeTimeout, "the exchange took too long");
pub(super) const SLOW_READER: Fault = Fault::new(Reason::SlowReader, "the answer was taken too slowly");
pub(super) const TOO_SLOW: Fault = Fault::over("min_body_rate", Reason::BodyTimeout, "the body came too slowly");

/// The worker's time, in ticks.
#[derive(Debug, Default)]
pub(super) struct Clock(Cell<u32>);

impl Clock {
    pub(super) fn now(&self) -> u32 {
        self.0.get()
    }

    /// So much time has passed since the worker began.
    pub(super) fn set(&self, since: Duration) {
        let ticks = since.as_millis() / TICK.as_millis();
        self.0.set(u32::try_from(ticks).unwrap_or(u32::MAX));
    }

    /// The tick at which at least this much time will have passed.
    pub(super) fn after(&self, time: Duration) -> u32 {
        // By 64 bits: this is asked for each head, and wider divisions are slow.
        let millis = time.as_secs().saturating_mul(1000).saturating_add(u64::from(time.subsec_millis()));
        let ticks = millis.div_ceil(TICK.as_millis() as u64).saturating_add(1);
        self.now().saturating_add(u32::try_from(ticks).unwrap_or(u32::MAX))
    }
}

/// Whether the time of an exchange is over and its answer has begun; then the fault says so. Such an answer can only be
/// cut off, whoever is waited for. Before that it is for whoever makes the answer to see to the time.
pub(super) fn is_too_long(conn: &Conn) -> bool {
    let over = conn.answered() && conn.end().is_some_and(|end| Instant::now() >= end);
    if over {
        conn.set_fault(TOO_LONG);
    }
    over
}

/// What a connection is doing, as far as a time-out depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepted; no byte yet. Closed without an answer at the deadline.
    Fresh,
    /// Between two requests. Closed without an answer at the deadline.
    Idle,
    /// In a head. Answered with 408 at the deadline.
    Head,
    /// From the head of a request to the end of its answer.
    Exchange,
    /// HTTP/2 with a stream open or a header block that is not whole: the task sees to their times, on each sweep.
    Streams,
    /// In a tunnel, which has times of its own.
    Tunnel,
}

/// How fast one direction of a body goes while it is the client who is waited for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waiting: Cell<bool>,
    ticks: Cell<u32>,
    bytes: Cell<u64>,
}

/// What the connection's stream has to measure, because only it can ask the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Note how much has been delivered.
    Begin,
    /// Compare; the connection ends if it was less than this many bytes.
    End(u64),
}

/// One connection's times: written by its stream, read by the sweep, which leaves orders behind and wakes the task.
pub(super) struct Watch {
    pub(super) conn: Rc<Conn>,
    clock: Rc<Clock>,
    phase: Cell<Phase>,
    deadline: Cell<u32>,
    reading: Pace,
    writing: Pace,
    /// What has been written and waits above the socket.
    flushing: Pace,
    /// It has waited for a window, in which so many bytes would have been enough.
    flush_due: Cell<Option<u64>>,
    /// Set when there is one.
    tunnel: OnceCell<Rc<Lasting>>,
    /// Set by drain: when to close even if idle for a moment only, and when to close in any case.
    close_at: Cell<u32>,
    kill_at: Cell<u32>,
    close: Cell<bool>,
    /// The exchange has been seen by a sweep.
    long: Cell<bool>,
    expired: Cell<bool>,
    killed: Cell<bool>,
    measure: Cell<Option<Measure>>,
    /// The client took its answer too slowly: by which limit.
    lagging: Cell<Option<&'static str>>,
}

impl Watch {
    pub(super) fn new(conn: Rc<Conn>, clock: Rc<Clock>, limits: &Limits) -> Rc<Self> {
        let deadline = clock.after(limits.header_timeout);
        Rc::new(Self {
            conn,
            clock,
            phase: Cell::new(Phase::Fresh),
            deadline: Cell::new(deadline),
            reading: Pace::default(),
            writing: Pace::default(),
            flushing: Pace::default(),
            flush_due: Cell::default(),
            tunnel: OnceCell::new(),
            close_at: Cell::new(u32::MAX),
            kill_at: Cell::new(u32::MAX),
            close: Cell::default(),
            long: Cell::default(),
            expired: Cell::default(),
            killed: Cell::default(),
            measure: Cell::default(),
            lagging: Cell::default(),
        })
    }

    /// The same connection, once it is known whose it is.
    pub(super) fn of(&self, conn: Rc<Conn>) -> Rc<Self> {
        if self.conn.draining() {
            conn.set_draining();
        }
        Rc::new(Self {
            conn,
            clock: Rc::clone(&self.clock),
            phase: self.phase.clone(),
            deadline: self.deadline.clone(),
            reading: Pace::default(),
            writing: Pace::default(),
            flushing: Pace::default(),
            flush_due: Cell::default(),
            tunnel: OnceCell::new(),
            close_at: self.close_at.clone(),
            kill_at: self.kill_at.clone(),
            close: self.close.clone(),
            long: Cell::default(),
            expired: Cell::default(),
            killed: self.killed.clone(),
            measure: Cell::default(),
            lagging: Cell::default(),
        })
    }

    /// The connection's part of a sweep.
    pub(super) fn sweep(&self, limits: &Limits) {
        let now = self.clock.now();
        let over = now >= self.deadline.get();
        let act = match self.phase.get() {
            Phase::Fresh | Phase::Idle => {
                let close = over || now >= self.close_at.get();
                self.close.set(close);
                close
            }
            Phase::Head => {
                self.expired.set(over);
                over
            }
            Phase::Tunnel => self.sweep_tunnel(),
            Phase::Exchange => self.sweep_bodies(limits) | self.sweep_whole() | !self.long.replace(true),
            Phase::Streams => true,
        };
        let kill = now >= self.kill_at.get();
        if kill {
            self.cut();
        }
        if act || kill {
            self.conn.wake();
        }
    }

    fn sweep_whole(&self) -> bool {
        let over = is_too_long(&self.conn);
        if over {
            self.killed.set(true);
        }
        over
    }

    fn sweep_tunnel(&self) -> bool {
        let passed = self.reading.bytes().wrapping_add(self.writing.bytes());
        self.tunnel.get().is_some_and(|tunnel| tunnel.sweep(&self.conn, passed, &self.clock, self.is_drained()))
    }

    fn sweep_bodies(&self, limits: &Limits) -> bool {
        let enough = least(limits);
        let mut act = false;
        // Without a rate, an upload that stands still is for whoever sends it on to end.
        if enough > 0 && self.reading.tick() == WINDOW && self.reading.restart() < enough {
            self.conn.set_fault(TOO_SLOW);
            act = true;
        }
        let (window, enough) = window(limits);
        if self.flushing.tick() >= window {
            self.flushing.restart();
            self.flush_due.set(Some(enough));
            act = true;
        }
        let ticks = self.writing.tick();
        if ticks == 1 {
            self.measure.set(Some(Measure::Begin));
            act = true;
        } else if ticks >= window {
            self.writing.restart();
            self.measure.set(Some(Measure::End(enough)));
            act = true;
        }
        act
    }

    /// Closes the connection when it is idle and this time has passed, and in any case after that one.
    pub(super) fn drain(&self, close_in: Duration, kill_in: Duration) {
        self.conn.set_draining();
        self.close_at.set(self.close_at.get().min(self.clock.after(close_in)));
        self.kill_at.set(self.kill_at.get().min(self.clock.after(kill_in)));
    }

    /// Ends the connection now, whatever it is doing.
    pub(super) fn kill(&self) {
        self.cut();
        self.conn.wake();
    }

    fn cut(&self) {
        if matches!(self.phase.get(), Phase::Exchange | Phase::Tunnel) {
            self.conn.set_fault(DRAINED);
        }
        self.killed.set(true);
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// Whether to close now; true only while there is no request.
    pub(super) fn is_to_close(&self) -> bool {
        self.close.get() && matches!(self.phase.get(), Phase::Fresh | Phase::Idle)
    }

    /// Streams are open, or about to be.
    pub(super) fn streams(&self) {
        self.phase.set(Phase::Streams);
    }

    /// Whether drain would have the connection gone by now, if it were idle.
    pub(super) fn is_drained(&self) -> bool {
        self.clock.now() >= self.close_at.get()
    }

    /// Ends the connection after this time, whatever it is doing.
    pub(super) fn kill_in(&self, time: Duration) {
        self.kill_at.set(self.kill_at.get().min(self.clock.after(time)));
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether the head that is being read took too long. Tells once.
    pub(super) fn take_expired(&self) -> bool {
        self.expired.take() && self.phase.get() == Phase::Head
    }

    /// Whether the exchange takes so long that it is worth asking whether the client is still there: an answer that comes
    /// within a tick is not.
    pub(super) fn is_long(&self) -> bool {
        self.long.get()
    }

    pub(super) fn take_measure(&self) -> Option<Measure> {
        self.measure.take()
    }

    /// The client took its answer too slowly, which ends the connection: fewer bytes than were enough.
    pub(super) fn lags(&self, enough: u64) {
        self.conn.set_fault(SLOW_READER);
        self.lagging.set(Some(if enough == ANY { "idle_timeout" } else { "min_body_rate" }));
    }

    /// The limit by which it has ended, if that is how.
    pub(super) fn has_lagged(&self) -> Option<&'static str> {
        self.lagging.get()
    }

    pub(super) fn idle(&self, timeout: Duration) {
        self.phase.set(Phase::Idle);
        self.close.set(false);
        self.deadline.set(self.clock.after(timeout));
    }

    /// The first byte of a head is there.
    pub(super) fn head(&self, timeout: Duration) {
        // The first head of a connection has been waited for since the accept.
        if matches!(self.phase.get(), Phase::Idle | Phase::Exchange) {
            self.expired.set(false);
            self.deadline.set(self.clock.after(timeout));
        }
        self.phase.set(Phase::Head);
    }

    pub(super) fn exchange(&self) {
        self.phase.set(Phase::Exchange);
        self.long.set(false);
        // What the sweep asked for in the exchange before has no meaning in this one.
        self.measure.set(None);
        self.reading.clear();
        self.writing.clear();
        self.flushed();
    }

    /// The exchange has become a tunnel.
    pub(super) fn tunnel(&self, idle: Option<Duration>) -> Rc<Lasting> {
        self.phase.set(Phase::Tunnel);
        self.measure.set(None);
        // A connection that has become a tunnel becomes nothing else.
        Rc::clone(self.tunnel.get_or_init(|| Rc::new(Lasting::new(idle, &self.clock))))
    }

    /// Nothing more has come from the client, who is in the middle of a body.
    pub(super) fn read_waits(&self) {
        self.reading.waiting.set(true);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.reading.went(bytes);
    }

    /// The client takes nothing more at the moment.
    pub(super) fn write_waits(&self) {
        self.writing.waiting.set(true);
    }

    /// What has been written waits above the socket. Whether it does since now.
    pub(super) fn flush_waits(&self) -> bool {
        !self.flushing.waiting.replace(true)
    }

    /// All of it has gone.
    pub(super) fn flushed(&self) {
        if self.flushing.waiting.get() {
            self.flushing.clear();
            self.flush_due.set(None);
        }
    }

    pub(super) fn take_flush_due(&self) -> Option<u64> {
        self.flush_due.take()
    }

    pub(super) fn written(&self, bytes: usize) {
        self.writing.went(bytes);
    }
}

/// Bytes that are enough where there is no rate. By a rate it is more: that of ten seconds.
const ANY: u64 = 1;

/// Bytes that a body must move by in a window.
fn least(limits: &Limits) -> u64 {
    limits.min_body_rate.saturating_mul(u64::from(WINDOW)) * TICK.as_millis() as u64 / 1000
}

/// In how many ticks, and by how many bytes at least; without a rate by any, for as long as an idle connection is kept.
fn window(limits: &Limits) -> (u32, u64) {
    match least(limits) {
        0 => {
            let idle = limits.idle_timeout.as_millis() / TICK.as_millis();
            (u32::try_from(idle).unwrap_or(u32::MAX).max(2), ANY)
        }
        enough => (WINDOW, enough),
    }
}

impl Pace {
    /// It is the client who is being waited for.
    pub(super) fn waits(&self) {
        self.waiting.set(true);
    }

    /// How many have gone in this window; in a tunnel, in all.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub(super) fn went(&self, bytes: usize) {
        self.waiting.set(false);
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }

    /// One sweep more. Whether the client was too slow: waited for through a whole window, which is as long as `idle` if
    /// there is no `min_body_rate`, and less came or went than that rate asks.
    pub(super) fn sweep(&self, limits: &Limits) -> bool {
        let (window, enough) = window(limits);
        self.tick() >= window && self.restart() < enough
    }

    /// How many ticks of this window have been spent waiting; 0 if this one was not.
    fn tick(&self) -> u32 {
        if !self.waiting.get() {
            return 0;
        }
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get()
    }

    /// Begins a new window; the bytes of the last.
    fn restart(&self) -> u64 {
        self.ticks.set(0);
        self.bytes.take()
    }

    /// Nothing is waited for.
    pub(super) fn clear(&self) {
        self.waiting.set(false);
        self.restart();
    }
}
