//! A tunnel on a stream (RFC 8441): the answer is 200, and from then on DATA is bytes, both ways, until both sides have
//! ended theirs, or nothing has gone either way for too long. Windows hold back who is faster, as with any body.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::StatusCode;

use super::Connection;
use super::exchange::{Sending, Sent, Stream};
use super::head;
use crate::listen::Service;
use crate::listen::watch::{Clock, IDLE_TUNNEL};
use crate::message::Response;
use crate::message::tunnel::Duplex as _;

/// How long a tunnel may be idle.
pub(super) struct Patience {
    timeout: Option<Duration>,
    deadline: Cell<u32>,
    seen: Cell<u64>,
}

impl Patience {
    pub(super) fn new(timeout: Option<Duration>, clock: &Clock) -> Self {
        let patience = Self { timeout, deadline: Cell::default(), seen: Cell::default() };
        patience.restart(clock);
        patience
    }

    fn restart(&self, clock: &Clock) {
        self.deadline.set(self.timeout.map_or(u32::MAX, |timeout| clock.after(timeout)));
    }

    /// A sweep's part: whether it is over; then the fault says why.
    pub(super) fn sweep(&self, stream: &Stream, clock: &Clock) -> bool {
        let passed = stream.reading.bytes().wrapping_add(stream.writing.bytes());
        if self.seen.replace(passed) != passed {
            self.restart(clock);
        }
        let over = clock.now() >= self.deadline.get();
        if over {
            stream.conn.set_fault(IDLE_TUNNEL);
        }
        over
    }
}

/// Sends the answer that opens the tunnel and stays until that has ended.
pub(super) async fn run<S: Service>(
    connection: &Connection<S>,
    stream: &Stream,
    response: Response<S::Body>,
    respond: &mut SendResponse<Bytes>,
) -> Sent {
    let Response { mut head, mut body } = response;
    head.status = StatusCode::OK;
    // It answers the key, which was ours.
    head.fields.remove_named(b"sec-websocket-accept");
    let Ok(mut to) = respond.send_response(head::response(head, None, false), false) else { return Sent::Gone };
    let mut sending = Sending::raw();
    let (mut is_up_over, mut down) = (false, None);
    poll_fn(|cx| {
        if !is_up_over && let Poll::Ready(passed) = body.poll_up(cx) {
            if passed.is_err() {
                return Poll::Ready(Sent::Reset(Reason::CANCEL));
            }
            is_up_over = true;
        }
        if down.is_none()
            && let Poll::Ready(sent) = sending.poll(cx, connection, stream, &mut body, &mut to)
        {
            if !matches!(sent, Sent::Whole) {
                return Poll::Ready(sent);
            }
            down = Some(sent);
        }
        if stream.stalled.get() {
            return Poll::Ready(Sent::Reset(Reason::CANCEL));
        }
        match down.take_if(|_| is_up_over) {
            Some(sent) => Poll::Ready(sent),
            None => Poll::Pending,
        }
    })
    .await
}
