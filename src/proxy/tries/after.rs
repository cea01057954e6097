//! After a try: the answer, or what may follow. By the rules that stand in the module above.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::{Answer, Tried, Tries};
use crate::backend::Backend;
use crate::hint::cold_path;
use crate::model::{Reason, Retry};
use crate::proxy::BoxError;
use crate::proxy::attempt::Failure;
use crate::proxy::order::Order;
use crate::telemetry::RetryResult;

/// Free tries of one request.
pub(super) const FREE: u32 = 8;
/// So many backends that ask for time end the tries.
const WAITS: u32 = 2;

/// What a failed try may be followed by.
pub(super) enum Then {
    /// Another one for free.
    Free,
    /// A retry by these terms, in the place of the answer with this status if it was one that failed.
    Retry(Retry, Option<StatusCode>),
    Nothing,
}

impl<B> Tries<'_, B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The answer, or what may follow.
    #[inline(always)]
    pub(super) fn judged(
        &mut self,
        result: Tried<B>,
        backend: &Arc<Backend>,
        order: &mut Order<'_>,
    ) -> ControlFlow<Answer<B>, Then> {
        match result {
            Ok(sent) if !sent.is_gateway_error() => {
                self.count_retry(RetryResult::Success);
                ControlFlow::Break(Ok(sent))
            }
            Err(Failure::Full) => {
                cold_path();
                self.last.get_or_insert(Reason::Overloaded);
                self.past.get_or_insert_default().lacks(backend);
                ControlFlow::Continue(Then::Free)
            }
            failed => {
                cold_path();
                match self.failed(failed, backend, order) {
                    Ok(then) => ControlFlow::Continue(then),
                    Err(reason) => ControlFlow::Break(Err(reason)),
                }
            }
        }
    }

    /// Remembers how a try failed, and says what may follow. When it was the client who failed, nothing may.
    pub(super) fn failed(
        &mut self,
        result: Tried<B>,
        backend: &Arc<Backend>,
        order: &mut Order<'_>,
    ) -> Result<Then, Reason> {
        order.note_spent(backend);
        if let Err(Failure::Unseen(reason)) = result {
            self.last = Some(reason);
            order.note_unseen();
            self.free += 1;
            if self.free < FREE && self.body.is_replayable() && self.is_any_left(order) {
                // If it was a retry, it still is the same one.
                return Ok(Then::Free);
            }
        }
        self.count_retry(RetryResult::Failure);
        let terms = self.retry.filter(|_| self.outgoing.is_idempotent());
        let passed_over = answered(&result);
        let terms = match result {
            Ok(sent) if sent.is_unavailable => {
                // That calls may be repeated is what whoever has asked for this has said.
                self.held = Some(Box::new(sent));
                self.retry.filter(|retry| retry.on.grpc_unavailable)
            }
            Ok(sent) => {
                self.asked_to_wait += u32::from(sent.asks_to_wait());
                self.held = Some(Box::new(sent));
                terms.filter(|retry| retry.on.gateway_error && self.asked_to_wait < WAITS)
            }
            Err(Failure::Client(reason)) => return Err(reason),
            Err(Failure::Full | Failure::Unseen(_)) => terms.filter(|retry| retry.on.connect_failure),
            Err(Failure::Seen(reason)) => {
                self.last = Some(reason);
                if reason == Reason::UpstreamTimeout {
                    order.note_silent();
                }
                terms.filter(|retry| retry.on.reset)
            }
        };
        let is_any_left = self.is_any_left(order);
        if !is_any_left {
            self.note_lack_of_room(order);
        }
        let terms = terms.filter(|terms| self.retries < terms.max && self.body.is_replayable());
        Ok(terms.filter(|_| is_any_left).map_or(Then::Nothing, |terms| Then::Retry(terms, passed_over)))
    }

    /// Pauses, and waits for room in the budget; not for longer than an answer could still be used.
    pub(super) async fn may_retry(
        &mut self,
        terms: &Retry,
        passed_over: Option<StatusCode>,
        order: &mut Order<'_>,
    ) -> bool {
        let pause = pause(self.retries, &mut order.random);
        let due = self.due();
        if due.is_some_and(|due| due <= Instant::now() + pause) {
            return false;
        }
        sleep(pause).await;
        let counted = self.slot.budget.wait(terms, due, &mut order.random).await;
        // Whoever is still sending the body to a backend that has answered may have read more than can be kept.
        if !self.body.is_replayable() {
            return false;
        }
        self.retrying = counted;
        self.retries += 1;
        if self.retrying.is_none()
            && let Some(key) = &self.ticket.key
        {
            key.cells.retry(RetryResult::NoBudget);
        }
        if let (Some(_), Some(status), Some(backend)) = (&self.retrying, passed_over, &self.ticket.backend) {
            self.note_passed_over(&backend.label, status);
        }
        self.retrying.is_some()
    }

    /// An answer that goes to the client is in the access log. One in whose place another is asked for would be nowhere.
    pub(super) fn note_passed_over(&self, backend: &str, status: StatusCode) {
        let error = match status {
            StatusCode::OK => "the call ended with UNAVAILABLE".to_owned(),
            status => format!("answered {}", status.as_u16()),
        };
        tracing::warn!(backend, request_id = self.ticket.request_id(), wrote = true, error, "a try failed");
    }
}

/// The status of a try that failed by its answer.
pub(super) fn answered<B>(result: &Tried<B>) -> Option<StatusCode> {
    result.as_ref().ok().map(|sent| sent.response.head.status)
}

/// Whether a try that a backend may have seen can be followed by another, whatever comes of it: by what [`Tries::failed`]
/// asks of a request, without what it asks of the failure.
pub(super) fn may_follow_seen(retry: Option<&Retry>, is_idempotent: bool) -> bool {
    retry.is_some_and(|retry| is_idempotent || retry.on.grpc_unavailable)
}

/// Before a retry: at random between 25 ms and a bound that doubles from 50 to 250 ms, so that the requests that failed
/// together do not come back together.
fn pause(retries: u32, random: &mut fastrand::Rng) -> Duration {
    let most = 50_u64.checked_shl(retries).unwrap_or(250).clamp(50, 250);
    Duration::from_millis(random.u64(25..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backend_may_have_seen_is_repeated_if_that_is_allowed_and_harmless() {
        let plain = Retry::default();
        let mut calls = plain;
        calls.on.grpc_unavailable = true;
        let cases = [
            (None, false, false),
            (None, true, false),
            (Some(&plain), false, false),
            (Some(&plain), true, true),
            (Some(&calls), false, true),
        ];
        for (retry, is_idempotent, expected) in cases {
            assert_eq!(may_follow_seen(retry, is_idempotent), expected, "{retry:?} {is_idempotent}");
        }
    }

    #[test]
    fn pauses_are_bounded_and_differ() {
        let mut random = fastrand::Rng::with_seed(7);
        for retries in [0, 1, 2, 3, 31, 32, 99] {
            let pauses: Vec<_> = (0..50).map(|_| pause(retries, &mut random).as_millis()).collect();
            assert!(pauses.iter().all(|pause| (25..=250).contains(pause)), "{retries}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
        assert!((0..50).all(|_| pause(0, &mut random).as_millis() <= 50));
    }
}
