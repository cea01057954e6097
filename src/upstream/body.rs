//! A response body on its way from a backend: RFC 9112, 6 and 7.
//!
//! It owns the connection, and with it what is left of the request: a backend that answers before it has read the whole
//! request may wait for the rest of it before it goes on, so reading the one drives the other. At the exact end of the
//! message the connection goes back to the pool; in any other case it is closed.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::connection::{Connection, Worker};
use super::pool::To as _;
use super::tunnel::Tunnel;
use super::{BoxError, h2};
use crate::message::body::BodyFault;
use crate::message::buffer::Left;
use crate::message::framing::response::BodyEnd;
use crate::message::framing::{Chunks, Fault};
use crate::message::send::{Failed, Sending};
use crate::message::tunnel::Duplex;

/// A response body that gives its connection back when it has been read to its end; dropped earlier, it closes it.
pub struct ResponseBody<B>(State<B>);

enum State<B> {
    /// All of it, or the rest, is here.
    Rest(Bytes),
    Streaming(Box<Streaming<B>>),
    Tunnel(Box<Tunnel<B>>),
    /// Over HTTP/2.
    Shared(Box<h2::Streaming<B>>),
    /// The same for a tunnel.
    Stream(Box<h2::Tunnel<B>>),
}

/// Why a response body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection was closed before the body's end.
    #[error("the connection was closed before the end of the body")]
    Truncated,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The rest of the request's body failed.
    #[error("the request body failed: {0}")]
    Request(#[source] BoxError),
    /// The stream was ended, or its connection was.
    #[error("the stream was ended: {0}")]
    Stream(#[source] ::h2::Error),
    /// The chunked coding is not valid.
    #[error("{}", .0.detail)]
    Coding(Fault),
}

/// What it takes to put a connection back into the pool.
pub(super) struct Return {
    pub(super) worker: Rc<Worker>,
    /// For how long; `None`: it can't be used again.
    pub(super) keep: Option<Duration>,
}

struct Streaming<B> {
    connection: Connection,
    left: Left,
    /// What came with the head and has not been handed out.
    first: Bytes,
    /// What is left of the request.
    upload: Option<Sending<B>>,
    back: Return,
}

impl Return {
    /// The message has ended. Bytes beyond its end are nobody's, and nothing after them can be trusted.
    fn finish(self, mut connection: Connection, now: Instant) {
        if let Some(keep) = self.keep
            && connection.buffer.is_empty()
            && !connection.backend().starved()
        {
            connection.buffer.release(&self.worker.memory);
            connection.ahead = None;
            self.worker.pool.put(connection, now + keep);
        }
    }
}

impl<B> ResponseBody<B> {
    /// One of no bytes.
    pub(super) fn empty() -> Self {
        Self(State::Rest(Bytes::new()))
    }

    /// One that comes over HTTP/2.
    pub(super) fn shared(streaming: h2::Streaming<B>) -> Self {
        Self(State::Shared(Box::new(streaming)))
    }

    /// A tunnel over HTTP/2.
    pub(super) fn stream(tunnel: h2::Tunnel<B>) -> Self {
        Self(State::Stream(Box::new(tunnel)))
    }
}

impl<B> ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The body that begins in the connection's buffer. `upload`: what is left of the request.
    ///
    /// # Errors
    /// If what is there already breaks a rule.
    pub(super) fn new(
        end: BodyEnd,
        mut connection: Connection,
        upload: Option<Sending<B>>,
        back: Return,
        now: Instant,
    ) -> Result<Self, Fault> {
        let mut left = match end {
            BodyEnd::Empty => Left::Length(0),
            BodyEnd::Length(length) => Left::Length(length),
            BodyEnd::Chunked => Left::Chunked(Chunks::default()),
            BodyEnd::Close => Left::Close,
        };
        let (first, ended) = left.take(&mut connection.buffer)?;
        connection.taken(&back.worker);
        if ended {
            if upload.is_none() {
                back.finish(connection, now);
            }
            return Ok(Self(State::Rest(first)));
        }
        Ok(Self(State::Streaming(Box::new(Streaming { connection, left, first, upload, back }))))
    }

    /// What follows the switch to another protocol.
    pub(super) fn tunnel(tunnel: Tunnel<B>) -> Self {
        Self(State::Tunnel(Box::new(tunnel)))
    }

    /// Reads on once, without waiting: whether the body is known to break off, while nothing of it has been passed on.
    /// It is the read that comes next in any case, so it costs nothing.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let State::Streaming(streaming) = &mut self.0 else { return Ok(()) };
        // With a part of the request still to be sent, it may be the client who ends it; without a length, an end is none.
        if streaming.upload.is_some() || matches!(streaming.left, Left::Close) {
            return Ok(());
        }
        match streaming.connection.poll_fill(cx, &streaming.back.worker) {
            Poll::Ready(Ok(0)) => Err(BodyError::Truncated),
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Ready(Ok(_)) | Poll::Pending => Ok(()),
        }
    }
}

impl<B> Streaming<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Data, and whether it is the last.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Bytes, bool), BodyError>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(sent) = upload.poll_send(cx, &mut self.connection.stream)
        {
            self.upload = None;
            match sent {
                Ok(()) => {}
                // A backend that waits for the rest may never end its answer.
                Err(Failed::Body(error)) if error.downcast_ref() != Some(&BodyFault::Over) => {
                    return Poll::Ready(Err(BodyError::Request(error)));
                }
                // It reads no further, or was never to get the body: the answer may still be whole.
                Err(_) => self.back.keep = None,
            }
        }
        if !self.first.is_empty() {
            return Poll::Ready(Ok((std::mem::take(&mut self.first), false)));
        }
        loop {
            if !self.connection.buffer.is_empty() {
                let (data, ended) = self.left.take(&mut self.connection.buffer).map_err(BodyError::Coding)?;
                if ended || !data.is_empty() {
                    self.connection.taken(&self.back.worker);
                    return Poll::Ready(Ok((data, ended)));
                }
            }
            if ready!(self.connection.poll_fill(cx, &self.back.worker))? == 0 {
                let is_end = matches!(self.left, Left::Close);
                return Poll::Ready(if is_end { Ok((Bytes::new(), true)) } else { Err(BodyError::Truncated) });
            }
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let streaming = match &mut self.0 {
            State::Rest(data) => {
                let data = std::mem::take(data);
                return Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))));
            }
            State::Tunnel(tunnel) => return tunnel.poll_data(cx).map_ok(Frame::data),
            State::Stream(tunnel) => return tunnel.poll_data(cx).map_ok(Frame::data),
            State::Streaming(streaming) => streaming,
            State::Shared(streaming) => {
                let polled = ready!(streaming.poll_frame(cx));
                if !matches!(polled, Some(Ok(_))) {
                    self.0 = State::Rest(Bytes::new());
                }
                return Poll::Ready(polled);
            }
        };
        let polled = ready!(streaming.poll_data(cx));
        if matches!(polled, Ok((_, false))) {
            return Poll::Ready(Some(polled.map(|(data, _)| Frame::data(data))));
        }
        // The end, good or bad.
        let over = std::mem::replace(&mut self.0, State::Rest(Bytes::new()));
        let (data, _) = match polled {
            Ok(last) => last,
            Err(error) => return Poll::Ready(Some(Err(error))),
        };
        if let State::Streaming(streaming) = over
            && streaming.upload.is_none()
        {
            streaming.back.finish(streaming.connection, Instant::now());
        }
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            State::Rest(data) => data.is_empty(),
            State::Streaming(_) | State::Tunnel(_) | State::Stream(_) => false,
            State::Shared(streaming) => streaming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            State::Rest(data) => SizeHint::with_exact(data.len() as u64),
            State::Shared(streaming) => streaming.size_hint(),
            State::Streaming(streaming) => match streaming.left {
                Left::Length(left) => SizeHint::with_exact(left + streaming.first.len() as u64),
                Left::Chunked(_) | Left::Close => SizeHint::default(),
            },
            State::Tunnel(_) | State::Stream(_) => SizeHint::default(),
        }
    }
}

impl<B> Duplex for ResponseBody<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.0 {
            State::Tunnel(tunnel) => tunnel.poll_up(cx),
            State::Stream(tunnel) => tunnel.poll_up(cx),
            State::Rest(_) | State::Streaming(_) | State::Shared(_) => Poll::Ready(Ok(())),
        }
    }
}
