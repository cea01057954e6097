//! HTTP/1.1 on a socket, from either side, as little as the load and the backends need. Nothing of it is shardgate's own
//! code, so that both can't be wrong in the same way.

use std::io;
use std::sync::LazyLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection and what was read from it and not yet used.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

/// How long a message's body is.
#[derive(Clone, Copy)]
pub enum Framing {
    Length(usize),
    Chunked,
}

impl Wire {
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// A head with the empty line after it; `None`: the other side ended the connection before its first byte.
    pub async fn head(&mut self) -> io::Result<Option<String>> {
        if self.buffer.is_empty() && self.read().await? == 0 {
            return Ok(None);
        }
        Ok(Some(self.until(b"\r\n\r\n").await?))
    }

    /// A body. When it breaks off, what came of it is in `into`.
    pub async fn body(&mut self, framing: Framing, into: &mut Vec<u8>) -> io::Result<()> {
        let Framing::Length(length) = framing else {
            loop {
                let line = self.until(b"\r\n").await?;
                let size = usize::from_str_radix(line.trim_end(), 16).map_err(|_| bad("a chunk size"))?;
                self.take(size, into).await?;
                if self.until(b"\r\n").await? != "\r\n" {
                    return Err(bad("the end of a chunk"));
                }
                if size == 0 {
                    return Ok(());
                }
            }
        };
        self.take(length, into).await
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits until the other side ends the connection.
    pub async fn ended(&mut self) {
        while matches!(self.read().await, Ok(1..)) {
            self.buffer.clear();
        }
    }

    /// Whether it may serve for another request: nothing more has come, not even an end.
    pub fn is_quiet(&self) -> bool {
        let read = self.stream.try_read(&mut [0]);
        self.buffer.is_empty() && read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// RST instead of FIN when it is dropped.
    pub fn reset_at_end(&self) {
        let _ = self.stream.set_zero_linger();
    }

    async fn take(&mut self, mut length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let part = length.min(self.buffer.len());
            into.extend_from_slice(&self.buffer[..part]);
            self.buffer.drain(..part);
            length -= part;
            if length == 0 {
                return Ok(());
            }
            if self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn until(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, end) {
                let rest = self.buffer.split_off(at + end.len());
                let text = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(text).map_err(|_| bad("text"));
            }
            if self.read().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.buffer.reserve(8 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }
}

/// A field's value.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &'a str| line.split_once(": ").filter(|(this, _)| this.eq_ignore_ascii_case(name));
    head.lines().find_map(named).map(|(_, value)| value)
}

/// How long the body is that follows this head.
pub fn framing(head: &str) -> Framing {
    match field(head, "transfer-encoding") {
        Some(_) => Framing::Chunked,
        None => Framing::Length(field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0)),
    }
}

/// The body of the answer to a request: it can't be taken for that of another, nor a part for another part.
pub fn body_of(id: u32) -> Vec<u8> {
    static LINES: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..384).flat_map(|line| format!("xxxxxx.{line:03}\n").into_bytes()).collect());
    let mut body = LINES.clone();
    let id = format!("{id:06}");
    for line in body.chunks_mut(20 * 11) {
        line[..id.len()].copy_from_slice(id.as_bytes());
    }
    body
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what came is not {what}"))
}
