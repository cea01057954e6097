//! A request's body, on its way from the client.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Where a body comes from: a connection, whatever it runs over.
pub(super) trait Source {
    /// The next piece, `None` at the end. An error: the rest will not come.
    fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>>;

    /// What came after the last piece, once; only HTTP/2 has any, for those of HTTP/1 are read and dropped.
    fn take_trailers(&self) -> Option<HeaderMap> {
        None
    }

    /// Whether there is nothing more to come.
    fn is_end(&self) -> bool;
}

/// The body of one request.
pub struct Incoming {
    /// `None`: there is no body.
    source: Option<Rc<dyn Source>>,
    /// How much is still to come, if that was declared.
    left: Option<u64>,
}

impl Incoming {
    /// A body of no bytes.
    pub(super) fn empty() -> Self {
        Self { source: None, left: Some(0) }
    }

    /// `length`: how long it is, if that was declared.
    pub(super) fn new(source: Rc<dyn Source>, length: Option<u64>) -> Self {
        Self { source: Some(source), left: length }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(source) = &self.source else { return Poll::Ready(None) };
        let data = ready!(source.poll_data(cx)).transpose()?;
        if data.is_none()
            && let Some(trailers) = source.take_trailers()
        {
            self.source = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if source.is_end() {
            // What comes from there next is of another message.
            self.source = None;
        }
        if let (Some(left), Some(data)) = (&mut self.left, &data) {
            *left = left.saturating_sub(data.len() as u64);
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(|source| source.is_end())
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
