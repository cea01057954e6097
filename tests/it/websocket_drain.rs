//! What a drain does to tunnels: WebSockets are told, others stay until it is over.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use rustix::process::Signal;

use crate::support::{DEADLINE, Proxy, poll};
use crate::websocket::{AGREE, ASK, Raw, accept, config, listen, tunnel};

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
