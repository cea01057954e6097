//! A tunnel to a backend that has agreed to one: its connection, and nothing of HTTP any more.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::connection::{Connection, Worker};
use super::{BodyError, BoxError};
use crate::message::send::Failed;
use crate::message::tunnel::Pipe;
use crate::message::{ResponseHead, websocket};

/// What a request asks a backend to switch to.
pub struct Upgrade<B> {
    /// Its name, in lower case.
    pub protocol: Box<str>,
    /// How the backend proves that it speaks it.
    pub proof: Proof,
    /// What the client says once the backend has agreed; it is not read before.
    pub body: B,
}

/// The key of a WebSocket's request, which a server answers to prove that it speaks the protocol (RFC 6455, 1.3).
#[derive(Debug, Default)]
pub enum Proof {
    /// There is none.
    #[default]
    None,
    /// The client has sent a key, and looks at the answer itself.
    Theirs(Box<[u8]>),
    /// The key is ours, for a client that has none, so nobody else looks at the answer.
    Ours(Box<[u8]>),
}

impl Proof {
    /// What the client has to be answered.
    pub(super) fn expected(&self) -> Option<String> {
        if let Self::Theirs(key) = self { Some(websocket::accept(key)) } else { None }
    }

    /// Whether the answer knows a key of ours.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self, head: &ResponseHead) -> Result<(), &'static str> {
        let Self::Ours(key) = self else { return Ok(()) };
        let mut answers = head.fields.named(websocket::ACCEPT);
        match (answers.next(), answers.next()) {
            (Some(answer), None) if answer == websocket::accept(key).as_bytes() => Ok(()),
            _ => Err("a switch that does not answer the key"),
        }
    }
}

/// Both directions. Dropping it closes the connection.
pub(super) struct Tunnel<B> {
    connection: Connection,
    worker: Rc<Worker>,
    /// `None`: the client has ended its side, or the backend takes no more.
    up: Option<Pipe<B>>,
}

impl<B> Tunnel<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// What the connection's buffer holds belongs to the tunnel already.
    pub(super) fn new(connection: Connection, worker: &Rc<Worker>, up: B) -> Self {
        Self { connection, worker: Rc::clone(worker), up: Some(Pipe::new(Bytes::new(), up)) }
    }

    /// What the backend says; `None`: it has ended its side.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while self.connection.buffer.is_empty() {
            match ready!(self.connection.poll_fill(cx, &self.worker)) {
                Ok(0) => return Poll::Ready(None),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
        let len = self.connection.buffer.len();
        let data = self.connection.buffer.take(len);
        self.connection.taken(&self.worker);
        Poll::Ready(Some(Ok(data)))
    }

    /// Passes on what the client says.
    pub(super) fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(up) = &mut self.up else { return Poll::Ready(Ok(())) };
        let passed = ready!(up.poll_pass(cx, &mut self.connection.stream));
        self.up = None;
        Poll::Ready(match passed {
            // A backend that reads no more may still have something to say, and ends the tunnel if it has not.
            Ok(()) | Err(Failed::Connection(_)) => Ok(()),
            Err(Failed::Body(error)) => Err(error),
        })
    }
}
