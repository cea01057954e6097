//! TLS of one client connection: the handshake, and the encrypted stream as a [`Wire`].
//!
//! The handshake is part of what `limits.header_timeout` counts, from the accept. What comes before it is over is never
//! read as a request: the first bytes are looked at, not taken, and if they are not TLS's the connection ends. A client that
//! speaks HTTP in clear is told so, in clear. Memory for a handshake is taken when its first record is there as a whole, so
//! that whoever begins one and goes no further holds what an idle connection does.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::Protocol;
use super::serve::{linger, only_answer};
use super::watch::Watch;
use super::wire::{Peek, Peeked, Wire};
use crate::message::Secure;
use crate::message::respond;
use crate::message::socket::Arriving;
use crate::model::{Reason, TlsVersion};
use crate::telemetry::{Handshake, ListenerCells};
use crate::tls::{Front, subject};

/// The first byte of a handshake record (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// The second byte of any record, and the most bytes of one in clear.
const MAJOR: u8 = 3;
const MAX_RECORD: usize = 16 * 1024;

/// A connection whose handshake is over. In a box: what an idle connection's task holds is a pointer.
pub(super) struct Encrypted<W>(Box<TlsStream<W>>);

impl<W> Encrypted<W> {
    /// What the client has chosen (RFC 7301); `None`: it did not say.
    pub(super) fn protocol(&self) -> Option<Protocol> {
        let chosen = self.0.get_ref().1.alpn_protocol()?;
        Some(if chosen == b"h2" { Protocol::Http2 } else { Protocol::Http1 })
    }
}

/// Why there was no handshake.
enum Ended {
    /// Too late, or the worker ends.
    Timeout,
    /// The client went away before it had said anything.
    Closed,
    /// It speaks HTTP in clear.
    PlainHttp,
    /// Anything else.
    Failed(String),
}

/// The handshake. `None`: the connection is over; the client has been told what it could be.
pub(super) async fn handshake<W: Wire + Peek>(
    mut wire: W,
    front: &Front,
    watch: &Watch,
    cells: &ListenerCells,
) -> Option<Encrypted<W>> {
    let first = unless_ended(watch, poll_fn(|cx| wire.poll_peek(cx, begin))).await;
    let ended = match first {
        Some(Ok(Peeked::Enough(HANDSHAKE) | Peeked::TooLittle)) => {
            let accept = TlsAcceptor::from(front.config()).accept(wire).into_fallible();
            match unless_ended(watch, accept).await {
                Some(Ok(stream)) => match facts(stream.get_ref().1) {
                    Ok((secure, result)) => {
                        cells.handshake(result);
                        watch.conn.set_secure(Rc::new(secure));
                        return Some(Encrypted(Box::new(stream)));
                    }
                    Err(why) => Ended::Failed(why.to_owned()),
                },
                Some(Err((error, mut wire))) => {
                    // The alert that says why is on its way, and in TLS 1.3 so may be the client's first request.
                    linger(&mut wire).await;
                    Ended::Failed(error.to_string())
                }
                None => Ended::Timeout,
            }
        }
        Some(Ok(Peeked::Enough(byte))) if byte.is_ascii_uppercase() => {
            // Only a greeting of ours is lost if it can't be written at once.
            let _ = unless_ended(watch, wire.write_all(&PLAIN_HTTP)).await;
            linger(&mut wire).await;
            Ended::PlainHttp
        }
        Some(Ok(Peeked::Enough(_))) => Ended::Failed("not TLS".to_owned()),
        Some(Ok(Peeked::Nothing) | Err(_)) => Ended::Closed,
        None => Ended::Timeout,
    };
    let (result, why) = match ended {
        Ended::Timeout => (Handshake::Timeout, "not done in time".to_owned()),
        Ended::Closed => (Handshake::Closed, "the client left".to_owned()),
        Ended::PlainHttp => (Handshake::PlainHttp, "HTTP in clear".to_owned()),
        Ended::Failed(why) => (Handshake::Failed, why),
    };
    cells.handshake(result);
    let (client, listener) = (watch.conn.peer_text(), &*watch.conn.listener.name);
    tracing::debug!(client, listener, why, "no TLS handshake");
    None
}

/// The first byte, when it can be told what to do: a record of TLS is there as a whole, or it is none (RFC 8446, 5.1).
fn begin(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [HANDSHAKE, MAJOR, _, high, low, record @ ..] => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            (record.len() >= length || length > MAX_RECORD).then_some(HANDSHAKE)
        }
        [HANDSHAKE] | [HANDSHAKE, MAJOR, ..] => None,
        _ => bytes.first().copied(),
    }
}

/// `None`: the connection has to end before this came to anything.
async fn unless_ended<T>(watch: &Watch, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        watch.conn.set_waker(cx.waker());
        match future.as_mut().poll(cx) {
            Poll::Pending if watch.is_killed() || watch.is_to_close() => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

/// What is known now. An error: the client's certificate is not good after all.
fn facts(session: &ServerConnection) -> Result<(Secure, Handshake), &'static str> {
    let is_13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let subject = match session.peer_certificates().and_then(<[_]>::first) {
        None => None,
        Some(certificate) => Some(subject(certificate).ok_or("the client's certificate can't be read")?),
    };
    // Verified when the ticket was issued, which may have been half a day ago.
    if let Some(subject) = subject.as_ref().filter(|_| is_resumed)
        && subject.not_after < SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed())
    {
        return Err("the client's certificate has expired since its session began");
    }
    let secure = Secure {
        version: if is_13 { TlsVersion::V13 } else { TlsVersion::V12 },
        sni: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        subject: subject.map(|subject| subject.text.into()),
    };
    Ok((secure, if is_resumed { Handshake::Resumed } else { Handshake::Full }))
}

impl<W: Wire> Arriving for Encrypted<W> {}

impl<W: Wire> Wire for Encrypted<W> {
    fn undelivered(&self) -> usize {
        self.0.get_ref().0.undelivered()
    }

    /// Without a `close_notify`, by which the client would take what it got for whole.
    fn abort(&self) {
        self.0.get_ref().0.abort();
    }

    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

impl<W: Wire> AsyncRead for Encrypted<W> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buffer)
    }
}

impl<W: Wire> AsyncWrite for Encrypted<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

/// What a client that speaks HTTP in clear is told.
static PLAIN_HTTP: LazyLock<Vec<u8>> =
    LazyLock::new(|| only_answer(&respond::problem(Reason::BadRequest, Some("this port speaks TLS: use https"), "")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_begins_with_a_whole_record() {
        let record = [&[HANDSHAKE, MAJOR, 1, 0, 5][..], b"hello, and more"].concat();
        for n in 0..record.len() {
            assert_eq!(begin(&record[..n]), (n >= 10).then_some(HANDSHAKE), "{n}");
        }
        // What can't be one is not waited for.
        assert_eq!(begin(&[HANDSHAKE, MAJOR, 1, 0xff, 0xff]), Some(HANDSHAKE));
        assert_eq!(begin(&[HANDSHAKE, b'G']), Some(HANDSHAKE));
        assert_eq!(begin(b"G"), Some(b'G'));
    }
}
