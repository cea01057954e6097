//! Who a connection is for, where a proxy in front says so before anything else: the PROXY protocol, towards us.
//!
//! What has come is looked at without taking it from the socket (`MSG_PEEK`), and then exactly what belongs to the header
//! is read. So whatever follows, a TLS handshake or a request, begins at its first byte for whoever reads next. A header
//! that comes in one packet costs two system calls.
//!
//! The header has the time that the first head of a connection has, from the accept. Meanwhile the connection stands in
//! the books under the proxy's own address, is swept and drained like any other, and counts for the totals.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use rustix::net::RecvFlags;

use super::watch::Watch;
use super::wire::Peek;
use crate::message::proxy_protocol::{Header, scan};

/// Looked at once. Nearly every header is shorter; a longer one is taken piece by piece.
const LOOK: usize = 256;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missing {
    /// The connection was closed, by whomever, before a byte of one had come. Some probes do that.
    #[error("closed")]
    Nothing,
    /// What came breaks a rule, or is not whole.
    #[error("{0}")]
    Bad(&'static str),
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// Reads the header and nothing else.
pub(super) async fn header<W: Peek>(wire: &W, watch: &Watch) -> Result<Header, Missing> {
    let mut have = Vec::new();
    poll_fn(|cx| {
        watch.conn.set_waker(cx.waker());
        let polled = poll_header(wire, &mut have, cx);
        if polled.is_pending() && (watch.is_killed() || watch.is_to_close()) {
            // Somebody who has connected and said nothing yet may do so at the end of a drain as well as at a time-out.
            let drained = watch.is_killed() || watch.conn.draining();
            let missing = if drained { Missing::Nothing } else { Missing::Bad("it took too long") };
            return Poll::Ready(Err(missing));
        }
        polled
    })
    .await
}

fn poll_header<W: Peek>(wire: &W, have: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<Result<Header, Missing>> {
    loop {
        ready!(wire.poll_readable(cx))?;
        let mut look = [0; LOOK];
        let before = have.len();
        match wire.receive(&mut look, RecvFlags::PEEK) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Poll::Ready(Err(error.into())),
            Ok(0) if before == 0 => return Poll::Ready(Err(Missing::Nothing)),
            Ok(0) => return Poll::Ready(Err(Missing::Bad("it is cut off"))),
            Ok(n) => have.extend_from_slice(look.get(..n).unwrap_or(&look)),
        }
        let found = scan(have).map_err(|malformed| Missing::Bad(malformed.0))?;
        // All of it, or as much as belongs to the header: it lies in the kernel, so it is there at once.
        let end = found.map_or(have.len(), |(_, end)| end);
        let mut taken = before;
        while taken < end {
            let piece = look.get_mut(..end - taken).unwrap_or_default();
            match wire.receive(piece, RecvFlags::empty())? {
                0 => return Poll::Ready(Err(Missing::Bad("it is cut off"))),
                n => taken += n,
            }
        }
        if let Some((header, _)) = found {
            return Poll::Ready(Ok(header));
        }
    }
}
