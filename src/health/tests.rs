//! The prober against real sockets on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Prober, Transition};
use crate::backend::{Cause, Check, Identity, Registry, Status};
use crate::model::{Address, HealthCheck, HttpCheck, Protocol};
use crate::telemetry::Metrics;

/// For whatever must happen; only a failure waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backend that answers checks as it is told.
struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The status to answer with; 0: nothing at all; 1: something that is not HTTP; 2: close without a word.
    status: AtomicU16,
    accepted: AtomicUsize,
    asked: AtomicUsize,
    close_after_each: AtomicUsize,
    last: Mutex<String>,
    open: Mutex<Vec<TcpStream>>,
}

impl Server {
    fn start(status: u16) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), status)
    }

    fn on(listener: TcpListener, status: u16) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status: status.into(), ..Shared::default() });
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                server.accepted.fetch_add(1, SeqCst);
                server.open.lock().unwrap().push(stream.try_clone().unwrap());
                let server = server.clone();
                std::thread::spawn(move || serve(stream, &server));
            }
        });
        Self { address, shared }
    }
}

fn serve(mut stream: TcpStream, server: &Shared) {
    let mut head = Vec::new();
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        head.push(byte[0]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        *server.last.lock().unwrap() = String::from_utf8(std::mem::take(&mut head)).unwrap();
        server.asked.fetch_add(1, SeqCst);
        let answer = match server.status.load(SeqCst) {
            0 => continue,
            1 => "220 mail.example ESMTP\r\n".into(),
            2 => return drop(stream.shutdown(std::net::Shutdown::Both)),
            code => format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nok"),
        };
        let _ = stream.write_all(answer.as_bytes());
        if server.close_after_each.load(SeqCst) == 1 {
            return drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

fn http() -> HealthCheck {
    let path = HttpCheck { path: "/healthz".into(), expect: crate::model::StatusRange::default() };
    HealthCheck {
        http: Some(path),
        interval: Duration::from_millis(40),
        fast_interval: Duration::from_millis(20),
        timeout: Duration::from_secs(10),
        ..HealthCheck::default()
    }
}

/// A prober with the registry and the channel that control would hold.
struct Bench {
    prober: Prober,
    registry: Registry,
    facts: mpsc::Receiver<Transition>,
}

impl Bench {
    fn new(room: usize) -> Self {
        let (sender, facts) = mpsc::channel(room);
        Self { prober: Prober::spawn(sender, Metrics::new(10)), registry: Registry::default(), facts }
    }

    fn check(&mut self, address: Address, settings: &HealthCheck) -> Arc<Check> {
        let identity = Identity { region: "north".into(), address, protocol: Protocol::H1, tls: None };
        let backend = self.registry.backend(identity);
        self.registry.check(&backend, settings, Instant::now())
    }

    async fn transition(&mut self) -> Transition {
        tokio::time::timeout(PATIENCE, self.facts.recv()).await.expect("a transition").unwrap()
    }

    async fn fact(&mut self) -> (Status, Status) {
        let fact = self.transition().await;
        (fact.from, fact.to)
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not so: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn passes_fails_by_status_and_recovers() {
    let server = Server::start(200);
    let mut bench = Bench::new(8);
    let check = bench.check(Address::Ip(server.address), &http());
    assert_eq!(check.status(), Status::Unchecked);
    bench.prober.set(vec![check.clone()]);
    bench.prober.first_round().await;
    assert_eq!(check.status(), Status::Up);
    assert_eq!(bench.fact().await, (Status::Unchecked, Status::Up));

    server.shared.status.store(503, SeqCst);
    let down = Status::Down(Cause::Status(503));
    assert_eq!(bench.fact().await, (Status::Up, down));
    assert!(check.failures() >= 3, "fall is 3");
    let passes = check.passes();
    server.shared.status.store(204, SeqCst);
    // 204 has no body, so what our server sends after it is surplus: that ends the connection, not the check.
    assert_eq!(bench.fact().await, (down, Status::Up));
    assert!(check.passes() >= passes + 2, "rise is 2");
}

#[tokio::test]
async fn the_request_and_its_connection() {
    let server = Server::start(200);
    let mut bench = Bench::new(8);
    let check = bench.check(Address::Ip(server.address), &http());
    bench.prober.set(vec![check.clone(), check.clone()]);
    until("five checks", || check.passes() >= 5).await;
    assert_eq!(server.shared.accepted.load(SeqCst), 1, "one connection for all");
    let expected = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nUser-Agent: shardgate-health\r\nAccept: */*\r\n\r\n",
        server.address
    );
    assert_eq!(*server.shared.last.lock().unwrap(), expected);

    // A connection that the backend closes between checks is no failure.
    server.shared.close_after_each.store(1, SeqCst);
    until("more connections", || server.shared.accepted.load(SeqCst) >= 5).await;
    assert_eq!(check.failures(), 0);
}

#[tokio::test]
async fn nobody_listens_then_somebody_does() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut bench = Bench::new(8);
    let check = bench.check(Address::Ip(address), &http());
    bench.prober.set(vec![check.clone()]);
    bench.prober.first_round().await;
    let refused = Status::Down(Cause::Refused);
    assert_eq!(check.status(), refused);
    assert!(check.backend.last_connect_refused());
    let _server = Server::on(TcpListener::bind(address).unwrap(), 200);
    assert_eq!(bench.fact().await, (Status::Unchecked, refused));
    assert_eq!(bench.fact().await, (refused, Status::Up));
    assert!(!check.backend.last_connect_refused());
}

#[tokio::test]
async fn silence_garbage_and_broken_connections() {
    let table = [(0, Cause::Timeout), (1, Cause::Garbage), (2, Cause::Reset), (302, Cause::Status(302))];
    for (status, cause) in table {
        let server = Server::start(status);
        let mut bench = Bench::new(8);
        let settings = HealthCheck { timeout: Duration::from_millis(if status == 0 { 50 } else { 10_000 }), ..http() };
        let check = bench.check(Address::Ip(server.address), &settings);
        bench.prober.set(vec![check.clone()]);
        bench.prober.first_round().await;
        assert_eq!(check.status(), Status::Down(cause));
        assert!(!check.backend.last_connect_refused());
    }
}

#[tokio::test]
async fn another_cause_is_told_but_is_no_flip() {
    let server = Server::start(503);
    let mut bench = Bench::new(8);
    let check = bench.check(Address::Ip(server.address), &http());
    bench.prober.set(vec![check.clone()]);
    let first = bench.transition().await;
    assert!(first.flips() && !first.to_up() && first.cause() == Some(Cause::Status(503)));
    server.shared.status.store(500, SeqCst);
    let second = bench.transition().await;
    assert!(!second.flips() && second.cause() == Some(Cause::Status(500)));
}

#[tokio::test]
async fn a_connect_is_enough_without_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = Server::start(0);
    let mut bench = Bench::new(8);
    let settings = HealthCheck { http: None, ..http() };
    let tcp = bench.check(Address::Ip(server.address), &settings);
    let unix = bench.check(Address::Unix(path.clone().into()), &settings);
    bench.prober.set(vec![tcp.clone(), unix.clone()]);
    until("both up", || tcp.status() == Status::Up && unix.status() == Status::Up).await;
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    until("the socket is gone", || unix.status() == Status::Down(Cause::Refused)).await;
    assert_eq!(tcp.status(), Status::Up);
}

#[tokio::test]
async fn http_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 1024];
        let n = stream.read(&mut bytes).unwrap();
        assert!(String::from_utf8_lossy(&bytes[..n]).contains("\r\nHost: localhost\r\n"));
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
    });
    let mut bench = Bench::new(8);
    let check = bench.check(Address::Unix(path.into()), &HealthCheck { interval: PATIENCE, ..http() });
    bench.prober.set(vec![check.clone()]);
    bench.prober.first_round().await;
    assert_eq!(check.status(), Status::Up);
}

#[tokio::test]
async fn what_stays_in_the_list_is_not_disturbed() {
    let (a, b) = (Server::start(200), Server::start(200));
    let mut bench = Bench::new(8);
    let slow = HealthCheck { interval: PATIENCE * 100, ..http() };
    let check = bench.check(Address::Ip(a.address), &slow);
    bench.prober.set(vec![check.clone()]);
    bench.prober.first_round().await;
    let (_, since) = check.status_since();

    // As a reload does: the same identity and settings, and one more.
    let same = bench.check(Address::Ip(a.address), &slow);
    let other = bench.check(Address::Ip(b.address), &slow);
    bench.prober.set(vec![same, other.clone()]);
    bench.prober.first_round().await;
    assert_eq!(other.status(), Status::Up);
    assert_eq!(check.status_since(), (Status::Up, since));
    assert_eq!(a.shared.asked.load(SeqCst), 1, "not asked again");

    // What leaves the list is let go: the registry holds it alone.
    drop(check);
    bench.prober.set(vec![other]);
    until("one is swept", || {
        while bench.facts.try_recv().is_ok() {}
        bench.registry.sweep();
        bench.registry.len() == 1
    })
    .await;
}

#[tokio::test]
async fn a_full_channel_loses_nothing() {
    let servers: Vec<_> = (0..20).map(|_| Server::start(503)).collect();
    let mut bench = Bench::new(1);
    let settings = HealthCheck { rise: 1, fall: 1, ..http() };
    let checks: Vec<_> = servers.iter().map(|s| bench.check(Address::Ip(s.address), &settings)).collect();
    bench.prober.set(checks.clone());
    bench.prober.first_round().await;
    for server in &servers {
        server.shared.status.store(200, SeqCst);
    }
    until("all up", || checks.iter().all(|c| c.status() == Status::Up)).await;
    // At most one went into the channel; what is told of the others is where they are now.
    let mut told = std::collections::HashMap::new();
    while told.len() < 20 || told.values().any(|s| *s != Status::Up) {
        let fact = bench.transition().await;
        told.insert(Arc::as_ptr(&fact.check).addr(), fact.to);
    }
}

#[tokio::test]
async fn a_first_round_waits_no_longer_than_it_may() {
    let server = Server::start(0);
    let mut bench = Bench::new(8);
    let settings = HealthCheck { timeout: Duration::from_millis(20), ..http() };
    let check = bench.check(Address::Ip(server.address), &settings);
    bench.prober.first_round().await;
    bench.prober.set(vec![check.clone()]);
    tokio::time::timeout(PATIENCE, bench.prober.first_round()).await.expect("bounded");
    assert_eq!(check.status(), Status::Down(Cause::Timeout));
    drop(bench.prober);
    assert_eq!(bench.facts.recv().await.map(|f| f.to), Some(Status::Down(Cause::Timeout)));
    while bench.facts.recv().await.is_some() {}
}
