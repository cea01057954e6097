//! A backend that notes every byte, reads by `wire` alone, and answers with bytes that it was given.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::wire::{Message, Otherwise, read};
use crate::support::poll;

/// What is answered on a path.
#[derive(Clone, Default)]
pub struct Script {
    /// The answer, as it goes out.
    pub answer: Vec<u8>,
    /// Each byte is sent alone.
    pub by_bytes: bool,
    /// The connection is closed afterwards.
    pub close: bool,
    /// The answer goes out when the head is there, and the rest of the request is left unread.
    pub early: bool,
}

/// See the module. Its threads end with their connections.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Script>>,
    seen: Mutex<Seen>,
    open: Mutex<Vec<TcpStream>>,
}

/// What has come in.
#[derive(Default, Clone)]
pub struct Seen {
    /// Whole messages, in the order in which they became whole.
    pub messages: Vec<Message>,
    /// What no careful sender would have sent.
    pub faults: Vec<String>,
    /// Bytes in all.
    pub bytes: usize,
    /// Answers of scripts that have gone out, as far as they could.
    pub answered: usize,
}

/// Fields that must have ended at the proxy. `transfer-encoding` is the proxy's own; `wire` looks at it.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings"];

impl Backend {
    /// Listens on a loopback port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self { shared: Arc::default(), address: listener.local_addr().unwrap() };
        let shared = Arc::clone(&backend.shared);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let shared = Arc::clone(&shared);
                stream.set_nodelay(true).unwrap();
                shared.open.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        backend
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is the answer on this path.
    pub fn on(&self, path: &str, script: Script) {
        self.shared.scripts.lock().unwrap().insert(path.to_owned(), script);
    }

    /// What has come in since this was last asked.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// Waits until as many scripted answers have gone out.
    pub fn answered(&self, answers: usize) {
        poll("the scripted answer", || (self.shared.seen.lock().unwrap().answered >= answers).then_some(()));
    }

    /// Sends bytes that nobody asked for on every open connection.
    pub fn speak_up(&self, bytes: &[u8]) {
        self.shared.open.lock().unwrap().retain(|mut stream| stream.write_all(bytes).is_ok());
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut continued = false;
        loop {
            let early = self.script(&buffer).filter(|script| script.early);
            let whole = match read(&buffer, Otherwise::AtOnce, false) {
                Ok(whole) => whole,
                Err(fault) => {
                    self.seen.lock().unwrap().faults.push(fault);
                    return Ok(());
                }
            };
            match (whole, early) {
                (_, Some(script)) => {
                    self.answer(&mut stream, &script)?;
                    // What comes now is noted and is no request.
                    while self.more(&mut stream, &mut buffer)? > 0 {}
                    return Ok(());
                }
                (Some((message, used)), None) => {
                    let script = self.script(&buffer);
                    buffer.drain(..used);
                    continued = false;
                    let echo = message.line();
                    let is_head = echo.starts_with("HEAD ");
                    self.note(message);
                    match script {
                        Some(script) => {
                            self.answer(&mut stream, &script)?;
                            if script.close {
                                return stream.shutdown(Shutdown::Both);
                            }
                        }
                        None => {
                            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", echo.len());
                            stream.write_all((if is_head { head } else { head + &echo }).as_bytes())?;
                        }
                    }
                    continue;
                }
                (None, None) => {}
            }
            let head = String::from_utf8_lossy(&buffer).to_ascii_lowercase();
            if !continued && head.contains("\r\nexpect: 100-continue\r\n") && head.contains("\r\n\r\n") {
                continued = true;
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if self.more(&mut stream, &mut buffer)? == 0 {
                return Ok(());
            }
        }
    }

    fn more(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = stream.read(&mut piece)?;
        self.seen.lock().unwrap().bytes += n;
        buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// For a request whose head is there.
    fn script(&self, buffer: &[u8]) -> Option<Script> {
        let text = String::from_utf8_lossy(buffer);
        let target =
            text.split("\r\n\r\n").next().filter(|head| head.len() < text.len())?.split(' ').nth(1)?.to_owned();
        self.scripts.lock().unwrap().get(&target).cloned()
    }

    fn answer(&self, stream: &mut TcpStream, script: &Script) -> io::Result<()> {
        let sent = match script.by_bytes {
            true => script.answer.iter().try_for_each(|byte| stream.write_all(&[*byte])),
            false => stream.write_all(&script.answer),
        };
        self.seen.lock().unwrap().answered += 1;
        // The proxy may have had enough of it.
        sent
    }

    fn note(&self, message: Message) {
        let mut seen = self.seen.lock().unwrap();
        let hosts = message.values("host").len();
        let line = message.line();
        let words: Vec<_> = line.split(' ').collect();
        if hosts != 1 || words.len() != 3 || words[2] != "HTTP/1.1" || words.contains(&"") {
            seen.faults.push(format!("{line:?} with {hosts} Hosts"));
        }
        for name in HOP_BY_HOP.into_iter().filter(|name| !message.values(name).is_empty()) {
            seen.faults.push(format!("{name} went through in {line:?}"));
        }
        seen.messages.push(message);
    }
}
