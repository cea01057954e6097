//! Listeners and client connections: bind, accept, HTTP/1.1 and HTTP/2 towards clients, limits, time-outs, drain.

mod accept;
mod announced;
mod bind;
mod connection;
mod h2;
mod holder;
mod incoming;
mod lasting;
mod serve;
mod server;
mod shared;
mod stream;
mod tls;
mod tunnel;
mod turn;
mod watch;
mod wire;
#[cfg(test)]
mod tests;

pub use bind::{BindError, Sockets, bind};
pub use holder::held_by;
pub use incoming::Incoming;
pub use server::Server;
pub use shared::Shared;

use std::future::Future;
use std::rc::Rc;

use crate::message::buffer::Memory;
use crate::message::tunnel::Duplex;
use crate::message::{Conn, Request, Response};
use crate::model::Limits;
use turn::Turns;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What answers requests. One per worker, on the worker's thread.
pub trait Service: 'static {
    /// The response's body. An error ends the connection, so that the client can tell that the body is not whole.
    type Body: Duplex<Error = BoxError> + Unpin + 'static;

    /// Answers one request. Dropped when the client goes away. When [`Conn::verdict`] is set, the request stands for one
    /// that was refused: the answer must be that verdict.
    fn call(&self, request: Request<Incoming>, conn: Rc<Conn>) -> impl Future<Output = Response<Self::Body>>;

    /// The limits in force now. Read for each connection and each head.
    fn limits(&self) -> Limits;
}

/// What the connections of one worker share.
struct Common<S> {
    service: Rc<S>,
    memory: Rc<Memory>,
    turns: Turns,
}

impl<S> Common<S> {
    fn new(service: Rc<S>) -> Rc<Self> {
        Rc::new(Self { service, memory: Rc::default(), turns: Turns::default() })
    }
}
