//! What a drain does to tunnels: WebSockets are told, others stay until it is over.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::support::frames::{DATA, END_STREAM, Frame, GOAWAY, RST_STREAM, frame};
use crate::support::{DEADLINE, Frames, Proxy, poll};
use crate::websocket::{AGREE, ASK, Raw, accept, agree, config, listen, tunnel};
use crate::websocket_h2;

#[test]
fn a_drain_says_good_bye_between_two_frames() {
    let (mut proxy, _listener, mut client, mut backend) = tunnel("drain_timeout = '10s'", "");
    // A frame that is not whole when the drain comes to it.
    backend.say(b"\x81\x01a\x82\x7e\x01\x00first ");
    client.hear(b"\x81\x01a\x82\x7e\x01\x00first ");
    let address = proxy.address();
    proxy.signal(Signal::TERM);
    poll("the listener to close", || TcpStream::connect(address).is_err().then_some(()));
    let rest = [b'x'; 250];
    backend.say(rest);
    client.hear(rest);
    // The backend goes on, a frame after the other, until there is a Close among them.
    let mut two = [0; 2];
    loop {
        let _ = backend.0.write_all(b"\x81\x02on");
        client.0.read_exact(&mut two).unwrap();
        if two == [0x88, 2] {
            break;
        }
        assert_eq!(two, [0x81, 2]);
        client.hear("on");
    }
    client.hear(b"\x03\xe9");
    assert_eq!(client.rest(), b"", "nothing after the Close");
    client.say(b"\x88\x82\0\0\0\0\x03\xe9");
    backend.hear(b"\x88\x82\0\0\0\0\x03\xe9");
    client.finish();
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "draining");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_tunnel_that_does_not_end_is_cut_off_when_the_drain_is_over() {
    let route = "hosts = ['a.example']";
    let (mut proxy, _listener, mut client, mut backend) = tunnel("drain_timeout = '1s'", route);
    // In the middle of a frame there is no place for a Close.
    backend.say(b"\x82\x7e\x01\x00part");
    client.hear(b"\x82\x7e\x01\x00part");
    proxy.signal(Signal::TERM);
    client.say("still open");
    backend.hear("still open");
    assert_eq!(client.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "draining");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_websocket_that_is_quiet_is_told_at_once() {
    let (mut proxy, _listener, mut client, mut backend) = tunnel("drain_timeout = '2s'", "");
    proxy.signal(Signal::TERM);
    client.hear(b"\x88\x02\x03\xe9");
    client.finish();
    assert_eq!((client.rest(), backend.rest()), (vec![], vec![]));
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// Of another protocol nobody knows how it says good-bye.
#[test]
fn other_tunnels_are_left_alone_until_the_drain_is_over() {
    let (listener, address) = listen();
    let mut proxy = Proxy::start(&config(address, "drain_timeout = '1s'", "upgrade = ['x']"));
    let mut client = Raw::to(&proxy);
    client.say(ASK.replace("Upgrade: websocket", "Upgrade: x"));
    let mut backend = accept(&listener);
    backend.head();
    backend.say(AGREE.replace("WebSocket", "x"));
    client.head();
    proxy.signal(Signal::TERM);
    assert_eq!(client.rest(), b"");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

const GOING_AWAY: &[u8] = b"\x88\x02\x03\xe9";

fn is_data(frame: &Frame) -> bool {
    frame.kind == DATA && frame.stream == 1 && !frame.payload.is_empty()
}

fn is_end(frame: &Frame) -> bool {
    frame.kind == DATA && frame.stream == 1 && frame.flags & END_STREAM != 0
}

/// All of the tunnel's bytes until its end.
fn bytes_to_the_end(client: &mut Frames) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let data = client.until("data", |frame| frame.kind == DATA && frame.stream == 1);
        all.extend_from_slice(&data.payload);
        if is_end(&data) {
            return all;
        }
    }
}

#[test]
fn over_http_2_a_drain_says_good_bye_between_two_frames_and_ends_the_stream() {
    let (mut proxy, mut client, mut backend, _) = websocket_h2::tunnel("drain_timeout = '10s'", "");
    backend.say(b"\x82\x7e\x01\x00first ");
    assert_eq!(client.until("half a frame", is_data).payload, b"\x82\x7e\x01\x00first ");
    proxy.signal(Signal::TERM);
    client.until("a GOAWAY", |frame| frame.kind == GOAWAY);
    // In the middle of a frame there is no place for a Close; what comes behind the frame is not passed on.
    backend.say([[b'x'; 250].as_slice(), b"\x81\x02on"].concat());
    let all = bytes_to_the_end(&mut client);
    assert_eq!(all.escape_ascii().to_string(), [&[b'x'; 250], GOING_AWAY].concat().escape_ascii().to_string());
    // The client's own Close goes to the backend.
    client.send(frame(DATA, END_STREAM, 1, b"\x88\x82\0\0\0\0\x03\xe9"));
    backend.hear(b"\x88\x82\0\0\0\0\x03\xe9");
    assert_eq!(backend.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "draining");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// A client that does not say good-bye in turn gets a reset, long before the drain is over.
#[test]
fn over_http_2_who_does_not_answer_a_close_is_reset() {
    let (proxy, mut client, mut backend, _) = websocket_h2::tunnel("drain_timeout = '16s'", "");
    proxy.signal(Signal::TERM);
    assert_eq!(bytes_to_the_end(&mut client), GOING_AWAY);
    let reset = client.until("a reset", |frame| frame.kind == RST_STREAM && frame.stream == 1);
    assert_eq!(reset.number(0), 8, "CANCEL");
    assert_eq!(backend.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "draining");
}

#[test]
fn over_http_2_what_is_cut_off_when_the_drain_is_over_says_so() {
    let (mut proxy, mut client, mut backend, _) = websocket_h2::tunnel("drain_timeout = '1s'", "");
    backend.say(b"\x82\x7e\x01\x00part");
    client.until("half a frame", is_data);
    proxy.signal(Signal::TERM);
    client.send(frame(DATA, 0, 1, b"still open"));
    backend.hear("still open");
    assert!(!client.rest().iter().any(is_end), "it must not look whole");
    assert_eq!(backend.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "draining");
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// A listener that a reload takes away drains by itself; what goes on elsewhere is left alone.
#[test]
fn the_tunnels_of_a_listener_that_goes_away_are_told() {
    let (listener, address) = listen();
    let with = config(address, "drain_timeout = '4s'", "upgrade = ['websocket']");
    let two = with.replace("[[routes]]", "[[listeners]]\nname = 'other'\nbind = '127.0.0.1:0'\n[[routes]]");
    let proxy = Proxy::start(&two);
    let mut clients = Vec::new();
    for name in ["main", "other"] {
        let mut client = Frames::connect(proxy.addr(name));
        client.send(websocket_h2::connect(1, "websocket", &[]));
        let mut backend = accept(&listener);
        let head = backend.head();
        backend.say(agree(&head));
        assert_eq!(client.head(1).status(), Some(200));
        clients.push((client, backend));
    }
    assert!(proxy.reload(&with));
    let (mut other, mut gone) = clients.pop().unwrap();
    other.until("a GOAWAY", |frame| frame.kind == GOAWAY);
    assert_eq!(bytes_to_the_end(&mut other), GOING_AWAY);
    other.send(frame(DATA, END_STREAM, 1, b""));
    assert_eq!(gone.rest(), b"");
    proxy.access_where(|line| line["listener"] == "other" && line["reason"] == "draining");
    let (mut stays, mut backend) = clients.pop().unwrap();
    backend.say("on");
    assert_eq!(stays.until("data", is_data).payload, b"on");
}
