//! What connections read into, and the memory that all connections of a worker share for it.
//!
//! Bytes are read into a block that the worker lends, and bodies are handed out as slices of it, never copied. A block
//! holds many small messages, so an allocation is rare; a connection that is idle or waits holds none.

use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of a block.
const BLOCK: usize = 16 * 1024;
/// A block with less room than this is not read into any more.
const LEAST: usize = 4 * 1024;
/// The most bytes that are read at once of a body that is known to be long.
const MOST: u64 = 64 * 1024;
/// Bytes of a block for those.
const LARGE: usize = MOST as usize;
/// A scratch buffer that has grown beyond this is not kept.
const MAX_SCRATCH: usize = 64 * 1024;

/// What the connections of one worker share, to one side.
#[derive(Debug, Default)]
pub struct Memory {
    /// The block that is read into next.
    block: RefCell<BytesMut>,
    /// The same for long bodies.
    large: RefCell<BytesMut>,
    /// What heads are written into.
    scratch: RefCell<Vec<u8>>,
}

impl Memory {
    fn of(&self, is_large: bool) -> &RefCell<BytesMut> {
        if is_large { &self.large } else { &self.block }
    }

    /// An empty buffer. It is to be given back.
    pub fn scratch(&self) -> Vec<u8> {
        self.scratch.take()
    }

    /// Takes a buffer back.
    pub fn give_back(&self, mut scratch: Vec<u8>) {
        if scratch.capacity() <= MAX_SCRATCH {
            scratch.clear();
            self.scratch.replace(scratch);
        }
    }
}

/// What has been read from a connection and not been used.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: BytesMut,
    /// Whose block it is: what is left of one tells nothing of its size.
    is_large: bool,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Buffer {
    /// Reads once; the number of bytes, 0 at the end of the stream. `more`: how many are expected beyond what is here; 0
    /// if nobody knows.
    pub fn poll_fill<R>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        memory: &Memory,
        more: u64,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        // One byte more than expected: a read that fills its buffer leaves open whether there is more to read, and the
        // answer would cost a system call.
        let more = more.saturating_add(1).min(MOST) as usize;
        let is_large = more > BLOCK;
        let room = more.max(LEAST);
        if self.bytes.capacity() - self.bytes.len() < room {
            self.grow(memory, room, is_large);
        }
        let polled = pin!(from.read_buf(&mut self.bytes)).poll(cx);
        if polled.is_pending() {
            self.release(memory);
        }
        polled
    }

    /// Makes room for so many bytes more: in a block that is lent, or in one of its own if there is something in it.
    fn grow(&mut self, memory: &Memory, room: usize, is_large: bool) {
        if !self.bytes.is_empty() {
            self.bytes.reserve(room);
            return;
        }
        self.release(memory);
        let mut block = memory.of(is_large).take();
        if block.capacity() < room && !block.try_reclaim(room) {
            block = BytesMut::with_capacity(if is_large { LARGE } else { BLOCK });
        }
        *self = Self { bytes: block, is_large };
    }

    /// Takes bytes off the front.
    pub fn take(&mut self, bytes: usize) -> Bytes {
        self.bytes.split_to(bytes.min(self.bytes.len())).freeze()
    }

    /// Drops bytes at the front.
    pub fn skip(&mut self, bytes: usize) {
        self.bytes.advance(bytes.min(self.bytes.len()));
    }

    /// What is here, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Leaves so many bytes.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes.truncate(bytes);
    }

    /// Gives the block back if there is nothing in it.
    pub fn release(&mut self, memory: &Memory) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            memory.of(self.is_large).replace(std::mem::take(&mut self.bytes));
        }
    }
}
