//! Opening a connection to a backend, over TCP or a Unix socket, in clear or inside TLS.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;

use super::tls::{self, Secured};
use crate::backend::{Backend, Tls};
use crate::message::socket::{Arriving, Socket};
use crate::model::Address;

/// A connection of any kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with NODELAY: every write is a whole message or a large piece of one, and must not wait for an ACK.
    Tcp(Socket<TcpStream>),
    /// A Unix socket.
    Unix(Socket<UnixStream>),
    /// TLS inside one of the two. In a box, so that a connection in clear is not the larger for it.
    Tls(Box<Secured>),
}

/// Connects to a backend, TLS included. `header`: of the PROXY protocol, which comes before everything, if it is not empty. It
/// has no time limit of its own; callers wrap it in one.
///
/// # Errors
/// What the operating system says; `InvalidInput` for a name, which discovery must resolve first; a
/// [`HandshakeFailed`](super::HandshakeFailed).
pub async fn dial(backend: &Backend, header: &[u8]) -> io::Result<Stream> {
    let mut stream = connect(&backend.identity.address).await?;
    if !header.is_empty() {
        stream.write_all(header).await?;
    }
    match &backend.tls {
        None => Ok(stream),
        Some(tls) => tls::handshake(tls, stream, true).await,
    }
}

/// The same to who stands beside a backend and speaks no HTTP.
///
/// # Errors
/// Those of [`dial`].
pub async fn dial_agent(address: &Address, tls: Option<&Tls>) -> io::Result<Stream> {
    let stream = connect(address).await?;
    match tls {
        None => Ok(stream),
        Some(tls) => tls::handshake(tls, stream, false).await,
    }
}

async fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(addr) => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(Socket(stream)))
        }
        Address::Unix(path) => Ok(Stream::Unix(Socket(UnixStream::connect(path).await?))),
        Address::Name(host, _) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` has not been resolved")))
        }
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl Stream {
    /// Whether the other side has agreed to speak this (RFC 7301); in clear nobody asks it.
    pub fn may_speak(&self, alpn: &[u8]) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Tls(secured) => secured.alpn() == Some(alpn),
        }
    }

    /// Whether the other side has neither closed it nor said anything: an idle connection may then be used. What is said
    /// without being asked must never be taken for the answer to the next request. Records of TLS that say nothing, such
    /// as tickets for later sessions, are read on the way.
    ///
    /// As long as no event came from the kernel this asks for nothing: the runtime knows that there is nothing to read.
    /// The runtime's budget must not play a part, since a task that has used it up would find every connection good.
    pub fn is_quiet(&mut self) -> bool {
        // Nearly always there was no event.
        let nothing_happened = match self {
            Self::Tcp(stream) => stream.is_silent(),
            Self::Unix(stream) => stream.is_silent(),
            Self::Tls(_) => false,
        };
        if nothing_happened {
            return true;
        }
        let mut byte = [0; 1];
        let mut byte = ReadBuf::new(&mut byte);
        let read = unconstrained(poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, &mut byte)));
        let is_silent = pin!(read).poll(&mut Context::from_waker(Waker::noop())).is_pending();
        is_silent && !matches!(self, Self::Tls(secured) if !secured.is_sent())
    }
}

impl Arriving for Stream {
    fn poll_arrival(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(stream) => stream.poll_arrival(cx),
            Self::Unix(stream) => stream.poll_arrival(cx),
            Self::Tls(_) => Poll::Ready(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
