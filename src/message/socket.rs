//! Sockets, read and written with one system call each and little around it.
//!
//! The runtime's own reading goes through four layers and the C library, whose `recv` and `send` are points where a thread
//! may be cancelled: two locked instructions each, for nobody. Here the system call is made directly, and the waker is
//! left with the runtime only when there is nothing to be had. Otherwise this does what the runtime does: a task's budget
//! counts, and a call that moved less than was asked for means that the kernel has no more, or takes no more, until its
//! next event (epoll(7), "edge-triggered"). The error by which the runtime is told so holds no memory; it is forgotten,
//! because dropping one is a call.

#![expect(unsafe_code, reason = "reading into memory that nobody has written yet; argued where it stands")]

use std::io::{self, IoSlice};
use std::mem::forget;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::poll_proceed;

/// Pieces that the kernel takes in one call, and refuses more of (IOV_MAX, limits.h(0p)).
const MOST_PARTS: usize = 1024;

/// A connected socket of the runtime's. See the module.
#[derive(Debug)]
pub struct Socket<S>(pub S);

/// Bytes that come, from a stream that may know that there are none.
pub trait Arriving: AsyncRead + Unpin {
    /// Pending: there is nothing to be read, and the task is woken when there is. Ready: only reading tells.
    fn poll_arrival(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// What the runtime's sockets have in common.
pub trait Evented: AsFd + AsyncWrite + Unpin {
    /// Does this if the socket may be ready; `WouldBlock`: it is not ready any more.
    fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R>;

    /// Waits until it may be ready.
    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

macro_rules! evented {
    ($($stream:ty),*) => {$(
        impl Evented for $stream {
            fn try_io<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.try_io(interest, call)
            }

            fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                if interest.is_readable() { self.poll_read_ready(cx) } else { self.poll_write_ready(cx) }
            }
        }
    )*};
}

evented!(TcpStream, UnixStream);

impl<S: Evented> Socket<S> {
    /// Whether nothing has come since the last reading, as far as the runtime has been told: without a system call, and
    /// without asking to be woken.
    pub fn is_silent(&self) -> bool {
        self.0.try_io(Interest::READABLE, || Ok(())).map_err(forget).is_err()
    }

    /// Makes a call that moves bytes, once the socket is ready for it. How many it moved, of at most `most`.
    fn poll_call(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        most: usize,
        mut call: impl FnMut(&S) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let budget = ready!(poll_proceed(cx));
            let mut moved = None;
            let tried = self.0.try_io(interest, || {
                let bytes = call(&self.0)?;
                moved = Some(bytes);
                // The runtime is told so in the word that it knows for it. What has ended stays ready.
                if 0 < bytes && bytes < most { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (moved, tried) {
                (Some(bytes), tried) => {
                    budget.made_progress();
                    forget(tried);
                    return Poll::Ready(Ok(bytes));
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {
                    ready!(self.0.poll_ready(interest, cx))?;
                    // Going round is no progress, but it takes time.
                    budget.made_progress();
                }
            }
        }
    }
}

impl<S: Evented> Arriving for Socket<S> {
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_silent() { self.0.poll_ready(Interest::READABLE, cx).map(drop) } else { Poll::Ready(()) }
    }
}

impl<S: Evented> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = into.remaining();
        let bytes = ready!(self.poll_call(cx, Interest::READABLE, room, |socket| {
            // SAFETY: `recv` only writes, so nothing that has been initialised gets less so.
            recv(socket, unsafe { into.unfilled_mut() }, RecvFlags::empty()).map(|(_, bytes)| bytes)
        }))?;
        // SAFETY: the kernel has written so many bytes there.
        unsafe { into.assume_init(bytes) };
        into.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<S: Evented> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_call(cx, Interest::WRITABLE, bytes.len(), |socket| send(socket, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let parts = parts.get(..MOST_PARTS).unwrap_or(parts);
        let most = parts.iter().map(|part| part.len()).sum();
        // Not by writev(2), whose way to a socket leads through all that is done for files.
        self.poll_call(cx, Interest::WRITABLE, most, |socket| {
            sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsFd> AsFd for Socket<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> (Socket<UnixStream>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Socket(near), far)
    }

    #[tokio::test]
    async fn what_comes_later_is_waited_for() {
        let (mut near, mut far) = pair();
        let mut room = [0; 64];
        for said in [&b"one"[..], b"two", b"three"] {
            // Whoever reads is waiting before anything comes.
            let reads = near.read(&mut room);
            let (read, wrote) = tokio::join!(reads, far.write_all(said));
            wrote.unwrap();
            assert_eq!(room.get(..read.unwrap()), Some(said));
        }
        let arrives = poll_fn(|cx| near.poll_arrival(cx));
        let (wrote, ()) = tokio::join!(async { far.write_all(b"!").await }, arrives);
        wrote.unwrap();
        assert_eq!(near.read(&mut room).await.unwrap(), 1);
    }

    /// The end comes with the last bytes, and the kernel tells of both at once.
    #[tokio::test]
    async fn an_end_behind_bytes_is_seen() {
        let (mut near, mut far) = pair();
        far.write_all(b"last").await.unwrap();
        drop(far);
        let mut room = [0; 64];
        assert_eq!(near.read(&mut room).await.unwrap(), 4);
        poll_fn(|cx| near.poll_arrival(cx)).await;
        assert_eq!(near.read(&mut room).await.unwrap(), 0);
        assert_eq!(near.read(&mut room).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_until_it_does() {
        const PIECE: usize = 7001;
        const PIECES: usize = 300;
        let (mut near, mut far) = pair();
        let writes = async {
            for at in 0..PIECES {
                let piece = vec![at as u8; PIECE];
                let mut sent = 0;
                while sent < PIECE {
                    let rest = piece.get(sent..).unwrap_or_default();
                    let (a, b) = rest.split_at(rest.len() / 3);
                    let parts = [a, b].map(IoSlice::new);
                    let wrote = if at % 2 == 0 {
                        poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &parts)).await
                    } else {
                        near.write(rest).await
                    };
                    sent += wrote.unwrap();
                }
            }
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut got), writes);
        assert_eq!(read.unwrap(), PIECE * PIECES);
        assert!(got.chunks(PIECE).enumerate().all(|(at, piece)| piece.iter().all(|&byte| byte == at as u8)));
    }

    #[tokio::test]
    async fn more_parts_than_a_call_takes_are_written() {
        let (mut near, mut far) = pair();
        let parts = vec![IoSlice::new(b"x"); MOST_PARTS + 10];
        let first = poll_fn(|cx| Pin::new(&mut near).poll_write_vectored(cx, &parts)).await.unwrap();
        assert!(first <= MOST_PARTS);
        // Nothing was in the way: the socket is asked again at once.
        let second = poll_fn(|cx| Poll::Ready(Pin::new(&mut near).poll_write(cx, b"y"))).await;
        assert!(matches!(second, Poll::Ready(Ok(1))));
        let mut got = vec![0; first + 1];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got.last(), Some(&b'y'));
    }

    /// A task whose neighbour always has something to say lets others run.
    #[tokio::test]
    async fn reading_takes_of_the_budget() {
        let (mut near, mut far) = pair();
        far.write_all(&[0; 4096]).await.unwrap();
        near.0.readable().await.unwrap();
        let mut calls = 0;
        poll_fn(|cx| {
            let mut byte = [0];
            while Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_ready() {
                calls += 1;
            }
            Poll::Ready(())
        })
        .await;
        assert!(calls > 0 && calls < 4096, "{calls}");
    }
}
