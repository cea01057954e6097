//! What the active checks of one backend have found so far.
//!
//! Written by the prober alone, read by everybody without a lock. State and time stand in one word, so that a reader
//! never sees the state of one moment with the time of another.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Agent, Backend};
use crate::model::HealthCheck;

/// The live state of one backend under one set of check settings. Pools whose settings are equal share it.
#[derive(Debug)]
pub struct Check {
    /// Who is checked.
    pub backend: Arc<Backend>,
    /// How.
    pub settings: HealthCheck,
    /// From here `since` is counted.
    born: Instant,
    /// Low to high: 8 bits kind, 16 bits status code, 40 bits milliseconds since `born`.
    state: AtomicU64,
    passes: AtomicU64,
    failures: AtomicU64,
    /// Of one that asks an agent: what that has said.
    agent: Option<Box<Agent>>,
}

/// What the checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// No check has ended yet.
    Unchecked,
    /// Usable.
    Up,
    /// Not usable, for this reason. A backend whose very first check failed is here, too.
    Down(Cause),
}

/// Why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nobody listens there.
    Refused,
    /// No connection for another reason: no route, a network that is down, no descriptor left.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// An answer with a status that does not pass.
    Status(u16),
    /// The connection broke before the response head was complete.
    Reset,
    /// What came is not a response head, or too long for one.
    Garbage,
    /// It has announced drain.
    Draining,
    /// Its agent says that it does not work.
    Agent,
    /// By the health protocol of gRPC it says that it does not serve.
    NotServing,
    /// The call of that protocol ended with this status.
    Grpc(u16),
    /// Its certificate is not good, or not for it.
    Certificate,
    /// The TLS handshake failed for another reason.
    Tls,
}

impl Cause {
    /// The word in logs and the API; a status is the word only, [`fmt::Display`] has the number too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Status(_) => "status",
            Self::Reset => "reset",
            Self::Garbage => "garbage",
            Self::Draining => "draining",
            Self::Agent => "agent",
            Self::NotServing => "not_serving",
            Self::Grpc(_) => "grpc",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "status {code}"),
            // The one that means that the server does not know the protocol.
            Self::Grpc(12) => f.write_str("grpc status 12 (the health protocol is not served)"),
            Self::Grpc(code) => write!(f, "grpc status {code}"),
            other => f.write_str(other.as_str()),
        }
    }
}

impl Check {
    /// Of a backend of which nothing is known yet.
    pub fn new(backend: Arc<Backend>, settings: HealthCheck, now: Instant) -> Self {
        let agent = settings.agent.map(|_| Box::default());
        Self {
            backend,
            settings,
            agent,
            born: now,
            state: AtomicU64::new(pack(Status::Unchecked, Duration::ZERO)),
            passes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// What the checks say now.
    pub fn status(&self) -> Status {
        unpack(self.state.load(Relaxed)).0
    }

    /// What the checks say, and since when (to the millisecond).
    pub fn status_since(&self) -> (Status, Instant) {
        let (status, after) = unpack(self.state.load(Relaxed));
        (status, self.born + after)
    }

    /// What an agent has said, if it is one that is asked.
    pub fn agent(&self) -> Option<&Agent> {
        self.agent.as_deref()
    }

    /// Checks that passed, ever.
    pub fn passes(&self) -> u64 {
        self.passes.load(Relaxed)
    }

    /// Checks that failed, ever.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Counts a result. The prober alone calls this, which is why a load and a store do.
    pub fn count(&self, passed: bool) {
        let counter = if passed { &self.passes } else { &self.failures };
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Changes the state. The prober alone calls this. The time of a state that only changes its cause stays.
    pub fn set(&self, status: Status, now: Instant) {
        let (before, after) = unpack(self.state.load(Relaxed));
        let same = matches!((before, status), (Status::Down(_), Status::Down(_))) || before == status;
        let after = if same { after } else { now.saturating_duration_since(self.born) };
        self.state.store(pack(status, after), Relaxed);
    }
}

fn pack(status: Status, after: Duration) -> u64 {
    let (kind, code) = match status {
        Status::Unchecked => (0, 0),
        Status::Up => (1, 0),
        Status::Down(Cause::Refused) => (2, 0),
        Status::Down(Cause::Unreachable) => (3, 0),
        Status::Down(Cause::Timeout) => (4, 0),
        Status::Down(Cause::Status(code)) => (5, code),
        Status::Down(Cause::Reset) => (6, 0),
        Status::Down(Cause::Garbage) => (7, 0),
        Status::Down(Cause::Draining) => (8, 0),
        Status::Down(Cause::Agent) => (9, 0),
        Status::Down(Cause::NotServing) => (10, 0),
        Status::Down(Cause::Grpc(code)) => (11, code),
        Status::Down(Cause::Certificate) => (12, 0),
        Status::Down(Cause::Tls) => (13, 0),
    };
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).min((1 << 40) - 1);
    kind | u64::from(code) << 8 | after << 24
}

fn unpack(word: u64) -> (Status, Duration) {
    let [_, low, high, ..] = word.to_le_bytes();
    let status = match word & 0xff {
        0 => Status::Unchecked,
        1 => Status::Up,
        2 => Status::Down(Cause::Refused),
        3 => Status::Down(Cause::Unreachable),
        4 => Status::Down(Cause::Timeout),
        5 => Status::Down(Cause::Status(u16::from_le_bytes([low, high]))),
        6 => Status::Down(Cause::Reset),
        8 => Status::Down(Cause::Draining),
        9 => Status::Down(Cause::Agent),
        10 => Status::Down(Cause::NotServing),
        11 => Status::Down(Cause::Grpc(u16::from_le_bytes([low, high]))),
        12 => Status::Down(Cause::Certificate),
        13 => Status::Down(Cause::Tls),
        _ => Status::Down(Cause::Garbage),
    };
    (status, Duration::from_millis(word >> 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_every_state() {
        let causes = [
            Cause::Refused,
            Cause::Unreachable,
            Cause::Timeout,
            Cause::Status(0),
            Cause::Status(503),
            Cause::Status(u16::MAX),
            Cause::Reset,
            Cause::Garbage,
            Cause::Draining,
            Cause::Agent,
            Cause::NotServing,
            Cause::Grpc(14),
            Cause::Certificate,
            Cause::Tls,
        ];
        let states = [Status::Unchecked, Status::Up].into_iter().chain(causes.map(Status::Down));
        for status in states {
            for after in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(10 * 365 * 86_400)] {
                assert_eq!(unpack(pack(status, after)), (status, after));
            }
        }
        assert_eq!(unpack(pack(Status::Up, Duration::MAX)).0, Status::Up, "a clock that runs over harms nothing else");
    }

    #[test]
    fn words_for_causes() {
        assert_eq!(Cause::Status(503).to_string(), "status 503");
        assert_eq!(Cause::Refused.to_string(), "refused");
    }
}
