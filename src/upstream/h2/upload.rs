//! The body of a request on its way into a stream: no faster than the backend's window allows.
//!
//! A piece is taken from the body when the one before has been handed over, so that the body's progress is the backend's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

use crate::upstream::BoxError;

/// A body and how far it has come.
pub(super) struct Sending<B> {
    stream: SendStream<Bytes>,
    /// `None`: it has been read to its end.
    body: Option<B>,
    piece: Bytes,
    trailers: Option<HeaderMap>,
    /// How much is still to come, if that was said.
    left: Option<u64>,
}

/// Why it could not be sent whole.
pub(super) enum Failed {
    /// The stream is over: the backend wants no more of it.
    Stream,
    /// The body failed.
    Body(BoxError),
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        let left = body.size_hint().exact();
        Self { stream, body: Some(body), piece: Bytes::new(), trailers: None, left }
    }

    /// A body that is one side of a tunnel.
    pub(super) fn unbounded(stream: SendStream<Bytes>, body: B) -> Self {
        Self { left: None, ..Self::new(stream, body) }
    }

    /// Ends the stream where it is, so that what was sent is not taken for the whole.
    pub(super) fn abort(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    /// Sends what there is to send. Ready when all of it has been handed over.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        loop {
            if !self.piece.is_empty() {
                let room = ready!(self.poll_room(cx))?;
                let data = self.piece.split_to(room.min(self.piece.len()));
                let is_last = self.piece.is_empty() && self.body.is_none() && self.trailers.is_none();
                self.stream.send_data(data, is_last).map_err(|_| Failed::Stream)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let Some(body) = &mut self.body else {
                let end = match self.trailers.take() {
                    Some(trailers) => self.stream.send_trailers(trailers),
                    None => self.stream.send_data(Bytes::new(), true),
                };
                return Poll::Ready(end.map_err(|_| Failed::Stream));
            };
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Some(left) = &mut self.left {
                            let rest = left.checked_sub(data.len() as u64);
                            *left = rest.ok_or_else(|| Failed::Body("the body is longer than its length".into()))?;
                        }
                        let is_last = body.is_end_stream();
                        self.piece = data;
                        if is_last {
                            self.end()?;
                        }
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok().map(super::head::apart);
                        self.end()?;
                    }
                },
                Some(Err(error)) => return Poll::Ready(Err(Failed::Body(error.into()))),
                None => self.end()?,
            }
        }
    }

    fn end(&mut self) -> Result<(), Failed> {
        self.body = None;
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(Failed::Body("the body is shorter than its length".into())),
        }
    }

    /// How much the backend takes now; at least a byte.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Failed>> {
        self.stream.reserve_capacity(self.piece.len());
        loop {
            match self.stream.capacity() {
                0 => {}
                room => return Poll::Ready(Ok(room)),
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Failed::Stream)),
            }
        }
    }
}
