//! A backend of HTTP/2 that is made of frames: it does what no library lets a server do.
//!
//! Each connection is played by a script in a thread of its own, with the number of the connection. Heads are written
//! without compression (RFC 7541, 6.2.2), and not read: what a request says is for [`H2Origin`](super::H2Origin).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::DEADLINE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// The backend; it takes no connection after it was dropped.
pub struct Frames {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

/// A connection.
pub struct Wire {
    stream: TcpStream,
    requests: Arc<AtomicUsize>,
    /// Frames that are to go out with the next that are sent.
    held: Vec<u8>,
}

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frames {
    /// Starts one on a loopback port. A connection ends when its script does.
    pub fn start(script: impl Fn(usize, &mut Wire) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let frames = Self { address, accepted: Arc::default(), requests: Arc::default(), stop: Arc::default() };
        let (accepted, requests, stop) = (frames.accepted.clone(), frames.requests.clone(), frames.stop.clone());
        let script = Arc::new(script);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let (script, requests) = (script.clone(), requests.clone());
                std::thread::spawn(move || {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(DEADLINE * 6))?;
                    script(number, &mut Wire { stream, requests, held: Vec::new() })
                });
            }
        });
        frames
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Requests whose heads have come, so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

impl Wire {
    /// Reads the preface and says these SETTINGS.
    pub fn greet(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        self.stream.read_exact(&mut [0; 24])?;
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &payload)
    }

    /// The next frame that is not about the connection itself. SETTINGS are acknowledged, PINGs answered.
    pub fn frame(&mut self) -> io::Result<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload)?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            match (head[3], head[4]) {
                (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, b"")?,
                (PING, 0) => self.send(PING, ACK, 0, &payload)?,
                (DATA | HEADERS | RST_STREAM | GOAWAY, flags) => {
                    return Ok(Frame { kind: head[3], flags, stream, payload });
                }
                _ => {}
            }
        }
    }

    /// Waits for the head of a request, and gives its stream.
    pub fn head_of_request(&mut self) -> io::Result<u32> {
        loop {
            let frame = self.frame()?;
            if frame.kind == HEADERS {
                self.requests.fetch_add(1, Ordering::SeqCst);
                return Ok(frame.stream);
            }
        }
    }

    /// Waits for a whole request, and gives its stream.
    pub fn request(&mut self) -> io::Result<u32> {
        loop {
            let frame = self.frame()?;
            if frame.kind == HEADERS {
                self.requests.fetch_add(1, Ordering::SeqCst);
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Ok(frame.stream);
            }
        }
    }

    /// Sends a frame with what was held.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.hold(kind, flags, stream, payload);
        let held = std::mem::take(&mut self.held);
        self.stream.write_all(&held)
    }

    /// A frame that goes out with the next.
    pub fn hold(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.held.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.held.extend_from_slice(&[kind, flags]);
        self.held.extend_from_slice(&stream.to_be_bytes());
        self.held.extend_from_slice(payload);
    }

    /// A head that goes out with what comes next.
    pub fn hold_head(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.hold(HEADERS, END_HEADERS, stream, &block(fields));
    }

    /// A head that is all of an answer.
    pub fn head(&mut self, stream: u32, fields: &[(&str, &str)]) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
    }

    /// The last piece of a body.
    pub fn last(&mut self, stream: u32, data: &[u8]) -> io::Result<()> {
        self.send(DATA, END_STREAM, stream, data)
    }

    /// Ends a stream.
    pub fn reset(&mut self, stream: u32, code: u32) -> io::Result<()> {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes())
    }

    /// Says that nothing above this stream will be served.
    pub fn go_away(&mut self, last: u32, code: u32) -> io::Result<()> {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
    }

    /// Sends bytes that need not be frames.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads until the other side ends the connection.
    pub fn wait_end(&mut self) -> io::Result<()> {
        while self.stream.read(&mut [0; 4096])? > 0 {}
        Ok(())
    }
}

/// Fields without compression.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        out.extend_from_slice(&[0, name.len() as u8]);
        out.extend_from_slice(name.as_bytes());
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
    }
    out
}
