//! A client of HTTP/2 that sends the frames it is told to, good or bad, and shows those that come. It shares nothing with
//! the library that the daemon uses; of HPACK it writes literals and reads what a status looks like.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::DEADLINE;

/// What a client begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITIZED: u8 = 0x20;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The four bytes from this place, as a number: an error code, an identifier.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).unwrap_or_else(|| panic!("no number at {at}: {self:?}"));
        u32::from_be_bytes(bytes.try_into().unwrap())
    }

    /// The status of a HEADERS frame: one that the static table of HPACK has (RFC 7541, A), or a literal that has not been
    /// said on the connection before.
    pub fn status(&self) -> Option<u16> {
        let [first, rest @ ..] = &self.payload[..] else { return None };
        let known = [200, 204, 206, 304, 400, 404, 500];
        match (self.kind, *first) {
            (HEADERS, 0x88..=0x8e) => Some(known[usize::from(first - 0x88)]),
            (HEADERS, 0x08 | 0x18 | 0x48) => literal(rest),
            _ => None,
        }
    }
}

/// A literal of digits, which may be in Huffman's code: there 0 to 2 have five bits, the others six (RFC 7541, B).
fn literal(bytes: &[u8]) -> Option<u16> {
    let (length, text) = bytes.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    if length & 0x80 == 0 {
        return str::from_utf8(text).ok()?.parse().ok();
    }
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).try_fold(0, |code, _| Some(code << 1 | bits.next()?))?;
        let digit = if five < 3 { five } else { (five << 1 | bits.next()?).checked_sub(0x16)? };
        number = number * 10 + digit;
    }
    Some(number)
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// A SETTINGS frame of these.
pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let pairs = pairs.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &pairs.collect::<Vec<_>>())
}

/// A header block of these fields, as literals that are not indexed and not compressed (RFC 7541, 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, 7, text.len());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// RFC 7541, 5.1.
fn integer(out: &mut Vec<u8>, prefix: u8, number: usize) {
    let most = (1usize << prefix) - 1;
    if number < most {
        return out.push(number as u8);
    }
    out.push(most as u8);
    let mut rest = number - most;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    out.push(rest as u8);
}

/// The fields that a GET of this path has.
pub fn get(path: &str) -> [(&str, &str); 4] {
    [(":method", "GET"), (":scheme", "http"), (":authority", "shard.example"), (":path", path)]
}

/// A request without a body.
pub fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&get(path)))
}

/// One connection.
pub struct Frames {
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Frames {
    /// Says nothing yet.
    pub fn silent(addr: SocketAddr) -> Self {
        let socket = TcpStream::connect(addr).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { socket, buffer: Vec::new() }
    }

    /// Says the preface and these settings, and has heard the other side's.
    pub fn connect_with(addr: SocketAddr, pairs: &[(u16, u32)]) -> Self {
        let mut frames = Self::silent(addr);
        frames.send([PREFACE, &settings(pairs)].concat());
        frames.until("the settings", |frame| frame.kind == SETTINGS && frame.flags == 0);
        frames.send(frame(SETTINGS, ACK, 0, &[]));
        frames.until("an acknowledgement", |frame| frame.kind == SETTINGS && frame.flags == ACK);
        frames
    }

    /// The same with the settings that are usual.
    pub fn connect(addr: SocketAddr) -> Self {
        Self::connect_with(addr, &[])
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap_or_else(|e| panic!("send: {e}"));
    }

    /// Sends bytes, where the other side may have gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// No more will be sent.
    pub fn finish(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// The next frame; `None`: the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
                    return Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() });
                }
            }
            let mut piece = [0; 16 * 1024];
            match self.socket.read(&mut piece) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("no frame: {e}"),
            }
        }
    }

    /// The next frame that passes; others are dropped.
    pub fn until(&mut self, what: &str, pass: impl Fn(&Frame) -> bool) -> Frame {
        let mut seen = Vec::new();
        while let Some(frame) = self.next() {
            if pass(&frame) {
                return frame;
            }
            seen.push((frame.kind, frame.flags, frame.stream));
        }
        panic!("the connection ended before {what}; there were (kind, flags, stream): {seen:?}");
    }

    /// The head of the answer on a stream.
    pub fn head(&mut self, stream: u32) -> Frame {
        self.until("an answer", |frame| frame.kind == HEADERS && frame.stream == stream)
    }

    /// All frames until the connection ends.
    pub fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Whether what was sent before has been looked at: a PING comes back.
    pub fn sync(&mut self) {
        self.send(frame(PING, 0, 0, b"in order"));
        self.until("a ping's answer", |frame| frame.kind == PING && frame.flags == ACK && frame.payload == b"in order");
    }
}
