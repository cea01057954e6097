//! A tunnel on a client's connection: after the 101 it is bytes both ways until both sides have ended, or nothing has gone
//! either way for too long.
//!
//! Both directions are driven in the connection's task. Each has at most one piece under way, so whoever does not read
//! stops the other's sending, and nothing else.
//!
//! When the worker drains, a WebSocket's client is told in its own language that this server is going away: its answer to
//! that closes the backend's side, too.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame};

use super::BoxError;
use super::lasting::Lasting;
use super::serve::End;
use super::stream::{Stream, Writer};
use super::wire::Wire;
use crate::message::fields::{Known, Names};
use crate::message::hop::HOP_BY_HOP;
use crate::message::send::Failed;
use crate::message::tunnel::{Duplex, Pipe};
use crate::message::websocket::{Frames, GOING_AWAY};
use crate::message::{Conn, Response, ResponseHead, upgrade};

/// A 101 has no body, whatever it says of one.
const NOT_SENT: Names = HOP_BY_HOP.and(Names::of(&[Known::ContentLength]));

/// Sends the answer that opens the tunnel and stays until that has ended.
pub(super) async fn run<W: Wire, B>(
    stream: &Rc<Stream<W>>,
    response: Response<B>,
    idle: Option<Duration>,
    is_websocket: bool,
) -> End
where
    B: Duplex<Error = BoxError> + Unpin,
{
    let Response { head, body } = response;
    let mut front = Vec::new();
    stream.interim_rest(&mut front);
    write(&head, &mut front);
    let times = stream.open_tunnel(idle);
    let body = Parting::new(body, &stream.watch.conn, &times, is_websocket);
    let mut down = Pipe::new(Bytes::from(front), body);
    let (mut is_up_over, mut is_down_over) = (false, false);
    poll_fn(|cx| {
        if times.is_over() {
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
    upgrade::write(out, head.fields.get(Known::Upgrade).unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// What the backend says, until the drain: then its frame is ended, and a Close frame is the last that the client gets.
pub(super) struct Parting<B> {
    body: B,
    conn: Rc<Conn>,
    times: Rc<Lasting>,
    /// `None`: nobody knows where anything ends in this protocol.
    frames: Option<Frames>,
    has_left: bool,
}

impl<B> Parting<B> {
    /// `conn`: of the connection, or of the stream.
    pub(super) fn new(body: B, conn: &Rc<Conn>, times: &Rc<Lasting>, is_websocket: bool) -> Self {
        let frames = is_websocket.then(Frames::default);
        Self { body, conn: Rc::clone(conn), times: Rc::clone(times), frames, has_left: false }
    }
}

impl<B: Duplex<Error = BoxError> + Unpin> Body for Parting<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { body, conn, times, frames: Some(frames), has_left } = &mut *self else {
            return Pin::new(&mut self.body).poll_frame(cx);
        };
        if *has_left {
            return Poll::Ready(None);
        }
        if times.is_leaving() && frames.is_between() {
            *has_left = true;
            times.tell(conn);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(GOING_AWAY)))));
        }
        let frame = ready!(Pin::new(body).poll_frame(cx));
        let Some(Ok(frame)) = frame else { return Poll::Ready(frame) };
        let mut data = frame.into_data().unwrap_or_default();
        if times.is_leaving() {
            data.truncate(frames.step(&data));
        } else {
            frames.pass(&data);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl<B: Duplex<Error = BoxError> + Unpin> Duplex for Parting<B> {
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.body.poll_up(cx)
    }
}
