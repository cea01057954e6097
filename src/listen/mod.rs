//! Listeners and client connections: bind, accept, the gate before hyper, limits, time-outs, drain.

mod bind;
mod gate;
mod holder;
mod serve;
mod server;
mod shared;
mod watch;
mod wire;
#[cfg(test)]
mod tests;

pub use bind::{BindError, Sockets, bind};
pub use server::Server;
pub use shared::Shared;

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::message::Conn;
use crate::model::Limits;

/// What answers requests. One per worker, on the worker's thread.
pub trait Service: 'static {
    /// The response's body. An error ends the connection, so that the client can tell that the body is not whole.
    type Body: http_body::Body<Data = Bytes, Error = Box<dyn std::error::Error + Send + Sync>> + 'static;

    /// Answers one request. Dropped when the client goes away. When [`Conn::verdict`] is set, the request is a stand-in
    /// for one that was refused: the answer must be that verdict.
    fn call(&self, request: Request<Incoming>, conn: Rc<Conn>) -> impl Future<Output = Response<Self::Body>>;

    /// The limits in force now. Read for each connection and each head.
    fn limits(&self) -> Limits;
}
