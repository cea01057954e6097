//! Two tries of which the second begins when the first has taken long, and of which one is enough.

use std::pin::pin;

use futures_util::future::{Either, select};
use tokio::time::{Instant, timeout_at};

/// How a race ended. Whatever is not in here has been dropped before it was over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finish<T> {
    /// There was no second one.
    Alone(T),
    /// One was final, and the other was given up.
    One(T),
    /// The earlier was not final, so the other was waited for.
    Both { earlier: T, last: T },
}

/// Runs `first`, and if that is not over by then, another one beside it, if there is one.
pub(super) async fn race<T, S: Future<Output = T>>(
    first: impl Future<Output = T>,
    due: Option<Instant>,
    second: impl FnOnce() -> Option<S>,
    is_final: impl Fn(&T) -> bool,
) -> Finish<T> {
    let mut first = pin!(first);
    if let Some(due) = due
        && let Ok(done) = timeout_at(due, first.as_mut()).await
    {
        return Finish::Alone(done);
    }
    let Some(second) = due.and_then(|_| second()) else {
        return Finish::Alone(first.await);
    };
    match select(first, pin!(second)).await {
        Either::Left((done, _)) | Either::Right((done, _)) if is_final(&done) => Finish::One(done),
        Either::Left((earlier, second)) => Finish::Both { earlier, last: second.await },
        Either::Right((earlier, first)) => Finish::Both { earlier, last: first.await },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    /// Counts how many are running.
    struct Running(Rc<Cell<i32>>);

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    fn entrant(
        name: &'static str,
        ms: u64,
        good: bool,
        running: &Rc<Cell<i32>>,
    ) -> impl Future<Output = (&'static str, bool)> {
        running.set(running.get() + 1);
        let guard = Running(Rc::clone(running));
        async move {
            let _guard = guard;
            sleep(Duration::from_millis(ms)).await;
            (name, good)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_first_and_good_ends_it() {
        let alone = |good| Finish::Alone(("first", good));
        let one = |name| Finish::One((name, true));
        let both = |earlier, last, good| Finish::Both { earlier: (earlier, false), last: (last, good) };
        // Due after ten milliseconds. First and second: how long, and whether good. Then the end, and when.
        for ((first, second), expected, at) in [
            (((5, true), Some((5, true))), alone(true), 5),
            (((5, false), Some((5, true))), alone(false), 5),
            (((50, true), None), alone(true), 50),
            (((50, false), None), alone(false), 50),
            (((50, true), Some((20, true))), one("second"), 30),
            (((50, true), Some((90, true))), one("first"), 50),
            (((30, true), Some((20, true))), one("first"), 30),
            (((50, false), Some((20, true))), one("second"), 30),
            (((50, true), Some((20, false))), both("second", "first", true), 50),
            (((50, false), Some((90, true))), both("first", "second", true), 100),
            (((50, false), Some((90, false))), both("first", "second", false), 100),
            (((50, false), Some((20, false))), both("second", "first", false), 50),
        ] {
            let running = Rc::default();
            let began = Instant::now();
            let due = Some(began + Duration::from_millis(10));
            let other = || {
                assert_eq!(began.elapsed().as_millis(), 10);
                second.map(|(ms, good)| entrant("second", ms, good, &running))
            };
            let finish = race(entrant("first", first.0, first.1, &running), due, other, |done| done.1).await;
            assert_eq!((finish, began.elapsed().as_millis()), (expected, at), "{first:?} {second:?}");
            assert_eq!(running.get(), 0, "the loser is dropped");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_time_there_is_no_second() {
        let running = Rc::default();
        let never = || -> Option<std::future::Ready<(&'static str, bool)>> { unreachable!() };
        let finish = race(entrant("first", 5000, true, &running), None, never, |done| done.1).await;
        assert_eq!(finish, Finish::Alone(("first", true)));
        let running_still = Rc::clone(&running);
        let second = || Some(entrant("second", 5000, true, &running));
        let left = race(entrant("first", 5000, true, &running_still), Some(Instant::now()), second, |done| done.1);
        assert!(tokio::time::timeout(Duration::from_millis(100), left).await.is_err());
        assert_eq!(running.get(), 0, "a client that leaves ends both");
    }
}
