//! A request on its way to a backend: RFC 9112, 3 and 6.
//!
//! The head is written into a scratch buffer of the worker. What there is of the body goes with it in one send: copied
//! behind the head if it is small, beside it if it is not. The same goes for what comes later, with the lines of the
//! chunked coding in place of the head.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Uri};
use http_body::Body;
use tokio::io::AsyncWrite as _;

use super::{BoxError, Stream};

/// A piece of a body that is not larger than this is copied, so that one plain send does.
const COALESCE: usize = 4 * 1024;

/// A request and how far it has come.
pub(super) struct Outbound<B> {
    body: B,
    coding: Coding,
    /// The body has been read to its end.
    ended: bool,
    /// To be sent: `front`, then `data`, then `back`.
    front: Vec<u8>,
    data: Bytes,
    back: &'static [u8],
    /// How much of these three has been sent.
    sent: usize,
    written: u64,
}

/// How the backend finds the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

/// Why a request could not be sent whole.
pub(super) enum Failed {
    /// The connection broke.
    Connection(io::Error),
    /// The body did.
    Body(BoxError),
}

impl<B> Outbound<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Nothing is sent yet. Also gives the memory of the request's fields.
    pub(super) fn new(request: Request<B>, scratch: Vec<u8>) -> (Self, HeaderMap) {
        let (parts, body) = request.into_parts();
        let ended = body.is_end_stream();
        let coding = match body.size_hint().exact() {
            _ if ended => Coding::Length(0),
            Some(length) => Coding::Length(length),
            None => Coding::Chunked,
        };
        let mut front = scratch;
        head(&mut front, &parts.method, &parts.uri, &parts.headers, coding);
        let mut memory = parts.headers;
        memory.clear();
        (Self { body, coding, ended, front, data: Bytes::new(), back: b"", sent: 0, written: 0 }, memory)
    }

    /// Bytes that a socket has taken. Zero: nobody can have seen anything, and another connection may be used.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// The scratch buffer, when it is not needed any more.
    pub(super) fn into_scratch(self) -> Vec<u8> {
        self.front
    }

    /// Sends what there is to send. Ready when all of it has been taken by the socket.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<Result<(), Failed>> {
        loop {
            let waits = self.poll_gather(cx).map_err(Failed::Body)?.is_pending();
            if self.front.len() + self.data.len() + self.back.len() == self.sent {
                self.front.clear();
                self.data = Bytes::new();
                self.back = b"";
                self.sent = 0;
                match (self.ended, waits) {
                    (true, _) => return Poll::Ready(Ok(())),
                    (false, true) => return Poll::Pending,
                    (false, false) => continue,
                }
            }
            let n = ready!(self.poll_write(cx, stream)).map_err(Failed::Connection)?;
            self.sent += n;
            self.written += n as u64;
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<usize>> {
        let mut skip = self.sent;
        let [front, data, back] = [&self.front[..], &self.data[..], self.back].map(|part| {
            let skipped = skip.min(part.len());
            skip -= skipped;
            IoSlice::new(part.get(skipped..).unwrap_or_default())
        });
        let stream = Pin::new(stream);
        let polled = if data.is_empty() && back.is_empty() {
            stream.poll_write(cx, &front)
        } else {
            stream.poll_write_vectored(cx, &[front, data, back])
        };
        match polled {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            polled => polled,
        }
    }

    /// Takes in what there is of the body, as much as goes into one send. Pending: only if the body is.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while !self.ended && self.data.is_empty() && self.front.len() < COALESCE {
            let piece = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => data,
                    _ => continue,
                },
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    self.end()?;
                    continue;
                }
            };
            let is_small = self.front.len() + piece.len() <= COALESCE;
            match &mut self.coding {
                Coding::Length(left) => {
                    *left = left.checked_sub(piece.len() as u64).ok_or("the body is longer than its length")?;
                }
                Coding::Chunked => {
                    hex(&mut self.front, piece.len());
                    self.front.extend_from_slice(b"\r\n");
                }
            }
            if is_small {
                self.front.extend_from_slice(&piece);
            } else {
                self.data = piece;
            }
            if self.coding == Coding::Chunked {
                if is_small {
                    self.front.extend_from_slice(b"\r\n");
                } else {
                    self.back = b"\r\n";
                }
            }
            if self.body.is_end_stream() {
                self.end()?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The body has come to its end.
    fn end(&mut self) -> Result<(), BoxError> {
        self.ended = true;
        match self.coding {
            Coding::Length(0) => {}
            Coding::Length(_) => return Err("the body is shorter than its length".into()),
            Coding::Chunked if self.data.is_empty() => self.front.extend_from_slice(b"0\r\n\r\n"),
            Coding::Chunked => self.back = b"\r\n0\r\n\r\n",
        }
        Ok(())
    }
}

/// Writes the head. The fields that say where the body ends are ours: they must agree with how it is sent.
fn head(out: &mut Vec<u8>, method: &Method, target: &Uri, headers: &HeaderMap, coding: Coding) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut says_length = false;
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH => says_length = true,
            header::TRANSFER_ENCODING => {}
            _ => {
                out.extend_from_slice(name.as_str().as_bytes());
                out.extend_from_slice(b": ");
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    match coding {
        Coding::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Coding::Length(0) if !says_length => {}
        Coding::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in hexadecimal digits, without leading zeros.
fn hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) as u8 & 0xf;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}
