//! What connections read into, and the memory that all connections of a worker share for it.
//!
//! Bytes are read into a block that the worker lends. A small body is copied out of it; a large one is handed out as a
//! slice, never copied, and the next reading then begins behind it, or in another block if there is no room. So a block
//! that is free again is read into from its first byte on: the same few lines of memory, warm in the cache, serve one
//! small message after the other. A connection that is idle or waits holds none.

use std::cell::RefCell;
use std::future::Future as _;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes of a block: a body of 64 KiB comes with its head in one reading.
const BLOCK: usize = 80 * 1024;
/// A block with less room than this is not read into any more.
const LEAST: usize = 16 * 1024;
/// A body, or a piece of one, that is not larger than this is copied. Counting references to the block costs as much.
const SMALL: usize = 1024;
/// A scratch buffer that has grown beyond this is not kept.
const MAX_SCRATCH: usize = 64 * 1024;

/// What the connections of one worker share, to one side.
#[derive(Debug, Default)]
pub struct Memory {
    /// The block that is read into next.
    block: RefCell<BytesMut>,
    /// What heads are written into.
    scratch: RefCell<Vec<u8>>,
}

impl Memory {
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
pub struct Buffer(BytesMut);

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Buffer {
    /// Reads once; the number of bytes, 0 at the end of the stream.
    pub fn poll_fill<R>(&mut self, cx: &mut Context<'_>, from: &mut R, memory: &Memory) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        if self.0.capacity() == 0 {
            self.0 = memory.block.take();
        }
        if self.0.capacity() - self.0.len() < LEAST && !self.0.try_reclaim(BLOCK) {
            self.grow();
        }
        let polled = pin!(from.read_buf(&mut self.0)).poll(cx);
        if polled.is_pending() {
            self.release(memory);
        }
        polled
    }

    #[cold]
    fn grow(&mut self) {
        if self.0.is_empty() {
            self.0 = BytesMut::with_capacity(BLOCK);
        } else {
            self.0.reserve(LEAST);
        }
    }

    /// Takes bytes off the front.
    pub fn take(&mut self, bytes: usize) -> Bytes {
        let bytes = bytes.min(self.0.len());
        if bytes > SMALL {
            return self.0.split_to(bytes).freeze();
        }
        let taken = Bytes::copy_from_slice(self.0.get(..bytes).unwrap_or_default());
        self.0.advance(bytes);
        taken
    }

    /// Drops bytes at the front.
    pub fn skip(&mut self, bytes: usize) {
        self.0.advance(bytes.min(self.0.len()));
    }

    /// What is here, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Leaves so many bytes.
    pub fn truncate(&mut self, bytes: usize) {
        self.0.truncate(bytes);
    }

    /// Gives the block back if there is nothing in it.
    pub fn release(&mut self, memory: &Memory) {
        if self.0.is_empty() && self.0.capacity() > 0 {
            let mut block = std::mem::take(&mut self.0);
            // From its first byte on again; if a slice of it is still being sent, from behind that.
            let _ = block.try_reclaim(BLOCK);
            memory.block.replace(block);
        }
    }
}
