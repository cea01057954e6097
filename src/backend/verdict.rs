//! May this backend be used? The one place that decides it, and says why not.
//!
//! Whoever builds tiers, answers `status` or explains a route asks here, so that they can't disagree. The voices, in the
//! order in which they are heard:
//!
//! 1. the operator: what is drained or in maintenance gets nothing, whatever else is said;
//! 2. the server itself: what has announced drain, in an answer, to a check or by its agent, gets nothing either;
//! 3. the checks: what fails them, or has not passed yet, is not used but in panic; an agent's `down` counts as such;
//! 4. the errors of requests: what was ejected is not used but in panic, as far as its pool allows so many to be out;
//! 5. the breaker: what was ejected comes back with one request at a time. Until then it counts as one that is out.
//!
//! How many may be ejected is a matter of the pool, so a pool's backends are judged together.

use std::fmt;
use std::time::Instant;

use smallvec::SmallVec;

use super::outlier::allowance;
use super::{Backend, Cause, Check, Passive, Status};
use crate::model::{Operator, Outlier};

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// It takes its share of traffic.
    pub usable: bool,
    /// It may be used when its tier panics: what failed a check by time-out or by its answer, or was ejected, might
    /// still serve some requests; what refuses connections will not, what was never reached has never been up, and what
    /// the operator took out stays out.
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
    /// Its requests failed.
    Ejected,
    /// They did, but too many others are out already.
    Spared,
    /// They did; now it gets one at a time.
    HalfOpen,
    /// It has said itself that it wants nothing new.
    Announced(Announcer),
    /// The operator lets it finish.
    Drain,
    /// The operator works on it.
    Maintenance,
}

/// In what a server has announced drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Announcer {
    /// In an answer to a request.
    Response,
    /// In an answer to a check.
    Check,
    /// Through its agent.
    Agent,
}

impl Announcer {
    /// The word in the API and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::Check => "check",
            Self::Agent => "agent",
        }
    }
}

impl Why {
    /// The word in the API and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::NotChecked => "not-checked",
            Self::Unchecked => "unchecked",
            Self::Down(_) => "down",
            Self::Ejected => "ejected",
            Self::Spared => "spared",
            Self::HalfOpen => "half-open",
            Self::Announced(_) => "announced-drain",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(cause) => write!(f, "down: {cause}"),
            Self::Announced(by) => write!(f, "announced-drain: {}", by.as_str()),
            other => f.write_str(other.as_str()),
        }
    }
}

/// Everyone who has a say about one backend of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Voices<'a> {
    /// Whose errors are remembered there.
    pub backend: &'a Backend,
    /// Its checks; `None`: they are off.
    pub check: Option<&'a Check>,
    /// Its agent; `None`: none is asked.
    pub agent: Option<&'a Check>,
    /// The operator, of this backend in this pool.
    pub operator: Operator,
}

/// Judges the backends of one pool, in their order. `outlier`: the pool's terms; `None`, or not enforced: errors of
/// requests have no say.
pub fn verdicts<'a>(
    pool: impl Iterator<Item = Voices<'a>> + Clone,
    outlier: Option<&Outlier>,
) -> SmallVec<[Verdict; 8]> {
    let mut verdicts: SmallVec<[Verdict; 8]> = pool
        .clone()
        .map(|voices| {
            let passive = match outlier {
                Some(terms) if terms.enforce => voices.backend.passive(),
                _ => Passive::Trusted,
            };
            let own = own_word(voices);
            judge(voices.operator, own.as_ref(), voices.backend.last_connect_refused(), passive)
        })
        .collect();
    let is_out = |verdict: &Verdict| matches!(verdict.why, Why::Ejected | Why::HalfOpen);
    let out = verdicts.iter().filter(|verdict| is_out(verdict)).count();
    let Some(terms) = outlier.filter(|_| out > 0) else { return verdicts };
    let left = verdicts.iter().filter(|verdict| verdict.usable && !is_out(verdict)).count();
    let allowed = allowance(verdicts.len(), left, terms.max_ejected_percent);
    if out > allowed {
        // Those that went first stay out.
        let since = |backend: &Backend| backend.standing().ejection.map(|ejection| ejection.since);
        let out = pool.zip(&mut verdicts).filter(|(_, verdict)| is_out(verdict));
        let mut out: Vec<(Option<Instant>, &mut Verdict)> =
            out.map(|(voices, verdict)| (since(voices.backend), verdict)).collect();
        out.sort_by_key(|(since, _)| *since);
        for (_, verdict) in out.into_iter().skip(allowed) {
            *verdict = Verdict { usable: true, why: Why::Spared, ..*verdict };
        }
    }
    verdicts
}

/// What is said of a server by itself and by whoever asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It wants nothing new.
    Drains(Announcer),
    /// Its checks, or its agent, say so.
    Checked(Status),
}

fn own_word(voices: Voices<'_>) -> Option<Word> {
    const DRAINING: Status = Status::Down(Cause::Draining);
    let agent = voices.agent.map(Check::status);
    let check = voices.check.map(Check::status);
    match () {
        () if agent == Some(DRAINING) => Some(Word::Drains(Announcer::Agent)),
        () if check == Some(DRAINING) => Some(Word::Drains(Announcer::Check)),
        () if voices.backend.drains() => Some(Word::Drains(Announcer::Response)),
        // Until it was asked for the first time: it may be draining.
        () if agent == Some(Status::Unchecked) => Some(Word::Checked(Status::Unchecked)),
        // What is down anyway says more about it than its agent.
        () => match (check, agent) {
            (None | Some(Status::Up), Some(down @ Status::Down(_))) => Some(Word::Checked(down)),
            (check, _) => check.map(Word::Checked),
        },
    }
}

fn judge(operator: Operator, own: Option<&Word>, refused: bool, passive: Passive) -> Verdict {
    let never = |why| Verdict { usable: false, usable_in_panic: false, why };
    let only_in_panic = |may, why| Verdict { usable: false, usable_in_panic: may, why };
    let always = |why| Verdict { usable: true, usable_in_panic: !refused, why };
    match (operator, own, passive) {
        (Operator::Maintenance, ..) => never(Why::Maintenance),
        (Operator::Drain, ..) => never(Why::Drain),
        (_, Some(Word::Drains(by)), _) => never(Why::Announced(*by)),
        (_, Some(Word::Checked(Status::Unchecked)), _) => never(Why::Unchecked),
        (_, Some(Word::Checked(Status::Down(cause))), _) => {
            let answers = !matches!(cause, Cause::Refused | Cause::Unreachable | Cause::Certificate | Cause::Tls);
            only_in_panic(answers && !refused, Why::Down(*cause))
        }
        (.., Passive::Ejected) => only_in_panic(!refused, Why::Ejected),
        (.., Passive::HalfOpen) => always(Why::HalfOpen),
        (_, Some(Word::Checked(Status::Up)), Passive::Trusted) => always(Why::Up),
        (_, None, Passive::Trusted) => always(Why::NotChecked),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::{Announced, Ejection, Identity};
    use crate::model::{Address, Detector, HealthCheck};

    const UP: Option<Status> = Some(Status::Up);

    #[test]
    fn who_may_be_used() {
        use Operator::{Drain, Maintenance, Ready};
        use Passive::{Ejected, HalfOpen, Trusted};
        let down = |cause| Some(Status::Down(cause));
        let table = [
            (Ready, None, false, Trusted, true, true, "not-checked"),
            (Ready, None, true, Trusted, true, false, "not-checked"),
            (Ready, Some(Status::Unchecked), false, Trusted, false, false, "unchecked"),
            (Ready, UP, false, Trusted, true, true, "up"),
            (Ready, UP, true, Trusted, true, false, "up"),
            (Ready, down(Cause::Timeout), false, Trusted, false, true, "down: timeout"),
            (Ready, down(Cause::Timeout), true, Trusted, false, false, "down: timeout"),
            (Ready, down(Cause::Status(503)), false, Trusted, false, true, "down: status 503"),
            (Ready, down(Cause::Reset), false, Trusted, false, true, "down: reset"),
            (Ready, down(Cause::Garbage), false, Trusted, false, true, "down: garbage"),
            (Ready, down(Cause::Refused), false, Trusted, false, false, "down: refused"),
            (Ready, down(Cause::Refused), true, Trusted, false, false, "down: refused"),
            (Ready, down(Cause::Unreachable), false, Trusted, false, false, "down: unreachable"),
            (Ready, down(Cause::Certificate), false, Trusted, false, false, "down: certificate"),
            (Ready, down(Cause::Tls), false, Trusted, false, false, "down: tls"),
            (Ready, UP, false, Ejected, false, true, "ejected"),
            (Ready, UP, true, Ejected, false, false, "ejected"),
            (Ready, None, false, Ejected, false, true, "ejected"),
            (Ready, down(Cause::Timeout), false, Ejected, false, true, "down: timeout"),
            (Ready, UP, false, HalfOpen, true, true, "half-open"),
            (Ready, down(Cause::Refused), false, HalfOpen, false, false, "down: refused"),
            (Drain, UP, false, Trusted, false, false, "drain"),
            (Drain, Some(Status::Unchecked), false, Ejected, false, false, "drain"),
            (Maintenance, UP, false, Trusted, false, false, "maintenance"),
            (Maintenance, down(Cause::Timeout), false, HalfOpen, false, false, "maintenance"),
        ];
        for (operator, status, refused, passive, usable, usable_in_panic, word) in table {
            let verdict = judge(operator, status.map(Word::Checked).as_ref(), refused, passive);
            let seen = (verdict.usable, verdict.usable_in_panic, verdict.why.to_string());
            let case = format!("{operator:?}, {status:?}, refused: {refused}, {passive:?}");
            assert_eq!(seen, (usable, usable_in_panic, word.to_owned()), "{case}");
        }
    }

    #[test]
    fn a_server_that_announces_drain_is_used_by_nobody() {
        let now = Instant::now();
        let backend = pool(1, &[0]).remove(0);
        let settings = HealthCheck { agent: NonZeroU16::new(9), ..HealthCheck::default() };
        let check = Check::new(Arc::clone(&backend), HealthCheck::default(), now);
        let agent = Check::new(Arc::clone(&backend), settings, now);
        let word = |check: Option<&Check>, agent: Option<&Check>| {
            let voices = Voices { backend: &backend, check, agent, operator: Operator::Ready };
            let verdict = verdicts(std::iter::once(voices), None)[0];
            (verdict.why.to_string(), verdict.usable, verdict.usable_in_panic)
        };
        let is = |word: &str, usable, in_panic| (word.to_owned(), usable, in_panic);
        check.set(Status::Up, now);
        assert_eq!(word(Some(&check), Some(&agent)), is("unchecked", false, false), "its agent was not asked yet");
        agent.set(Status::Up, now);
        assert_eq!(word(Some(&check), Some(&agent)), is("up", true, true));
        assert_eq!(word(None, Some(&agent)), is("not-checked", true, true));
        agent.set(Status::Down(Cause::Agent), now);
        assert_eq!(word(Some(&check), Some(&agent)), is("down: agent", false, true));
        assert_eq!(word(None, Some(&agent)), is("down: agent", false, true));
        check.set(Status::Down(Cause::Refused), now);
        assert_eq!(word(Some(&check), Some(&agent)), is("down: refused", false, false));
        backend.announce(Some(Announced { since: now, until: now }));
        assert_eq!(word(Some(&check), Some(&agent)), is("announced-drain: response", false, false));
        check.set(Status::Down(Cause::Draining), now);
        assert_eq!(word(Some(&check), Some(&agent)), is("announced-drain: check", false, false));
        agent.set(Status::Down(Cause::Draining), now);
        assert_eq!(word(Some(&check), Some(&agent)), is("announced-drain: agent", false, false));
        let drained = Voices { backend: &backend, check: None, agent: None, operator: Operator::Drain };
        assert_eq!(verdicts(std::iter::once(drained), None)[0].why, Why::Drain);
        backend.announce(None);
        assert_eq!(word(None, None), is("not-checked", true, true));
    }

    /// Backends of which these were ejected, in this order.
    fn pool(n: u16, ejected: &[usize]) -> Vec<Arc<Backend>> {
        let address = |port| Address::Ip(([10, 0, 0, 1], port).into());
        let identity =
            |port| Identity { region: "r".into(), address: address(port), protocol: Default::default(), tls: None };
        let pool: Vec<_> = (0..n).map(|port| Backend::new(identity(port))).collect();
        let start = Instant::now();
        for (after, &place) in (0..).zip(ejected) {
            let since = start + Duration::from_secs(after);
            pool[place].eject(Ejection { since, until: since, detector: Detector::ConsecutiveErrors, shallow: false });
        }
        pool
    }

    fn words(pool: &[Arc<Backend>], terms: &Outlier, drained: &[usize]) -> Vec<&'static str> {
        let voices = pool.iter().enumerate().map(|(place, backend)| Voices {
            backend,
            check: None,
            agent: None,
            operator: if drained.contains(&place) { Operator::Drain } else { Operator::Ready },
        });
        verdicts(voices, Some(terms)).iter().map(|verdict| verdict.why.as_str()).collect()
    }

    #[test]
    fn a_pool_spares_those_that_are_too_many_and_came_last() {
        let (out, spared, up, drain) = ("ejected", "spared", "not-checked", "drain");
        let terms = Outlier::default();
        assert_eq!(words(&pool(3, &[1]), &terms, &[]), [up, out, up]);
        assert_eq!(words(&pool(3, &[2, 0]), &terms, &[]), [spared, up, out]);
        assert_eq!(words(&pool(1, &[0]), &terms, &[]), [spared]);
        assert_eq!(words(&pool(2, &[1, 0]), &terms, &[]), [spared, out]);
        assert_eq!(words(&pool(2, &[1]), &Outlier { max_ejected_percent: 0, ..terms }, &[]), [up, out]);
        // Half-open it is still out; the only one of a pool is spared one request at a time, too.
        let half = pool(3, &[2, 0]);
        half[2].half_open();
        assert_eq!(words(&half, &terms, &[]), [spared, up, "half-open"]);
        let alone = pool(1, &[0]);
        alone[0].half_open();
        assert_eq!(words(&alone, &terms, &[]), [spared]);
        // The other one does not count as left when the operator has taken it out.
        assert_eq!(words(&pool(2, &[1]), &Outlier { max_ejected_percent: 0, ..terms }, &[0]), [drain, spared]);
        assert_eq!(words(&pool(2, &[1, 0]), &Outlier { max_ejected_percent: 100, ..terms }, &[]), [out, out]);
        assert_eq!(words(&pool(2, &[1, 0]), &Outlier { enforce: false, ..terms }, &[]), [up, up]);
        let pool = pool(2, &[1, 0]);
        let voices = pool.iter().map(|backend| Voices { backend, check: None, agent: None, operator: Operator::Ready });
        assert!(verdicts(voices, None).iter().all(|verdict| verdict.usable));
    }
}
