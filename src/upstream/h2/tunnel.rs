//! A tunnel on a stream to a backend: an extended CONNECT that it has agreed to with a 2xx (RFC 8441, 4).
//!
//! The rest of the proxy knows a switch by its 101, so that is what the answer is made. Where HTTP/1.1 proves with a key
//! that the server speaks WebSocket, the status and `:protocol` have said so here, and a client of HTTP/1.1 gets the proof from
//! us (RFC 8441, 5).

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{StatusCode, response};
use http_body::Body;

use super::head;
use super::link::Place;
use super::upload::{Failed, Sending};
use crate::message::framing::Fault;
use crate::message::{Response, ResponseHead, websocket};
use crate::upstream::tunnel::Upgrade;
use crate::upstream::{BodyError, BoxError};

/// Both directions. Dropped before their end it resets the stream.
pub(in crate::upstream) struct Tunnel<B> {
    recv: RecvStream,
    /// `None`: the client has ended its side, or the backend takes no more.
    up: Option<Sending<B>>,
    _place: Place,
}

/// The answer that agrees, and the tunnel.
pub(super) fn agreed<B>(
    parts: &response::Parts,
    recv: RecvStream,
    to: SendStream<Bytes>,
    upgrade: Upgrade<B>,
    place: Place,
) -> Result<Response<Tunnel<B>>, Fault>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let (given, _) = head::response(parts)?;
    let mut head = ResponseHead { status: StatusCode::SWITCHING_PROTOCOLS, ..given };
    head.fields.remove_named(b"upgrade");
    head.fields.remove_named(websocket::ACCEPT.as_bytes());
    head.fields.push(b"upgrade", upgrade.protocol.as_bytes());
    if let Some(accept) = upgrade.proof.expected() {
        head.fields.push(websocket::ACCEPT.as_bytes(), accept.as_bytes());
    }
    let up = Some(Sending::unbounded(to, upgrade.body));
    Ok(Response { head, body: Tunnel { recv, up, _place: place } })
}

impl<B> Tunnel<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// What the backend says; `None`: it has ended its side.
    pub(in crate::upstream) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        Poll::Ready(match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                // An error would say that more is given back than was taken.
                let _ = self.recv.flow_control().release_capacity(data.len());
                Some(Ok(data))
            }
            Some(Err(error)) if error.is_remote() && error.reason() == Some(Reason::NO_ERROR) => None,
            Some(Err(error)) => Some(Err(BodyError::Stream(error))),
            None => None,
        })
    }

    /// Passes on what the client says.
    pub(in crate::upstream) fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(up) = &mut self.up else { return Poll::Ready(Ok(())) };
        let sent = match ready!(up.poll_send(cx)) {
            // A backend that reads no more may still have something to say, and ends the tunnel if it has not.
            Ok(()) | Err(Failed::Stream) => Ok(()),
            Err(Failed::Body(error)) => {
                up.abort();
                Err(error)
            }
        };
        self.up = None;
        Poll::Ready(sent)
    }
}
