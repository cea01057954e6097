//! What backends of HTTP/2 do wrong: what the client gets, which reason it has, and whether another backend is asked.
//!
//! The bad one is alone in its tier, so every request goes there first; a good one is its replica. A GET may be repeated
//! after anything; a POST only if it is certain that the bad one has not begun it. So "both are served" means that the
//! backend is known not to have seen the request.

use std::io;

use crate::support::h2_script::{CONTINUATION, DATA, Frames, HEADERS, Wire, block};
use crate::support::{H2Origin, Proxy, poll};

const OK: &[(&str, &str)] = &[(":status", "200"), ("x-origin", "bad")];

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// SETTINGS_MAX_CONCURRENT_STREAMS
const MAX_STREAMS: u16 = 3;

fn config(bad: &Frames, good: &H2Origin, more: &str) -> String {
    format!(
        "[server]
         workers = 1
         [[listeners]]
         bind = '127.0.0.1:0'
         [[routes]]
         path = '/{{*rest}}'
         asset = ['const:BTC']
         [regions.us-east]
         [defaults]
         protocol = 'h2'
         health = false
         outlier = false
         timeouts = {{ connect = '300ms', response = '300ms' }}
         {more}
         [pools.BTC.us-east]
         primaries = ['{}']
         replicas = ['{}']
        ",
        bad.addr(),
        good.addr()
    )
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Got {
    /// The good backend has served it.
    Good,
    /// The bad one has, after all.
    Bad,
    /// An error of ours.
    Own(u16, &'static str),
}
use Got::{Bad, Good, Own};

type Script = fn(&mut Wire) -> io::Result<()>;

/// One row: what it does, and what becomes of a GET and a POST.
type Row = (&'static str, Script, Got, Got);

fn answer_to(proxy: &Proxy, method: &str) -> Got {
    let body: &[u8] = if method == "POST" { b"order" } else { b"" };
    let answer = proxy.client().request(method, "/x", &[], body);
    match answer.header("x-origin") {
        Some("bad") => Bad,
        Some(_) => {
            assert_eq!(answer.json()["body"].as_bytes_or_empty(), body);
            Good
        }
        None => Own(answer.status, REASONS.iter().find(|reason| **reason == answer.reason()).unwrap()),
    }
}

const REASONS: &[&str] = &["upstream_reset", "upstream_protocol_error", "upstream_truncated", "upstream_timeout"];

trait Bytes {
    fn as_bytes_or_empty(&self) -> &[u8];
}

impl Bytes for serde_json::Value {
    fn as_bytes_or_empty(&self) -> &[u8] {
        self.as_str().unwrap_or("").as_bytes()
    }
}

const RESET: Got = Own(502, "upstream_reset");
const PROTOCOL: Got = Own(502, "upstream_protocol_error");
const TRUNCATED: Got = Own(502, "upstream_truncated");
const TIMEOUT: Got = Own(504, "upstream_timeout");

const TABLE: &[Row] = &[
    // The backend says that it has not begun.
    (
        "refused",
        |wire| {
            let stream = wire.request()?;
            wire.reset(stream, REFUSED_STREAM)
        },
        Good,
        Good,
    ),
    (
        "going away before it",
        |wire| {
            wire.request()?;
            wire.go_away(0, NO_ERROR)?;
            wire.wait_end()
        },
        Good,
        Good,
    ),
    (
        "going away before it, in anger",
        |wire| {
            wire.request()?;
            wire.go_away(0, ENHANCE_YOUR_CALM)
        },
        Good,
        Good,
    ),
    // It may have begun.
    (
        "reset with an error",
        |wire| {
            let stream = wire.request()?;
            wire.reset(stream, INTERNAL_ERROR)
        },
        Good,
        RESET,
    ),
    (
        "reset with a protocol error",
        |wire| {
            let stream = wire.request()?;
            wire.reset(stream, PROTOCOL_ERROR)
        },
        Good,
        RESET,
    ),
    (
        "cancelled",
        |wire| {
            let stream = wire.request()?;
            wire.reset(stream, CANCEL)
        },
        Good,
        RESET,
    ),
    (
        "reset without an error, and without an answer",
        |wire| {
            let stream = wire.request()?;
            wire.reset(stream, NO_ERROR)
        },
        Good,
        RESET,
    ),
    ("closed without an answer", |wire| wire.request().map(drop), Good, RESET),
    (
        "going away after it, and closed without an answer",
        |wire| {
            let stream = wire.request()?;
            wire.go_away(stream, NO_ERROR)
        },
        Good,
        RESET,
    ),
    (
        "no answer",
        |wire| {
            wire.request()?;
            wire.wait_end()
        },
        Good,
        TIMEOUT,
    ),
    // Its answer is none.
    (
        "a head that is too large",
        |wire| {
            let stream = wire.request()?;
            let fields: Vec<(&str, &str)> = vec![("x-large", LARGE); 1500];
            let block = block(&fields);
            let mut pieces = block.chunks(16_000);
            wire.hold(HEADERS, 1, stream, &crate::support::h2_script::block(OK));
            pieces.by_ref().for_each(|piece| wire.hold(CONTINUATION, 0, stream, piece));
            wire.send(CONTINUATION, 4, stream, b"")?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "too many fields",
        |wire| {
            let stream = wire.request()?;
            let fields: Vec<(&str, &str)> = OK.iter().copied().chain(vec![("x", "y"); 250]).collect();
            wire.head(stream, &fields)?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "no status",
        |wire| {
            let stream = wire.request()?;
            wire.head(stream, &[("x-origin", "bad")])?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "a switch",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, &[(":status", "101")]);
            wire.head(stream, OK)?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "a field of the connection",
        |wire| {
            let stream = wire.request()?;
            wire.head(stream, &[(":status", "200"), ("connection", "close")])?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "two lengths",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, &[(":status", "200"), ("content-length", "2"), ("content-length", "2")]);
            wire.last(stream, b"ok")?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "data before a head",
        |wire| {
            let stream = wire.request()?;
            wire.last(stream, b"ok")?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    (
        "a frame that is too large",
        |wire| {
            wire.request()?;
            wire.raw(&[0xff; 9])?;
            wire.wait_end()
        },
        Good,
        PROTOCOL,
    ),
    // Its body is not whole, and that is known before anything of it was passed on.
    (
        "a body that is too short",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, &[(":status", "200"), ("x-origin", "bad"), ("content-length", "10")]);
            wire.last(stream, b"four")?;
            wire.wait_end()
        },
        Good,
        TRUNCATED,
    ),
    (
        "a body that is too long",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, &[(":status", "200"), ("x-origin", "bad"), ("content-length", "2")]);
            wire.last(stream, b"four")?;
            wire.wait_end()
        },
        Good,
        TRUNCATED,
    ),
    (
        "a head and then a reset",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, OK);
            wire.reset(stream, INTERNAL_ERROR)?;
            wire.wait_end()
        },
        Good,
        TRUNCATED,
    ),
    (
        "a head and then a reset without an error",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, OK);
            wire.reset(stream, NO_ERROR)?;
            wire.wait_end()
        },
        Good,
        TRUNCATED,
    ),
    // It is no backend for HTTP/2.
    (
        "another protocol",
        |wire| {
            wire.raw(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
            wire.wait_end()
        },
        Good,
        Good,
    ),
    // What is odd and not wrong.
    (
        "an answer before the body, which it does not want",
        |wire| {
            let stream = wire.head_of_request()?;
            wire.hold_head(stream, OK);
            wire.hold(DATA, 1, stream, b"ok");
            wire.reset(stream, NO_ERROR)?;
            wire.wait_end()
        },
        Bad,
        Bad,
    ),
    (
        "data after the end",
        |wire| {
            let stream = wire.request()?;
            wire.hold_head(stream, OK);
            wire.hold(DATA, 1, stream, b"ok");
            wire.last(stream, b"more")?;
            wire.wait_end()
        },
        Bad,
        Bad,
    ),
    (
        "unknown frames",
        |wire| {
            let stream = wire.request()?;
            wire.hold(0xbb, 0xff, stream, b"???");
            wire.head(stream, OK)?;
            wire.wait_end()
        },
        Bad,
        Bad,
    ),
];

const LARGE: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";

#[test]
fn what_becomes_of_requests_to_bad_backends() {
    let mut faults = Vec::new();
    let good = H2Origin::start("good");
    for (what, script, get, post) in TABLE {
        let is_foreign = *what == "another protocol";
        for (method, expected) in [("GET", *get), ("POST", *post)] {
            let bad = Frames::start(move |_, wire| {
                if !is_foreign {
                    wire.greet(&[])?;
                }
                script(wire)
            });
            let proxy = Proxy::start(&config(&bad, &good, ""));
            let before = good.seen().len();
            let got = answer_to(&proxy, method);
            if got != expected {
                faults.push(format!("{what}, {method}: {got:?}, not {expected:?}\n{}", proxy.log()));
            }
            assert_eq!(good.seen().len() - before, usize::from(got == Good), "{what}: sent twice");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn connections_that_do_not_come_to_stand_cost_nothing() {
    let good = H2Origin::start("good");
    for (what, script) in [
        ("closed at once", (|_: usize, _: &mut Wire| Ok(())) as fn(usize, &mut Wire) -> io::Result<()>),
        ("silent", |_, wire| wire.wait_end()),
        ("no streams", |_, wire| {
            wire.greet(&[(MAX_STREAMS, 0)])?;
            wire.wait_end()
        }),
    ] {
        let bad = Frames::start(script);
        let proxy = Proxy::start(&config(&bad, &good, ""));
        assert_eq!((answer_to(&proxy, "GET"), answer_to(&proxy, "POST")), (Good, Good), "{what}");
        assert_eq!(bad.requests(), 0, "{what}");
        let failed = proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "connect_failed")]);
        assert_eq!(failed, 2.0, "{what}");
    }
}

/// One whose requests get no answer and that says nothing else is not asked again: its peer may be gone.
#[test]
fn a_connection_that_swallows_requests_is_left() {
    let bad = Frames::start(|number, wire| {
        wire.greet(&[])?;
        if number > 0 {
            let stream = wire.request()?;
            wire.head(stream, OK)?;
        }
        wire.wait_end()
    });
    let good = H2Origin::start("good");
    let proxy = Proxy::start(&config(&bad, &good, "retry = false"));
    assert_eq!(answer_to(&proxy, "GET"), TIMEOUT);
    assert_eq!(answer_to(&proxy, "GET"), Bad, "on another connection");
    assert_eq!(bad.accepted(), 2);
}

#[test]
fn a_body_that_breaks_off_later_ends_the_clients_connection() {
    // Not even if the backend sees no error in that: it is not whole.
    for code in [INTERNAL_ERROR, NO_ERROR] {
        breaks_off_later(code);
    }
}

fn breaks_off_later(code: u32) {
    let bad = Frames::start(move |_, wire| {
        wire.greet(&[])?;
        let stream = wire.request()?;
        wire.hold_head(stream, OK);
        wire.send(DATA, 0, stream, b"the begin")?;
        // Only when that has arrived.
        wire.frame()?;
        wire.reset(stream, code)?;
        wire.wait_end()
    });
    let good = H2Origin::start("good");
    let proxy = Proxy::start(&config(&bad, &good, ""));
    let mut client = proxy.client();
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head_only().0, 200);
    client.take(9);
    // Another request on the same connection is what the script waits for.
    proxy.client().send("POST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    let rest = client.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it must not look whole: {}", rest.escape_ascii());
    let line = proxy.access_where(|line| line["target"] == "/x");
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("upstream_truncated")));
    proxy.metric_until("shardgate_upstream_attempts_total", &[("outcome", "truncated")], |n| n == 1.0);
}

/// A retry goes out on a connection of its own, and the one that went away lets what it has begun end.
#[test]
fn a_connection_that_goes_away_serves_what_it_has_begun() {
    let bad = Frames::start(|number, wire| {
        wire.greet(&[])?;
        if number > 0 {
            let stream = wire.request()?;
            wire.head(stream, OK)?;
            return wire.wait_end();
        }
        let stream = wire.request()?;
        wire.go_away(stream, NO_ERROR)?;
        wire.hold_head(stream, OK);
        wire.send(DATA, 0, stream, b"one ")?;
        // The other connection is there: now the rest.
        while wire.frame().is_ok_and(|frame| frame.kind != HEADERS) {}
        Ok(())
    });
    let good = H2Origin::start("good");
    let proxy = Proxy::start(&config(&bad, &good, ""));
    let mut first = proxy.client();
    first.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(first.head_only().0, 200);
    assert_eq!(answer_to(&proxy, "POST"), Bad);
    assert_eq!(bad.accepted(), 2);
    drop(first);
    poll("the old one to close", || (proxy.metric("shardgate_backend_connections", &[]) <= 1.0).then_some(()));
}
