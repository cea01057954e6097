//! Attacks by means of HTTP/2: what costs a server more than it costs who sends it. Each ends with GOAWAY, reaches few
//! backends, takes little memory, and leaves others served.

use std::sync::atomic::Ordering::SeqCst;

use crate::h2::{config, endless};
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, get, request,
};
use crate::support::{Behaviour, Frames, Origin, Proxy, frame, poll};

const CANCEL: [u8; 4] = 8u32.to_be_bytes();
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a flood may add to the memory of the daemon.
const MEMORY: u64 = 32 << 20;

/// Bytes that the daemon holds of physical memory.
pub fn memory(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What the server says when it has had enough of these bytes.
fn last_word(proxy: &Proxy, client: &mut Frames, bytes: &[u8]) -> u32 {
    let before = memory(proxy);
    for piece in bytes.chunks(64 * 1024) {
        // The server may have gone.
        if client.try_send(piece).is_err() {
            break;
        }
    }
    let word = client.until("a last word", |f| f.kind == GOAWAY && f.number(4) != 0).number(4);
    let grown = memory(proxy).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    assert_eq!(proxy.get("/nowhere").status, 404, "a bystander");
    word
}

fn post(stream: u32) -> Vec<u8> {
    let mut fields = get("/v1/BTC");
    fields[0].1 = "POST";
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

#[test]
fn streams_that_are_opened_and_reset_at_once() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let _gate = origin.hold("/v1/BTC");
    let mut client = Frames::connect(proxy.address());
    let pair = |n: u32| [request(1 + 2 * n, "/v1/BTC"), frame(RST_STREAM, 0, 1 + 2 * n, &CANCEL)].concat();
    let flood = (0..20_000).map(pair).collect::<Vec<_>>().concat();
    assert_eq!(last_word(&proxy, &mut client, &flood), ENHANCE_YOUR_CALM);
    assert!(origin.count() < 100, "{}", origin.count());
    proxy.metric_until("shardgate_limit_hits_total", &[("limit", "h2_flood")], |n| n == 1.0);
}

#[test]
fn streams_that_are_reset_when_the_backend_has_them() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let _gate = origin.hold("/v1/BTC");
    let mut client = Frames::connect(proxy.address());
    for n in 0..100 {
        client.send(request(1 + 2 * n, "/v1/BTC"));
        let there = poll("the backend or the end", || {
            let there = origin.count() > n as usize;
            (there || proxy.metric("shardgate_limit_hits_total", &[("limit", "h2_flood")]) > 0.0).then_some(there)
        });
        if !there || client.try_send(&frame(RST_STREAM, 0, 1 + 2 * n, &CANCEL)).is_err() {
            break;
        }
    }
    assert_eq!(last_word(&proxy, &mut client, &[]), ENHANCE_YOUR_CALM);
    assert!(origin.count() < 100, "{}", origin.count());
    poll("all to be over", || (proxy.metric("shardgate_requests_in_flight", &[]) == 0.0).then_some(()));
}

#[test]
fn streams_that_the_server_is_made_to_reset() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let _gate = origin.hold("/v1/BTC");
    let mut client = Frames::connect(proxy.address());
    // A window beyond the largest (CVE-2025-8671).
    let over = i32::MAX.to_be_bytes();
    let pair = |n: u32| [request(1 + 2 * n, "/v1/BTC"), frame(WINDOW_UPDATE, 0, 1 + 2 * n, &over)].concat();
    let flood = (0..20_000).map(pair).collect::<Vec<_>>().concat();
    assert_eq!(last_word(&proxy, &mut client, &flood), ENHANCE_YOUR_CALM);
    assert!(origin.count() < 100, "{}", origin.count());
}

#[test]
fn frames_that_carry_nothing() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let _gate = origin.hold("/v1/BTC");
    let floods = [
        ("pings", frame(PING, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 9])),
        ("windows", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("windows of a stream", frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())),
        ("data without data", frame(DATA, 0, 1, &[])),
        ("data of padding", frame(DATA, 8, 1, &[0])),
        ("unknown frames", frame(0xee, 0, 1, &[])),
        ("answers to pings", frame(PING, 1, 0, &[0; 8])),
        ("goodbyes", frame(GOAWAY, 0, 0, &[0; 8])),
    ];
    for (hits, (what, one)) in floods.iter().enumerate() {
        let mut client = Frames::connect(proxy.address());
        client.send(post(1));
        assert_eq!(last_word(&proxy, &mut client, &one.repeat(30_000)), ENHANCE_YOUR_CALM, "{what}");
        proxy.metric_until("shardgate_limit_hits_total", &[("limit", "h2_flood")], |n| n == (hits + 1) as f64);
    }
}

#[test]
fn heads_that_are_larger_than_they_look() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    // A field of 3900 bytes that goes into the table, and then is named by one byte, again and again (an HPACK bomb).
    let mut bomb = block(&get("/v1/BTC"));
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xbd, 0x1d]);
    bomb.resize(bomb.len() + 3900, b'y');
    bomb.resize(16_000, 0xbe);
    // The same with crumbs of a cookie, each of nothing (CVE-2026-47774).
    let mut crumbs = block(&get("/v1/BTC"));
    crumbs.extend_from_slice(&[0x40, 6, b'c', b'o', b'o', b'k', b'i', b'e', 0]);
    crumbs.resize(16_000, 0xbe);
    for head in [bomb, crumbs] {
        let mut client = Frames::connect(proxy.address());
        let sent = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head);
        assert_eq!(last_word(&proxy, &mut client, &sent), ENHANCE_YOUR_CALM);
        // In many frames, none of which is too much by itself.
        let mut client = Frames::connect(proxy.address());
        let mut sent = frame(HEADERS, END_STREAM, 1, &head[..4200]);
        head[4200..].chunks(1).take(3000).for_each(|piece| sent.extend(frame(CONTINUATION, 0, 1, piece)));
        assert_eq!(last_word(&proxy, &mut client, &sent), ENHANCE_YOUR_CALM);
    }
    // What is over the limit and not beyond all measure is answered.
    let mut client = Frames::connect(proxy.address());
    let long = "y".repeat(12_000);
    let head = [block(&get("/v1/BTC")), block(&[("x", &long)]), block(&[("z", &long)])].concat();
    client.send(frame(HEADERS, END_STREAM, 1, &head[..16_000]));
    client.send(frame(CONTINUATION, END_HEADERS, 1, &head[16_000..]));
    assert_eq!(client.head(1).status(), Some(431));
    client.sync();
    assert_eq!(origin.count(), 0);
}

#[test]
fn windows_that_stay_shut() {
    let origin = Origin::start("one");
    origin.on("/v1/BTC", Behaviour::Answer(200, vec![], vec![b'x'; 1 << 20]));
    let proxy = Proxy::start(&config(&origin, ""));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    let before = memory(&proxy);
    let mut client = Frames::connect_with(proxy.address(), &[(4, 0)]);
    client.send((0..100).map(|n| request(1 + 2 * n, "/v1/BTC")).collect::<Vec<_>>().concat());
    for _ in 0..100 {
        assert_eq!(client.until("an answer", |f| f.kind == HEADERS).status(), Some(200));
    }
    let grown = memory(&proxy).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    assert_eq!(proxy.get("/v1/BTC").body.len(), 1 << 20, "a bystander");
}

/// Eight connections of a hundred streams each; what they hold is less than what one connection of eight did when each
/// stream was read by the block.
#[test]
fn answers_that_nobody_reads() {
    let origin = Origin::start("one");
    origin.on("/v1/BTC", Behaviour::Answer(200, vec![], vec![b'x'; 300 << 10]));
    let open = i32::MAX.cast_unsigned();
    for (what, window, more) in [("shut", 0, 0), ("usual", 65_535, 0), ("open", open, open - 65_535)] {
        let proxy = Proxy::start(&config(&origin, "[limits]\nh2_max_streams = 100"));
        assert_eq!(proxy.get("/v1/BTC").body.len(), 300 << 10);
        origin.take_requests();
        let before = memory(&proxy);
        let ask = |_| {
            let mut client = Frames::connect_with(proxy.address(), &[(4, window)]);
            if more > 0 {
                client.send(frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()));
            }
            client.send((0..100).map(|n| request(1 + 2 * n, "/v1/BTC")).collect::<Vec<_>>().concat());
            client
        };
        let clients: Vec<_> = (0..8).map(ask).collect();
        poll("all to be asked for", || (origin.count() == 800).then_some(()));
        let mut last = 0;
        let now = poll("memory to grow no more", || {
            std::thread::sleep(std::time::Duration::from_millis(50)); // between two looks
            let now = memory(&proxy);
            (std::mem::replace(&mut last, now) == now).then_some(now)
        });
        let grown = now.saturating_sub(before);
        assert!(grown < MEMORY, "{what}: {grown} bytes more");
        assert_eq!(proxy.get("/v1/BTC").body.len(), 300 << 10, "a bystander");
        drop(clients);
    }
}

#[test]
fn backends_stand_still_while_nobody_reads() {
    let origin = Origin::start("one");
    let sent = endless(&origin);
    let proxy = Proxy::start(&config(&origin, ""));
    let before = memory(&proxy);
    let mut client = Frames::connect(proxy.address());
    client.send((0..20).map(|n| request(1 + 2 * n, "/v1/BTC")).collect::<Vec<_>>().concat());
    poll("all to be asked for", || (origin.count() == 20).then_some(()));
    let mut last = usize::MAX;
    let stands = poll("the backends to stand", || {
        std::thread::sleep(std::time::Duration::from_millis(50)); // between two looks
        let now = sent.load(SeqCst);
        (std::mem::replace(&mut last, now) == now).then_some(now)
    });
    // What the kernel's buffers take of each.
    assert!(stands < 20 * 16 * 16, "{stands} blocks");
    let grown = memory(&proxy).saturating_sub(before);
    assert!(grown < MEMORY / 8, "{grown} bytes more");
    // It goes on where it stood.
    client.send(frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes()));
    (0..20).for_each(|n| client.send(frame(WINDOW_UPDATE, 0, 1 + 2 * n, &65_535u32.to_be_bytes())));
    let mut got = 0;
    while got < 1 << 20 {
        got += client.until("more", |f| f.kind == DATA).payload.len();
    }
}

#[test]
fn heads_that_never_end_and_connections_that_do_nothing() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "[limits]\nheader_timeout = \"1s\"\nidle_timeout = \"1s\""));
    let mut client = Frames::connect(proxy.address());
    client.send(frame(HEADERS, END_STREAM, 1, &block(&get("/v1/BTC"))));
    let word = client.until("a last word", |f| f.kind == GOAWAY);
    assert_eq!(word.number(4), ENHANCE_YOUR_CALM);
    assert!(client.rest().is_empty());
    proxy.metric_until("shardgate_limit_hits_total", &[("limit", "header_timeout")], |n| n == 1.0);
    // Idle: told to go, and given the time to say that it heard.
    let mut idle = Frames::connect(proxy.address());
    let word = idle.until("a goodbye", |f| f.kind == GOAWAY);
    assert_eq!((word.number(0), word.number(4)), (i32::MAX.cast_unsigned(), 0));
    idle.rest();
    // Without a preface there is nobody to say goodbye to.
    let mut silent = Frames::silent(proxy.address());
    silent.send(&crate::support::frames::PREFACE[..20]);
    assert!(silent.rest().is_empty());
}
