//! TLS around a connection to a backend: RFC 8446, and 5246 for who speaks no newer one.
//!
//! The library's stream does nearly all of it. What is added here: records that the socket has not taken are sent on when
//! the connection is read, since nobody flushes; a connection that is let go of says so, so that the backend keeps its
//! session; and a refusal of our certificate, which in TLS 1.3 comes after the request may have been sent, is told apart.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Stream;
use crate::backend::Tls;

/// A connection inside TLS.
#[derive(Debug)]
pub struct Secured {
    stream: TlsStream<Socket>,
    /// A write failed after a part of it had gone out.
    is_broken: bool,
}

/// What is beneath, and whether it has taken anything since that was last asked.
#[derive(Debug)]
struct Socket {
    stream: Stream,
    has_taken: bool,
}

/// Why there is no TLS on a connection that stands.
#[derive(Debug)]
pub struct HandshakeFailed {
    cause: io::Error,
}

/// Does the handshake. `alpn`: whether to say what is to be spoken.
///
/// # Errors
/// [`HandshakeFailed`], inside an error of the kind `Other`; or that of the socket if it says that time is up.
pub(super) async fn handshake(tls: &Tls, stream: Stream, alpn: bool) -> io::Result<Stream> {
    let stream = Socket { stream, has_taken: false };
    let connector = TlsConnector::from(tls.config.clone());
    let connect = match alpn {
        true => connector.connect(tls.name.clone(), stream),
        false => connector.with_alpn(Vec::new()).connect(tls.name.clone(), stream),
    };
    // Some kilobytes, which are not to lie in the task of every request.
    match Box::pin(connect).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(Secured { stream, is_broken: false }))),
        Err(cause) if cause.kind() == io::ErrorKind::TimedOut => Err(cause),
        Err(cause) => Err(io::Error::other(HandshakeFailed { cause })),
    }
}

impl HandshakeFailed {
    /// If it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether it was the certificate of the other side that was not good enough.
    pub fn is_certificate(&self) -> bool {
        matches!(library(&self.cause), Some(Error::InvalidCertificate(_)))
    }
}

impl fmt::Display for HandshakeFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match library(&self.cause) {
            Some(Error::InvalidMessage(_)) => f.write_str("TLS handshake failed: what the backend says is not TLS"),
            Some(Error::AlertReceived(alert)) => write!(f, "TLS handshake failed: the backend says {alert:?}"),
            Some(error) => write!(f, "TLS handshake failed: {error}"),
            None if self.cause.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("TLS handshake failed: the backend closed the connection")
            }
            None => write!(f, "TLS handshake failed: {}", self.cause),
        }
    }
}

impl std::error::Error for HandshakeFailed {}

/// The library's own error.
fn library(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What the backend says, if that is that it does not take our certificate, or that it wants one. In TLS 1.3 it can only say so
/// when for us the handshake is over. It is over for the backend only with our certificate, so that nothing which was sent
/// behind that has been read.
pub fn refusal(error: &io::Error) -> Option<String> {
    use AlertDescription as Alert;
    let Some(Error::AlertReceived(alert)) = library(error) else { return None };
    let is_one = matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError
            | Alert::HandshakeFailure
    );
    is_one.then(|| format!("TLS handshake failed: the backend says {alert:?}"))
}

impl Secured {
    /// What the backend has agreed to speak.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    /// Sends what the socket did not take when it was written. That it can't be sent is no reason not to read.
    fn send_on(&mut self, cx: &mut Context<'_>) {
        if self.stream.get_ref().1.wants_write() {
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }

    #[cfg(test)]
    pub(super) fn beneath(&self) -> &Stream {
        &self.stream.get_ref().0.stream
    }

    /// Whether all that was written has been sent.
    pub(super) fn is_sent(&self) -> bool {
        !self.stream.get_ref().1.wants_write()
    }

    /// Writes. The library says no more than that a write failed, even if some of its records have gone out before that:
    /// then this one counts as done, because the backend may have seen it, and it is the next that fails.
    fn poll_write_with(
        &mut self,
        bytes: usize,
        write: impl FnOnce(Pin<&mut TlsStream<Socket>>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.stream.get_mut().0.has_taken = false;
        let polled = write(Pin::new(&mut self.stream));
        if matches!(polled, Poll::Ready(Err(_))) && self.stream.get_ref().0.has_taken {
            self.is_broken = true;
            return Poll::Ready(Ok(bytes));
        }
        polled
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.send_on(cx);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(buf.len(), |stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_write_with(bytes, |stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Secured {
    /// Says that nothing more comes (RFC 8446, 6.1), if the socket takes it at once: a server that is not told takes
    /// it for an attack, and forgets the session.
    fn drop(&mut self) {
        self.stream.get_mut().1.send_close_notify();
        self.send_on(&mut Context::from_waker(Waker::noop()));
    }
}

impl Socket {
    fn note(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.has_taken |= matches!(polled, Poll::Ready(Ok(1..)));
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
