//! One connection to a backend, and what all connections of a worker share.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::task::coop::unconstrained;

use super::Stream;
use super::alarm::Alarms;
use super::h2::Links;
use super::pool::{Pool, To};
use crate::backend::{self, Backend};
use crate::message::buffer::{Buffer, Memory};

/// What the connections of one worker share.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) pool: Pool<Connection>,
    pub(super) links: Links,
    pub(super) alarms: Alarms,
    pub(super) memory: Memory,
}

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// What has been read and not handed out.
    pub(super) buffer: Buffer,
    place: backend::Connection,
}

impl To for Connection {
    fn backend(&self) -> &Arc<Backend> {
        self.place.backend()
    }
}

impl Connection {
    pub(super) fn new(stream: Stream, place: backend::Connection) -> Self {
        Self { stream, buffer: Buffer::default(), place }
    }

    /// Whether an idle connection may be used: the backend has neither closed it nor said anything. What it says without
    /// being asked must never be taken for the answer to the next request.
    ///
    /// As long as no event came from the kernel this asks for nothing: the runtime knows that there is nothing to read.
    /// The runtime's budget must not play a part, since a task that has used it up would find every connection good.
    pub(super) fn usable(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut byte = ReadBuf::new(&mut byte);
        let read = unconstrained(poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut byte)));
        pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// Reads once.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<usize>> {
        self.buffer.poll_fill(cx, &mut self.stream, &worker.memory)
    }
}
