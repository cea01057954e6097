//! What is known of a server right now, and the guards that keep it true.
//!
//! Counts are kept by guards that count down when dropped, so that a request cancelled at any point gives back what
//! it took (tower's `load` and Pingora's `pingora-limits/src/inflight.rs` do the same).
//!
//! The counts stand first, together with the reference count of the allocation: a request that takes a guard writes that
//! one cache line and no other memory that workers share, and who picks a server by its counts waits for no other line.
//! With what is seldom written they fill 128 bytes, because processors fetch lines in pairs, so that nothing else is next
//! to them: neither another backend's counts nor what is only read.
//!
//! One bit of the count says that somebody waits for a place here (see [`queue`](super::queue)). Whoever begins or ends
//! a request looks at it in the word that it writes in any case.

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::queue::{Waiting, pass_on};
use super::standing::{Announced, Ejection, Passive, Standing};
use super::{Identity, Latency, Observation, Tls, Words};
use crate::model::Outlier;

/// One server. See the module's own words.
#[repr(C)]
pub struct Backend {
    pub(super) line: Line,
    /// Which.
    pub identity: Identity,
    /// Its address as text: in labels, logs and the API.
    pub label: Arc<str>,
    /// `None`: it is spoken to in clear.
    pub tls: Option<Box<Tls>>,
    /// Whether the newest attempt to connect, by anyone, was refused. Written only when it changes.
    refused: AtomicBool,
    /// A worker found no connection left and had none of its own: the others then close theirs instead of keeping
    /// them. Set by a failed [`Backend::try_connection`], cleared by the next connection that closes.
    starved: AtomicBool,
    /// What the control plane has decided. Written by it alone, and read by whoever judges; never on a request's way.
    standing: Mutex<Standing>,
    /// What it says of itself, if it ever has.
    words: OnceLock<Box<Words>>,
}

/// What every request reads and writes, in the order of the memory: with the two counts of `Arc` before it, what is above
/// `waiting` lies in the first 64 bytes, and all in 128.
#[repr(C)]
pub(super) struct Line {
    /// Low half: requests that hold an [`InFlight`], over all workers, and [`BARRED`] while somebody waits for a place.
    /// High half: requests begun, ever; it wraps. One word, so that counting both is one write.
    requests: AtomicU64,
    /// At most so many in flight: what was found to be good for it. Written by the control plane alone.
    limit: AtomicU32,
    /// Low two bits: a [`Passive`] as a number. The others: how often the backend has been ejected, so that a request from
    /// before an ejection does not decide what comes after it. Written by the control plane alone.
    passive: AtomicU32,
    /// Requests that ended in an error of the backend's since the last one that ended well; with [`DEEP`] if one of them
    /// was such an error.
    errors: AtomicU32,
    /// The same, ever; it wraps.
    failures: AtomicU32,
    /// Connections that hold a [`Connection`], idle ones included, over all workers.
    connections: AtomicU32,
    /// Answers since they were last taken, in the high 24 bits, and how long they took together, in microseconds. Written
    /// only where limits adapt.
    answers: AtomicU64,
    /// Who waits for a place.
    pub(super) waiting: Waiting,
    latency: Latency,
    _rest: [u64; 3],
}

/// One more request begun and in flight.
const ONE_MORE: u64 = 1 << 32 | 1;

/// Set in the count while somebody waits: it is then above every limit, so that who comes now finds the backend full.
const BARRED: u32 = 1 << 31;

/// Bits for the microseconds of the answers: twelve days.
const MICROS: u32 = 40;

/// Among the errors in a row is one that a check which only connects would not see.
const DEEP: u32 = 1 << 31;

const _: () = assert!(std::mem::offset_of!(Line, waiting) + 2 * size_of::<usize>() <= 64);
const _: () = assert!(size_of::<Line>() + 2 * size_of::<usize>() == 128 || size_of::<usize>() != 8);
/// An allocation of the next size, 384, begins where a pair of lines does; of 320 or 448 not every one would. One that is
/// too large or too small wants other padding.
const _: () = assert!(matches!(size_of::<Backend>() + 16, 321..=384) || size_of::<usize>() != 8);

impl Backend {
    /// A server of which nothing is known yet.
    pub fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self {
            line: Line {
                requests: AtomicU64::new(0),
                limit: AtomicU32::new(u32::MAX),
                passive: AtomicU32::new(Passive::Trusted.number()),
                errors: AtomicU32::new(0),
                failures: AtomicU32::new(0),
                connections: AtomicU32::new(0),
                answers: AtomicU64::new(0),
                waiting: Waiting::default(),
                latency: Latency::default(),
                _rest: [0; 3],
            },
            label: identity.address.to_string().into(),
            tls: identity.tls.as_ref().map(|to| Box::new(Tls::new(to, identity.protocol))),
            identity,
            refused: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            standing: Mutex::default(),
            words: OnceLock::new(),
        })
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.line.in_flight()
    }

    /// Requests begun and requests that ended in an error, ever. Both wrap: what counts is how far they have come.
    pub fn tally(&self) -> (u32, u32) {
        ((self.line.requests.load(Relaxed) >> 32) as u32, self.line.failures.load(Relaxed))
    }

    /// Open connections, idle ones included, over all workers. Connections of health checks are not among them.
    pub fn connections(&self) -> u32 {
        self.line.connections.load(Relaxed)
    }

    /// How long it takes to answer, as far as a policy has it measured.
    pub fn latency(&self) -> &Latency {
        &self.line.latency
    }

    /// Counts one more request, unless `max` are in flight already, or as many as are good for it, or somebody waits for a
    /// place.
    pub fn try_request(self: &Arc<Self>, max: u32) -> Option<InFlight> {
        self.line.take(max, |n| n).then(|| InFlight::new(self))
    }

    /// How many requests at once are good for it, as far as that is found out.
    pub fn limit(&self) -> Option<u32> {
        Some(self.line.limit.load(Relaxed)).filter(|limit| *limit < u32::MAX)
    }

    /// So many at once are good for it; `None`: that is not found out any more. By the control plane alone.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.line.limit.store(limit.unwrap_or(u32::MAX), Relaxed);
    }

    /// The answers since this was last asked, and how long they took together.
    pub fn take_answers(&self) -> (u32, Duration) {
        let word = self.line.answers.swap(0, Relaxed);
        ((word >> MICROS) as u32, Duration::from_micros(word & ((1 << MICROS) - 1)))
    }

    /// What its errors have come to.
    pub fn passive(&self) -> Passive {
        self.line.passive()
    }

    /// What the control plane has decided about it.
    pub fn standing(&self) -> Standing {
        *self.lock()
    }

    /// It gets nothing new. By the control plane alone, as the next three.
    pub fn eject(&self, ejection: Ejection) {
        self.lock().ejection = Some(ejection);
        self.set_passive(Passive::Ejected);
    }

    /// It gets one request at a time.
    pub fn half_open(&self) {
        self.set_passive(Passive::HalfOpen);
    }

    /// It is one like the others again.
    pub fn trust(&self) {
        self.lock().ejection = None;
        self.set_passive(Passive::Trusted);
    }

    /// It has announced drain; `None`: that is over. By the control plane alone, too.
    pub fn announce(&self, announced: Option<Announced>) {
        self.lock().announced = announced;
        self.words_or_new().set_drains(announced.is_some());
    }

    /// Whether it has announced drain.
    pub fn drains(&self) -> bool {
        self.words().is_some_and(Words::drains)
    }

    /// What it says of itself, if it ever has.
    pub fn words(&self) -> Option<&Words> {
        self.words.get().map(|words| &**words)
    }

    /// The same, for the first word.
    pub fn words_or_new(&self) -> &Words {
        self.words.get_or_init(Box::default)
    }

    /// From now on it is loaded little by little.
    pub fn warm_up(&self, now: Instant) {
        self.lock().warm_since = Some(now);
    }

    /// What was an error so far is forgotten: the next row begins at none.
    pub fn forget_errors(&self) {
        self.line.errors.store(0, Relaxed);
    }

    /// Whether a check that passes would have seen all of the newest row of errors: connections that could not be made,
    /// and kept ones that were closed.
    pub fn are_errors_shallow(&self) -> bool {
        self.line.errors.load(Relaxed) & DEEP == 0
    }

    fn set_passive(&self, passive: Passive) {
        self.forget_errors();
        let before = self.line.passive.load(Relaxed) & !3;
        let epoch = if passive == Passive::Ejected { before.wrapping_add(4) } else { before };
        self.line.passive.store(epoch | passive.number(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, past those who wait: for who can't wait.
    pub fn try_request_past(self: &Arc<Self>, max: u32) -> Option<InFlight> {
        self.line.take_past(max).then(|| InFlight::new(self))
    }

    /// Whether another request would be counted.
    pub fn has_room(&self, max: u32) -> bool {
        self.line.has_room(max)
    }

    /// Whether this place is one of this backend's.
    pub fn gave(&self, place: &InFlight) -> bool {
        std::ptr::eq(self, &*place.backend)
    }

    /// Counts one more connection, unless `max` are open already; then the backend counts as [starved](Self::starved).
    pub fn try_connection(self: &Arc<Self>, max: u32) -> Option<Connection> {
        if take(&self.line.connections, max) {
            return Some(Connection(self.clone()));
        }
        self.starved.store(true, Relaxed);
        None
    }

    /// Whether somebody waits for a connection that there is no room for: close an idle one rather than keep it.
    pub fn starved(&self) -> bool {
        self.starved.load(Relaxed) || self.line.waiting.is_hungry()
    }

    /// How an attempt to connect ended: refused (nobody listens there), or not. Traffic and checks both say it.
    pub fn note_connect(&self, refused: bool) {
        if self.refused.load(Relaxed) != refused {
            self.refused.store(refused, Relaxed);
        }
    }

    /// Whether the newest attempt to connect was refused.
    pub fn last_connect_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }
}

impl Line {
    pub(super) fn in_flight(&self) -> u32 {
        self.requests.load(Relaxed) as u32 & !BARRED
    }

    /// Whether another request may begin, for somebody who waits.
    pub(super) fn has_room(&self, max: u32) -> bool {
        self.in_flight() < self.at_most(max)
    }

    /// Whether another connection may be opened.
    pub(super) fn has_connection(&self, max: u32) -> bool {
        // Pairs with the end of a connection, which looks for those who wait after it has counted down.
        self.connections.load(SeqCst) < max
    }

    /// Counts one more request for somebody who waits, or can't, unless `max` are in flight already.
    pub(super) fn take_past(&self, max: u32) -> bool {
        self.take(max, |n| n & !BARRED)
    }

    /// Counts one more request. `seen`: what of the low half counts.
    fn take(&self, max: u32, seen: impl Fn(u32) -> u32) -> bool {
        let max = self.at_most(max);
        let more = |n: u64| (seen(n as u32) < max).then(|| n.wrapping_add(ONE_MORE));
        self.requests.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// What a pool's limit comes to, with what is good for the backend.
    fn at_most(&self, max: u32) -> u32 {
        max.min(self.limit.load(Relaxed)).min(!BARRED)
    }

    /// An answer took so long, or there was none after so long.
    pub(super) fn answered(&self, took: Duration) {
        // A single one can't be more than an hour, and sixteen million of them do not come between two looks.
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(3_600_000_000);
        self.answers.fetch_add(1 << MICROS | micros, Relaxed);
    }

    fn passive(&self) -> Passive {
        Passive::from_number(self.passive.load(Relaxed) & 3)
    }

    /// From now on, or no longer, somebody waits. Called under the lock of [`Waiting`] alone.
    pub(super) fn set_barred(&self, barred: bool) {
        if barred {
            self.requests.fetch_or(u64::from(BARRED), Relaxed);
        } else {
            self.requests.fetch_and(!u64::from(BARRED), Relaxed);
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("region", &self.identity.region)
            .field("address", &self.label)
            .field("in_flight", &self.in_flight())
            .field("connections", &self.connections())
            .field("refused", &self.last_connect_refused())
            .field("passive", &self.passive())
            .finish()
    }
}

/// One request in flight at a backend, until dropped.
#[must_use = "dropped at once, it counts nothing"]
pub struct InFlight {
    backend: Arc<Backend>,
    /// The backend's `passive` when the request began.
    began: u32,
}

impl InFlight {
    /// Of a request that has been counted.
    pub(super) fn new(backend: &Arc<Backend>) -> Self {
        Self { began: backend.line.passive.load(Relaxed), backend: Arc::clone(backend) }
    }

    /// Where it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Whether it began since the last ejection, if there ever was one.
    fn is_of_now(&self) -> bool {
        self.began & !3 == self.backend.line.passive.load(Relaxed) & !3
    }

    /// The request ended well. Something has to be said about that if its backend is on probation and the pool is one that
    /// ejects: what it hears elsewhere, where it may be spared, ends no ejection before its time. `terms`: the pool's.
    pub fn succeeded(&self, terms: Option<&Outlier>) -> Option<Observation> {
        // Nearly always there is nothing to reset, and a look at a line that is at hand costs nothing.
        let line = &self.backend.line;
        if line.errors.load(Relaxed) != 0 {
            line.errors.store(0, Relaxed);
        }
        if line.passive() != Passive::HalfOpen || !self.is_of_now() || terms.is_none_or(|terms| !terms.enforce) {
            return None;
        }
        Some(Observation::Recovered(Arc::clone(&self.backend)))
    }

    /// The request ended in an error of the backend's. Something has to be said about that if it is one too many.
    /// `shallow`: see [`Backend::are_errors_shallow`].
    pub fn failed(&self, shallow: bool, terms: &Outlier) -> Option<Observation> {
        let line = &self.backend.line;
        line.failures.fetch_add(1, Relaxed);
        if !self.is_of_now() {
            return None;
        }
        let more = |n: u32| (n & !DEEP).saturating_add(1).min(!DEEP) | n & DEEP | if shallow { 0 } else { DEEP };
        let before = line.errors.fetch_update(Relaxed, Relaxed, |n| Some(more(n))).unwrap_or_else(|n| n);
        let errors = more(before) & !DEEP;
        let too_many = match line.passive() {
            // Said again with each one, for the first word may have been lost; where it is counted only, once for each row.
            Passive::Trusted if terms.enforce => errors >= terms.consecutive_errors,
            Passive::Trusted => errors.is_multiple_of(terms.consecutive_errors.max(1)),
            Passive::HalfOpen => terms.enforce,
            Passive::Ejected => false,
        };
        too_many.then(|| Observation::Failing(Arc::clone(&self.backend), *terms))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.backend.line.requests.fetch_sub(1, Relaxed) as u32 & BARRED != 0 {
            pass_on(&self.backend);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InFlight")
    }
}

/// One open connection to a backend, until dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it counts nothing"]
pub struct Connection(Arc<Backend>);

impl Connection {
    /// To whom.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.line.connections.fetch_sub(1, SeqCst);
        if self.0.starved() {
            self.0.starved.store(false, Relaxed);
            pass_on(&self.0);
        }
    }
}

/// Counts up, but never beyond `max`. Nothing else is published through a count, so relaxed order does.
fn take(count: &AtomicU32, max: u32) -> bool {
    count.fetch_update(Relaxed, Relaxed, |n| (n < max).then(|| n + 1)).is_ok()
}

#[cfg(test)]
mod tests;
