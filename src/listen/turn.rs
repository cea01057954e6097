//! Turns: the work for a connection from the moment that something comes until nothing more does.
//!
//! The future of a turn holds a request's whole way through the proxy, more than two kilobytes. To make one per request is to
//! allocate them and to copy them into their place, which was a sixth of what a small request misses in the first cache
//! for data. So a turn that is over stays where it is and waits for the next connection of its worker that has
//! something to do, the last one first, for its memory is still in a cache.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Method;

use super::Service;
use super::incoming::{Incoming, Source};
use super::serve::{Asked, End, send};
use super::stream::{Next, Stream};
use super::tunnel;
use super::wire::Wire;
use crate::hint::cold_path;
use crate::message::Request;
use crate::message::framing::{Framing, Scan};
use crate::message::tunnel::Tunnel;

/// Turns that are kept for connections to come, of each kind; as many as are under way at once on a busy worker.
const KEPT: usize = 64;

/// One worker's turns that are over, of all kinds.
#[derive(Default)]
pub(super) struct Turns(RefCell<Vec<Rc<dyn Any>>>);

impl Turns {
    /// Those of connections that run over this.
    pub(super) fn of_kind<W: Wire>(&self) -> Rc<Idle<W>> {
        let mut kinds = self.0.borrow_mut();
        let known = kinds.iter().find_map(|kind| Rc::clone(kind).downcast().ok());
        known.unwrap_or_else(|| {
            let kind = Rc::new(Idle(RefCell::default()));
            kinds.push(Rc::clone(&kind) as Rc<dyn Any>);
            kind
        })
    }
}

/// Turns that are over.
pub(super) struct Idle<W>(RefCell<Vec<Turn<W>>>);

impl<W: Wire> Idle<W> {
    /// A turn for this connection, which is to be given back when it is over. The service is always the same one: a turn
    /// keeps that for which it was made.
    pub(super) fn begin<S: Service>(&self, stream: &Rc<Stream<W>>, service: &Rc<S>) -> Turn<W> {
        let turn = self.0.borrow_mut().pop().unwrap_or_else(|| Turn::new(service));
        turn.errand.stream.set(Some(Rc::clone(stream)));
        turn
    }

    /// Takes back a turn that is over.
    pub(super) fn give_back(&self, turn: Turn<W>) {
        let mut waiting = self.0.borrow_mut();
        if waiting.len() < KEPT {
            waiting.push(turn);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// A turn. Dropping it ends what it is at.
pub(super) struct Turn<W> {
    future: Pin<Box<dyn Future<Output = Infallible>>>,
    errand: Rc<Errand<W>>,
}

/// What passes between a turn and its connection.
struct Errand<W> {
    stream: Cell<Option<Rc<Stream<W>>>>,
    end: Cell<Option<End>>,
}

impl<W: Wire> Turn<W> {
    fn new<S: Service>(service: &Rc<S>) -> Self {
        let errand = Rc::new(Errand { stream: Cell::default(), end: Cell::default() });
        Self { future: Box::pin(turns(Rc::clone(&errand), Rc::clone(service))), errand }
    }

    /// Goes on. Ready: it is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Poll::Pending = self.future.as_mut().poll(cx);
        self.errand.end.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One turn after the other, for whichever connection needs one.
async fn turns<W: Wire, S: Service>(errand: Rc<Errand<W>>, service: Rc<S>) -> Infallible {
    loop {
        let stream = poll_fn(|_| errand.stream.take().map_or(Poll::Pending, Poll::Ready)).await;
        let end = turn(&stream, &*service).await;
        drop(stream);
        errand.end.set(Some(end));
    }
}

/// Requests and answers, until nothing is there to be read.
async fn turn<W: Wire, S: Service>(stream: &Rc<Stream<W>>, service: &S) -> End {
    loop {
        let next = {
            let mut scan = Scan::default();
            poll_fn(|cx| stream.poll_head(cx, &mut scan, || service.limits())).await
        };
        let head = match next {
            Next::Head(head) => head,
            Next::Idle => {
                stream.watch.idle(service.limits().idle_timeout);
                return End::Idle;
            }
            Next::Closed => return End::Closed,
        };
        let asked = Asked { is_head: head.method == Method::HEAD, version: head.version, keep: head.keep_alive };
        let body = match head.framing {
            // What follows may be a tunnel's, but not before a backend has agreed to one.
            Framing::Empty if head.upgrade.is_some() => {
                cold_path();
                Incoming::new(Rc::clone(stream) as Rc<dyn Source>, Some(0))
            }
            Framing::Empty => Incoming::empty(),
            Framing::Length(length) => Incoming::new(Rc::clone(stream) as Rc<dyn Source>, Some(length)),
            Framing::Chunked => Incoming::new(Rc::clone(stream) as Rc<dyn Source>, None),
        };
        // Awaited in place: moving a future of this size would cost more than what else happens here (see `poll_beside`).
        stream.set_answering(true);
        let response = service.call(Request { head, body }, Rc::clone(&stream.watch.conn)).await;
        stream.set_answering(false);
        stream.conn().set_answered();
        // An answer that only says that the client has gone is for the log.
        if stream.is_gone() {
            cold_path();
            return End::Closed;
        }
        if let Tunnel::Open { idle, is_websocket } = stream.conn().tunnel() {
            cold_path();
            return Box::pin(tunnel::run(stream, response, idle, is_websocket)).await;
        }
        match send(stream, response, asked).await {
            End::Idle => {}
            end => return end,
        }
    }
}
