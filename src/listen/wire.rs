//! What a client connection runs over, and the two questions to the kernel that tokio has no words for.
//!
//! `unsafe` are here one `ioctl` that writes an int, and taking over the descriptors that systemd passed on, which are ours
//! by the protocol of sd_listen_fds(3).

#![expect(unsafe_code, reason = "see above; each use is argued where it stands")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};

use crate::message::socket::{Arriving, Evented, Socket};

/// A byte stream to a client.
pub(super) trait Wire: Arriving + AsyncWrite + Unpin + 'static {
    /// Bytes written that the other side has not acknowledged yet.
    fn undelivered(&self) -> usize;

    /// Tells the other side that nothing more comes, where the protocol has a word for it: without that a client must
    /// take what it got for cut off. To be called until it is ready.
    fn poll_goodbye(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Has the connection end with a reset when it is dropped, so that the client can't take what it got for whole.
    fn abort(&self);
}

/// Bytes that are looked at before they are read.
const MOST_PEEKED: usize = 2048;

/// What a look into a socket has found.
pub(super) enum Peeked<T> {
    Enough(T),
    /// As much as is looked at, or all that will come.
    TooLittle,
    /// The other side has closed.
    Nothing,
}

/// A socket that can be looked into.
pub(super) trait Peek: AsFd {
    /// Waits until there is something, or the end.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Receives without waiting.
    fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize>;

    /// What has come does not do: the next wait is for more.
    fn wait_for_more(&self);

    /// The first bytes, which stay where they are, once they are `enough`, or no more come. None: the other side has closed.
    fn poll_peek<T>(&self, cx: &mut Context<'_>, enough: impl Fn(&[u8]) -> Option<T>) -> Poll<io::Result<Peeked<T>>> {
        let mut before = None;
        loop {
            ready!(self.poll_readable(cx))?;
            let mut first = [0; MOST_PEEKED];
            let n = match self.receive(&mut first, RecvFlags::PEEK) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                peeked => peeked?,
            };
            if let Some(found) = first.get(..n).and_then(&enough) {
                return Poll::Ready(Ok(Peeked::Enough(found)));
            }
            if n == 0 {
                return Poll::Ready(Ok(Peeked::Nothing));
            }
            // Readable once more, and nothing has come: it is the end that there is to read.
            if n == MOST_PEEKED || before.replace(n) == Some(n) {
                return Poll::Ready(Ok(Peeked::TooLittle));
            }
            self.wait_for_more();
        }
    }
}

impl<S: Evented> Peek for Socket<S> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(Interest::READABLE, cx)
    }

    fn wait_for_more(&self) {
        // The kernel tells of each arrival once, and the runtime keeps that until a read finds nothing.
        let _ = self.0.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    }

    fn receive(&self, into: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        self.0.try_io(Interest::READABLE, || Ok(recv(self, into, flags)?.0))
    }
}

impl Wire for Socket<TcpStream> {
    fn undelivered(&self) -> usize {
        outq(self.as_fd())
    }

    fn abort(&self) {
        // It fails only on a socket that is gone, and then there is nothing to end.
        let _ = socket2::SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
    }
}

impl Wire for Socket<UnixStream> {
    fn undelivered(&self) -> usize {
        outq(self.as_fd())
    }

    /// A Unix socket knows no reset: the client sees the end of a body that is not whole.
    fn abort(&self) {}
}

#[cfg(test)]
impl Arriving for tokio::io::DuplexStream {}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {
    fn undelivered(&self) -> usize {
        0
    }

    fn abort(&self) {}
}

/// SIOCOUTQ, tcp(7) and unix(7). 0 if the kernel does not say.
fn outq(fd: BorrowedFd<'_>) -> usize {
    const SIOCOUTQ: Opcode = 0x5411;
    // SAFETY: SIOCOUTQ takes a pointer to an int and writes one int there, as `Getter` provides.
    let bytes = unsafe { ioctl(fd, Getter::<SIOCOUTQ, std::ffi::c_int>::new()) };
    bytes.ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// The sockets that systemd passed on, with their names. To be called once: the second caller gets the same numbers.
pub(super) fn systemd_sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the variables name this process's id, so these descriptors were opened for it, and nothing else in it
    // takes them: `bind` calls this once and keeps what it gets.
    Ok(passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}
