//! A tunnel on its way between a client and a backend: counted as it goes, and kept, with all that it holds, until both
//! sides have ended. What a backend does in it is not judged: there are no messages any more, and people hang up.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::BoxError;
use super::response::Relay;
use super::ticket::Ticket;
use crate::message::tunnel::Duplex;
use crate::model::Reason;

/// Both directions, and the backend's place, which is held meanwhile.
pub(super) struct Tunnel<U> {
    relay: Relay<U>,
    is_down_over: bool,
    is_up_over: bool,
}

impl<U> Tunnel<U>
where
    U: Duplex + Unpin,
    U::Error: Into<BoxError>,
{
    pub(super) fn new(relay: Relay<U>) -> Self {
        Self { relay, is_down_over: false, is_up_over: false }
    }

    /// What the backend says.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        ticket: &mut Ticket,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_down_over {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.relay.body).poll_frame(cx)).transpose();
        self.is_down_over = matches!(frame, Ok(None) | Err(_));
        ticket.complete = self.is_down_over && self.is_up_over;
        let frame = frame.map_err(|error| {
            let error = error.into();
            tracing::debug!(backend = self.relay.serving.label(), %error, "a tunnel broke");
            ticket.complete = false;
            ticket.reason = Some(Reason::UpstreamReset);
            error
        });
        if let Ok(Some(frame)) = &frame {
            ticket.bytes_out += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame.transpose())
    }

    /// Passes on what the client says.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<Result<(), BoxError>> {
        ready!(self.relay.body.poll_up(cx))?;
        self.is_up_over = true;
        ticket.complete = self.is_down_over && ticket.reason.is_none();
        Poll::Ready(Ok(()))
    }
}
