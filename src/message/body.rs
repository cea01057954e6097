//! The body of a request on its way to a backend: streamed, counted, kept for replay while that is possible.
//!
//! A [`RequestBody`] belongs to one request and outlives its tries. Each try reads through an [`Attempt`]: first what
//! earlier tries have read already, then the client. What is kept is bounded twice, per request and per worker; past
//! either bound the body goes on streaming and only the chance to replay it is gone.
//!
//! Trailers travel on, but for the fields that frame or route ([`trailers`]): those could not have been checked when the
//! request was routed.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::buffer::held_by;
use super::trailers;

/// How long a backend may take to say 100 before the body is sent anyway (RFC 9110, 10.1.1).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that one worker may keep for replays, over all its requests.
#[derive(Debug, Clone)]
pub struct ReplayBudget(Rc<Cell<u64>>);

impl ReplayBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    fn take(&self, bytes: u64) -> bool {
        let enough = self.0.get() >= bytes;
        if enough {
            self.0.set(self.0.get() - bytes);
        }
        enough
    }

    fn give(&self, bytes: u64) {
        self.0.set(self.0.get() + bytes);
    }
}

/// Why a request body could not be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Larger than `max_body_bytes`.
    #[error("the request body is over the limit")]
    TooLarge,
    /// The client's connection ended or what it sent was not valid; the connection knows more.
    #[error("the client's body ended badly")]
    Client,
    /// A later try has taken over, or the answer is there already.
    #[error("this try is over")]
    Over,
}

/// The body of one request. A clone is another handle to the same.
pub struct RequestBody<B> {
    /// `None`: it has no bytes, as that of most requests, and there is nothing to share.
    shared: Option<Rc<Shared<B>>>,
    /// When the request began.
    began: Instant,
}

impl<B> Clone for RequestBody<B> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), began: self.began }
    }
}

struct Shared<B> {
    source: RefCell<B>,
    total: Option<u64>,
    max: u64,
    kept: RefCell<Vec<Bytes>>,
    /// Of a body that has been read to its end. In memory of their own, because few have any.
    trailers: RefCell<Option<Box<HeaderMap>>>,
    kept_bytes: Cell<u64>,
    /// What they hold of memory, which the budget counts.
    held_bytes: Cell<u64>,
    keep_max: Cell<u64>,
    keeping: Cell<bool>,
    /// What is kept has a use only as long as no backend can have seen the request.
    until_seen: Cell<bool>,
    budget: ReplayBudget,
    budget_hit: Cell<bool>,
    received: Cell<u64>,
    done: Cell<Option<Instant>>,
    progress: Cell<Instant>,
    waiting_for_client: Cell<bool>,
    fault: Cell<Option<BodyFault>>,
    held: Cell<bool>,
    /// Of the try that waits to be released.
    waker: RefCell<Option<Waker>>,
    /// Of whoever waits for the end.
    end_waker: RefCell<Option<Waker>>,
    attempt: Cell<u32>,
}

impl<B: Body<Data = Bytes> + Unpin> RequestBody<B> {
    /// `max`: bytes of the whole body. `hold`: the client expects 100-continue, so nothing is read until
    /// [`release`](Self::release), or a second after the first try asks. `now`: when the request began.
    pub fn new(source: B, max: u64, hold: bool, budget: &ReplayBudget, now: Instant) -> Self {
        if source.is_end_stream() {
            return Self { shared: None, began: now };
        }
        let total = source.size_hint().exact();
        Self::with(source, total, None, max, hold, budget, now)
    }

    /// Of a request that asks for a tunnel: a body of no bytes. The source is left alone until a backend has agreed, and
    /// what it has to say then is said by [`tunnelled`](Self::tunnelled).
    pub fn before_tunnel(source: B, budget: &ReplayBudget, now: Instant) -> Self {
        Self::with(source, Some(0), Some(now), 0, false, budget, now)
    }

    fn with(
        source: B,
        total: Option<u64>,
        done: Option<Instant>,
        max: u64,
        hold: bool,
        budget: &ReplayBudget,
        now: Instant,
    ) -> Self {
        let shared = Shared {
            total,
            max,
            kept: RefCell::new(Vec::new()),
            trailers: RefCell::new(None),
            kept_bytes: Cell::new(0),
            held_bytes: Cell::new(0),
            keep_max: Cell::new(0),
            keeping: Cell::new(true),
            until_seen: Cell::new(false),
            budget: budget.clone(),
            budget_hit: Cell::new(false),
            received: Cell::new(0),
            done: Cell::new(done),
            progress: Cell::new(now),
            waiting_for_client: Cell::new(false),
            fault: Cell::new(None),
            held: Cell::new(hold),
            waker: RefCell::new(None),
            end_waker: RefCell::new(None),
            attempt: Cell::new(0),
            source: RefCell::new(source),
        };
        Self { shared: Some(Rc::new(shared)), began: now }
    }

    /// How much may be kept for replay. To be set before the first try. `until_seen`: the request is not sent again once
    /// a backend may have [seen](Self::seen) it.
    pub fn keep(&self, bytes: u64, until_seen: bool) {
        if let Some(shared) = &self.shared {
            shared.keep_max.set(bytes);
            shared.until_seen.set(until_seen);
        }
    }

    /// A backend may have seen the request. What was kept for no other case is let go of: the memory that the next request
    /// is read into, and budget for bodies that can be replayed.
    ///
    /// Only of the first try: a later one still has to send what an earlier one has read.
    pub fn seen(&self) {
        let is_useless = |shared: &&Rc<Shared<B>>| shared.until_seen.get() && shared.attempt.get() == 1;
        if let Some(shared) = self.shared.as_ref().filter(is_useless) {
            shared.forget();
        }
    }

    /// Whether the declared length alone is over the limit.
    pub fn is_declared_too_large(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.total.is_some_and(|total| total > shared.max))
    }

    /// A body for the next try; the one before is over.
    pub fn attempt(&self) -> Attempt<B> {
        if let Some(shared) = &self.shared {
            shared.attempt.set(shared.attempt.get() + 1);
        }
        self.beside()
    }

    /// A body for a try beside the one that is under way, of what has been read. It must be [done](Self::done) and
    /// [replayable](Self::is_replayable).
    pub fn beside(&self) -> Attempt<B> {
        let number = self.shared.as_ref().map_or(0, |shared| shared.attempt.get());
        Attempt {
            shared: self.shared.clone(),
            number,
            next: 0,
            sent: 0,
            is_over: false,
            patience: None,
            tunnelled: false,
        }
    }

    /// What the client says in the tunnel. Neither limited nor kept.
    pub fn tunnelled(&self) -> Attempt<B> {
        Attempt { tunnelled: true, ..self.beside() }
    }

    /// Whether another try could send the same body from its beginning.
    pub fn is_replayable(&self) -> bool {
        let may = |shared: &Rc<Shared<B>>| {
            shared.fault.get().is_none() && (shared.keeping.get() || shared.received.get() == 0)
        };
        self.shared.as_ref().is_none_or(may)
    }

    /// Lets a held body flow: the backend has said 100.
    pub fn release(&self) {
        let Some(shared) = &self.shared else { return };
        shared.held.set(false);
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }

    /// Ends a body that is still held: the answer is there, so the client is not asked for it any more.
    pub fn abandon_if_held(&self) {
        if let Some(shared) = self.shared.as_ref().filter(|shared| shared.held.get()) {
            shared.fault.set(Some(BodyFault::Over));
            self.release();
        }
    }

    /// Bytes received of it so far.
    pub fn received(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.received.get())
    }

    /// What went wrong while reading it.
    pub fn fault(&self) -> Option<BodyFault> {
        self.shared.as_ref().and_then(|shared| shared.fault.get())
    }

    /// The same for whoever outlives the request. `None`: it has no bytes.
    pub fn told(&self) -> Option<Rc<dyn Told>>
    where
        B: 'static,
    {
        self.shared.clone().map(|shared| shared as Rc<dyn Told>)
    }

    /// When its last byte was read; `None`: there is more to come.
    pub fn done(&self) -> Option<Instant> {
        self.shared.as_ref().map_or(Some(self.began), |shared| shared.done.get())
    }

    /// Wakes this one when the last byte has been read.
    pub fn wake_when_done(&self, waker: &Waker) {
        let Some(shared) = &self.shared else { return };
        let mut end = shared.end_waker.borrow_mut();
        if !end.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *end = Some(waker.clone());
        }
    }

    /// When anything was last read, and whether it is the client who is being waited for now.
    pub fn progress(&self) -> (Instant, bool) {
        self.shared
            .as_ref()
            .map_or((self.began, false), |shared| (shared.progress.get(), shared.waiting_for_client.get()))
    }

    /// Whether the worker's budget made it give up replaying.
    pub fn hit_budget(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.budget_hit.get())
    }
}

/// What has become of a request's body.
pub trait Told {
    /// Bytes received of it so far.
    fn received(&self) -> u64;
    /// What went wrong while reading it.
    fn fault(&self) -> Option<BodyFault>;
    /// When anything was last read, and whether it is the client who is being waited for now.
    fn progress(&self) -> (Instant, bool);
}

impl<B> Told for Shared<B> {
    fn received(&self) -> u64 {
        self.received.get()
    }

    fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    fn progress(&self) -> (Instant, bool) {
        (self.progress.get(), self.done.get().is_none() && self.waiting_for_client.get())
    }
}

impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        self.budget.give(self.held_bytes.get());
    }
}

impl<B> Shared<B> {
    fn end(&self) {
        self.done.set(Some(Instant::now()));
        if let Some(waker) = self.end_waker.take() {
            waker.wake();
        }
    }

    fn keep(&self, data: &Bytes) -> bool {
        if !self.keeping.get() {
            return false;
        }
        let len = data.len() as u64;
        let held = held_by(data.len());
        let fits = self.kept_bytes.get() + len <= self.keep_max.get();
        if fits && self.budget.take(held) {
            self.kept_bytes.set(self.kept_bytes.get() + len);
            self.held_bytes.set(self.held_bytes.get() + held);
            self.kept.borrow_mut().push(data.clone());
            return true;
        }
        self.budget_hit.set(fits);
        self.forget();
        false
    }

    fn forget(&self) {
        self.keeping.set(false);
        self.kept.borrow_mut().clear();
        self.kept_bytes.set(0);
        self.budget.give(self.held_bytes.replace(0));
    }
}

/// The body as one try sends it.
pub struct Attempt<B> {
    /// `None`: of a body of no bytes.
    shared: Option<Rc<Shared<B>>>,
    number: u32,
    /// The next kept piece to send.
    next: usize,
    sent: u64,
    /// The trailers have been handed over.
    is_over: bool,
    patience: Option<Pin<Box<Sleep>>>,
    /// What follows the switch to another protocol.
    tunnelled: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Attempt<B> {
    fn poll_tunnelled(shared: &Shared<B>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = ready!(Pin::new(&mut *shared.source.borrow_mut()).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            shared.received.set(shared.received.get() + bytes as u64);
        }
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|_| {
                shared.fault.set(Some(BodyFault::Client));
                BodyFault::Client
            })
        }))
    }

    /// Whether the body may be read, or must wait for the backend's 100.
    fn poll_released(shared: &Shared<B>, patience: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
        if !shared.held.get() {
            return Poll::Ready(());
        }
        let patience = patience.get_or_insert_with(|| Box::pin(sleep(CONTINUE_PATIENCE)));
        if patience.as_mut().poll(cx).is_ready() {
            shared.held.set(false);
            return Poll::Ready(());
        }
        *shared.waker.borrow_mut() = Some(cx.waker().clone());
        shared.progress.set(Instant::now());
        Poll::Pending
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Attempt<B> {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(shared) = this.shared.as_deref() else { return Poll::Ready(None) };
        if this.tunnelled {
            return Self::poll_tunnelled(shared, cx);
        }
        if this.number != shared.attempt.get() {
            return Poll::Ready(Some(Err(BodyFault::Over)));
        }
        if Self::poll_released(shared, &mut this.patience, cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(fault) = shared.fault.get() {
            return Poll::Ready(Some(Err(fault)));
        }
        let kept = shared.kept.borrow().get(this.next).cloned();
        if let Some(data) = kept {
            this.next += 1;
            this.sent += data.len() as u64;
            shared.progress.set(Instant::now());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if shared.done.get().is_some() {
            let again =
                if std::mem::replace(&mut this.is_over, true) { None } else { shared.trailers.borrow().clone() };
            return Poll::Ready(again.map(|trailers| Ok(Frame::trailers(*trailers))));
        }
        // What another try has read and was not kept is missing here: the rest alone must not pass for the whole.
        if this.sent != shared.received.get() {
            return Poll::Ready(Some(Err(BodyFault::Over)));
        }
        loop {
            let polled = Pin::new(&mut *shared.source.borrow_mut()).poll_frame(cx);
            shared.waiting_for_client.set(polled.is_pending());
            let frame = match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => {
                    shared.fault.set(Some(BodyFault::Client));
                    return Poll::Ready(Some(Err(BodyFault::Client)));
                }
                Poll::Ready(None) => {
                    shared.end();
                    return Poll::Ready(None);
                }
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let Ok(mut trailers) = frame.into_trailers() else { continue };
                    trailers::strip(&mut trailers);
                    *shared.trailers.borrow_mut() = Some(Box::new(trailers.clone()));
                    shared.end();
                    this.is_over = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            };
            shared.progress.set(Instant::now());
            shared.received.set(shared.received.get() + data.len() as u64);
            if shared.received.get() > shared.max {
                shared.fault.set(Some(BodyFault::TooLarge));
                return Poll::Ready(Some(Err(BodyFault::TooLarge)));
            }
            if shared.keep(&data) {
                this.next += 1;
            }
            this.sent += data.len() as u64;
            if shared.source.borrow().is_end_stream() {
                shared.end();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        let Some(shared) = self.shared.as_deref() else { return true };
        !self.tunnelled
            && shared.done.get().is_some()
            && shared.fault.get().is_none()
            && self.next >= shared.kept.borrow().len()
            && (self.is_over || shared.trailers.borrow().is_none())
    }

    fn size_hint(&self) -> SizeHint {
        match self.shared.as_ref().map_or(Some(0), |shared| shared.total) {
            Some(total) if !self.tunnelled => SizeHint::with_exact(total.saturating_sub(self.sent)),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
