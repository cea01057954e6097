//! What connections read into, and the memory that all connections of a worker share for it.
//!
//! Bytes are read into a block that the worker lends. A small body is copied out of it; a large one is handed out as a
//! slice, never copied, and the next reading then begins behind it, or in another block if there is no room. So a block
//! that is free again is read into from its first byte on: the same few lines of memory, warm in the cache, serve one
//! small message after the other. A connection that waits holds none: what it has of a message that is not whole is kept
//! in memory of its own size.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::ahead::LITTLE;
use super::framing::{Chunks, Decoded, Fault};
use super::socket::Arriving;

/// Bytes of a block: a body of 64 KiB comes with its head in one reading.
const BLOCK: usize = 80 * 1024;
/// A block with less room than this is not read into any more.
const LEAST: usize = 16 * 1024;
/// A body, or a piece of one, that is not larger than this is copied. Counting references to the block costs as much.
const SMALL: usize = 1024;
/// A scratch buffer that has grown beyond this is not kept.
const MAX_SCRATCH: usize = 64 * 1024;

/// How much memory a piece of a body holds while it is kept, itself or its block.
pub fn held_by(piece: usize) -> u64 {
    if piece > SMALL { piece.max(BLOCK) as u64 } else { piece as u64 }
}

/// What the connections of one worker share, to one side.
#[derive(Debug, Default)]
pub struct Memory {
    /// The block that is read into next.
    block: RefCell<BytesMut>,
    /// What heads are written into.
    scratch: RefCell<Vec<u8>>,
    /// Bytes of messages that are not whole and are waited for.
    waiting: Cell<u64>,
}

impl Memory {
    /// The block, empty if there is none. It is read into from its first byte on again, or from behind what is still being
    /// sent of it.
    fn take_block(&self) -> BytesMut {
        let mut block = self.block.take();
        let _ = block.try_reclaim(BLOCK);
        block
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

/// How much a connection holds while it waits for the rest of a message, in the sum of its worker.
#[derive(Debug, Default)]
pub struct Waiting {
    memory: Rc<Memory>,
    bytes: Cell<u64>,
}

impl Waiting {
    /// Holding nothing yet.
    pub fn new(memory: Rc<Memory>) -> Self {
        Self { memory, bytes: Cell::default() }
    }

    /// Holds so many bytes now. What all connections hold.
    pub fn set(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let all = &self.memory.waiting;
        all.set((all.get() + bytes).saturating_sub(self.bytes.replace(bytes)));
        all.get()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.set(0);
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
        R: Arriving,
    {
        // Every second time there is nothing yet, and no block is needed to find that out.
        if from.poll_arrival(cx).is_pending() {
            self.rest(memory);
            return Poll::Pending;
        }
        self.make_room(memory);
        let polled = pin!(from.read_buf(&mut self.0)).poll(cx);
        if polled.is_pending() {
            self.rest(memory);
        }
        polled
    }

    /// Reads once, no more than `most` bytes. If those are [`LITTLE`], no block is held for them.
    pub fn poll_fill_some<R>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        memory: &Memory,
        most: usize,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        if most <= LITTLE {
            self.rest(memory);
            let mut little = [0; LITTLE];
            let mut little = ReadBuf::new(&mut little);
            ready!(Pin::new(from).poll_read(cx, &mut little))?;
            self.0.extend_from_slice(little.filled());
            return Poll::Ready(Ok(little.filled().len()));
        }
        self.make_room(memory);
        let polled = pin!(from.read_buf(&mut (&mut self.0).limit(most))).poll(cx);
        if polled.is_pending() {
            self.rest(memory);
        }
        polled
    }

    fn make_room(&mut self, memory: &Memory) {
        if self.0.capacity() == 0 {
            // Not when it is given back: what was still being sent then has mostly gone out by now.
            self.0 = memory.take_block();
        }
        if self.0.capacity() - self.0.len() < LEAST && !self.0.try_reclaim(BLOCK) {
            self.grow(memory);
        }
    }

    /// Goes on in another block.
    #[cold]
    fn grow(&mut self, memory: &Memory) {
        let mut block = memory.take_block();
        if block.capacity() < self.0.len() + LEAST {
            block = BytesMut::with_capacity(BLOCK.max(self.0.len() + LEAST));
        }
        block.extend_from_slice(&self.0);
        self.0 = block;
    }

    /// Holds on to no block while nothing comes.
    pub fn rest(&mut self, memory: &Memory) {
        if self.0.capacity() == 0 {
            return;
        }
        if !self.0.is_empty() && self.0.len() <= LEAST && self.0.capacity() > LEAST {
            let kept = BytesMut::from(&**self);
            self.0.clear();
            self.release(memory);
            self.0 = kept;
        }
        self.release(memory);
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

    /// Gives the block back if there is nothing in it.
    pub fn release(&mut self, memory: &Memory) {
        if self.0.is_empty() && self.0.capacity() > 0 {
            memory.block.replace(std::mem::take(&mut self.0));
        }
    }
}

/// What of a body is still to come (RFC 9112, 6.3 and 7.1).
#[derive(Debug)]
pub enum Left {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// All until the connection ends.
    Close,
}

impl Left {
    /// Takes what is of the body out of the buffer, and whether the body is complete then. What follows its end stays.
    ///
    /// # Errors
    /// The rule that the chunked coding breaks.
    pub fn take(&mut self, buffer: &mut Buffer) -> Result<(Bytes, bool), Fault> {
        match self {
            Self::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= len as u64;
                Ok((buffer.take(len), *left == 0))
            }
            Self::Chunked(chunks) => {
                let Decoded { data, used } = chunks.decode(&mut buffer.0)?;
                let taken = buffer.take(data);
                buffer.skip(used - data);
                Ok((taken, chunks.is_end()))
            }
            Self::Close => Ok((buffer.take(buffer.len()), false)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// Says this and then nothing.
    struct Says<'a>(&'a [u8]);

    impl Arriving for Says<'_> {}

    impl AsyncRead for Says<'_> {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            let (now, later) = self.0.split_at(self.0.len().min(out.remaining()));
            out.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    /// How much came; 0: nothing did.
    fn fill(buffer: &mut Buffer, from: &[u8], memory: &Memory) -> usize {
        match buffer.poll_fill(&mut Context::from_waker(Waker::noop()), &mut Says(from), memory) {
            Poll::Pending => 0,
            Poll::Ready(filled) => filled.unwrap(),
        }
    }

    /// In the block that is lent next.
    fn lent(memory: &Memory) -> usize {
        let block = memory.take_block();
        let room = block.capacity();
        memory.block.replace(block);
        room
    }

    #[test]
    fn a_connection_that_waits_holds_no_block() {
        let (memory, mut buffer) = (Memory::default(), Buffer::default());
        assert_eq!(fill(&mut buffer, b"GET / HT", &memory), 8);
        assert_eq!(fill(&mut buffer, b"", &memory), 0);
        assert_eq!((&*buffer, buffer.0.capacity()), (&b"GET / HT"[..], 8));
        assert!(lent(&memory) >= BLOCK);
        // It goes on where it was, and then there is nothing left to hold.
        assert_eq!(fill(&mut buffer, b"TP/1.1", &memory), 6);
        assert_eq!(&*buffer, b"GET / HTTP/1.1");
        buffer.skip(14);
        assert_eq!(fill(&mut buffer, b"", &memory), 0);
        assert_eq!(buffer.0.capacity(), 0);
        assert!(lent(&memory) >= BLOCK);
    }

    #[test]
    fn small_bodies_leave_their_block_and_large_ones_share_it() {
        let (memory, mut buffer) = (Memory::default(), Buffer::default());
        fill(&mut buffer, &[b'x'; 100], &memory);
        let small = buffer.take(100);
        buffer.release(&memory);
        assert!(lent(&memory) >= BLOCK, "nothing holds it");
        fill(&mut buffer, &[b'y'; 40_000], &memory);
        let large = buffer.take(40_000);
        buffer.release(&memory);
        let room = lent(&memory);
        assert!((LEAST..BLOCK).contains(&room), "{room}");
        drop(large);
        fill(&mut buffer, b"z", &memory);
        assert!(buffer.0.capacity() >= BLOCK, "from the first byte on");
        buffer.skip(1);
        buffer.release(&memory);
        assert!(lent(&memory) >= BLOCK - 1);
        assert_eq!(small.len(), 100);
        assert_eq!((held_by(100), held_by(2000), held_by(1 << 20)), (100, BLOCK as u64, 1 << 20));
    }
}
