//! Deadlines that are rarely reached, for next to nothing.
//!
//! Almost every response comes long before its deadline, so the runtime's timer, which must put each deadline into its
//! wheel and take it out again, is mostly wasted work. A deadline that is far away is only noted here, and the worker's
//! tick looks through the notes; whoever's deadline is near by then is woken and sets a real timer. So a deadline is kept
//! to the millisecond, and few ever cost more than a note.

use std::cell::RefCell;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, Sleep, sleep_until};

/// From here on a real timer is set. More than the time between two ticks of a worker, with room for a late one.
const NEAR: Duration = Duration::from_secs(1);

/// The deadlines of one worker that are far away.
#[derive(Default)]
pub(super) struct Alarms {
    notes: RefCell<Slab<(Instant, Waker)>>,
}

impl Alarms {
    /// An alarm that is not set.
    pub(super) fn alarm(&self) -> Alarm<'_> {
        Alarm { alarms: self, note: None, timer: None }
    }

    /// Wakes whoever's deadline is near. To be called at least twice in [`NEAR`].
    pub(super) fn ring(&self, now: Instant) {
        for (_, (at, waker)) in &*self.notes.borrow() {
            if *at <= now + NEAR {
                waker.wake_by_ref();
            }
        }
    }
}

/// One deadline, which may be moved.
pub(super) struct Alarm<'a> {
    alarms: &'a Alarms,
    note: Option<usize>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm<'_> {
    /// Ready once `at` is over. `now` may be a little late.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant, now: Instant) -> Poll<()> {
        if at > now + NEAR {
            let mut notes = self.alarms.notes.borrow_mut();
            match self.note.and_then(|note| notes.get_mut(note)) {
                Some(note) => {
                    note.0 = at;
                    if !note.1.will_wake(cx.waker()) {
                        note.1.clone_from(cx.waker());
                    }
                }
                None => self.note = Some(notes.insert((at, cx.waker().clone()))),
            }
            return Poll::Pending;
        }
        self.forget();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }

    fn forget(&mut self) {
        if let Some(note) = self.note.take() {
            self.alarms.notes.borrow_mut().try_remove(note);
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_far_deadline_is_kept_exactly_and_a_near_one_needs_no_tick() {
        let alarms = Alarms::default();
        let began = Instant::now();
        for wait in [10, 990, 1_010, 1_250, 9_876].map(Duration::from_millis) {
            let at = Instant::now() + wait;
            let mut alarm = alarms.alarm();
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            tokio::select! {
                () = poll_fn(|cx| alarm.poll(cx, at, Instant::now())) => {}
                () = async { loop { alarms.ring(tick.tick().await) } } => {}
            }
            assert_eq!(Instant::now(), at, "{wait:?} after {:?}", began.elapsed());
        }
        assert!(alarms.notes.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_be_moved() {
        let alarms = Alarms::default();
        let mut alarm = alarms.alarm();
        let mut at = Instant::now() + Duration::from_millis(20);
        let began = Instant::now();
        poll_fn(|cx| {
            if alarm.poll(cx, at, Instant::now()).is_pending() {
                return Poll::Pending;
            }
            if began.elapsed() < Duration::from_millis(30) {
                at += Duration::from_millis(20);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(began.elapsed(), Duration::from_millis(40));
    }
}
