//! What servers say of themselves: their load reports become weights here, and their announcements of drain are held to
//! until something ends them.
//!
//! Once a second each server that reports is looked at (gRFC A58). A weight that has moved by less than a twentieth is
//! left as it was, so that a region whose servers all report does not have all its pools judged anew each second, and of
//! those that have moved only so many are taken at a time.
//!
//! A server that has announced drain is left alone until it says `ready`, until its checks have found it gone and back
//! (`health::Transition`), until it is in no pool any more, or for [`DRAIN`]: one that forgot to take it back is not lost for
//! ever. If it still means it then, its first answer says so again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::backend::{Announced, Backend};
use crate::balance::load::{self, Memory, Meter};

/// How long an announced drain holds at most.
pub(super) const DRAIN: Duration = Duration::from_secs(600);
/// Between two looks at the reports: a second, less what a tick may come early.
const LOOK: Duration = Duration::from_millis(900);
/// A weight that moves less, as a share of itself, has not moved.
const STEADY: f64 = 0.05;
/// Servers whose weight is changed at one look.
const MAX_CHANGED: usize = 1000;

/// The servers that say something.
pub(super) struct Heard {
    reporting: Vec<Reporting>,
    /// From here on the next look begins, so that everybody's turn comes.
    first: usize,
    looked: Instant,
    draining: FxHashMap<usize, (Arc<Backend>, Instant)>,
}

struct Reporting {
    backend: Arc<Backend>,
    memory: Memory,
    meter: Meter,
    /// When it last reported.
    last: Instant,
}

impl Heard {
    pub(super) fn new(now: Instant) -> Self {
        Self { reporting: Vec::new(), first: 0, looked: now, draining: FxHashMap::default() }
    }

    /// A backend has a first report to look at.
    pub(super) fn watch(&mut self, backend: Arc<Backend>, now: Instant) {
        let meter = Meter::new(backend.tally(), now);
        self.reporting.push(Reporting { backend, memory: Memory::default(), meter, last: now });
    }

    /// Looks at the reports, if it is time. Gives the backends whose weight is another now.
    pub(super) fn look(&mut self, now: Instant) -> Vec<Arc<Backend>> {
        if now.saturating_duration_since(self.looked) < LOOK {
            return Vec::new();
        }
        self.looked = now;
        let mut changed = Vec::new();
        let split = self.first.min(self.reporting.len());
        let (behind, ahead) = self.reporting.split_at_mut(split);
        let order = (split..).zip(ahead).chain((0..).zip(behind));
        for (place, one) in order {
            let weight = one.look(now);
            let Some(words) = one.backend.words() else { continue };
            if has_moved(words.weight(), weight) && changed.len() < MAX_CHANGED {
                words.set_weight(weight);
                changed.push(Arc::clone(&one.backend));
                self.first = place + 1;
            }
        }
        // Whoever still counts stays, though silent, until a look has taken its weight back.
        self.reporting.retain(|one| {
            let words = one.backend.words_or_new();
            let stays = now.saturating_duration_since(one.last) < load::EXPIRY || words.weight().is_some();
            if !stays {
                words.set_utilization(None);
                words.unwatched();
            }
            stays
        });
        changed
    }

    /// A backend announces drain. False: it had already.
    pub(super) fn drain(&mut self, backend: &Arc<Backend>, now: Instant) -> bool {
        if backend.drains() {
            return false;
        }
        let until = now + DRAIN;
        backend.announce(Some(Announced { since: now, until }));
        self.draining.insert(Arc::as_ptr(backend) as usize, (Arc::clone(backend), until));
        true
    }

    /// That is over. False: it had not.
    pub(super) fn end_drain(&mut self, backend: &Arc<Backend>) -> bool {
        let was = self.draining.remove(&(Arc::as_ptr(backend) as usize)).is_some();
        if was {
            backend.announce(None);
        }
        was
    }

    /// Forgets what was announced by those that are in no pool any more.
    pub(super) fn forget(&mut self, lives: impl Fn(&Arc<Backend>) -> bool) {
        self.draining.retain(|_, (backend, _)| {
            let stays = lives(backend);
            if !stays {
                backend.announce(None);
            }
            stays
        });
    }

    /// The backends whose announcement is too old to be held to.
    pub(super) fn expired(&self, now: Instant) -> Vec<Arc<Backend>> {
        self.draining.values().filter(|(_, until)| *until <= now).map(|(backend, _)| Arc::clone(backend)).collect()
    }
}

impl Reporting {
    /// Takes in what has been reported since. The weight that counts now.
    fn look(&mut self, now: Instant) -> Option<f64> {
        self.meter.note(self.backend.tally(), now);
        if let Some(words) = self.backend.words()
            && let Some(report) = words.take_report()
        {
            self.last = now;
            words.set_utilization(Some(report.utilization));
            if let Some(weight) = load::weight(&report, self.meter.rates()) {
                self.memory.note(weight, now);
            }
        }
        self.memory.weight(now)
    }
}

fn has_moved(from: Option<f64>, to: Option<f64>) -> bool {
    match (from, to) {
        (Some(from), Some(to)) => (to - from).abs() > from * STEADY,
        (from, to) => from.is_some() != to.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Identity;
    use crate::model::{Address, LoadReport};

    fn backend(port: u16) -> Arc<Backend> {
        let address = Address::Ip(([10, 0, 0, 1], port).into());
        Backend::new(Identity { region: "r".into(), address, protocol: Default::default(), tls: None })
    }

    /// Reports, as a worker does.
    fn report(heard: &mut Heard, backend: &Arc<Backend>, utilization: f64, rps: f64, now: Instant) {
        let report = LoadReport::new(utilization, rps, 0.0).unwrap();
        if backend.words_or_new().report(report, false) {
            heard.watch(Arc::clone(backend), now);
        }
    }

    fn weight(backend: &Backend) -> Option<f64> {
        backend.words().and_then(|words| words.weight())
    }

    #[test]
    fn weights_come_after_the_blackout_and_go_after_the_expiry() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let (mut heard, one) = (Heard::new(start), backend(1));
        for n in 1..=11 {
            report(&mut heard, &one, 0.5, 100.0, at(n));
            let changed = heard.look(at(n));
            assert_eq!(changed.len(), usize::from(n == 11), "{n} s");
            assert!(heard.look(at(n) + Duration::from_millis(500)).is_empty());
        }
        assert_eq!((weight(&one), one.words().unwrap().utilization()), (Some(200.0), Some(0.5)));
        assert_eq!(heard.reporting.len(), 1, "it was told of once");
        // Nearly the same is the same.
        report(&mut heard, &one, 0.51, 100.0, at(12));
        assert!(heard.look(at(12)).is_empty());
        assert_eq!(weight(&one), Some(200.0));
        report(&mut heard, &one, 1.0, 100.0, at(13));
        assert_eq!(heard.look(at(13)).len(), 1);
        assert_eq!(weight(&one), Some(100.0));
        // Silence.
        assert!(heard.look(at(192)).is_empty());
        assert_eq!(heard.look(at(193)).len(), 1);
        assert_eq!((weight(&one), one.words().unwrap().utilization()), (None, None));
        assert!(heard.reporting.is_empty());
        report(&mut heard, &one, 1.0, 100.0, at(194));
        assert_eq!(heard.reporting.len(), 1, "it is told of again");
        assert!(heard.look(at(194)).is_empty());
    }

    #[test]
    fn a_report_without_a_rate_goes_by_the_requests_sent() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let (mut heard, one) = (Heard::new(start), backend(1));
        for n in 0..=20 {
            for _ in 0..50 {
                drop(one.try_request(9));
            }
            report(&mut heard, &one, 0.5, 0.0, at(n));
            heard.look(at(n));
        }
        let weight = weight(&one).expect("a weight");
        assert!((weight - 100.0).abs() < 1e-6, "50 a second at 0.5: {weight}");
        // One that was never sent anything has none, but is listened to.
        let idle = backend(2);
        for n in 21..40 {
            report(&mut heard, &idle, 0.5, 0.0, at(n));
            heard.look(at(n));
        }
        assert_eq!((self::weight(&idle), idle.words().unwrap().utilization()), (None, Some(0.5)));
    }

    #[test]
    fn many_are_taken_in_turns() {
        let start = Instant::now();
        let at = |n: u64| start + Duration::from_secs(n);
        let mut heard = Heard::new(start);
        let all: Vec<_> = (0..2 * MAX_CHANGED + 10).map(|port| backend(port as u16)).collect();
        let weighted = || all.iter().filter(|backend| weight(backend).is_some()).count();
        for n in 1..=11 {
            all.iter().for_each(|one| report(&mut heard, one, 0.5, 100.0, at(n)));
            heard.look(at(n));
        }
        assert_eq!(weighted(), MAX_CHANGED);
        // What changes all the time does not keep the others from their turn.
        for (n, utilization) in [(12, 0.1), (13, 0.9)] {
            all.iter().for_each(|one| report(&mut heard, one, utilization, 100.0, at(n)));
            heard.look(at(n));
        }
        assert_eq!(weighted(), all.len());
    }

    #[test]
    fn an_announcement_holds_for_a_while() {
        let start = Instant::now();
        let (mut heard, one) = (Heard::new(start), backend(1));
        assert!(!heard.end_drain(&one));
        assert!(heard.drain(&one, start) && !heard.drain(&one, start + Duration::from_secs(1)));
        assert!(one.drains());
        assert_eq!(one.standing().announced, Some(Announced { since: start, until: start + DRAIN }));
        assert!(heard.expired(start + DRAIN - Duration::from_secs(1)).is_empty());
        assert_eq!(heard.expired(start + DRAIN).len(), 1);
        assert!(heard.end_drain(&one) && !heard.end_drain(&one));
        assert!(!one.drains() && one.standing().announced.is_none());
    }
}
