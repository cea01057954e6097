//! WebSockets of a server and of clients that we did not write, python's `websockets`; and frames of every kind, direct
//! and through the proxy, byte for byte.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::{DEADLINE, Proxy, peer::find};

/// A script of `tests/it/peers`, killed on drop.
struct Script(Child, BufReader<std::process::ChildStdout>);

impl Script {
    fn start(script: &str, arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command =
            Command::new(find("python3-of-the-peers", root.join("target/peers/bin/python3").to_str().unwrap()));
        command.arg(root.join("tests/it/peers").join(script)).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self(child, output)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The server that sends back what it gets, and where.
    fn server() -> (Self, SocketAddr) {
        let mut server = Self::start("ws_server.py", &[]);
        let port = server.line().parse().unwrap();
        (server, ([127, 0, 0, 1], port).into())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(backend: SocketAddr) -> Proxy {
    Proxy::start(&format!(
        "[server]
         drain_timeout = '4s'
         [[listeners]]
         bind = '127.0.0.1:0'
         [[routes]]
         asset = ['const:BTC']
         upgrade = ['websocket']
         [regions.a]
         [defaults]
         health = false
         [pools.BTC.a]
         primaries = ['{backend}']
        "
    ))
}

#[test]
fn real_clients_and_a_real_server_understand_each_other() {
    let (_server, backend) = Script::server();
    let proxy = start(backend);
    let mut client = Script::start("ws_client.py", &[&format!("ws://{}/", proxy.address()), "all"]);
    assert_eq!(client.line(), "ok");
    assert_eq!(proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0), 0.0);
    assert_eq!(proxy.metric("shardgate_tunnels_total", &[]), 111.0);
}

#[test]
fn a_real_client_hears_that_the_proxy_goes_away() {
    let (_server, backend) = Script::server();
    let mut proxy = start(backend);
    let mut client = Script::start("ws_client.py", &[&format!("ws://{}/", proxy.address()), "drain"]);
    assert_eq!(client.line(), "open");
    proxy.signal(Signal::TERM);
    assert_eq!(client.line(), "ok");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// A client's frame: masked with zeros, so that what is in it can be read.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    let mut out = vec![first];
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..65_536 => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(payload);
    out
}

/// Asks for a WebSocket, sends this in pieces of such a size, closes when so many bytes have come back, and gives all that
/// came until the end. A server that finds a Close behind a message need not answer the message.
fn exchange(to: SocketAddr, frames: &[u8], piece: usize, least: usize) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
    for piece in frames.chunks(piece) {
        // A server that has found a fault need not read on.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut got = vec![0; least];
    stream.read_exact(&mut got).unwrap();
    let _ = stream.write_all(&frame(0x88, &1000u16.to_be_bytes()));
    let _ = stream.read_to_end(&mut got);
    let _ = stream.shutdown(Shutdown::Both);
    got
}

/// The kinds of cases of the Autobahn test suite, a few of each: framing, pings, reserved bits, opcodes, fragments, UTF-8,
/// close handshakes.
#[test]
fn frames_of_every_kind_come_through_as_they_are() {
    let (_server, backend) = Script::server();
    let proxy = start(backend);
    let lengths = [0, 1, 125, 126, 127, 128, 65_535, 65_536];
    // With the bytes that are waited for: the answer to messages, the beginning of a Close where something is wrong.
    let mut cases: Vec<(usize, Vec<u8>)> = Vec::new();
    for length in lengths {
        let echo = frame(0x81, &vec![b'*'; length]).len() - 4;
        cases.push((echo, frame(0x81, &vec![b'*'; length])));
        cases.push((echo, frame(0x82, &vec![0xfe; length])));
    }
    let ping = |payload: &[u8]| frame(0x89, payload);
    cases.extend([
        (2, ping(b"")),
        (6, ping(b"ping")),
        (127, ping(&[0; 125])),
        (0, frame(0x8a, b"not asked for")),
        (9, [ping(b"1"), ping(b"2"), ping(b"3")].concat()),
        // What is not allowed, which the server says.
        (2, ping(&[0; 126])),
        (2, frame(0xc1, b"reserved bit")),
        (2, frame(0xf2, b"reserved bits")),
        (2, frame(0x83, b"opcode")),
        (2, frame(0x8b, b"opcode")),
        (2, frame(0x09, b"a ping in fragments")),
        (2, frame(0x80, b"a rest of nothing")),
        (2, [frame(0x01, b"begun"), frame(0x81, b"begun again")].concat()),
        (2, vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o']),
        // Fragments.
        (10, [frame(0x01, b"frag"), frame(0x80, b"ment")].concat()),
        (2, [frame(0x01, b""), frame(0x00, b""), frame(0x80, b"")].concat()),
        (19, [frame(0x02, b"frag"), ping(b"between"), frame(0x00, b"men"), frame(0x80, b"t")].concat()),
        // UTF-8, whole, cut within a character by fragments, and none.
        (13, frame(0x81, "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}".as_bytes())),
        (4, [frame(0x01, &[0xce]), frame(0x80, &[0xba])].concat()),
        (2, frame(0x81, &[0xce, 0xba, 0xed, 0xa0, 0x80])),
        (2, frame(0x81, &[0xff])),
        // Close.
        (2, frame(0x88, b"")),
        (2, frame(0x88, b"\x03")),
        (2, frame(0x88, b"\x03\xe8\xff\xff")),
        (2, [frame(0x88, b"\x03\xe8good-bye"), frame(0x81, b"too late")].concat()),
    ]);
    for code in [999u16, 1000, 1003, 1004, 1005, 1006, 1011, 1016, 2999, 3000, 4999, 5000, 65_535] {
        cases.push((2, frame(0x88, &code.to_be_bytes())));
    }
    for (least, case) in cases {
        for piece in [case.len(), 997.min(case.len() / 2 + 1)] {
            let through = exchange(proxy.address(), &case, piece, least);
            let direct = exchange(backend, &case, piece, least);
            let shown = case[..case.len().min(40)].escape_ascii().to_string();
            assert!(!direct.is_empty() && direct == through, "{shown}: {direct:?} {through:?}");
        }
    }
}
