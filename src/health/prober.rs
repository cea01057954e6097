//! The prober: one task that starts every check when it is due and turns results into states.
//!
//! It is told the whole list of checks at a time ([`Prober::set`]); what stays in the list is not disturbed. What it
//! finds it writes into the checks themselves. The channel of [`Transition`]s is only a nudge to look there, so it may
//! be small: while it is full, transitions of one check melt into one and wait in the check's slot.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture};
use futures_util::stream::FuturesUnordered;
use slab::Slab;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout_at};

use super::RiseFall;
use super::agent;
use super::exchange::{self, Answer, Failure, Link};
use super::schedule::{self, Phase, Schedule};
use crate::backend::{Cause, Check, Status};
use crate::model::Announcement;
use crate::telemetry::{self, Metrics};

/// Checks under way at once. Each holds a descriptor and, if its backend is silent, does so for its whole timeout.
const MAX_CONCURRENT: usize = 1024;
/// A check started this long after it was due counts as late.
const LATE: Duration = Duration::from_millis(500);
/// How much longer than its timeout a first round may take.
const FIRST_ROUND_EXTRA: Duration = Duration::from_secs(1);

/// Something about a check has changed that its verdict depends on.
#[derive(Debug, Clone)]
pub struct Transition {
    /// Whose; it holds its newest state, which may be newer than this.
    pub check: Arc<Check>,
    /// The state before.
    pub from: Status,
    /// The state after. `Down` after `Down`: only the cause is another one, which matters in panic.
    pub to: Status,
    /// A check has passed that could have seen why the backend was ejected: that is over.
    pub clears: bool,
    /// The backend has said to a check that it is ready, or was found listening after it had not been.
    pub is_back: bool,
}

impl Transition {
    /// Whether the backend came up.
    pub fn to_up(&self) -> bool {
        self.to == Status::Up
    }

    /// Whether it was down before: it is loaded little by little, where that is asked for.
    pub fn comes_back(&self) -> bool {
        self.to_up() && matches!(self.from, Status::Down(_))
    }

    /// Whether a drain that the backend has announced is over.
    pub fn ends_drain(&self) -> bool {
        self.is_back || self.comes_back()
    }

    /// Who says so, as the metrics call it.
    pub fn teller(&self) -> telemetry::Cause {
        match self.check.agent() {
            Some(_) => telemetry::Cause::Announced,
            None => telemetry::Cause::Active,
        }
    }

    /// Why it is down, if it is.
    pub fn cause(&self) -> Option<Cause> {
        match self.to {
            Status::Down(cause) => Some(cause),
            _ => None,
        }
    }

    /// Whether it came up or went down, rather than being down for another reason: these are logged and counted.
    pub fn flips(&self) -> bool {
        flips(self.from, self.to)
    }
}

fn flips(from: Status, to: Status) -> bool {
    (from == Status::Up) != (to == Status::Up) || from == Status::Unchecked
}

/// The handle. When it is dropped, checking ends.
#[derive(Debug)]
pub struct Prober {
    orders: watch::Sender<Arc<Order>>,
    progress: watch::Receiver<Progress>,
}

/// What is to be checked from now on.
#[derive(Debug)]
struct Order {
    number: u64,
    checks: Vec<Arc<Check>>,
    /// When its first round is over at the latest.
    deadline: Instant,
}

/// How far the task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    /// The newest order that has been taken up.
    number: u64,
    /// Checks that have had no result yet.
    unchecked: usize,
}

impl Prober {
    /// Starts the task on the current runtime, with nothing to check. `metrics` counts late checks, as
    /// `health_checks_late`, and those for which this process had no descriptor or port left, as `health_checks_local`.
    pub fn spawn(facts: mpsc::Sender<Transition>, metrics: Arc<Metrics>) -> Self {
        let order = Arc::new(Order { number: 0, checks: Vec::new(), deadline: Instant::now() });
        let (orders, orders_out) = watch::channel(order);
        let (progress_in, progress) = watch::channel(Progress { number: 0, unchecked: 0 });
        let task = Task {
            facts,
            metrics,
            progress: progress_in,
            number: 0,
            unchecked: 0,
            slots: Slab::new(),
            by_check: HashMap::new(),
            schedule: Schedule::new(Instant::now(), fastrand::u64(..)),
            running: FuturesUnordered::new(),
            nudges: VecDeque::new(),
            next_id: 0,
        };
        tokio::spawn(task.run(orders_out));
        Self { orders, progress }
    }

    /// Checks exactly these from now on. New ones start at once, gone ones stop, the rest go on undisturbed. A check
    /// that is listed twice is done once.
    pub fn set(&self, checks: Vec<Arc<Check>>) {
        let unchecked = checks.iter().filter(|c| c.status() == Status::Unchecked);
        let timeout = unchecked.map(|c| c.settings.timeout).max().unwrap_or_default();
        let deadline = Instant::now() + timeout + FIRST_ROUND_EXTRA;
        self.orders.send_modify(|order| *order = Arc::new(Order { number: order.number + 1, checks, deadline }));
    }

    /// Waits until every check of the newest [`Prober::set`] has had a result, for the longest timeout of those that
    /// have none plus a second at most.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let (number, deadline) = {
            let order = self.orders.borrow();
            (order.number, order.deadline)
        };
        let mut progress = self.progress.clone();
        async move {
            let done = progress.wait_for(|p| p.number >= number && p.unchecked == 0);
            // Either every check has had its result, or time is up: the caller goes on in both cases.
            let _ = timeout_at(deadline.into(), done).await;
        }
    }
}

/// The task's state.
struct Task {
    facts: mpsc::Sender<Transition>,
    metrics: Arc<Metrics>,
    progress: watch::Sender<Progress>,
    number: u64,
    unchecked: usize,
    slots: Slab<Slot>,
    /// Slots by the address of their check, which can't be another's while a slot holds it.
    by_check: HashMap<usize, usize>,
    schedule: Schedule<Turn>,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Slots whose transition the channel had no room for, in order.
    nudges: VecDeque<Turn>,
    next_id: u64,
}

/// One check's place. A slot is used again after its check has gone; the id is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    slot: usize,
    id: u64,
}

struct Slot {
    id: u64,
    check: Arc<Check>,
    request: Option<Arc<[u8]>>,
    machine: RiseFall,
    phase: Phase,
    /// The interval that the schedule reckons with.
    interval: Duration,
    link: Option<Link>,
    /// The state that was last announced, while a newer one waits for room in the channel.
    announced: Option<Status>,
    /// The last check failed.
    failed: bool,
    /// To be announced: what the backend was ejected for is over.
    clears: bool,
    /// To be announced: what the backend has announced is over.
    is_back: bool,
    /// In the newest order; false only while one is being taken up.
    wanted: bool,
}

struct Done {
    turn: Turn,
    started: Instant,
    /// Whether nobody listened there when it was last tried before this.
    was_refused: bool,
    found: Found,
}

enum Found {
    Check(Answer),
    /// What the agent said, if it said anything.
    Agent(Option<agent::Line>),
}

impl Task {
    async fn run(mut self, mut orders: watch::Receiver<Arc<Order>>) {
        let facts = self.facts.clone();
        loop {
            let due = if self.running.len() < MAX_CONCURRENT { self.schedule.wake() } else { None };
            tokio::select! {
                order = orders.changed() => {
                    if order.is_err() {
                        return;
                    }
                    let order = orders.borrow_and_update().clone();
                    self.take_up(&order, Instant::now());
                }
                Some(done) = self.running.next() => self.finish(done, Instant::now()),
                Some(()) = OptionFuture::from(due.map(|due| sleep_until(due.into()))) => self.start(Instant::now()),
                permit = facts.reserve(), if !self.nudges.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(transition) = next_nudge(&mut self.nudges, &mut self.slots) {
                            permit.send(transition);
                        }
                    }
                    Err(_) => self.nudges.clear(),
                },
            }
        }
    }

    /// Makes the slots those of an order.
    fn take_up(&mut self, order: &Order, now: Instant) {
        for (_, slot) in &mut self.slots {
            slot.wanted = false;
        }
        let new: Vec<_> = order.checks.iter().filter(|check| !self.keep(check)).collect();
        let Self { slots, by_check, schedule, .. } = self;
        slots.retain(|_, slot| {
            if !slot.wanted {
                by_check.remove(&address(&slot.check));
                schedule.reckon(Some(slot.interval), None);
            }
            slot.wanted
        });
        let n = new.len();
        for (k, check) in new.into_iter().enumerate() {
            // Listed twice.
            if !self.keep(check) {
                self.add(
                    check,
                    schedule::first_gap(n) * u32::try_from(n).unwrap_or(u32::MAX),
                    schedule::first(k, n, now),
                );
            }
        }
        self.number = order.number;
        self.unchecked = self.slots.iter().filter(|(_, slot)| slot.check.status() == Status::Unchecked).count();
        self.report();
    }

    /// Whether there is a slot for this check; it is then wanted.
    fn keep(&mut self, check: &Arc<Check>) -> bool {
        match self.by_check.get(&address(check)).and_then(|&slot| self.slots.get_mut(slot)) {
            Some(slot) => {
                slot.wanted = true;
                true
            }
            None => false,
        }
    }

    fn add(&mut self, check: &Arc<Check>, interval: Duration, due: Instant) {
        let id = self.next_id;
        self.next_id += 1;
        let slot = self.slots.insert(Slot {
            id,
            check: check.clone(),
            request: exchange::request(check).map(Arc::from),
            machine: RiseFall::resume(check.status(), check.passes() > 0 || check.status() == Status::Up),
            phase: self.schedule.phase(),
            interval,
            link: None,
            announced: None,
            failed: false,
            clears: false,
            is_back: false,
            wanted: true,
        });
        self.by_check.insert(address(check), slot);
        self.schedule.reckon(None, Some(interval));
        self.schedule.push(due, Turn { slot, id });
    }

    /// Starts what is due.
    fn start(&mut self, now: Instant) {
        while self.running.len() < MAX_CONCURRENT
            && let Some((turn, late)) = self.schedule.pop(now)
        {
            let Some(slot) = at(&mut self.slots, turn) else { continue };
            if late >= LATE {
                self.metrics.limit_hit("health_checks_late");
            }
            let (check, request, link) = (slot.check.clone(), slot.request.clone(), slot.link.take());
            let was_refused = check.backend.last_connect_refused();
            self.running.push(Box::pin(async move {
                let found = match check.agent() {
                    Some(_) => Found::Agent(agent::ask(&check).await),
                    None => Found::Check(exchange::ask(&check, request.as_deref(), link).await),
                };
                Done { turn, started: now, was_refused, found }
            }));
        }
    }

    /// Takes in a result, and says when the next check is due.
    fn finish(&mut self, done: Done, now: Instant) {
        let Some(slot) = at(&mut self.slots, done.turn) else { return };
        let answer = match done.found {
            Found::Agent(line) => return self.finish_agent(done.turn, done.started, line, now),
            Found::Check(answer) => answer,
        };
        slot.link = answer.link;
        let why = answer.why;
        let settings = &slot.check.settings;
        let before = slot.machine.status();
        let result = match answer.result {
            Ok(()) => Some(Ok(())),
            Err(Failure::Backend(cause)) => Some(Err(cause)),
            Err(Failure::Local) => {
                self.metrics.limit_hit("health_checks_local");
                None
            }
        };
        if let Some(result) = result {
            slot.check.count(result.is_ok());
            slot.machine.note(result, settings.rise, settings.fall);
            if result.is_ok() {
                let ejection = slot.check.backend.standing().ejection;
                let saw = slot.failed || done.was_refused;
                slot.clears |= ejection.is_some_and(|ejection| ejection.ends_by_check(done.started, saw));
            }
            let is_back = answer.said == Some(Announcement::Ready) || result.is_ok() && done.was_refused;
            slot.is_back |= is_back && slot.check.backend.drains();
            slot.failed = result.is_err();
        }
        let after = slot.machine.status();
        let hurry = slot.machine.in_transition() || result.is_none();
        let interval = if hurry { settings.fast_interval.min(settings.interval) } else { settings.interval };
        let due = if hurry {
            (done.started + interval).max(now)
        } else {
            self.schedule.regular(slot.phase, interval, done.started).max(now)
        };
        self.schedule.push(due, done.turn);
        self.schedule.reckon(Some(slot.interval), Some(interval));
        slot.interval = interval;
        if before != after || slot.clears || slot.is_back {
            slot.check.set(after, now);
            log(&slot.check, before, after, why.as_deref());
            self.nudge(done.turn, before);
        }
        if before == Status::Unchecked && after != before {
            self.count_first();
        }
    }

    /// Takes in what an agent said.
    fn finish_agent(&mut self, turn: Turn, started: Instant, line: Option<agent::Line>, now: Instant) {
        let Some(slot) = at(&mut self.slots, turn) else { return };
        let Some(agent) = slot.check.agent() else { return };
        slot.check.count(line.is_some());
        let has_news = line.is_some_and(|line| agent.note(&line.text, line.said));
        let (first, after) = (slot.check.status(), agent.status());
        // Before it is asked it is not known to be anything else.
        let before = if first == Status::Unchecked { Status::Up } else { first };
        let interval = slot.check.settings.interval;
        let due = self.schedule.regular(slot.phase, interval, started).max(now);
        self.schedule.push(due, turn);
        self.schedule.reckon(Some(slot.interval), Some(interval));
        slot.interval = interval;
        if has_news || first != after {
            slot.check.set(after, now);
            log(&slot.check, before, after, None);
            self.nudge(turn, before);
        }
        if first == Status::Unchecked {
            self.count_first();
        }
    }

    /// A check has had its first result.
    fn count_first(&mut self) {
        self.unchecked = self.unchecked.saturating_sub(1);
        self.report();
    }

    /// Something of a check is to be announced; `before`: its state until now.
    fn nudge(&mut self, turn: Turn, before: Status) {
        if let Some(slot) = at(&mut self.slots, turn)
            && slot.announced.is_none()
        {
            slot.announced = Some(before);
            self.nudges.push_back(turn);
        }
        self.announce();
    }

    /// Sends as many nudges as there is room for.
    fn announce(&mut self) {
        while !self.nudges.is_empty()
            && let Ok(permit) = self.facts.try_reserve()
            && let Some(transition) = next_nudge(&mut self.nudges, &mut self.slots)
        {
            permit.send(transition);
        }
    }

    fn report(&self) {
        let progress = Progress { number: self.number, unchecked: self.unchecked };
        self.progress.send_if_modified(|p| std::mem::replace(p, progress) != progress);
    }
}

/// The oldest transition that waits for room. Those of checks that are gone are left out.
fn next_nudge(nudges: &mut VecDeque<Turn>, slots: &mut Slab<Slot>) -> Option<Transition> {
    loop {
        let turn = nudges.pop_front()?;
        if let Some(slot) = at(slots, turn)
            && let Some(from) = slot.announced.take()
        {
            let (clears, is_back) = (std::mem::take(&mut slot.clears), std::mem::take(&mut slot.is_back));
            return Some(Transition { check: slot.check.clone(), from, to: slot.check.status(), clears, is_back });
        }
    }
}

fn at(slots: &mut Slab<Slot>, turn: Turn) -> Option<&mut Slot> {
    slots.get_mut(turn.slot).filter(|slot| slot.id == turn.id)
}

fn address(check: &Arc<Check>) -> usize {
    Arc::as_ptr(check).addr()
}

fn log(check: &Check, from: Status, to: Status, why: Option<&str>) {
    if !flips(from, to) {
        return;
    }
    let (backend, region) = (&*check.backend.label, &*check.backend.identity.region);
    let agent = check.agent();
    let (by, said) = (if agent.is_some() { "agent" } else { "check" }, agent.and_then(|agent| agent.line()));
    match to {
        Status::Down(Cause::Draining) => tracing::info!(backend, region, by, said, "backend announces drain"),
        Status::Down(cause) => tracing::warn!(backend, region, to = "down", %cause, why, said, "backend is down"),
        _ => tracing::info!(backend, region, to = "up", cause = "passed", said, "backend is up"),
    }
}
