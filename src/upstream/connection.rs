//! One connection to a backend, and the memory that all connections of a worker share.
//!
//! Bytes are read into a block that the worker lends, and what was read is handed out as slices of it, never copied. A
//! block holds many small responses, so an allocation is rare; a connection that is idle or waits holds none.

use std::cell::RefCell;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, ReadBuf};
use tokio::task::coop::unconstrained;

use super::Stream;
use super::alarm::Alarms;
use super::pool::Pool;
use crate::backend;

/// Bytes of a block.
const BLOCK: usize = 16 * 1024;
/// A block with less room than this is not read into any more.
const LEAST: usize = 4 * 1024;
/// The most bytes that are read at once of a body that is known to be long.
const MOST: u64 = 64 * 1024;
/// A scratch buffer that has grown beyond this is not kept.
const MAX_SCRATCH: usize = 64 * 1024;

/// What the connections of one worker share.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) pool: Pool<Connection>,
    pub(super) alarms: Alarms,
    /// The block that is read into next.
    block: RefCell<BytesMut>,
    /// What request heads are written into.
    scratch: RefCell<Vec<u8>>,
}

impl Worker {
    /// An empty buffer. It is to be given back.
    pub(super) fn scratch(&self) -> Vec<u8> {
        self.scratch.take()
    }

    pub(super) fn give_back(&self, mut scratch: Vec<u8>) {
        if scratch.capacity() <= MAX_SCRATCH {
            scratch.clear();
            self.scratch.replace(scratch);
        }
    }
}

/// A connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) stream: Stream,
    /// What has been read and not handed out.
    pub(super) buffer: BytesMut,
    _place: backend::Connection,
}

impl Connection {
    pub(super) fn new(stream: Stream, place: backend::Connection) -> Self {
        Self { stream, buffer: BytesMut::new(), _place: place }
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

    /// Reads once. `more`: how many bytes are expected beyond what is in the buffer; 0 if nobody knows.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, worker: &Worker, more: u64) -> Poll<io::Result<usize>> {
        // One byte more than expected: a read that fills its buffer leaves open whether there is more to read, and the
        // answer would cost a system call.
        let more = more.saturating_add(1).min(MOST) as usize;
        if self.buffer.is_empty() && self.buffer.capacity() == 0 && more <= BLOCK {
            self.buffer = worker.block.take();
        }
        if self.buffer.capacity() - self.buffer.len() < more.clamp(LEAST, BLOCK) {
            self.buffer.reserve(more.max(BLOCK));
        }
        let polled = pin!(self.stream.read_buf(&mut self.buffer)).poll(cx);
        if polled.is_pending() {
            self.release(worker);
        }
        polled
    }

    /// Lets go of all memory, to wait for the next request.
    pub(super) fn rest(&mut self, worker: &Worker) {
        self.release(worker);
        self.buffer = BytesMut::new();
    }

    /// Gives the block back if there is nothing in it.
    fn release(&mut self, worker: &Worker) {
        if self.buffer.is_empty() && self.buffer.capacity() <= BLOCK {
            worker.block.replace(std::mem::take(&mut self.buffer));
        }
    }
}
