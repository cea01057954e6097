//! What an agent beside a server says of it: a line of words, as HAProxy's `agent-check` has them.
//!
//! `75%` is a weight beside the configured one, `drain` and `maint` want nothing new until `ready`, `down`, `fail` and
//! `stopped` hold until `up`; what comes after `#` is for people. What a line does not speak of stays as it was: one
//! agent may look after the weight alone, another be three buttons for an administrator. Only the agent takes back what
//! the agent has said, and one that can't be reached has said nothing.
//!
//! Source: HAProxy, `doc/configuration.txt`, "agent-check"; `src/check.c`, `tcpcheck_agent_expect_reply`.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use super::{Cause, Status};

/// Characters of a line that are kept for people.
const MAX_SHOWN: usize = 128;
/// The largest weight beside the configured one, in percent.
const MAX_PERCENT: u16 = 256;

/// What one line says. `None`: it does not speak of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentLine {
    /// Whether it wants nothing new.
    pub drains: Option<bool>,
    /// Whether it does not work.
    pub is_down: Option<bool>,
    /// Its weight beside the configured one.
    pub percent: Option<u16>,
}

impl AgentLine {
    /// From a line without its end. `None`: it is no text. Of words that contradict each other the last one holds;
    /// unknown ones are left to other programs.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if !line.iter().all(|&b| b == b'\t' || b == b'\r' || b == b' ' || b.is_ascii_graphic()) {
            return None;
        }
        let mut said = Self::default();
        let words = line.split(|&b| b == b'#').next().unwrap_or_default();
        for word in words.split(|b| matches!(b, b' ' | b'\t' | b',' | b'\r')) {
            let is = |known: &[&str]| known.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
            if is(&["ready"]) {
                said.drains = Some(false);
            } else if is(&["drain", "maint"]) {
                said.drains = Some(true);
            } else if is(&["up"]) {
                said.is_down = Some(false);
            } else if is(&["down", "fail", "failed", "stopped"]) {
                said.is_down = Some(true);
            } else if let Some(percent) = word.strip_suffix(b"%").and_then(percent) {
                said.percent = Some(percent);
            }
        }
        Some(said)
    }
}

fn percent(digits: &[u8]) -> Option<u16> {
    let is_number = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    (number <= MAX_PERCENT).then_some(number)
}

/// All that an agent has said so far. Written by the prober alone.
#[derive(Debug, Default)]
pub struct Agent {
    /// Bit 0: drains; bit 1: is down; from bit 16 on: the percentage and one, 0 if none was said.
    word: AtomicU32,
    /// The newest line that said anything, for people.
    line: Mutex<Box<str>>,
}

impl Agent {
    /// Takes in a line, as it came and as it was read. Whether it changes anything.
    pub fn note(&self, line: &[u8], said: AgentLine) -> bool {
        if said != AgentLine::default() {
            let shown: String = line.trim_ascii().iter().take(MAX_SHOWN).map(|&b| char::from(b)).collect();
            let mut place = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if **place != *shown {
                *place = shown.into();
            }
        }
        let before = self.word.load(Relaxed);
        let bit = |said: Option<bool>, bit: u32| said.map_or(before & bit, |is| if is { bit } else { 0 });
        let percent = said.percent.map_or(before & !0xffff, |percent| (u32::from(percent) + 1) << 16);
        let after = bit(said.drains, 1) | bit(said.is_down, 2) | percent;
        self.word.store(after, Relaxed);
        before != after
    }

    /// What its words come to, apart from the weight.
    pub fn status(&self) -> Status {
        let word = self.word.load(Relaxed);
        match (word & 1 != 0 || self.percent() == Some(0), word & 2 != 0) {
            (true, _) => Status::Down(Cause::Draining),
            (_, true) => Status::Down(Cause::Agent),
            _ => Status::Up,
        }
    }

    /// The weight beside the configured one.
    pub fn percent(&self) -> Option<u16> {
        u16::try_from(self.word.load(Relaxed) >> 16).ok().and_then(|percent| percent.checked_sub(1))
    }

    /// The newest line that said anything.
    pub fn line(&self) -> Option<String> {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        (!line.is_empty()).then(|| line.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(drains: Option<bool>, is_down: Option<bool>, percent: Option<u16>) -> Option<AgentLine> {
        Some(AgentLine { drains, is_down, percent })
    }

    #[test]
    fn lines() {
        let (no, yes) = (Some(false), Some(true));
        for (text, expected) in [
            ("75%", line(None, None, Some(75))),
            ("up ready 100%", line(no, no, Some(100))),
            ("UP,Ready,\t5%\r", line(no, no, Some(5))),
            ("drain", line(yes, None, None)),
            ("maint", line(yes, None, None)),
            ("down # disk full, up soon", line(None, yes, None)),
            ("down#ready", line(None, yes, None)),
            ("fail", line(None, yes, None)),
            ("failed", line(None, yes, None)),
            ("stopped", line(None, yes, None)),
            ("drain ready", line(no, None, None)),
            ("0%", line(None, None, Some(0))),
            ("256% maxconn:30", line(None, None, Some(256))),
            ("257% 1000% -1% +1% % 1.5% x%", line(None, None, None)),
            ("upready downs", line(None, None, None)),
            ("", line(None, None, None)),
            ("# up", line(None, None, None)),
            ("up\u{1b}[2J", None),
            ("up \u{e9}", None),
            ("up\0", None),
        ] {
            assert_eq!(AgentLine::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_spoken_of_stays() {
        let agent = Agent::default();
        assert_eq!((agent.status(), agent.percent(), agent.line()), (Status::Up, None, None));
        let draining = Status::Down(Cause::Draining);
        let down = Status::Down(Cause::Agent);
        for (text, changes, status, percent, shown) in [
            ("50%", true, Status::Up, Some(50), "50%"),
            ("50%", false, Status::Up, Some(50), "50%"),
            ("down # why", true, down, Some(50), "down # why"),
            ("drain", true, draining, Some(50), "drain"),
            ("up", true, draining, Some(50), "up"),
            ("hello", false, draining, Some(50), "up"),
            (" ready\t", true, Status::Up, Some(50), "ready"),
            ("0%", true, draining, Some(0), "0%"),
            ("down", true, draining, Some(0), "down"),
            ("100%", true, down, Some(100), "100%"),
            ("up", true, Status::Up, Some(100), "up"),
        ] {
            let said = AgentLine::parse(text.as_bytes()).unwrap();
            assert_eq!(agent.note(text.as_bytes(), said), changes, "{text}");
            let now = (agent.status(), agent.percent(), agent.line());
            assert_eq!(now, (status, percent, Some(shown.to_owned())), "{text}");
        }
    }

    proptest! {
        /// Whatever comes: a weight within its bounds, and a line that a terminal can be shown.
        #[test]
        fn nothing_breaks_it(text in prop::collection::vec(any::<u8>(), 0..300), word in 0..4usize) {
            let text = [[&b"up "[..], b"9% ", b"drain#", b""][word], &text].concat();
            let agent = Agent::default();
            if let Some(said) = AgentLine::parse(&text) {
                agent.note(&text, said);
                prop_assert!(agent.percent().is_none_or(|percent| percent <= MAX_PERCENT));
                prop_assert!(agent.line().is_none_or(|line| line.len() <= MAX_SHOWN));
            }
        }
    }
}
