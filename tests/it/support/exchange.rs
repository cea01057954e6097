//! One exchange of a scriptable backend: the request as it arrived, what it is answered with, and how.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};

use super::client::Fields;
use super::{DEADLINE, poll};

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which accepted connection it came on, counted from 0.
    pub connection: usize,
    /// The method.
    pub method: String,
    /// The target, byte for byte.
    pub target: String,
    /// Name and value, names as sent, in order.
    pub headers: Fields,
    /// Without its framing; empty for behaviours that don't read it.
    pub body: Vec<u8>,
    /// The head as it stood on the wire.
    pub head: Vec<u8>,
}

impl Request {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Every field of this name.
    pub fn header_all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

/// A behaviour in code.
pub type Act = dyn Fn(&Request, &mut Exchange<'_>) -> io::Result<After> + Send + Sync;

/// What happens on a path.
#[derive(Clone)]
pub enum Behaviour {
    /// A status, fields and a sized body, after the request was read.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// 200 in chunks.
    Chunked(Vec<Vec<u8>>),
    /// The usual answer, once the gate is open.
    Hold(Gate),
    /// These bytes after the request was read, and then what [`After`] says.
    Raw(Vec<u8>, After),
    /// These bytes as soon as the head was read, and then what [`After`] says; the body is not read.
    Early(Vec<u8>, After),
    /// Anything else. Its result is what becomes of the connection.
    Custom(Arc<Act>),
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The next request.
    Keep,
    /// FIN.
    Close,
    /// RST.
    Reset,
    /// Nothing is sent or read any more, until the other side ends it.
    Stall,
}

/// A door that a test opens.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Gate {
    /// Closed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everyone through, now and from now on.
    pub fn open(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }

    /// Waits until this many stand before it.
    pub fn waiting(&self, n: usize) {
        poll(&format!("{n} requests before a gate"), || (self.0.0.lock().unwrap().1 >= n).then_some(()));
    }

    /// Stands before it until it is open.
    pub fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.1 += 1;
        // Longer than any test: a test that fails must not leave threads behind for ever.
        let (mut state, _) = self.0.1.wait_timeout_while(state, DEADLINE * 6, |s| !s.0).unwrap();
        state.1 -= 1;
    }
}

/// A connection whose request head has been read.
pub struct Exchange<'a> {
    pub(super) stream: &'a mut TcpStream,
    pub(super) input: &'a mut Input,
    pub(super) unread: Framing,
    pub(super) name: &'a str,
}

#[derive(Clone, Copy)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

impl Exchange<'_> {
    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Reads what is left of the request's body.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        match std::mem::replace(&mut self.unread, Framing::Length(0)) {
            Framing::Length(n) => body = self.input.take(self.stream, n)?,
            Framing::Chunked => loop {
                let line = self.input.until(self.stream, b"\r\n")?;
                let size =
                    std::str::from_utf8(&line[..line.len() - 2]).ok().and_then(|l| usize::from_str_radix(l, 16).ok());
                let size = size.ok_or_else(|| io::Error::other(format!("chunk size {line:?}")))?;
                if size == 0 {
                    while self.input.until(self.stream, b"\r\n")? != b"\r\n" {}
                    break;
                }
                body.extend(self.input.take(self.stream, size)?);
                self.input.take(self.stream, 2)?;
            },
        }
        Ok(body)
    }

    /// Waits for one more piece of the request, whatever its framing; empty at the end of the connection.
    pub fn piece(&mut self) -> io::Result<Vec<u8>> {
        if self.input.buffer.is_empty() {
            self.input.more(self.stream)?;
        }
        Ok(std::mem::take(&mut self.input.buffer))
    }

    /// Waits for the other side's end of the connection.
    pub fn wait_end(&mut self) {
        while self.input.more(self.stream).is_ok_and(|n| n > 0) {}
    }

    pub(super) fn usual(&mut self, request: &Request) -> io::Result<After> {
        let echo = serde_json::json!({
            "origin": self.name, "method": request.method, "target": request.target,
            "headers": request.headers, "body": String::from_utf8_lossy(&request.body),
        });
        let body = echo.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-origin: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.name,
            body.len()
        );
        self.send(if request.method == "HEAD" { head } else { head + &body })?;
        Ok(After::Keep)
    }

    pub(super) fn act(&mut self, behaviour: &Behaviour, request: &Request) -> io::Result<After> {
        match behaviour {
            Behaviour::Answer(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} Status\r\nx-origin: {}\r\n", self.name);
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                if !matches!(status, 204 | 304) {
                    head += &format!("content-length: {}\r\n", body.len());
                }
                let mut bytes = (head + "\r\n").into_bytes();
                if request.method != "HEAD" && !matches!(status, 204 | 304) {
                    bytes.extend_from_slice(body);
                }
                self.send(bytes)?;
                Ok(After::Keep)
            }
            Behaviour::Chunked(pieces) => {
                let name = self.name;
                self.send(format!("HTTP/1.1 200 OK\r\nx-origin: {name}\r\ntransfer-encoding: chunked\r\n\r\n"))?;
                for piece in pieces {
                    self.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())?;
                }
                self.send("0\r\n\r\n")?;
                Ok(After::Keep)
            }
            Behaviour::Hold(gate) => {
                gate.pass();
                self.usual(request)
            }
            Behaviour::Raw(bytes, after) | Behaviour::Early(bytes, after) => {
                self.send(bytes)?;
                Ok(*after)
            }
            Behaviour::Custom(act) => act(request, self),
        }
    }
}

#[derive(Default)]
pub(super) struct Input {
    pub(super) buffer: Vec<u8>,
}

impl Input {
    fn more(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    pub(super) fn until(&mut self, stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if self.more(stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self, stream: &mut TcpStream, n: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < n {
            if self.more(stream)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..n).collect())
    }
}

pub(super) fn parse(head: &[u8], connection: usize) -> Option<Request> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let mut words = lines.next()?.splitn(3, ' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let field = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim_matches([' ', '\t']).to_owned()));
    let headers = lines.map(field).collect::<Option<_>>()?;
    Some(Request { connection, method, target, headers, body: Vec::new(), head: head.to_vec() })
}
