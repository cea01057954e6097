//! Tunnels from clients of HTTP/2, by extended CONNECT (RFC 8441): what becomes one, bytes both ways, and how it ends.

use h2::ext::Protocol;
use http::{Method, Request};

use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, block, frame};
use crate::support::http2::run;
use crate::support::{Proxy, poll};
use crate::websocket::{AGREE, Raw, accept, agree, config, listen};

pub fn connect(stream: u32, protocol: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let fields = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", "/ws?x=1"),
        ("sec-websocket-version", "13"),
    ];
    frame(HEADERS, END_HEADERS, stream, &block(&[&fields, more].concat()))
}

/// Proxy and both ends of a tunnel on stream 1.
pub fn tunnel(server: &str, route: &str) -> (Proxy, Frames, Raw, String) {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, server, &format!("upgrade = ['websocket']\n{route}")));
    let mut client = Frames::connect(proxy.address());
    client.send(connect(1, "websocket", &[]));
    // What comes before the backend has agreed must wait.
    client.send(frame(DATA, 0, 1, b"early"));
    let mut backend = accept(&listener);
    let head = backend.head();
    backend.say(agree(&head));
    let answer = client.head(1);
    assert_eq!((answer.status(), answer.flags & END_STREAM), (Some(200), 0));
    backend.hear("early");
    (proxy, client, backend, head)
}

#[test]
fn bytes_go_both_ways_and_each_side_ends_its_own() {
    let (proxy, mut client, mut backend, head) = tunnel("", "");
    let has = |line: &str| head.to_lowercase().lines().any(|had| had == line);
    assert!(head.starts_with("GET /ws?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(has("connection: upgrade") && has("upgrade: websocket") && has("host: a.example"), "{head}");
    let key =
        head.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key: ").then_some(line.len()));
    assert_eq!(key, Some("sec-websocket-key: ".len() + 24), "{head}");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    // The version is what the client says.
    assert_eq!(head.matches("sec-websocket-version: 13\r\n").count(), 1, "{head}");
    proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 1.0);
    for word in ["one", "two", "three"] {
        client.send(frame(DATA, 0, 1, word.as_bytes()));
        backend.hear(word);
        backend.say(word.to_uppercase());
        let data = client.until("an echo", |frame| frame.kind == DATA && frame.stream == 1);
        assert_eq!(data.payload, word.to_uppercase().as_bytes());
    }
    client.send(frame(DATA, END_STREAM, 1, b"bye"));
    backend.hear("bye");
    backend.expect_end();
    backend.say("later");
    backend.finish();
    client.until("the last bytes", |frame| frame.kind == DATA && frame.payload == b"later");
    client.until("the end", |frame| frame.kind == DATA && frame.flags & END_STREAM != 0);
    let line = proxy.access_where(|line| line["status"] == 101);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&19.into(), &16.into()), "{line}");
    proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0);
}

#[test]
fn a_client_that_resets_ends_the_tunnel() {
    let (proxy, mut client, mut backend, _) = tunnel("", "");
    client.send(frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    assert_eq!(backend.rest(), b"");
    proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0);
}

#[test]
fn a_backend_that_ends_its_connection_ends_the_stream() {
    let (proxy, mut client, mut backend, _) = tunnel("", "");
    backend.say("bye");
    drop(backend);
    client.until("the last bytes", |frame| frame.kind == DATA && frame.payload == b"bye");
    client.until("the end", |frame| frame.kind == DATA && frame.stream == 1 && frame.flags & END_STREAM != 0);
    client.send(frame(DATA, END_STREAM, 1, b""));
    proxy.access_where(|line| line["status"] == 101);
    let (proxy, mut client, backend, _) = tunnel("", "");
    socket2::SockRef::from(&backend.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(backend);
    let reset = client.until("a reset", |frame| frame.kind == RST_STREAM && frame.stream == 1);
    assert_eq!(reset.number(0), 2, "INTERNAL_ERROR");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "upstream_reset");
}

/// The key is ours, so nobody but us can tell whether the backend has understood what it says.
#[test]
fn a_101_that_does_not_answer_our_key_is_502() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", "upgrade = ['websocket']"));
    for (client_key, wrong) in [
        (None, AGREE.to_owned()),
        (None, AGREE.replace("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "")),
        // What a client sends has no meaning in HTTP/2, and is not what the backend gets.
        (Some(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")), AGREE.to_owned()),
    ] {
        let mut client = Frames::connect(proxy.address());
        client.send(connect(1, "websocket", &client_key.into_iter().collect::<Vec<_>>()));
        client.send(frame(DATA, 0, 1, b"early"));
        let mut backend = accept(&listener);
        let head = backend.head();
        assert_eq!(head.matches("sec-websocket-key: ").count(), 1, "{head}");
        assert!(!head.contains("dGhlIHNhbXBsZSBub25jZQ=="), "{head}");
        backend.say(&wrong);
        assert_eq!(client.head(1).status(), Some(502), "{wrong}");
        assert_eq!(backend.rest(), b"", "nothing before a switch");
        proxy.access_where(|line| line["status"] == 502 && line["reason"] == "upstream_protocol_error");
    }
}

#[test]
fn an_idle_tunnel_is_reset() {
    let (proxy, mut client, mut backend, _) = tunnel("", "timeouts = { tunnel = '600ms' }");
    let reset = client.until("a reset", |frame| frame.kind == RST_STREAM && frame.stream == 1);
    assert_eq!(reset.number(0), 8, "CANCEL");
    assert_eq!(backend.rest(), b"");
    // It was the stream's, not the connection's.
    client.sync();
    proxy.access_where(|line| line["reason"] == "tunnel_timeout");
}

#[test]
fn what_is_not_agreed_to_is_no_tunnel() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", "upgrade = ['websocket']"));
    let mut client = Frames::connect(proxy.address());
    // Another protocol than those that the route lets through: nobody is asked.
    client.send(connect(1, "chat", &[]));
    assert_eq!(client.head(1).status(), Some(405));
    proxy.access_where(|line| line["status"] == 405 && line["reason"] == "method_not_allowed");
    // Nor one that would be more than a word in a head of HTTP/1.1.
    for protocol in ["websocket\r\nx-a: b", ""] {
        let mut client = Frames::connect(proxy.address());
        client.send(connect(1, protocol, &[]));
        assert_eq!(client.head(1).status(), Some(400), "{protocol:?}");
    }
    // A backend that declines is passed on; one that says 200 has not switched (CVE-2024-23326).
    for (stream, answer, status) in [
        (3, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", 426),
        (5, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
    ] {
        client.send(connect(stream, "websocket", &[]));
        client.send(frame(DATA, 0, stream, b"GET /smuggled HTTP/1.1\r\n\r\n"));
        let mut backend = accept(&listener);
        backend.head();
        backend.say(answer);
        backend.finish();
        assert_eq!(client.head(stream).status(), Some(status));
        proxy.access_where(|line| line["status"] == status);
        assert_eq!(backend.rest(), b"", "nothing before a switch");
    }
    // A plain CONNECT is refused, and the connection goes on.
    client.send(frame(HEADERS, END_HEADERS, 7, &block(&[(":method", "CONNECT"), (":authority", "a.example:80")])));
    let answer = client.until("an answer", |frame| frame.stream == 7 && matches!(frame.kind, HEADERS | RST_STREAM));
    assert_eq!((answer.kind, answer.status()), (HEADERS, Some(400)));
    client.sync();
    poll("no tunnel", || (proxy.metric("shardgate_tunnels_open", &[]) == 0.0).then_some(()));
}

#[test]
fn a_library_s_client_is_told_that_it_may_and_gets_a_plain_answer() {
    let (listener, address) = listen();
    let proxy = Proxy::start(&config(address, "", "upgrade = ['websocket']"));
    let backend = std::thread::spawn(move || {
        let mut backend = accept(&listener);
        let head = backend.head();
        backend.say([agree(&head).as_bytes(), b"hello"].concat());
        backend.expect_end();
    });
    let address = proxy.address();
    let answer = run(async move {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        while !client.is_extended_connect_protocol_enabled() {
            // The settings come when they come.
            tokio::task::yield_now().await;
        }
        let protocol = Protocol::from_static("websocket");
        let request = Request::builder().method(Method::CONNECT).uri("http://a.example/ws").extension(protocol);
        let (answer, mut to) = client.send_request(request.body(()).unwrap(), false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "hello");
        to.send_data(bytes::Bytes::new(), true).unwrap();
        while let Some(data) = answer.body_mut().data().await {
            assert_eq!(data.unwrap(), "");
        }
        answer
    });
    backend.join().unwrap();
    assert_eq!(answer.status(), 200);
    for gone in ["sec-websocket-accept", "upgrade", "connection", "content-length", "transfer-encoding"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
}
