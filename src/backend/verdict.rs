//! May this backend be used? The one place that decides it, and says why not.
//!
//! Whoever builds tiers, answers `status` or explains a route asks here, so that they can't disagree. Further voices
//! (passive ejection, the operator, a breaker) join here and nowhere else.

use std::fmt;

use super::{Backend, Cause, Check, Status};

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// It takes its share of traffic.
    pub usable: bool,
    /// It may be used when its tier panics: what failed a check by time-out or by its answer might still serve some
    /// requests; what refuses connections will not, and what was never reached has never been up.
    pub usable_in_panic: bool,
    /// The reason, for `status` and `explain`.
    pub why: Why,
}

/// The reason for a [`Verdict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// Its checks pass.
    Up,
    /// Nobody checks it.
    NotChecked,
    /// Its first check has not ended yet.
    Unchecked,
    /// Its checks fail.
    Down(Cause),
}

impl Why {
    /// The word in the API and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::NotChecked => "not-checked",
            Self::Unchecked => "unchecked",
            Self::Down(_) => "down",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(cause) => write!(f, "down: {cause}"),
            other => f.write_str(other.as_str()),
        }
    }
}

/// Judges a backend. `check`: its checks, `None` if they are off.
pub fn verdict(backend: &Backend, check: Option<&Check>) -> Verdict {
    judge(check.map(Check::status), backend.last_connect_refused())
}

fn judge(status: Option<Status>, refused: bool) -> Verdict {
    let (usable, usable_in_panic, why) = match status {
        None => (true, !refused, Why::NotChecked),
        Some(Status::Up) => (true, !refused, Why::Up),
        Some(Status::Unchecked) => (false, false, Why::Unchecked),
        Some(Status::Down(cause)) => {
            let answers = !matches!(cause, Cause::Refused | Cause::Unreachable);
            (false, answers && !refused, Why::Down(cause))
        }
    };
    Verdict { usable, usable_in_panic, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_used() {
        let table = [
            (None, false, true, true, "not-checked"),
            (None, true, true, false, "not-checked"),
            (Some(Status::Unchecked), false, false, false, "unchecked"),
            (Some(Status::Up), false, true, true, "up"),
            (Some(Status::Up), true, true, false, "up"),
            (Some(Status::Down(Cause::Timeout)), false, false, true, "down: timeout"),
            (Some(Status::Down(Cause::Timeout)), true, false, false, "down: timeout"),
            (Some(Status::Down(Cause::Status(503))), false, false, true, "down: status 503"),
            (Some(Status::Down(Cause::Reset)), false, false, true, "down: reset"),
            (Some(Status::Down(Cause::Garbage)), false, false, true, "down: garbage"),
            (Some(Status::Down(Cause::Refused)), false, false, false, "down: refused"),
            (Some(Status::Down(Cause::Refused)), true, false, false, "down: refused"),
            (Some(Status::Down(Cause::Unreachable)), false, false, false, "down: unreachable"),
        ];
        for (status, refused, usable, usable_in_panic, word) in table {
            let verdict = judge(status, refused);
            let seen = (verdict.usable, verdict.usable_in_panic, verdict.why.to_string());
            assert_eq!(seen, (usable, usable_in_panic, word.to_owned()), "{status:?}, refused: {refused}");
        }
    }
}
