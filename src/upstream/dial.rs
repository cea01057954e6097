//! Opening a connection to a backend, over TCP or a Unix socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::model::Address;

/// A connection of either kind.
#[derive(Debug)]
pub enum Stream {
    /// TCP, with NODELAY: every write is a whole message or a large piece of one, and must not wait for an ACK.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// Connects. It has no time limit of its own; callers wrap it in one.
///
/// # Errors
/// What the operating system says; `InvalidInput` for a name, which discovery must resolve first.
pub async fn dial(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Ip(addr) => {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Name(host, _) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` has not been resolved")))
        }
    }
}

/// Connects and says this before anything else.
///
/// # Errors
/// As [`dial`], and what writing says.
pub async fn dial_announced(address: &Address, header: &[u8]) -> io::Result<Stream> {
    let mut stream = dial(address).await?;
    if !header.is_empty() {
        stream.write_all(header).await?;
    }
    Ok(stream)
}

macro_rules! either {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
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
