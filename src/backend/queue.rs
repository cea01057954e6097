//! Requests that wait until a backend has room for them: a [`Queue`] for each pool, shared by all workers.
//!
//! A request that ends does not merely free its place when somebody waits for one: the place goes to whom it is due.
//! While anybody waits for a backend, a bit of its count bars it to all who come; whoever ends a request there sees the
//! bit in the word that it counts down in any case, and only then takes the locks of this file (`pass_on`). So nobody
//! who comes can take what a waiting request is due, and where nobody waits, nobody pays.
//!
//! Every place has an owner at any moment: it is counted, or a guard holds it, or it lies in its queue for a request that
//! was chosen and has not looked yet. A request that leaves at that moment drops the guard, which passes the place on.
//!
//! No wake-up is lost: who begins to wait sets the bit first and then looks once more for room. An end that does not see
//! the bit has counted down before that look. Room that comes about in other ways (a limit that was raised, a connection
//! that closed) is found by looking again every now and then, which the caller does.
//!
//! Order of locks: a queue's, then a backend's. Nobody is woken, and no waker or place dropped, while one is held: either
//! may run code that ends here again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;

use super::Backend;
use super::live::InFlight;
use crate::model::{Limit, QueueOrder};

/// The queues of all pools, by asset and region. One is there while a worker or a request holds it, so a reload that
/// leaves the pool leaves its queue.
#[derive(Debug, Default)]
pub struct Queues(Mutex<HashMap<Pool, Weak<Queue>>>);

/// Asset and region.
type Pool = (Arc<str>, Arc<str>);

impl Queues {
    /// The queue of this pool.
    pub fn queue(&self, asset: &Arc<str>, region: &Arc<str>) -> Arc<Queue> {
        let mut queues = lock(&self.0);
        let pool = (Arc::clone(asset), Arc::clone(region));
        if let Some(queue) = queues.get(&pool).and_then(Weak::upgrade) {
            return queue;
        }
        // Instead of growing it forgets first; what it grows by is then as much as was in use.
        if queues.len() == queues.capacity() {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::default();
        queues.insert(pool, Arc::downgrade(&queue));
        queue
    }
}

/// The requests of one pool that wait.
#[derive(Default)]
pub struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the newest request said.
    order: QueueOrder,
    /// Above every number that was given.
    next: u64,
    /// By number: the oldest first.
    waiting: BTreeMap<u64, Entry>,
    /// What became of those that have not looked yet.
    placed: BTreeMap<u64, Placed>,
    /// The largest limit of any that has waited since none did: a backend with as many in flight has room for nobody.
    largest: u32,
}

struct Entry {
    waker: Waker,
    targets: Vec<Target>,
}

/// A backend that a request would go to.
#[derive(Clone)]
pub struct Target {
    backend: Arc<Backend>,
    max_requests: u32,
    /// It is a connection, too, that there was none of: as many as may be open.
    max_connections: Option<u32>,
}

/// What becomes of a request that waits.
#[derive(Debug)]
pub enum Placed {
    /// It has a place at a backend, counted already.
    At(InFlight),
    /// A newer one has got its place in the queue.
    Displaced,
}

impl Target {
    /// This backend, with so many requests at most. `lacks_connection`: it had room for the request but no connection.
    pub fn new(backend: &Arc<Backend>, max_requests: u32, limit: &Limit, lacks_connection: bool) -> Self {
        Self {
            backend: Arc::clone(backend),
            max_requests,
            max_connections: lacks_connection.then_some(limit.max_connections),
        }
    }

    fn has_room(&self) -> bool {
        self.backend.line.has_room(self.max_requests) && self.has_connection()
    }

    fn has_connection(&self) -> bool {
        self.max_connections.is_none_or(|max| self.backend.line.has_connection(max))
    }

    fn take(&self) -> bool {
        self.has_connection() && self.backend.line.take_past(self.max_requests)
    }
}

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Gives a place at this backend, if there is one, to whom it is due. The waker is for the caller to wake.
    fn grant(&self, state: &mut State, backend: &Arc<Backend>) -> Option<Waker> {
        if backend.in_flight() >= state.largest {
            return None;
        }
        let takes = |entry: &Entry| {
            let target = entry.targets.iter().find(|target| Arc::ptr_eq(&target.backend, backend));
            target.is_some_and(Target::take)
        };
        let mut waiting = state.waiting.iter();
        let found = match state.order {
            QueueOrder::Fifo => waiting.find(|(_, entry)| takes(entry)),
            QueueOrder::Lifo => waiting.rfind(|(_, entry)| takes(entry)),
        };
        let (&number, _) = found?;
        state.placed.insert(number, Placed::At(InFlight::new(backend)));
        state.remove(number, self).map(|entry| entry.waker)
    }
}

impl State {
    fn remove(&mut self, number: u64, queue: &Queue) -> Option<Entry> {
        let entry = self.waiting.remove(&number)?;
        entry.targets.iter().for_each(|target| target.backend.line.waiting.leave(target, queue));
        if self.waiting.is_empty() {
            self.largest = 0;
        }
        Some(entry)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).finish()
    }
}

/// One request's place in a queue, by when it first came: it may leave and come again, and is as old as it is. Dropped,
/// it leaves for good.
#[derive(Debug)]
pub struct Waiter {
    queue: Arc<Queue>,
    number: Option<u64>,
}

impl Waiter {
    /// Of a request that does not wait yet.
    pub fn new(queue: Arc<Queue>) -> Self {
        Self { queue, number: None }
    }

    /// Begins to wait for any of these backends; if it waits already, from now on for these. False: the queue is full.
    pub fn enter(&mut self, limit: &Limit, targets: Vec<Target>) -> bool {
        let mut state = self.queue.lock();
        let number = *self.number.get_or_insert(state.next);
        state.next = state.next.max(number + 1);
        state.order = limit.queue_order;
        if state.placed.contains_key(&number) {
            return true;
        }
        let before = state.remove(number, &self.queue);
        let max = usize::try_from(limit.max_queue).unwrap_or(usize::MAX);
        let mut displaced = SmallVec::<[Entry; 1]>::new();
        // There may be more than one too many: the bound may have been lowered.
        while limit.queue_order == QueueOrder::Lifo
            && max > 0
            && state.waiting.len() >= max
            && let Some(oldest) = state.waiting.keys().next().copied().filter(|oldest| *oldest < number)
        {
            displaced.extend(state.remove(oldest, &self.queue));
            state.placed.insert(oldest, Placed::Displaced);
        }
        let has_room = state.waiting.len() < max;
        if has_room {
            for target in &targets {
                target.backend.line.waiting.join(target, &self.queue);
                state.largest = state.largest.max(target.max_requests);
            }
            state.waiting.insert(number, Entry { waker: Waker::noop().clone(), targets });
        }
        drop(state);
        drop(before);
        displaced.into_iter().for_each(|entry| entry.waker.wake());
        self.look();
        has_room
    }

    /// Looks for room at its backends, and gives what there is to whom it is due.
    pub fn look(&self) {
        let mut wakers = SmallVec::<[Waker; 4]>::new();
        let mut state = self.queue.lock();
        let roomy: SmallVec<[Target; 4]> = match self.number.and_then(|number| state.waiting.get(&number)) {
            Some(entry) => entry.targets.iter().filter(|target| target.has_room()).cloned().collect(),
            None => SmallVec::new(),
        };
        for target in roomy {
            while target.has_room()
                && let Some(waker) = self.queue.grant(&mut state, &target.backend)
            {
                wakers.push(waker);
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// What has become of it. Only for one that waits.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<Placed> {
        let Some(number) = self.number else { return Poll::Pending };
        let mut state = self.queue.lock();
        if let Some(placed) = state.placed.remove(&number) {
            return Poll::Ready(placed);
        }
        let mut old = None;
        if let Some(entry) = state.waiting.get_mut(&number)
            && !entry.waker.will_wake(cx.waker())
        {
            old = Some(std::mem::replace(&mut entry.waker, cx.waker().clone()));
        }
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Waits no longer. If it was given a place in this moment, that is its own.
    pub fn leave(&self) -> Option<InFlight> {
        let number = self.number?;
        let mut state = self.queue.lock();
        let left = state.remove(number, &self.queue);
        let placed = state.placed.remove(&number);
        drop(state);
        drop(left);
        match placed? {
            Placed::At(place) => Some(place),
            Placed::Displaced => None,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A queue, and how many of its requests wait for one backend.
type Joined = (Arc<Queue>, usize);

/// Who waits for a backend: what every request there would have to write is not in here.
#[derive(Default)]
pub(super) struct Waiting {
    /// How many wait for a connection.
    hungry: AtomicU32,
    /// Queues with the number of those in each; none without any.
    /// In memory of its own, because the line is short.
    queues: Box<Mutex<Vec<Joined>>>,
}

impl Waiting {
    /// Whether somebody waits for a connection.
    pub(super) fn is_hungry(&self) -> bool {
        self.hungry.load(SeqCst) > 0
    }

    fn join(&self, target: &Target, queue: &Arc<Queue>) {
        if target.max_connections.is_some() {
            self.hungry.fetch_add(1, SeqCst);
        }
        let mut queues = lock(&self.queues);
        match queues.iter_mut().find(|(known, _)| Arc::ptr_eq(known, queue)) {
            Some((_, count)) => *count += 1,
            None => queues.push((Arc::clone(queue), 1)),
        }
        target.backend.line.set_barred(true);
    }

    fn leave(&self, target: &Target, queue: &Queue) {
        if target.max_connections.is_some() {
            self.hungry.fetch_sub(1, SeqCst);
        }
        let mut queues = lock(&self.queues);
        let Some(at) = queues.iter().position(|(known, _)| std::ptr::eq(&**known, queue)) else { return };
        if let Some((_, count)) = queues.get_mut(at) {
            *count -= 1;
            if *count == 0 {
                // Whoever waits holds the queue, so this is not the end of it.
                queues.remove(at);
            }
        }
        if queues.is_empty() {
            target.backend.line.set_barred(false);
        }
    }

    /// The queues of those who wait. Each time another one is the first, so that a pool with many does not starve one
    /// with few.
    fn in_turn(&self) -> SmallVec<[Arc<Queue>; 2]> {
        let mut queues = lock(&self.queues);
        if queues.len() > 1 {
            queues.rotate_left(1);
        }
        queues.iter().map(|(queue, _)| Arc::clone(queue)).collect()
    }
}

/// Something at this backend has ended while somebody waits: gives the place that has become free to whom it is due.
#[cold]
pub(super) fn pass_on(backend: &Arc<Backend>) {
    for queue in backend.line.waiting.in_turn() {
        let mut state = queue.lock();
        let waker = queue.grant(&mut state, backend);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
            return;
        }
    }
}

/// Locks. Nothing in here can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
