//! What RFC 9113 asks of a server, section by section: bytes that break a rule, or only look as if they did, and what must
//! come of them. The list is that of h2spec and more; codes are those of section 7.

use std::net::SocketAddr;

use crate::support::frames::{
    ACK, DATA, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, request, settings,
};
use crate::support::{Frames, Origin, Proxy, frame};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// GOAWAY with this code, and the end.
    End(u32),
    /// RST_STREAM of stream 1 with this code; the connection goes on.
    Reset(u32),
    /// An answer on stream 1 with this status; the connection goes on.
    Answer(u16),
    /// Nothing; the connection goes on.
    Nothing,
}
use Must::{Answer, End, Nothing, Reset};

mod cases;

/// The section, what is sent, and what must come of it. Each piece is sent when stream 1 has been answered whole.
type Case = (&'static str, &'static str, Vec<Vec<u8>>, Must);

fn config(origin: &Origin) -> String {
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n\
         [defaults]\nhealth = false\n[pools.BTC.a]\nprimaries = [\"{}\"]\n",
        origin.addr()
    )
}

/// What comes of the pieces.
fn outcome(address: SocketAddr, pieces: &[Vec<u8>]) -> Result<Must, String> {
    let mut client = Frames::connect(address);
    let mut answered = None;
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 {
            let head = client.head(1);
            answered = head.status();
            if head.flags & END_STREAM == 0 {
                client.until("the end of an answer", |f| f.stream == 1 && f.flags & END_STREAM != 0);
            }
        }
        // Whoever has heard enough may be gone before the last byte.
        let _ = client.try_send(piece);
    }
    let expects = opens(pieces) && pieces.concat().len() > 17 && pieces.len() == 1;
    // The library answers a PING first and says the rest afterwards: only the second answer has all before it.
    let _ = client.try_send(&frame(PING, 0, 0, b"finished"));
    let mut pings = 0;
    loop {
        let waits_for_answer = expects && answered.is_none();
        if pings == 2 && !waits_for_answer {
            return Ok(answered.map_or(Nothing, Answer));
        }
        let Some(got) = client.next() else { return Err("closed without a word".into()) };
        match got.kind {
            GOAWAY => {
                let code = got.number(4);
                let rest = client.rest();
                return if rest.iter().all(|f| f.kind != GOAWAY) { Ok(End(code)) } else { Err(format!("{rest:?}")) };
            }
            RST_STREAM if got.stream == 1 => {
                client.sync();
                return Ok(Reset(got.number(0)));
            }
            HEADERS if got.stream == 1 => answered = Some(got.status().ok_or("a status of another kind")?),
            PING if got.payload == b"finished" => {
                pings += 1;
                if pings == 1 {
                    let _ = client.try_send(&frame(PING, 0, 0, b"finished"));
                }
            }
            _ => {}
        }
    }
}

/// Whether a request of stream 1 is whole by the end, so that something must come of it.
fn opens(pieces: &[Vec<u8>]) -> bool {
    let bytes = pieces.concat();
    let mut at = 0;
    let mut ends = false;
    while let Some(head) = bytes.get(at..at + 9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        ends |= matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0 && head[8] == 1;
        // A stream that the client has reset is answered by nothing.
        ends &= head[3] != RST_STREAM;
        at += 9 + length;
    }
    ends
}

#[test]
fn every_section_holds() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let cases = [cases::frames_and_streams(), cases::messages()].concat();
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut faults = Vec::new();
    for (section, what, pieces, must) in &cases {
        let came = outcome(proxy.address(), pieces);
        if came.as_ref() != Ok(must) {
            faults.push(format!(
                "{section}, {what}: {must:?} expected, {came:?} came: {}",
                pieces.concat().escape_ascii()
            ));
        }
    }
    assert!(faults.is_empty(), "{} of {} faults:\n{}", faults.len(), cases.len(), faults.join("\n"));
    // None of what was refused has reached a backend, and what has is whole.
    for request in origin.requests() {
        assert!(request.header_all("host").len() == 1 && request.target == "/v1/BTC", "{request:?}");
    }
}

#[test]
fn the_preface_is_a_whole_one() {
    let origin = Origin::start("one");
    let toml = config(&origin).replace("bind = \"127.0.0.1:0\"\n", "bind = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\n");
    let proxy = Proxy::start(&toml);
    for begin in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut client = Frames::silent(proxy.address());
        client.send(begin);
        let frames = client.rest();
        assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [SETTINGS, GOAWAY], "{frames:?}");
        assert_eq!(frames[1].number(4), PROTOCOL_ERROR);
    }
    // However it is cut, and with a first frame of its own kind only.
    for first in [settings(&[]), frame(PING, 0, 0, b"12345678"), request(1, "/v1/BTC"), frame(SETTINGS, ACK, 0, b"")] {
        let mut client = Frames::silent(proxy.address());
        for piece in [PREFACE, &first].concat().chunks(5) {
            client.send(piece);
        }
        if first[3] == SETTINGS && first[4] == 0 {
            client.sync();
        } else {
            let last = client.rest().pop().unwrap();
            assert_eq!((last.kind, last.number(4)), (GOAWAY, PROTOCOL_ERROR));
        }
    }
    assert_eq!(origin.count(), 0);
}

/// Where both versions are spoken, what is a request line of HTTP/1, or near one, is answered as such; what is only of that
/// form is an invalid preface (RFC 9113, 3.4).
#[test]
fn an_invalid_preface_is_refused_in_the_words_of_http_2() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let mut client = Frames::silent(proxy.address());
    client.send("INVALID CONNECTION PREFACE\r\n\r\n");
    let frames = client.rest();
    assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [SETTINGS, GOAWAY], "{frames:?}");
    assert_eq!(frames[1].number(4), PROTOCOL_ERROR);
    for near in ["GARBAGE", "GET /", "GET a HTTP/1.1", "GET /a b", "GET x 1.1"] {
        let mut client = proxy.client();
        client.send(format!("{near}\r\n\r\n"));
        assert_eq!(client.response().status, 400, "{near}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn more_streams_than_were_offered_are_refused() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&format!("{}[limits]\nh2_max_streams = 3\n", config(&origin)));
    let mut client = Frames::silent(proxy.address());
    client.send([PREFACE, &settings(&[])].concat());
    let offered = client.until("settings", |f| f.kind == SETTINGS && f.flags == 0);
    let pairs: Vec<_> =
        offered.payload.chunks(6).map(|p| (p[1], u32::from_be_bytes([p[2], p[3], p[4], p[5]]))).collect();
    assert!(pairs.contains(&(3, 3)) && pairs.iter().any(|(id, _)| *id == 6), "{pairs:?}");
    let gate = origin.hold("/v1/BTC");
    client.send((0..4).map(|n| request(1 + 2 * n, "/v1/BTC")).collect::<Vec<_>>().concat());
    let refused = client.until("a refusal", |f| f.kind == RST_STREAM);
    assert_eq!((refused.stream, refused.number(0)), (7, REFUSED_STREAM));
    gate.waiting(3);
    gate.open();
    for _ in 0..3 {
        assert_eq!(client.until("an answer", |f| f.kind == HEADERS).status(), Some(200));
    }
    assert_eq!(origin.count(), 3);
}
