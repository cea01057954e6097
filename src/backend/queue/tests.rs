//! The queue against tables, a model of it, and threads.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Wake;
use std::thread::Thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::backend::Identity;
use crate::model::{Address, Protocol};

fn backends(n: u16) -> Vec<Arc<Backend>> {
    let backend = |port| {
        let address = Address::Ip(([127, 0, 0, 1], port).into());
        Backend::new(Identity { region: "r".into(), address, protocol: Protocol::H1, tls: None })
    };
    (0..n).map(backend).collect()
}

fn limit(max_requests: u32, max_queue: u32, queue_order: QueueOrder) -> Limit {
    Limit { max_requests, max_queue, queue_order, ..Limit::default() }
}

fn targets(backends: &[Arc<Backend>], limit: &Limit) -> Vec<Target> {
    backends.iter().map(|backend| Target::new(backend, limit.max_requests, limit, false)).collect()
}

fn look(waiter: &Waiter) -> Option<Placed> {
    match waiter.poll(&Context::from_waker(Waker::noop())) {
        Poll::Ready(placed) => Some(placed),
        Poll::Pending => None,
    }
}

fn place(waiter: &Waiter) -> Option<InFlight> {
    match look(waiter) {
        Some(Placed::At(place)) => Some(place),
        Some(Placed::Displaced) => panic!("displaced"),
        None => None,
    }
}

/// A queue of its own with as many waiters for all of these backends.
fn waiters(n: usize, backends: &[Arc<Backend>], limit: &Limit) -> (Arc<Queue>, Vec<Waiter>) {
    let queue = Arc::<Queue>::default();
    let waiters = (0..n).map(|_| {
        let mut waiter = Waiter::new(Arc::clone(&queue));
        assert!(waiter.enter(limit, targets(backends, limit)));
        waiter
    });
    let waiters = waiters.collect();
    (queue, waiters)
}

#[test]
fn places_go_to_the_oldest_or_to_the_newest() {
    for (order, expected) in [(QueueOrder::Fifo, [0, 1, 2]), (QueueOrder::Lifo, [2, 1, 0])] {
        let backends = backends(2);
        let limit = limit(1, 9, order);
        let mut held: Vec<_> = backends.iter().map(|backend| backend.try_request(1).unwrap()).collect();
        let (queue, waiters) = waiters(3, &backends, &limit);
        for next in expected {
            // Whichever backend it is that gets room.
            drop(held.remove(next % held.len()));
            for (number, waiter) in waiters.iter().enumerate() {
                let got = place(waiter);
                assert_eq!(got.is_some(), number == next, "{order:?}: {number} when it is the turn of {next}");
                held.extend(got);
            }
        }
        assert!(queue.is_empty());
        drop(held);
        assert!(backends.iter().all(|backend| backend.in_flight() == 0 && backend.try_request(1).is_some()));
    }
}

#[test]
fn nobody_overtakes_whom_a_place_is_due() {
    let backends = backends(1);
    let limit = limit(1, 9, QueueOrder::Fifo);
    let held = backends[0].try_request(1).unwrap();
    let (_, waiters) = waiters(1, &backends, &limit);
    drop(held);
    // It has not looked yet, and the place is its own.
    assert_eq!(backends[0].in_flight(), 1);
    assert!(backends[0].try_request(1).is_none());
    assert!(backends[0].try_request_past(1).is_none());
    drop(place(&waiters[0]).unwrap());
    assert!(backends[0].try_request(1).is_some());
}

#[test]
fn whoever_comes_waits_while_somebody_does() {
    let backends = backends(1);
    let one = limit(1, 9, QueueOrder::Fifo);
    let held = backends[0].try_request(1).unwrap();
    let (_queue, mut waiters) = waiters(2, &backends, &one);
    // The limit was raised: there is room, but first for those who wait.
    assert!(backends[0].try_request(2).is_none());
    let two = limit(2, 9, QueueOrder::Fifo);
    assert!(waiters[1].enter(&two, targets(&backends, &two)));
    assert!(place(&waiters[0]).is_none(), "it does not know of the other limit");
    let second = place(&waiters[1]).unwrap();
    assert_eq!(backends[0].in_flight(), 2);
    drop((held, second));
    assert!(place(&waiters[0]).is_some());
    // A pool without a queue owes nobody a place.
    assert!(backends[0].try_request_past(1).is_some());
}

#[test]
fn a_full_queue_turns_away_the_newest_or_the_oldest() {
    let backends = backends(1);
    let held = backends[0].try_request(1).unwrap();
    let fifo = limit(1, 2, QueueOrder::Fifo);
    let (queue, mut waiting) = waiters(2, &backends, &fifo);
    let mut third = Waiter::new(Arc::clone(&queue));
    assert!(!third.enter(&fifo, targets(&backends, &fifo)));
    assert_eq!(queue.len(), 2);
    assert!(waiting.iter().all(|waiter| look(waiter).is_none()));

    let lifo = limit(1, 2, QueueOrder::Lifo);
    let mut fourth = Waiter::new(Arc::clone(&queue));
    assert!(fourth.enter(&lifo, targets(&backends, &lifo)));
    assert!(matches!(look(&waiting[0]), Some(Placed::Displaced)));
    assert!(look(&waiting[1]).is_none() && look(&fourth).is_none());
    // Back again it is the oldest still, and the first to go.
    assert!(!waiting[0].enter(&lifo, targets(&backends, &lifo)));
    assert_eq!(queue.len(), 2);
    let none = limit(1, 0, QueueOrder::Lifo);
    assert!(!Waiter::new(queue).enter(&none, targets(&backends, &none)));
    drop(held);
    assert!(place(&fourth).is_some());
}

#[test]
fn a_place_that_nobody_came_for_is_passed_on() {
    let backends = backends(1);
    let limit = limit(1, 9, QueueOrder::Fifo);
    let held = backends[0].try_request(1).unwrap();
    let (queue, mut waiters) = waiters(4, &backends, &limit);
    waiters.remove(1); // leaves while it waits
    drop(held);
    waiters.remove(0); // leaves with a place that it never saw
    let last = waiters.pop().unwrap();
    let own = waiters[0].leave().expect("what it was given as it left is its own");
    assert_eq!((backends[0].in_flight(), queue.len()), (1, 1));
    drop((own, waiters));
    drop(last);
    assert_eq!((backends[0].in_flight(), queue.len()), (0, 0));
    assert!(backends[0].try_request(1).is_some());
}

#[test]
fn who_begins_to_wait_looks_once_more() {
    let backends = backends(2);
    let limit = limit(1, 9, QueueOrder::Fifo);
    let (_, waiters) = waiters(2, &backends, &limit);
    let places: Vec<_> = waiters.iter().filter_map(place).collect();
    assert_eq!(places.len(), 2);
    assert!(backends.iter().all(|backend| backend.in_flight() == 1));
}

#[test]
fn who_lacks_a_connection_waits_for_one() {
    let backends = backends(1);
    let limit = Limit { max_connections: 1, ..limit(9, 9, QueueOrder::Fifo) };
    let connection = backends[0].try_connection(1).unwrap();
    assert!(backends[0].try_connection(1).is_none());
    let mut waiter = Waiter::new(Arc::default());
    assert!(waiter.enter(&limit, vec![Target::new(&backends[0], limit.max_requests, &limit, true)]));
    waiter.look();
    assert!(look(&waiter).is_none());
    assert!(backends[0].starved());
    drop(connection);
    assert!(place(&waiter).is_some());
    assert!(!backends[0].starved());
}

#[test]
fn pools_take_turns_at_a_backend() {
    let backends = backends(1);
    let limit = limit(1, 9, QueueOrder::Fifo);
    let mut held = backends[0].try_request(1);
    let (_, many) = waiters(5, &backends, &limit);
    let (_, few) = waiters(2, &backends, &limit);
    let mut turns = String::new();
    while held.take().is_some() {
        for (name, waiters) in [('m', &many), ('f', &few)] {
            for got in waiters.iter().filter_map(place) {
                turns.push(name);
                held = Some(got);
            }
        }
    }
    assert!(["mfmfmmm", "fmfmmmm"].contains(&&*turns), "{turns}");
}

#[test]
fn a_pool_has_one_queue_while_anybody_holds_it() {
    let queues = Queues::default();
    let name = |text: &str| Arc::<str>::from(text);
    let queue = queues.queue(&name("a"), &name("r"));
    assert!(Arc::ptr_eq(&queue, &queues.queue(&name("a"), &name("r"))));
    assert!(!Arc::ptr_eq(&queue, &queues.queue(&name("a"), &name("s"))));
    for number in 0..10_000 {
        queues.queue(&name(&number.to_string()), &name("r"));
    }
    assert!(lock(&queues.0).len() < 100);
    assert!(Arc::ptr_eq(&queue, &queues.queue(&name("a"), &name("r"))));
}

/// What a client, or a backend, does next.
#[derive(Debug, Clone)]
enum Step {
    /// A request for some of the backends, by bits.
    Come(u8),
    /// One of those served ends.
    End(usize),
    /// One of those waiting leaves.
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1..8_u8).prop_map(Step::Come),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    /// As a list that is searched from its front or its back: whoever is served, and in which order.
    #[test]
    fn like_a_list(steps in steps(), lifo: bool, max in 1..4_u32, room in 0..6_u32) {
        let backends = backends(3);
        let limit = limit(max, room, if lifo { QueueOrder::Lifo } else { QueueOrder::Fifo });
        let queue = Arc::<Queue>::default();
        // Each request has a number; the model says who waits and who is served where.
        let mut waiting: VecDeque<(usize, u8, Waiter)> = VecDeque::new();
        let mut served: Vec<(usize, usize, InFlight)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let mut freed = None;
            match step {
                Step::Come(bits) => {
                    let wanted: Vec<_> = (0..3).filter(|at| bits >> at & 1 == 1).collect();
                    if let Some((at, place)) = wanted.iter().find_map(|&at| Some((at, backends[at].try_request(max)?))) {
                        prop_assert!(waiting.iter().all(|(_, bits, _)| bits >> at & 1 == 0), "overtook");
                        served.push((number, at, place));
                        continue;
                    }
                    let mut waiter = Waiter::new(Arc::clone(&queue));
                    let chosen: Vec<_> = wanted.iter().map(|&at| Arc::clone(&backends[at])).collect();
                    let entered = waiter.enter(&limit, targets(&chosen, &limit));
                    if waiting.len() == room as usize && room > 0 && lifo {
                        let (_, _, oldest) = waiting.pop_front().unwrap();
                        prop_assert!(matches!(look(&oldest), Some(Placed::Displaced)));
                    }
                    prop_assert_eq!(entered, waiting.len() < room as usize);
                    if entered {
                        waiting.push_back((number, bits, waiter));
                    }
                }
                Step::End(which) if !served.is_empty() => {
                    let (_, at, place) = served.swap_remove(which % served.len());
                    drop(place);
                    freed = Some(at);
                }
                Step::Leave(which) if !waiting.is_empty() => {
                    waiting.remove(which % waiting.len());
                }
                _ => {}
            }
            if let Some(at) = freed {
                let wants = |(_, bits, _): &(usize, u8, Waiter)| bits >> at & 1 == 1;
                let due = if lifo { waiting.iter().rposition(wants) } else { waiting.iter().position(wants) };
                if let Some((number, _, waiter)) = due.and_then(|due| waiting.remove(due)) {
                    served.push((number, at, place(&waiter).expect("its turn")));
                }
            }
            prop_assert_eq!(queue.len(), waiting.len());
            for (at, backend) in backends.iter().enumerate() {
                let in_flight = served.iter().filter(|(_, where_at, _)| *where_at == at).count();
                prop_assert_eq!(backend.in_flight() as usize, in_flight);
                let awaited = waiting.iter().any(|(_, bits, _)| bits >> at & 1 == 1);
                prop_assert!(!awaited || backend.in_flight() == max, "room, and somebody waits");
            }
            for (_, _, waiter) in &waiting {
                prop_assert!(look(waiter).is_none());
            }
        }
        drop((waiting, served));
        prop_assert!(queue.is_empty());
        prop_assert!(backends.iter().all(|backend| backend.in_flight() == 0 && backend.try_request(1).is_some()));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Several pools of several backends, more threads than places, some that lose patience at any moment. There is no second
/// look here, so that a lost wake-up would end the test by its deadline.
#[test]
fn threads_never_exceed_a_limit_nor_lose_a_place() {
    const MAX: usize = 2;
    let backends = backends(3);
    let active: Vec<_> = backends.iter().map(|_| AtomicUsize::new(0)).collect();
    let queues = [Arc::<Queue>::default(), Arc::default()];
    let waited = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..8_u64 {
            let (backends, active, queues, waited) = (&backends, &active, &queues, &waited);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                let order = if number % 2 == 0 { QueueOrder::Fifo } else { QueueOrder::Lifo };
                let limit = limit(MAX as u32, 5, order);
                let waker = Arc::new(Unpark(std::thread::current())).into();
                for _ in 0..3_000 {
                    // One pool has the first two, the other the last two.
                    let pool = random.usize(0..2);
                    let pair = &backends[pool..pool + 2];
                    let first = random.usize(0..2);
                    let got = pair[first].try_request(MAX as u32).or_else(|| pair[1 - first].try_request(MAX as u32));
                    let got = got.or_else(|| {
                        let mut waiter = Waiter::new(Arc::clone(&queues[pool]));
                        if !waiter.enter(&limit, targets(pair, &limit)) {
                            return None;
                        }
                        waited.fetch_add(1, Relaxed);
                        let patience = if random.u8(0..4) == 0 { random.u32(0..3) } else { u32::MAX };
                        for _ in 0..patience {
                            match waiter.poll(&Context::from_waker(&waker)) {
                                Poll::Ready(Placed::At(place)) => return Some(place),
                                Poll::Ready(Placed::Displaced) => return None,
                                Poll::Pending => {
                                    let began = std::time::Instant::now();
                                    std::thread::park_timeout(Duration::from_secs(60));
                                    assert!(began.elapsed() < Duration::from_secs(60), "a wake-up was lost");
                                }
                            }
                        }
                        if random.bool() { waiter.leave() } else { None }
                    });
                    if let Some(got) = got {
                        let at = backends.iter().position(|backend| backend.gave(&got)).unwrap();
                        assert!(active[at].fetch_add(1, Relaxed) < MAX);
                        if random.bool() {
                            std::thread::yield_now();
                        }
                        active[at].fetch_sub(1, Relaxed);
                    }
                }
            });
        }
    });
    assert!(waited.load(Relaxed) > 0);
    assert!(queues.iter().all(|queue| queue.is_empty()));
    for backend in &backends {
        assert_eq!(backend.in_flight(), 0);
        assert!(backend.try_request(1).is_some(), "nobody waits, so nobody is barred");
        assert_eq!(Arc::strong_count(backend), 1);
    }
}
