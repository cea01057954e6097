//! Taking connections from a listening socket.
//!
//! The runtime's own `accept` ends each time by asking once too often: the kernel makes a socket, an inode and a file
//! for a connection before it looks whether there is one, and unmakes them when there is none. With a connection per
//! request that was a twentieth of all CPU time. `poll` asks the same for little, and the connections of one event are
//! few. Measured in ADR 32.

#![expect(unsafe_code, reason = "a descriptor is given to the runtime; argued where it stands")]

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::task::{Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, accept_with, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::bind::Listening;
use crate::message::conn::Ends;

/// A connection that no runtime knows yet.
#[derive(Debug)]
pub(super) enum Fresh {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listening socket of this worker.
#[derive(Debug)]
pub(super) struct Acceptor {
    socket: AsyncFd<Listening>,
    /// Where all its connections are to. `None`: that differs, or it is no address.
    destination: Option<SocketAddr>,
    /// Whether the last call gave a connection: then the next one asks first.
    gave: Cell<bool>,
}

impl Acceptor {
    /// Must be called inside the worker's runtime. `destination`: where all connections are to, if that is known.
    pub(super) fn new(socket: Listening, destination: Option<SocketAddr>) -> io::Result<Self> {
        // SAFETY: a `Listening` owns its descriptor, names the same one as long as it lives, and lives in here.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, destination, gave: Cell::new(false) })
    }

    /// The next connection, and between whom it is. To be called by one task.
    pub(super) async fn accept(&self) -> io::Result<(Fresh, Ends)> {
        poll_fn(|cx| {
            loop {
                let mut ready = ready!(self.socket.poll_read_ready(cx))?;
                // The kernel tells of each arrival, so that what comes after this look is told anew.
                let is_empty = self.gave.get() && !has_waiting(self.socket.get_ref());
                let accepted = if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { self.accept_now() };
                self.gave.set(accepted.is_ok());
                match accepted {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    accepted => return Poll::Ready(accepted),
                }
            }
        })
        .await
    }

    fn accept_now(&self) -> io::Result<(Fresh, Ends)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match self.socket.get_ref() {
            Listening::Tcp(socket) => {
                let (stream, peer) = acceptfrom_with(socket, flags)?;
                // Without an address it would be taken for one over a Unix socket, which is this machine's own.
                let gone = io::ErrorKind::ConnectionAborted;
                let source: SocketAddr = peer.and_then(|peer| peer.try_into().ok()).ok_or(gone)?;
                let stream = TcpStream::from(stream);
                let destination = self.destination.or_else(|| stream.local_addr().ok());
                Ok((Fresh::Tcp(stream), Ends { source: Some(source), destination, is_anonymous: false }))
            }
            Listening::Unix(socket) => {
                let stream = UnixStream::from(accept_with(socket, flags)?);
                Ok((Fresh::Unix(stream), Ends::default()))
            }
        }
    }
}

/// Whether a connection waits to be accepted. If the kernel does not say: perhaps.
fn has_waiting(socket: &Listening) -> bool {
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use tokio::net::TcpStream as Client;
    use tokio::time::timeout;

    use super::*;

    fn listening(on: &str) -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind(on).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    async fn next(acceptor: &Acceptor) -> Ends {
        timeout(Duration::from_secs(30), acceptor.accept()).await.expect("a connection is lost").unwrap().1
    }

    #[tokio::test]
    async fn all_of_one_arrival_and_those_that_come_later() {
        let (socket, address) = listening("127.0.0.1:0");
        let acceptor = Acceptor::new(Listening::Tcp(socket), Some(address)).unwrap();
        for at_once in [3, 1, 1, 5] {
            let mut clients = vec![];
            for _ in 0..at_once {
                clients.push(Client::connect(address).await.unwrap());
            }
            let mut came = vec![];
            for _ in 0..at_once {
                let ends = next(&acceptor).await;
                assert_eq!((ends.destination, ends.is_anonymous), (Some(address), false));
                came.push(ends.source);
            }
            assert_eq!(came, clients.iter().map(|client| client.local_addr().ok()).collect::<Vec<_>>());
            assert!(timeout(Duration::ZERO, acceptor.accept()).await.is_err(), "there are no more");
        }
    }

    #[tokio::test]
    async fn where_that_differs_each_knows_where_it_was_to() {
        let (socket, bound) = listening("0.0.0.0:0");
        let acceptor = Acceptor::new(Listening::Tcp(socket), None).unwrap();
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let to = SocketAddr::from((ip, bound.port()));
            let _client = Client::connect(to).await.unwrap();
            assert_eq!(next(&acceptor).await.destination, Some(to));
        }
    }

    /// Sockets that systemd passes on may be another process's, too.
    #[tokio::test]
    async fn a_socket_that_others_take_from() {
        let (socket, address) = listening("127.0.0.1:0");
        let other = socket.try_clone().unwrap();
        let acceptor = Acceptor::new(Listening::Tcp(socket), None).unwrap();
        for _ in 0..3 {
            let _both = [Client::connect(address).await.unwrap(), Client::connect(address).await.unwrap()];
            next(&acceptor).await;
            other.accept().unwrap();
            assert!(timeout(Duration::ZERO, acceptor.accept()).await.is_err(), "it has been taken");
        }
    }

    #[tokio::test]
    async fn a_unix_socket_has_no_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let acceptor = Acceptor::new(Listening::Unix(socket), None).unwrap();
        let _client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let (stream, ends) = acceptor.accept().await.unwrap();
        assert!(matches!(stream, Fresh::Unix(_)) && ends.source.is_none() && ends.destination.is_none());
    }
}
