//! A scriptable backend: threads, a loopback port, every byte it received kept for the test to look at.
//!
//! Unless told otherwise it answers 200 with `x-origin: NAME` and a JSON body that repeats the request. `/healthz` is a
//! page apart: it is not recorded among the requests.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::{DEADLINE, poll};

/// The backend; its threads end on drop.
pub struct Origin {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound, never listening: keeps the port ours while the backend is dead, and refuses connections meanwhile.
    _reserved: Socket,
}

struct Shared {
    name: String,
    alive: AtomicBool,
    health: AtomicU16,
    checks: AtomicUsize,
    accepted: AtomicUsize,
    behaviours: Mutex<HashMap<String, Behaviour>>,
    requests: Mutex<Vec<Request>>,
    raw: Mutex<Vec<Vec<u8>>>,
    open: Mutex<HashMap<usize, TcpStream>>,
    listener: Mutex<Option<TcpListener>>,
}

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
    pub headers: Vec<(String, String)>,
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
    Custom(Arc<dyn Fn(&Request, &mut Exchange<'_>) -> io::Result<After> + Send + Sync>),
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

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.1 += 1;
        // Longer than any test: a test that fails must not leave threads behind for ever.
        let (mut state, _) = self.0.1.wait_timeout_while(state, DEADLINE * 6, |s| !s.0).unwrap();
        state.1 -= 1;
    }
}

/// A connection whose request head has been read.
pub struct Exchange<'a> {
    stream: &'a mut TcpStream,
    input: &'a mut Input,
    unread: Framing,
    shared: &'a Shared,
}

#[derive(Clone, Copy)]
enum Framing {
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

    fn usual(&mut self, request: &Request) -> io::Result<After> {
        let echo = serde_json::json!({
            "origin": self.shared.name, "method": request.method, "target": request.target,
            "headers": request.headers, "body": String::from_utf8_lossy(&request.body),
        });
        let body = echo.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nx-origin: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.shared.name,
            body.len()
        );
        self.send(if request.method == "HEAD" { head } else { head + &body })?;
        Ok(After::Keep)
    }

    fn act(&mut self, behaviour: &Behaviour, request: &Request) -> io::Result<After> {
        match behaviour {
            Behaviour::Answer(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} Status\r\nx-origin: {}\r\n", self.shared.name);
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
                let name = &self.shared.name;
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

impl Origin {
    /// Starts one on a loopback port.
    pub fn start(name: &str) -> Self {
        Self::start_on(name, "127.0.0.1:0".parse().unwrap())
    }

    /// Starts one on this address.
    pub fn start_on(name: &str, address: SocketAddr) -> Self {
        let reserved = bound(address);
        let address = reserved.local_addr().unwrap().as_socket().unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            alive: AtomicBool::new(false),
            health: AtomicU16::new(200),
            checks: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            behaviours: Mutex::default(),
            requests: Mutex::default(),
            raw: Mutex::default(),
            open: Mutex::default(),
            listener: Mutex::default(),
        });
        let origin = Self { shared, address, _reserved: reserved };
        origin.revive();
        origin
    }

    /// Its name, as answers give it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// From now on requests for this path (without its query) are treated so.
    pub fn on(&self, path: &str, behaviour: Behaviour) {
        self.shared.behaviours.lock().unwrap().insert(path.into(), behaviour);
    }

    /// The same, for what no other behaviour does.
    pub fn on_custom(
        &self,
        path: &str,
        act: impl Fn(&Request, &mut Exchange<'_>) -> io::Result<After> + Send + Sync + 'static,
    ) {
        self.on(path, Behaviour::Custom(Arc::new(act)));
    }

    /// The usual answers on this path, once the gate that is returned is open.
    pub fn hold(&self, path: &str) -> Gate {
        let gate = Gate::new();
        self.on(path, Behaviour::Hold(gate.clone()));
        gate
    }

    /// Back to the usual answers.
    pub fn forget(&self, path: &str) {
        self.shared.behaviours.lock().unwrap().remove(path);
    }

    /// The status of `/healthz` from now on.
    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::SeqCst);
    }

    /// Health checks so far.
    pub fn checks(&self) -> usize {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// Connections accepted so far, those of TCP checks included.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Requests so far, health checks not among them.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many requests so far.
    pub fn count(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// Forgets the requests so far and gives them.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }

    /// Every byte received, by connection.
    pub fn raw(&self) -> Vec<Vec<u8>> {
        self.shared.raw.lock().unwrap().clone()
    }

    /// Dies as a killed process does: connections end, new ones are refused.
    pub fn kill(&self) {
        self.shared.alive.store(false, Ordering::SeqCst);
        if let Some(listener) = self.shared.listener.lock().unwrap().take() {
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        }
        for stream in self.shared.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        poll("a dead backend to refuse", || TcpStream::connect(self.address).is_err().then_some(()));
    }

    /// Listens again on the same port.
    pub fn revive(&self) {
        if self.shared.alive.swap(true, Ordering::SeqCst) {
            return;
        }
        let socket = bound(self.address);
        socket.listen(1024).unwrap();
        let listener = TcpListener::from(socket);
        *self.shared.listener.lock().unwrap() = Some(listener.try_clone().unwrap());
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                let mut open = shared.open.lock().unwrap();
                if !shared.alive.load(Ordering::SeqCst) {
                    return;
                }
                open.insert(number, stream.try_clone().unwrap());
                drop(open);
                let shared = shared.clone();
                std::thread::spawn(move || {
                    let _ = shared.serve(stream, number);
                    shared.open.lock().unwrap().remove(&number);
                });
            }
        });
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.alive.store(false, Ordering::SeqCst);
        if let Some(listener) = self.shared.listener.lock().unwrap().take() {
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        }
        for stream in self.shared.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, connection: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = Input::default();
        let slot = {
            let mut raw = self.raw.lock().unwrap();
            raw.push(Vec::new());
            raw.len() - 1
        };
        loop {
            let head = match input.until(&mut stream, b"\r\n\r\n") {
                Ok(head) => head,
                Err(e) => {
                    self.raw.lock().unwrap()[slot].append(&mut input.buffer);
                    return Err(e);
                }
            };
            let mut request = parse(&head, connection).ok_or_else(|| io::Error::other("a head that is not HTTP"))?;
            let path = request.target.split('?').next().unwrap_or_default().to_owned();
            if path == "/healthz" {
                self.checks.fetch_add(1, Ordering::SeqCst);
                let status = self.health.load(Ordering::SeqCst);
                stream.write_all(format!("HTTP/1.1 {status} Health\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
                continue;
            }
            self.raw.lock().unwrap()[slot].extend_from_slice(&head);
            let behaviour = self.behaviours.lock().unwrap().get(&path).cloned();
            let unread = match request.header("transfer-encoding") {
                Some(_) => Framing::Chunked,
                None => Framing::Length(request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0)),
            };
            let mut exchange = Exchange { stream: &mut stream, input: &mut input, unread, shared: self };
            if !matches!(behaviour, Some(Behaviour::Early(..) | Behaviour::Custom(_))) {
                if request.header("expect").is_some() {
                    exchange.send("HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                request.body = exchange.body()?;
                self.raw.lock().unwrap()[slot].extend_from_slice(&request.body);
            }
            self.requests.lock().unwrap().push(request.clone());
            let after = match &behaviour {
                None => exchange.usual(&request)?,
                Some(behaviour) => exchange.act(behaviour, &request)?,
            };
            match after {
                After::Keep if request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) => {
                    return stream.shutdown(Shutdown::Both);
                }
                After::Keep => {}
                After::Close => return stream.shutdown(Shutdown::Both),
                After::Reset => {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                    self.open.lock().unwrap().remove(&connection); // its clone of the socket would hold back the RST
                    return Ok(());
                }
                After::Stall => {
                    exchange.wait_end();
                    return Ok(());
                }
            }
        }
    }
}

#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
}

impl Input {
    fn more(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = stream.read(&mut piece)?;
        self.buffer.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn until(&mut self, stream: &mut TcpStream, end: &[u8]) -> io::Result<Vec<u8>> {
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

fn parse(head: &[u8], connection: usize) -> Option<Request> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.strip_suffix("\r\n\r\n")?.split("\r\n");
    let mut words = lines.next()?.splitn(3, ' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let field = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim_matches([' ', '\t']).to_owned()));
    let headers = lines.map(field).collect::<Option<_>>()?;
    Some(Request { connection, method, target, headers, body: Vec::new(), head: head.to_vec() })
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SockAddr::from(address)).unwrap_or_else(|e| panic!("bind {address}: {e}"));
    socket
}

#[test]
fn an_origin_dies_and_comes_back_on_its_port() {
    use super::Client;
    let origin = Origin::start("a");
    let mut client = Client::connect(origin.addr());
    let answer = client.request("POST", "/x?y=1", &[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!((answer.origin(), answer.json()["body"].as_str()), ("a", Some("abc")));
    origin.kill();
    client.expect_closed();
    assert!(Client::try_connect(origin.addr()).is_err());
    origin.revive();
    origin.on("/r", Behaviour::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab".to_vec(), After::Reset));
    let mut client = Client::connect(origin.addr());
    assert_eq!(client.get("/").origin(), "a");
    client.send("GET /r HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_response_to("GET").is_err());
    assert_eq!(origin.count(), 3);
    assert_eq!(origin.accepted(), 2);
}
