//! Upgrades, WebSockets above all: what becomes a tunnel and what does not, byte for byte; what is counted; how it ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Proxy, poll};

pub const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
pub const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// The same as the answer to a request with another key.
pub fn agree(head: &str) -> String {
    let is_key = |line: &&str| line.to_lowercase().starts_with("sec-websocket-key: ");
    let (_, key) = head.lines().find(is_key).and_then(|line| line.split_once(": ")).unwrap_or_default();
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
    AGREE.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", &data_encoding::BASE64.encode(digest.as_ref()))
}

/// Bytes that are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

pub fn config(backend: SocketAddr, server: &str, route: &str) -> String {
    format!(
        "[server]
         {server}
         [[listeners]]
         name = 'main'
         bind = '127.0.0.1:0'
         [[routes]]
         asset = ['const:BTC']
         {route}
         [regions.a]
         [defaults]
         health = false
         retry = false
         [pools.BTC.a]
         primaries = ['{backend}']
        "
    )
}

const WEBSOCKET: &str = "upgrade = ['websocket']";

/// One end of a connection, read by hand.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    pub fn to(proxy: &Proxy) -> Self {
        Self::new(TcpStream::connect(proxy.address()).unwrap())
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    pub fn hear(&mut self, bytes: impl AsRef<[u8]>) {
        let mut got = vec![0; bytes.as_ref().len()];
        self.0.read_exact(&mut got).unwrap();
        assert_eq!(got.escape_ascii().to_string(), bytes.as_ref().escape_ascii().to_string());
    }

    /// A head, with its empty line and no byte more.
    pub fn head(&mut self) -> String {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after {}", head.escape_ascii()));
            head.extend(byte);
        }
        String::from_utf8(head).unwrap()
    }

    /// All until the end; a reset is an end, too.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }

    /// The other side has ended its side, and had no more to say.
    pub fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0]).unwrap(), 0);
    }

    pub fn finish(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }
}

pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub fn accept(listener: &TcpListener) -> Raw {
    Raw::new(listener.accept().unwrap().0)
}

/// Proxy, and both ends of a tunnel through it.
pub fn tunnel(server: &str, route: &str) -> (Proxy, TcpListener, Raw, Raw) {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, server, &format!("{WEBSOCKET}\n{route}")));
    let (client, backend) = open(&proxy, &listener);
    (proxy, listener, client, backend)
}

fn open(proxy: &Proxy, listener: &TcpListener) -> (Raw, Raw) {
    let mut client = Raw::to(proxy);
    client.say(ASK);
    let mut backend = accept(listener);
    backend.head();
    backend.say(AGREE);
    assert!(client.head().starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    (client, backend)
}

fn has(head: &str, line: &str) -> bool {
    head.lines().any(|found| found.eq_ignore_ascii_case(line))
}

#[test]
fn a_switch_that_was_asked_for_is_made_and_bytes_go_both_ways() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    let mut backend = accept(&listener);
    let asked = backend.head();
    assert!(asked.starts_with("GET /ws HTTP/1.1\r\n"), "{asked}");
    for line in [
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "x-forwarded-for: 127.0.0.1",
    ] {
        assert!(has(&asked, line), "{line} in {asked}");
    }
    let of = |head: &str, name: &str| head.lines().filter(|l| l.to_lowercase().starts_with(name)).count();
    assert!(has(&asked, "connection: Upgrade") && has(&asked, "upgrade: websocket"), "{asked}");
    assert_eq!((of(&asked, "connection:"), of(&asked, "upgrade:")), (1, 1), "{asked}");
    // What comes with the answer is the tunnel's already.
    backend.say([AGREE.as_bytes(), b"\x81\x02hi"].concat());
    let agreed = client.head();
    assert!(agreed.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{agreed}");
    assert!(has(&agreed, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{agreed}");
    assert!(has(&agreed, "connection: Upgrade") && has(&agreed, "upgrade: WebSocket"), "{agreed}");
    assert_eq!((of(&agreed, "connection:"), of(&agreed, "upgrade:")), (1, 1), "{agreed}");
    client.hear(b"\x81\x02hi");
    client.say("GET /not-a-request HTTP/1.1\r\n\r\n");
    backend.hear("GET /not-a-request HTTP/1.1\r\n\r\n");
    backend.say("HTTP/1.1 200 OK\r\n\r\n");
    client.hear("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(proxy.metric("shardgate_tunnels_open", &[("asset", "BTC"), ("region", "a")]), 1.0);
    // Each side ends by itself.
    client.finish();
    assert_eq!(backend.rest(), b"");
    backend.say("last words");
    backend.finish();
    assert_eq!(client.rest(), b"last words");
    let line = proxy.access_where(|line| line["status"] == 101);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&31.into(), &33.into()), "{line}");
    assert!(line["reason"].is_null() || line["reason"] == "", "{line}");
    assert_eq!(proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0), 0.0);
    assert_eq!(proxy.metric("shardgate_tunnels_total", &[]), 1.0);
    assert_eq!(proxy.metric("shardgate_requests_in_flight", &[]), 0.0);
    assert_eq!(proxy.metric("shardgate_request_duration_seconds_count", &[]), 0.0);
    assert_eq!(proxy.metric("shardgate_requests_total", &[("code", "1xx")]), 1.0);
}

#[test]
fn the_backend_may_end_its_side_first() {
    let (_proxy, _listener, mut client, mut backend) = tunnel("", "");
    backend.say("bye");
    backend.finish();
    assert_eq!(client.rest(), b"bye");
    client.say("bye, then");
    client.finish();
    assert_eq!(backend.rest(), b"bye, then");
}

#[test]
fn what_breaks_ends_the_other_side_and_is_told() {
    let (proxy, listener, client, mut backend) = tunnel("", "");
    reset(client);
    assert_eq!(backend.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "client_closed");
    let (mut client, backend) = open(&proxy, &listener);
    reset(backend);
    assert!(client.0.read(&mut [0]).is_err(), "a reset is passed on");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "upstream_reset");
    assert_eq!(proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0), 0.0);
    // It is no fault of the backend's.
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "ok")]), 2.0);
}

fn reset(end: Raw) {
    socket2::SockRef::from(&end.0).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Neither side reads before it has sent all it has: more than all buffers on the way hold, in each direction.
#[test]
fn one_direction_does_not_wait_for_the_other() {
    let (_proxy, _listener, mut client, mut backend) = tunnel("", "");
    const LARGE: usize = 16 * 1024 * 1024;
    let mut client_reads = Raw::new(client.0.try_clone().unwrap());
    let sender = std::thread::spawn(move || {
        client.say(vec![b'a'; LARGE]);
        client.finish();
    });
    // The backend fills the way to the client, who does not read, and must still get all.
    backend.0.set_nonblocking(true).unwrap();
    let filler = [b'b'; 64 * 1024];
    let (mut sent, mut got, mut buffer) = (0, 0, vec![0; 64 * 1024]);
    poll("all that the client sends", || {
        while let Ok(n) = backend.0.write(&filler) {
            sent += n;
        }
        while let Ok(n @ 1..) = backend.0.read(&mut buffer) {
            got += n;
        }
        (got == LARGE).then_some(())
    });
    sender.join().unwrap();
    backend.finish();
    assert_eq!(client_reads.rest().len(), sent);
}

#[test]
fn what_is_no_switch_is_an_ordinary_answer_and_ends_the_connection() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok", "200 OK"),
        ("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n", "426 Upgrade Required"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "204 No Content"),
    ] {
        let mut client = Raw::to(&proxy);
        // More comes with the request than belongs to it.
        client.say([ASK, smuggled].concat());
        let mut backend = accept(&listener);
        backend.head();
        backend.say(answer);
        let head = client.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")) && has(&head, "connection: close"), "{head}");
        assert!(!head.to_lowercase().contains("upgrade:"), "{head}");
        client.finish();
        let rest = client.rest();
        assert!(rest.is_empty() || rest == b"ok", "{}", rest.escape_ascii());
        backend.finish();
        assert_eq!(backend.rest(), b"", "nothing of what came early goes to the backend");
    }
    assert_eq!(proxy.metric("shardgate_tunnels_total", &[]), 0.0);
    assert_eq!(proxy.access_lines().iter().filter(|line| line["target"] == "/smuggled").count(), 0);
}

#[test]
fn what_comes_before_the_101_waits_for_it() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    let mut client = Raw::to(&proxy);
    client.say([ASK, "early"].concat());
    let mut backend = accept(&listener);
    backend.head();
    backend.0.set_nonblocking(true).unwrap();
    assert_eq!(backend.0.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    backend.0.set_nonblocking(false).unwrap();
    backend.say(AGREE);
    backend.hear("early");
    client.head();
    client.say("late");
    backend.hear("late");
}

#[test]
fn a_bad_101_is_502() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut client = Raw::to(&proxy);
        client.say([ASK, "early"].concat());
        let mut backend = accept(&listener);
        backend.head();
        backend.say(answer);
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 502 ") && has(&head, "connection: close"), "{answer}: {head}");
        assert_eq!(backend.rest(), b"", "{answer}");
    }
}

#[test]
fn a_101_has_no_body_whatever_it_says() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: x\r\n"] {
        let mut client = Raw::to(&proxy);
        client.say(ASK);
        let mut backend = accept(&listener);
        backend.head();
        backend.say(AGREE.replace("Upgrade: WebSocket\r\n", &format!("Upgrade: websocket\r\n{framing}")));
        backend.say("0123456789");
        let head = client.head().to_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        client.hear("0123456789");
    }
}

#[test]
fn interim_answers_before_the_switch_are_passed_on() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", WEBSOCKET));
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    let mut backend = accept(&listener);
    backend.head();
    backend.say(["HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", AGREE, "x"].concat());
    assert!(client.head().starts_with("HTTP/1.1 103 "));
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.hear("x");
}

/// What asks for no switch that is allowed goes on as an ordinary request, without a word of a switch, and leaves the
/// connection as it is.
#[test]
fn what_may_not_switch_is_an_ordinary_request() {
    let (listener, address) = listen();
    let with = Proxy::start(&config(address, "", WEBSOCKET));
    let without = Proxy::start(&config(address, "", ""));
    let ask = |from: &str, to: &str| ASK.replace(from, to);
    for (proxy, request) in [
        (&without, ASK.to_owned()),
        (&with, ask("Upgrade: websocket", "Upgrade: h2c")),
        (&with, ask("Upgrade: websocket", "Upgrade: web socket")),
        (&with, ask("keep-alive, Upgrade", "keep-alive")),
        (&with, ask("Upgrade: websocket\r\n", "")),
        (&with, ask("HTTP/1.1", "HTTP/1.0")),
        (&with, ask("GET ", "POST ")),
        (&with, ask("GET ", "HEAD ")),
        (&with, ask("\r\n\r\n", "\r\nContent-Length: 4\r\n\r\nbody")),
        (&with, ask("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")),
    ] {
        let mut client = Raw::to(proxy);
        client.say(&request);
        let mut backend = accept(&listener);
        let head = backend.head().to_lowercase();
        assert!(!head.contains("upgrade:") && !head.contains("connection:"), "{request}: {head}");
        // A switch after all is one that nobody asked for.
        backend.say(AGREE);
        let head = client.head();
        assert!(head.contains(" 502 "), "{request}: {head}");
    }
    let mut client = Raw::to(&with);
    for _ in 0..2 {
        client.say(ask("Upgrade: websocket", "Upgrade: h2c"));
        let mut backend = accept(&listener);
        backend.head();
        backend.say("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        assert!(!has(&client.head(), "connection: close"));
    }
}

#[test]
fn of_several_protocols_the_first_that_is_allowed_is_asked_for() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", "upgrade = ['x/2', 'WebSocket']"));
    for (offered, asked) in [("h2c, websocket, x/2", "websocket"), ("X/2\r\nUpgrade: websocket", "x/2")] {
        let mut client = Raw::to(&proxy);
        client.say(ASK.replace("Upgrade: websocket", &format!("Upgrade: {offered}")));
        let mut backend = accept(&listener);
        let head = backend.head();
        assert!(has(&head, &format!("upgrade: {asked}")) && !head.contains("h2c"), "{head}");
        assert_eq!(head.to_lowercase().matches("upgrade: ").count(), 1, "{head}");
        backend.say(format!("HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: {asked}\r\n\r\n1"));
        client.head();
        client.hear("1");
    }
}

#[test]
fn a_tunnel_that_is_idle_is_closed_and_one_that_is_not_stays() {
    let route = "timeouts = { tunnel = '2s', idle = '250ms', exchange = '1s' }\nmax_body_bytes = '8B'";
    let (proxy, _listener, mut client, mut backend) = tunnel("", route);
    // Longer than any of these times, though never idle for so long, and more than a body may have.
    let (began, mut said) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        client.say("tick");
        backend.hear("tick");
        said += 4;
    }
    assert_eq!((client.rest(), backend.rest()), (vec![], vec![]));
    let line = proxy.access_where(|line| line["status"] == 101);
    assert_eq!((&line["reason"], &line["bytes_in"]), (&"tunnel_timeout".into(), &said.into()), "{line}");
}

#[test]
fn a_tunnel_holds_its_place_at_the_backend() {
    let (listener, address) = listen();
    let limits = "[defaults.limits]\nmax_requests = 1\nmax_queue = 0\n[pools.BTC.a]";
    let text = config(address, "", WEBSOCKET).replace("[pools.BTC.a]", limits);
    let proxy = Proxy::start(&text);
    let (client, backend) = open(&proxy, &listener);
    assert_eq!(proxy.get("/x").status, 503);
    drop((client, backend));
    proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0);
    let (_client, _backend) = open(&proxy, &listener);
}

#[test]
fn until_there_is_a_101_another_backend_may_be_asked() {
    let ((one, first), (two, second)) = (listen(), listen());
    let text = config(first, "", "upgrade = ['websocket']\nhedge = true");
    let text = text.replace("retry = false", "retry = { max = 1 }");
    let proxy = Proxy::start(&text.replace(&format!("'{first}'"), &format!("'{first}', '{second}'")));
    let mut client = Raw::to(&proxy);
    client.say([ASK, "early"].concat());
    [&one, &two].into_iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
    let asked = || {
        let accepted = poll("a backend to be asked", || one.accept().or_else(|_| two.accept()).ok());
        accepted.0.set_nonblocking(false).unwrap();
        let mut backend = Raw::new(accepted.0);
        backend.head();
        backend
    };
    drop(asked());
    let mut backend = asked();
    backend.say(AGREE);
    backend.hear("early");
    client.head();
    drop(backend);
    assert_eq!(client.rest(), b"", "once it has begun it ends with its backend");
    client.finish();
    let line = proxy.access_where(|line| line["status"] == 101);
    assert_eq!(line["attempts"], 2, "{line}");
}
