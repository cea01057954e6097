//! Tunnels: what is left of an exchange when both sides have switched to another protocol.
//!
//! A tunnel is an answer whose body is what the backend says, raw, until it ends its side. What the client says goes the
//! other way beside it, and has to be driven by whoever reads the body: see [`Duplex`]. One must not wait for the other,
//! for a client that only sends and a backend that only answers would then block each other.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::send::Failed;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a request has come to, as far as tunnels go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tunnel {
    /// An ordinary request.
    #[default]
    No,
    /// A backend is asked for one. If it declines, the connection ends with its answer: what the client has sent meanwhile
    /// may be meant for the tunnel, and must not be taken for a request.
    Asked,
    /// The backend has agreed.
    Open {
        /// The tunnel ends when nothing has gone either way for so long; `None`: it never does.
        idle: Option<Duration>,
        /// It is the WebSocket protocol that is spoken in it.
        is_websocket: bool,
    },
}

/// The body of an answer that may be a tunnel.
pub trait Duplex: Body<Data = Bytes> {
    /// Passes on what the client says. Ready when it has ended its side and that was passed on, too, or when the backend
    /// takes no more. At once, if it is no tunnel.
    ///
    /// # Errors
    /// The client's connection broke; the tunnel is over.
    fn poll_up(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }
}

/// One direction: bytes as they come, then the end of this direction alone. It holds one piece at a time.
pub struct Pipe<B> {
    body: B,
    data: Bytes,
    unflushed: bool,
    /// The body has ended.
    ended: bool,
}

impl<B> Pipe<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// `first` goes before the body.
    pub fn new(first: Bytes, body: B) -> Self {
        Self { body, data: first, unflushed: false, ended: false }
    }

    /// Where it comes from.
    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }

    /// Passes on what there is. Ready when the body has ended and the wire was told; not to be called again then.
    pub fn poll_pass<W>(&mut self, cx: &mut Context<'_>, wire: &mut W) -> Poll<Result<(), Failed>>
    where
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.data.is_empty() {
                match ready!(Pin::new(&mut *wire).poll_write(cx, &self.data)) {
                    Ok(0) => return Poll::Ready(Err(Failed::Connection(std::io::ErrorKind::WriteZero.into()))),
                    Ok(n) => self.data.advance(n),
                    Err(error) => return Poll::Ready(Err(Failed::Connection(error))),
                }
                self.unflushed = true;
            }
            if self.ended {
                return Pin::new(&mut *wire).poll_shutdown(cx).map_err(Failed::Connection);
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending if self.unflushed => {
                    ready!(Pin::new(&mut *wire).poll_flush(cx)).map_err(Failed::Connection)?;
                    self.unflushed = false;
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Ok(frame))) => self.data = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Failed::Body(error.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    type Piece = Result<Frame<Bytes>, &'static str>;

    fn pipe(pieces: Vec<Piece>) -> Pipe<impl Body<Data = Bytes, Error = &'static str> + Unpin> {
        Pipe::new(Bytes::from_static(b"head "), StreamBody::new(futures_util::stream::iter(pieces)))
    }

    fn data(text: &'static str) -> Piece {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn all_goes_in_order_however_little_the_wire_takes_and_then_the_end() {
        let mut pipe = pipe(vec![data("one "), data(""), data("two"), data(" three")]);
        let (mut near, mut far) = duplex(2);
        let mut got = String::new();
        let pass = std::future::poll_fn(|cx| pipe.poll_pass(cx, &mut near));
        let (passed, read) = tokio::join!(pass, far.read_to_string(&mut got));
        assert!(passed.is_ok() && read.is_ok());
        assert_eq!(got, "head one two three");
    }

    #[tokio::test]
    async fn what_breaks_is_told_apart() {
        let (mut near, far) = duplex(64);
        let passed = |polled| matches!(polled, Poll::Ready(Err(Failed::Body(_))));
        let mut broken = pipe(vec![data("one"), Err("gone")]);
        assert!(passed(futures_util::poll!(std::future::poll_fn(|cx| broken.poll_pass(cx, &mut near)))));
        drop(far);
        let mut whole = pipe(vec![data("one")]);
        let polled = futures_util::poll!(std::future::poll_fn(|cx| whole.poll_pass(cx, &mut near)));
        assert!(matches!(polled, Poll::Ready(Err(Failed::Connection(_)))));
    }
}
