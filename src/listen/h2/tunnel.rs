//! A tunnel on a stream (RFC 8441): the answer is 200, and from then on DATA is bytes, both ways, until both sides have
//! ended theirs, or nothing has gone either way for too long. Windows hold back who is faster, as with any body.
//!
//! A WebSocket's client hears of a drain by a Close frame and the end of the stream, beside the GOAWAY of the connection.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::StatusCode;

use super::Connection;
use super::exchange::{Sending, Sent, Stream};
use super::head;
use crate::listen::BoxError;
use crate::message::tunnel::Duplex;
use crate::message::{Response, websocket};

/// Sends the answer that opens the tunnel and stays until that has ended.
pub(super) async fn run<S, B: Duplex<Error = BoxError> + Unpin>(
    connection: &Connection<S>,
    stream: &Stream,
    response: Response<B>,
    respond: &mut SendResponse<Bytes>,
) -> Sent {
    let Response { mut head, mut body } = response;
    head.status = StatusCode::OK;
    // It answers the key, which was ours.
    head.fields.remove_named(websocket::ACCEPT.as_bytes());
    let Ok(mut to) = respond.send_response(head::response(head, None, false), false) else { return Sent::Gone };
    let mut sending = Sending::new(None, connection);
    let (mut is_up_over, mut is_down_over) = (false, false);
    poll_fn(|cx| {
        if stream.stalled.get() {
            return Poll::Ready(Sent::Reset(Reason::CANCEL));
        }
        if !is_up_over && let Poll::Ready(passed) = body.poll_up(cx) {
            if passed.is_err() {
                return Poll::Ready(Sent::Reset(Reason::CANCEL));
            }
            is_up_over = true;
        }
        if !is_down_over && let Poll::Ready(sent) = sending.poll(cx, connection, stream, &mut body, &mut to) {
            if !matches!(sent, Sent::Whole) {
                return Poll::Ready(sent);
            }
            is_down_over = true;
        }
        if is_up_over && is_down_over { Poll::Ready(Sent::Whole) } else { Poll::Pending }
    })
    .await
}
