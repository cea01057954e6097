//! The head that a backend would be sent, without sending it: for whoever wants to see what becomes of a request, such as
//! the fuzz target `reserialise`. It is written by what writes those that are sent.

use super::hops;
use super::outgoing::{Caller, Outgoing};
use crate::backend::Backend;
use crate::message::framing::Framing;
use crate::message::send::Coding;
use crate::message::{Conn, RequestHead};
use crate::model::{PoolSettings, Route};

/// From the request line to the empty line, as it goes out by this route to this backend. `None`: the route's rewrite
/// makes no target of the request's.
pub fn preview(
    head: &RequestHead,
    route: &Route,
    conn: &Conn,
    request_id: &str,
    backend: &Backend,
    settings: &PoolSettings,
) -> Option<Vec<u8>> {
    let outgoing = Outgoing::new(head, route, None, None, hops::left(head).ok()?)?;
    let mut out = Vec::new();
    outgoing.write(&mut out, Caller { conn, request_id: request_id.as_bytes() }, backend, settings);
    match head.framing {
        Framing::Empty if !outgoing.says_length() => {}
        Framing::Empty => Coding::Length(0).write(&mut out),
        Framing::Length(length) => Coding::Length(length).write(&mut out),
        Framing::Chunked => Coding::Chunked.write(&mut out),
    }
    out.extend_from_slice(b"\r\n");
    Some(out)
}
