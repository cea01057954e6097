//! A tunnel on a client's connection: after the 101 it is bytes both ways until both sides have ended, or nothing has gone
//! either way for too long.
//!
//! Both directions are driven in the connection's task. Each has at most one piece under way, so whoever does not read
//! stops the other's sending, and nothing else.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::Version;

use super::BoxError;
use super::serve::End;
use super::stream::{Stream, Writer};
use super::wire::Wire;
use crate::message::fields::{Known, Names};
use crate::message::hop::HOP_BY_HOP;
use crate::message::send::Failed;
use crate::message::tunnel::{Duplex, Pipe};
use crate::message::{Response, ResponseHead};

/// A 101 has no body, whatever it says of one.
const NOT_SENT: Names = HOP_BY_HOP.and(Names::of(&[Known::ContentLength]));

/// Sends the answer that opens the tunnel and stays until that has ended.
pub(super) async fn run<W: Wire, B>(stream: &Rc<Stream<W>>, response: Response<B>, idle: Option<Duration>) -> End
where
    B: Duplex<Error = BoxError> + Unpin,
{
    let Response { head, body } = response;
    let mut front = Vec::new();
    stream.interim_rest(&mut front);
    write(&head, &mut front);
    stream.open_tunnel(idle);
    let mut down = Pipe::new(Bytes::from(front), body);
    let (mut is_up_over, mut is_down_over) = (false, false);
    poll_fn(|cx| {
        if stream.watch.is_tunnel_over() {
            return Poll::Ready(End::Closed);
        }
        if !is_up_over && let Poll::Ready(passed) = down.body().poll_up(cx) {
            if passed.is_err() {
                return Poll::Ready(End::Broken);
            }
            is_up_over = true;
        }
        if !is_down_over && let Poll::Ready(passed) = down.poll_pass(cx, &mut Writer(&**stream)) {
            if let Err(Failed::Connection(_) | Failed::Body(_)) = passed {
                return Poll::Ready(End::Broken);
            }
            is_down_over = true;
        }
        if is_up_over && is_down_over { Poll::Ready(End::Closed) } else { Poll::Pending }
    })
    .await
}

fn write(head: &ResponseHead, out: &mut Vec<u8>) {
    head.write(out, Version::HTTP_11, NOT_SENT);
    out.extend_from_slice(b"connection: Upgrade\r\nupgrade: ");
    out.extend_from_slice(head.fields.get(Known::Upgrade).unwrap_or_default());
    out.extend_from_slice(b"\r\n\r\n");
}
