//! A response body on its way from a stream of HTTP/2, and with it what is left of the request.
//!
//! The window is opened again for what has been handed out: whoever does not take it stops the backend. Dropped before
//! its end it resets its stream, and the connection goes on.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::link::Place;
use super::upload::{Failed, Sending};
use crate::message::body::BodyFault;
use crate::upstream::{BodyError, BoxError};

/// What is left of the request when the head of the response is there.
pub(super) enum Upload<B> {
    /// Nothing.
    Done,
    /// It is sent by whoever reads the response.
    Here(Sending<B>),
    /// It is sent by a task of its own, which says here if the body has failed.
    Task(AbortHandle, Rc<RefCell<Option<BoxError>>>),
}

/// A body, and what to hold on to until it has ended.
pub(in crate::upstream) struct Streaming<B> {
    recv: RecvStream,
    upload: Upload<B>,
    /// What was read ahead.
    first: Option<Bytes>,
    /// How much is still to come, if that was said.
    left: Option<u64>,
    /// It is known to be of no bytes, so that nobody asks for it.
    is_nothing: bool,
    /// The data has ended; there may be trailers.
    has_data: bool,
    _place: Place,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Goes on in a task of its own.
    pub(super) fn detach(mut sending: Sending<B>) -> Self {
        let failed = Rc::new(RefCell::new(None));
        let said = Rc::clone(&failed);
        let task = tokio::task::spawn_local(async move {
            let sent = std::future::poll_fn(|cx| sending.poll_send(cx)).await;
            if let Err(error) = failure(sent, &mut sending) {
                *said.borrow_mut() = Some(error);
            }
        });
        Self::Task(task.abort_handle(), failed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let failed = match self {
            Self::Done => return Ok(()),
            Self::Here(sending) => match sending.poll_send(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(sent) => {
                    let sent = failure(sent, sending);
                    *self = Self::Done;
                    sent.err()
                }
            },
            // Its stream is reset, so whoever waits for data is woken.
            Self::Task(_, failed) => failed.take(),
        };
        failed.map_or(Ok(()), |error| Err(BodyError::Request(error)))
    }
}

/// The end of an upload. A body that failed ends the stream. One that was given up, or that the backend does not want to
/// its end, leaves the answer as it is.
fn failure<B>(sent: Result<(), Failed>, sending: &mut Sending<B>) -> Result<(), BoxError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    match sent {
        Err(Failed::Body(error)) if error.downcast_ref() != Some(&BodyFault::Over) => {
            sending.abort();
            Err(error)
        }
        Err(_) | Ok(()) => Ok(()),
    }
}

impl<B> Drop for Streaming<B> {
    fn drop(&mut self) {
        if let Upload::Task(task, _) = &self.upload {
            task.abort();
        }
    }
}

impl<B> Streaming<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(recv: RecvStream, upload: Upload<B>, left: Option<u64>, place: Place) -> Self {
        Self { recv, upload, first: None, left, is_nothing: left == Some(0), has_data: true, _place: place }
    }

    /// Reads on once, without waiting: whether the body is known to break off, while nothing of it has been passed on.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        if !matches!(self.upload, Upload::Done) {
            return Ok(());
        }
        match self.poll_data(cx) {
            Poll::Ready(Some(Ok(data))) => self.first = Some(data).filter(|data| !data.is_empty()),
            Poll::Ready(Some(Err(error))) => return Err(error),
            Poll::Ready(None) => self.has_data = false,
            Poll::Pending => {}
        }
        Ok(())
    }

    pub(in crate::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Err(error) = self.upload.poll(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(data) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        while self.has_data {
            match ready!(self.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(polled) => return Poll::Ready(Some(polled.map(Frame::data))),
                None => self.has_data = false,
            }
        }
        match ready!(self.recv.poll_trailers(cx)) {
            Ok(None) => Poll::Ready(None),
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(BodyError::Stream(error)))),
        }
    }

    /// A reset without an error is an error here: behind a whole answer it says that the backend does not want the rest of
    /// the request (RFC 9113, 8.1), and then the library does not tell.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let ended = match ready!(self.recv.poll_data(cx)) {
            Some(Ok(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.saturating_sub(data.len() as u64);
                }
                // An error would say that more is given back than was taken.
                let _ = self.recv.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(Ok(data)));
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        Poll::Ready(match (ended, self.left) {
            (Some(error), _) => Some(Err(BodyError::Stream(error))),
            (None, Some(1..)) => Some(Err(BodyError::Truncated)),
            (None, _) => None,
        })
    }

    /// Behind the last of the data there may be trailers.
    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.is_nothing || self.first.is_none() && self.recv.is_end_stream() && matches!(self.left, None | Some(0))
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + first))
    }
}
