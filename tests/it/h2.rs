//! HTTP/2 towards clients: requests and answers, their bodies under flow control, drain, and real clients.

use std::process::Command;

use http::Request;
use rustix::process::Signal;

use crate::support::frames::{self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM};
use crate::support::http2::{ask, ask_all, get};
use crate::support::{After, Behaviour, Client, DEADLINE, Frames, Origin, Proxy, frame, poll};

/// A proxy before one backend.
fn config(origin: &Origin, more: &str) -> String {
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n\
         [defaults]\nhealth = false\nretry = false\n[pools.BTC.a]\nprimaries = [\"{}\"]\n{more}\n",
        origin.addr()
    )
}

#[test]
fn requests_are_answered_beside_each_other() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let gate = origin.hold("/v1/BTC");
    let answered = std::thread::scope(|scope| {
        let answered = scope.spawn(|| ask_all(proxy.address(), (0..50).map(|_| get("/v1/BTC?a=b")).collect()));
        gate.waiting(50);
        gate.open();
        answered.join().unwrap()
    });
    for answer in answered {
        let answer = answer.unwrap();
        assert_eq!((answer.status(), answer.header("x-origin")), (200, Some("one")));
        assert_eq!(answer.json()["target"], "/v1/BTC?a=b");
        assert!(answer.header("date").is_some() && answer.header("x-request-id").is_some());
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
    let asked = &origin.requests()[0];
    assert_eq!((asked.header("host"), asked.header("via")), (Some("shard.example"), Some("2.0 shardgate")));
    assert!(asked.header("connection").is_none());
}
