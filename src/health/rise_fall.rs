//! When do results change a backend's state? HAProxy's `rise` and `fall`.
//!
//! A backend that is up goes down after `fall` failures in a row, one that is down comes up after `rise` passes in a
//! row: a single lost packet moves no traffic, and neither does a single lucky answer. The first of all is simpler.
//! A backend that has never passed carries no traffic that could be lost, so one result decides: one pass brings it
//! up, one failure shows why it is down (which matters in panic).
//!
//! While a row is under way the state is about to change, and the prober asks faster.
//!
//! Source: HAProxy, `doc/configuration.txt`, "rise", "fall", "fastinter".

use crate::backend::{Cause, Status};

/// The state of one check. Pure: results in, changes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RiseFall {
    status: Status,
    /// Whether it has ever passed.
    proven: bool,
    /// Results in a row that speak against `status`.
    row: u32,
}

impl RiseFall {
    /// From a state that was reached earlier; `proven`: it has passed once.
    pub fn resume(status: Status, proven: bool) -> Self {
        Self { status, proven, row: 0 }
    }

    /// What the results so far amount to.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the next results may change the state, or it is not known yet.
    pub fn in_transition(&self) -> bool {
        self.row > 0 || self.status == Status::Unchecked
    }

    /// Takes in a result. `rise` and `fall` below 1 count as 1.
    pub fn note(&mut self, result: Result<(), Cause>, rise: u32, fall: u32) {
        let next = match result {
            Ok(()) => Status::Up,
            Err(cause) => Status::Down(cause),
        };
        let needed = match (self.status, next) {
            // Nothing new, except perhaps the reason.
            (Status::Up, Status::Up) | (Status::Down(_), Status::Down(_)) => {
                self.status = next;
                self.row = 0;
                return;
            }
            // It says so itself: there is nothing to be made sure of.
            (_, Status::Down(Cause::Draining)) => 1,
            (Status::Up, _) => fall,
            (Status::Down(_), _) if self.proven => rise,
            _ => 1,
        };
        self.row += 1;
        if self.row >= needed {
            self.row = 0;
            self.status = next;
            self.proven |= next == Status::Up;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOW: Result<(), Cause> = Err(Cause::Timeout);
    const GONE: Result<(), Cause> = Err(Cause::Refused);

    fn run(mut machine: RiseFall, results: &[Result<(), Cause>]) -> Vec<(Status, bool)> {
        let note = |&result| {
            machine.note(result, 2, 3);
            (machine.status(), machine.in_transition())
        };
        results.iter().map(note).collect()
    }

    #[test]
    fn one_result_decides_at_first() {
        let new = RiseFall::resume(Status::Unchecked, false);
        assert!(new.in_transition());
        assert_eq!(run(new.clone(), &[Ok(())]), [(Status::Up, false)]);
        let slow = Status::Down(Cause::Timeout);
        let gone = Status::Down(Cause::Refused);
        let seen = run(new, &[SLOW, GONE, Ok(())]);
        assert_eq!(seen, [(slow, false), (gone, false), (Status::Up, false)]);
    }

    #[test]
    fn three_failures_in_a_row_and_two_passes_in_a_row() {
        let up = RiseFall::resume(Status::Up, true);
        let seen = run(up, &[SLOW, SLOW, Ok(()), SLOW, SLOW, GONE, Ok(()), SLOW, Ok(()), Ok(())]);
        let gone = Status::Down(Cause::Refused);
        let slow = Status::Down(Cause::Timeout);
        let expected = [
            (Status::Up, true),
            (Status::Up, true),
            (Status::Up, false),
            (Status::Up, true),
            (Status::Up, true),
            (gone, false),
            (gone, true),
            (slow, false),
            (slow, true),
            (Status::Up, false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_was_up_before_needs_a_row_again() {
        let down = RiseFall::resume(Status::Down(Cause::Timeout), true);
        assert_eq!(run(down, &[Ok(()), Ok(())]).last(), Some(&(Status::Up, false)));
        let down = RiseFall::resume(Status::Down(Cause::Timeout), false);
        assert_eq!(run(down, &[Ok(())]).last(), Some(&(Status::Up, false)));
    }

    #[test]
    fn one_word_is_enough_to_drain_and_passes_in_a_row_bring_it_back() {
        let draining = Err(Cause::Draining);
        let seen = run(RiseFall::resume(Status::Up, true), &[draining, draining, GONE, Ok(()), Ok(())]);
        let drains = (Status::Down(Cause::Draining), false);
        let gone = Status::Down(Cause::Refused);
        assert_eq!(seen, [drains, drains, (gone, false), (gone, true), (Status::Up, false)]);
    }

    proptest! {
        /// Against the definition: up after the last `rise` results passed, down after the last `fall` failed.
        #[test]
        fn agrees_with_the_definition(passes in prop::collection::vec(any::<bool>(), 1..60), rise in 1u32..5, fall in 1u32..5) {
            let mut machine = RiseFall::resume(Status::Unchecked, false);
            let (mut up, mut proven) = (None, false);
            for (i, &pass) in passes.iter().enumerate() {
                machine.note(if pass { Ok(()) } else { SLOW }, rise, fall);
                let seen = &passes[..=i];
                let ends_with = |value: bool, n: u32| {
                    seen.len() >= n as usize && seen.iter().rev().take(n as usize).all(|&p| p == value)
                };
                up = match up {
                    Some(true) if ends_with(false, fall) => Some(false),
                    Some(false) if ends_with(true, if proven { rise } else { 1 }) => Some(true),
                    None => Some(pass),
                    other => other,
                };
                proven |= up == Some(true);
                prop_assert_eq!(machine.status() == Status::Up, up == Some(true));
                prop_assert_eq!(machine.in_transition(), up != Some(pass));
            }
        }
    }
}
