//! Exchanges with backends: dial, keep idle connections, send one request and get one response.
//!
//! The seam to the rest is [`Client`]: one request in, one response head and a streaming body out, or an [`Error`]
//! that says whether the backend may have seen anything of it. That one bit decides whether a try may be repeated, so
//! it is taken from the bytes that went to the socket, not guessed from the kind of error.
//!
//! It speaks HTTP/1.1 by itself, in the task of whoever asks: no task, channel or boxed future per request. The rules
//! for what a backend may say are those of `message::framing`, as strict as for clients. What is not HTTP/1.1 by these
//! rules is an error and closes the connection; so does whatever leaves in doubt where the next message begins.
//!
//! Connections belong to one worker. Nothing here is shared between threads but the counts on the
//! [`Backend`](crate::backend::Backend).

mod alarm;
mod body;
mod client;
mod connection;
mod dial;
mod h2;
mod pool;
mod tls;
mod tunnel;
#[cfg(test)]
mod tests;

pub use body::{BodyError, ResponseBody};
pub use client::{Client, Outgoing, Reply};
pub use dial::{Stream, dial, dial_agent};
pub use tls::{HandshakeFailed, Secured, refusal};
pub use tunnel::{Proof, Upgrade};

use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::ResponseHead;
use crate::message::ahead::Ahead;
use crate::message::framing::Fault;
use crate::model::Timeouts;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one exchange must keep to.
pub struct Terms<'a> {
    /// When the exchange begins: now, as read by whoever asks.
    pub began: Instant,
    /// `connect`: until a connection stands. `response`: from the end of the request body until the response head. `idle`:
    /// between two pieces of the request body. `keepalive`: how long the connection is kept afterwards.
    pub timeouts: &'a Timeouts,
    /// When the client's request began.
    pub since: Instant,
    /// From there, or from the end of the request body if that is later, until the response head, all tries included.
    pub total: Duration,
    /// The exchange as a whole must be over by then, whatever is still to come.
    pub end: Option<Instant>,
    /// Open connections to the backend, over all workers.
    pub max_connections: u32,
    /// What goes before the request: the header of the PROXY protocol. A connection that begins so is this client's, and
    /// serves one request.
    pub announced: Option<&'a [u8]>,
    /// How much of the answer may be read at a time; `None`: as much as comes.
    pub ahead: Option<&'a Rc<Ahead>>,
    /// What the request body is doing.
    pub upload: &'a dyn Upload,
    /// Called for each interim response, 100 included.
    pub interim: &'a dyn Fn(ResponseHead),
}

/// What a client wants to know of the request body that it is sending.
pub trait Upload {
    /// When its last byte was handed over; `None`: there is more to come, and the waker is woken at the end.
    fn done(&self, waker: &Waker) -> Option<Instant>;
    /// When anything was last handed over, and whether it is the sender of the body who is being waited for.
    fn progress(&self) -> (Instant, bool);
    /// Whatever comes of this try, it will not turn out that the backend cannot have seen the request. May be called more
    /// than once, and is not for each such try.
    fn seen(&self);
}

/// Why an exchange gave no response.
#[derive(Debug, thiserror::Error)]
#[error("{kind}{}", self.source.as_ref().map(|s| format!(": {s}")).unwrap_or_default())]
pub struct Error {
    /// What happened.
    pub kind: ErrorKind,
    /// Whether any byte of the request was written to the backend's socket. Only if not is it certain that the backend
    /// knows nothing of the request.
    pub wrote: bool,
    /// The connection was closing, and the backend has not begun with the request: it may be asked over another one.
    pub is_stale: bool,
    /// The cause, for the log.
    #[source]
    pub source: Option<BoxError>,
    /// How long connecting took, when it came to that.
    pub connect: Option<Duration>,
}

/// See [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ErrorKind {
    /// `limits.max_connections` is reached.
    #[error("too many connections to the backend")]
    Limit,
    /// The connection was refused, or there is no such socket.
    #[error("connection refused")]
    Refused,
    /// No connection for another reason.
    #[error("cannot connect")]
    Connect,
    /// No connection in time.
    #[error("connect timed out")]
    ConnectTimeout,
    /// The connection broke before the response head was complete.
    #[error("connection broke")]
    Reset,
    /// The connection broke inside the response body, before any of the response was handed out.
    #[error("the response broke off")]
    Truncated,
    /// What came is not valid HTTP/1.1.
    #[error("not a valid response")]
    Protocol,
    /// It was asked for a tunnel, and does not take such requests.
    #[error("no extended CONNECT")]
    NoTunnel,
    /// No response head in time.
    #[error("no response in time")]
    Timeout,
    /// The client's body failed, or the client is gone; the backend is not to blame.
    #[error("request body failed")]
    Body,
    /// The client sent nothing of its body for too long.
    #[error("request body stalled")]
    BodyTimeout,
}

impl Error {
    fn new(kind: ErrorKind, wrote: bool) -> Self {
        Self { kind, wrote, is_stale: false, source: None, connect: None }
    }

    fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<Fault> for Error {
    /// For what came from a backend.
    fn from(fault: Fault) -> Self {
        Self::new(ErrorKind::Protocol, true).because(fault.detail)
    }
}
