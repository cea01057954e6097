//! A message on its way out, a request to a backend or a response to a client: RFC 9112, 3, 4 and 6.
//!
//! The head lies in a buffer that the worker lends. What there is of the body goes with it in one send: copied behind the
//! head if it is small, beside it if it is not. The same goes for what comes later, with the lines of the chunked coding
//! in place of the head.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use tokio::io::AsyncWrite;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A piece of a body that is not larger than this is copied, so that one plain send does.
const COALESCE: usize = 4 * 1024;

/// How the other side finds the end of the body (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// So many bytes are still to come.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The body ends with the connection.
    Close,
}

impl Coding {
    /// Of a body that is to be sent; `chunked`: whether the other side knows the chunked coding.
    pub fn of<B: Body>(body: &B, chunked: bool) -> Self {
        match body.size_hint().exact() {
            _ if body.is_end_stream() => Self::Length(0),
            Some(length) => Self::Length(length),
            None if chunked => Self::Chunked,
            None => Self::Close,
        }
    }

    /// Writes the field that says it.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Self::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Self::Close => {}
        }
    }
}

/// A message and how far it has come.
pub struct Sending<B> {
    /// `None`: it has been read to its end. What it holds on to is let go of then, not when the last piece has been sent.
    body: Option<B>,
    coding: Coding,
    /// To be sent: `front`, then `data`, then `back`.
    front: Vec<u8>,
    data: Bytes,
    back: &'static [u8],
    /// How much of these three has been sent.
    sent: usize,
    written: u64,
}

/// Why a message could not be sent whole.
pub enum Failed {
    /// The connection broke.
    Connection(io::Error),
    /// The body did.
    Body(BoxError),
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Nothing is sent yet. `head`: with its empty line, and saying what `coding` is.
    pub fn new(head: Vec<u8>, body: B, coding: Coding) -> Self {
        let body = (coding != Coding::Length(0)).then_some(body);
        Self { body, coding, front: head, data: Bytes::new(), back: b"", sent: 0, written: 0 }
    }

    /// Bytes that a socket has taken. Zero: nobody can have seen anything, and another connection may be used.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The buffer, when it is not needed any more.
    pub fn into_scratch(self) -> Vec<u8> {
        self.front
    }

    /// Sends what there is to send. Ready when all of it has been taken by the socket.
    pub fn poll_send<W>(&mut self, cx: &mut Context<'_>, wire: &mut W) -> Poll<Result<(), Failed>>
    where
        W: AsyncWrite + Unpin,
    {
        loop {
            let waits = self.poll_gather(cx).map_err(Failed::Body)?.is_pending();
            if self.front.len() + self.data.len() + self.back.len() == self.sent {
                self.front.clear();
                self.data = Bytes::new();
                self.back = b"";
                self.sent = 0;
                match (self.body.is_none(), waits) {
                    (true, _) => return Poll::Ready(Ok(())),
                    (false, true) => return Poll::Pending,
                    (false, false) => continue,
                }
            }
            let n = ready!(self.poll_write(cx, wire)).map_err(Failed::Connection)?;
            self.sent += n;
            self.written += n as u64;
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(&self, cx: &mut Context<'_>, wire: &mut W) -> Poll<io::Result<usize>> {
        let wire = Pin::new(wire);
        let polled = if self.data.is_empty() && self.back.is_empty() {
            wire.poll_write(cx, self.front.get(self.sent..).unwrap_or_default())
        } else {
            let mut skip = self.sent;
            let parts = [&self.front[..], &self.data[..], self.back].map(|part| {
                let skipped = skip.min(part.len());
                skip -= skipped;
                IoSlice::new(part.get(skipped..).unwrap_or_default())
            });
            wire.poll_write_vectored(cx, &parts)
        };
        match polled {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            polled => polled,
        }
    }

    /// Takes in what there is of the body, as much as goes into one send. Pending: only if the body is.
    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        while let Some(body) = &mut self.body
            && self.data.is_empty()
            && self.front.len() < COALESCE
        {
            let piece = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
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
            let is_last = body.is_end_stream();
            let is_small = self.front.len() + piece.len() <= COALESCE;
            match &mut self.coding {
                Coding::Length(left) => {
                    *left = left.checked_sub(piece.len() as u64).ok_or("the body is longer than its length")?;
                }
                Coding::Chunked => {
                    hex(&mut self.front, piece.len());
                    self.front.extend_from_slice(b"\r\n");
                }
                Coding::Close => {}
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
            if is_last {
                self.end()?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The body has come to its end.
    fn end(&mut self) -> Result<(), BoxError> {
        self.body = None;
        match self.coding {
            Coding::Length(0) | Coding::Close => {}
            Coding::Length(_) => return Err("the body is shorter than its length".into()),
            Coding::Chunked if self.data.is_empty() => self.front.extend_from_slice(b"0\r\n\r\n"),
            Coding::Chunked => self.back = b"\r\n0\r\n\r\n",
        }
        Ok(())
    }
}

/// Appends a number in hexadecimal digits, without leading zeros.
fn hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) as u8 & 0xf;
        out.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}
