//! A scriptable backend: threads, a loopback port, every byte it received kept for the test to look at.
//!
//! Unless told otherwise it answers 200 with `x-origin: NAME` and a JSON body that repeats the request. `/healthz` is a
//! page apart: it is not recorded among the requests.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

pub use super::exchange::{After, Behaviour, Gate, Request};
use super::exchange::{Exchange, Framing, Input, parse};
use super::poll;

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
            let mut exchange = Exchange { stream: &mut stream, input: &mut input, unread, name: &self.name };
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

/// A socket that is bound and does not listen.
pub fn bound(address: SocketAddr) -> Socket {
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
