//! What takes more than one message a side: answers before their requests, two answers for one, bodies that nobody waits for.

use super::backend::{Backend, Script};
use super::requests::start;
use crate::support::Client;

const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";

/// A GET and what it was answered, which is its own request line unless something is wrong.
fn ask(client: &mut Client, target: &str) -> String {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"));
    client.response().text()
}

/// The request lines that have become whole at the backend.
fn lines(backend: &Backend) -> Vec<String> {
    let seen = backend.take();
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    seen.messages.iter().map(super::wire::Message::line).collect()
}

/// RFC 9112, 9.2: what comes on an idle connection is no answer to a request that is yet to come.
#[test]
fn what_a_backend_says_unasked_answers_nobody() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let mut client = proxy.client();
    for unasked in [EVIL, b"HTTP/1.1 100 Continue\r\n\r\n", b"\r\n", b"H"] {
        assert_eq!(ask(&mut client, "/a"), "GET /a HTTP/1.1");
        backend.speak_up(unasked);
        assert_eq!(ask(&mut client, "/b"), "GET /b HTTP/1.1");
        backend.speak_up(unasked);
        assert_eq!(ask(&mut proxy.client(), "/c"), "GET /c HTTP/1.1");
    }
    assert_eq!(lines(&backend).len(), 12);
}

/// CVE-2025-4366: an answer that came before the request's body was read makes no request of that body, on neither side.
#[test]
fn the_rest_of_a_body_that_was_not_read_is_no_request() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly".to_vec();
    backend.on("/early", Script { answer, early: true, ..Script::default() });
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for target in ["/early", "/own"] {
        for framing in ["Content-Length: 5000", "Transfer-Encoding: chunked"] {
            let mut client = proxy.client();
            client.send(format!("POST {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n"));
            let answer = client.response();
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{target} {framing}");
            // Part of the body by its framing; a request to whoever has forgotten that.
            let _ = client.try_send(smuggled.as_bytes());
            let rest = client.rest();
            assert!(rest.is_empty(), "{target} {framing}: {}", rest.escape_ascii());
            assert_eq!(ask(&mut proxy.client(), "/after"), "GET /after HTTP/1.1");
            assert_eq!(lines(&backend), ["GET /after HTTP/1.1"], "{target} {framing}");
        }
    }
}

/// RFC 9110, 10.1.1: a final answer in place of 100 ends what was to come; the client that sends its body all the same is
/// not asking for anything.
#[test]
fn a_body_that_nobody_asked_for_is_no_request() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let answer = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno".to_vec();
    backend.on("/no", Script { answer, early: true, ..Script::default() });
    let mut client = proxy.client();
    client.send("POST /no HTTP/1.1\r\nHost: x\r\nContent-Length: 38\r\nExpect: 100-continue\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.interim.len(), answer.header("connection")), (417, 0, Some("close")));
    let _ = client.try_send(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n....");
    client.expect_closed();
    assert_eq!(ask(&mut proxy.client(), "/after"), "GET /after HTTP/1.1");
    assert_eq!(lines(&backend), ["GET /after HTTP/1.1"]);
}

/// CVE-2026-2833, CVE-2024-23326: what a client sends behind a request for another protocol is that protocol only if a
/// backend has said 101; behind any other answer it is HTTP, and goes by its rules.
#[test]
fn what_follows_an_upgrade_that_is_not_granted_is_http() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let answers = [
        (200, "HTTP/1.1 200 OK\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nno"),
        (426, "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nno"),
    ];
    for (status, answer) in answers {
        let path = format!("/{status}");
        backend.on(&path, Script { answer: answer.into(), ..Script::default() });
        let mut client = proxy.client();
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
             GET /next HTTP/1.1\r\nHost: x\r\nConnection: a\r\nA: b\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        ));
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str(), answer.header("upgrade")), (status, "no", None));
        assert_eq!(client.response().text(), "GET /next HTTP/1.1");
        // A tunnel may ask for the upgrade; the request behind it must have been read and written anew.
        let next = backend.take().messages.pop().expect("the request behind");
        assert!(next.values("a").is_empty() && next.values("x-forwarded-for") == ["127.0.0.1"], "{}", next.plain());
    }
}

/// RFC 9110, 15.2: interim answers are passed on, as many as anybody needs.
#[test]
fn interim_answers_are_bounded() {
    let backend = Backend::start();
    let proxy = start(&backend);
    let many = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(1000);
    let answer = format!("{many}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    backend.on("/many", Script { answer: answer.into(), ..Script::default() });
    let mut client = proxy.client();
    client.send("GET /many HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.text().as_str(), answer.interim.len()), ("ok", 16));
    assert_eq!(ask(&mut client, "/after"), "GET /after HTTP/1.1");
}
