//! The PROXY protocol: towards us, from a trusted proxy and from anybody else, and towards backends, ours and nginx.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::peer::Peer;
use crate::support::{Client, Origin, Proxy, poll};

const REQUEST: &str = "GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n";
const HITS: &str = "shardgate_limit_hits_total";

fn config(backend: SocketAddr, listener: &str, rest: &str) -> String {
    format!(
        "[[listeners]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\n{listener}\n[log]\nlevel = \"debug\"\n\
         [[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[pools.BTC.a]\nprimaries = [\"{backend}\"]\n{rest}\n"
    )
}

const TRUSTING: &str = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
const UNCHECKED: &str = "[defaults]\nhealth = false";

/// A block of version 2.
fn block(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    out.extend_from_slice(&[kind, family]);
    out.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// 192.0.2.7:1000 to 198.51.100.1:443.
const ENDS: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 3, 232, 1, 187];

#[test]
fn the_announced_client_is_the_client() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(origin.addr(), TRUSTING, UNCHECKED));
    let six = block(0x21, 0x21, &[&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[1], &[0; 20][..]].concat());
    let mut padded = ENDS.to_vec();
    padded.extend_from_slice(&[0x04, 0x07, 0xd0]);
    padded.extend_from_slice(&[0; 2000]);
    // The header, whom backends are told of, and whether X-Forwarded-For before that is believed.
    let table: [(&[u8], &str, bool); 10] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n", "192.0.2.7", false),
        (b"PROXY TCP6 2001:db8::1 ::1 1000 443\r\n", "2001:db8::1", false),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1000 443\r\n", "192.0.2.7", false),
        (b"PROXY TCP4 10.1.1.1 198.51.100.1 1000 443\r\n", "10.1.1.1", true),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1", false),
        (&block(0x21, 0x11, ENDS), "192.0.2.7", false),
        (&block(0x21, 0x11, &padded), "192.0.2.7", false),
        (&six, "2001:db8::1", false),
        (&block(0x21, 0x00, &[]), "127.0.0.1", false),
        (&block(0x20, 0x00, &[]), "127.0.0.1", true),
    ];
    for (header, address, believed) in table {
        let mut client = proxy.client();
        client.send([header, &client.format("GET", "/v1/BTC", &[("X-Forwarded-For", "203.0.113.9")], b"")].concat());
        assert_eq!(client.response().status, 200, "{}", header.escape_ascii());
        assert_eq!(client.get("/v1/BTC").status, 200, "the connection is kept");
        let requests = origin.take_requests();
        let (told, client) = match believed {
            true => (format!("203.0.113.9, {address}"), "203.0.113.9"),
            false => (address.to_owned(), address),
        };
        assert_eq!(requests[0].header("x-forwarded-for"), Some(&*told), "{}", header.escape_ascii());
        assert_eq!(requests[1].header("x-forwarded-for"), Some(address));
        proxy.access_where(|line| line["client"] == client);
    }
    assert!(proxy.series(HITS, &[("limit", "proxy_protocol")]).is_empty());
}

#[test]
fn a_header_that_comes_byte_by_byte_takes_nothing_of_what_follows() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(origin.addr(), TRUSTING, UNCHECKED));
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n".to_vec(), block(0x21, 0x11, ENDS)] {
        let mut client = proxy.client();
        header.iter().for_each(|byte| client.send([*byte]));
        client.send(REQUEST);
        assert_eq!(client.response().status, 200);
    }
    assert!(origin.requests().iter().all(|request| request.header("x-forwarded-for") == Some("192.0.2.7")));
}

#[test]
fn without_a_good_header_there_is_no_answer() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(origin.addr(), TRUSTING, UNCHECKED));
    let bad: [&[u8]; 6] = [
        REQUEST.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 99999\r\nGET",
        &block(0x21, 0x11, &[0; 3]),
        &block(0x21, 0x11, &[0; 5000]),
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 PROXY TCP4 1.2.3.4 1.2.3.4 1 2 PROXY TCP4 1.2.3.4 1.2.3.4 1 2 PROXY TCP4 1.2.3.4",
    ];
    for (done, bytes) in bad.iter().enumerate() {
        let mut client = proxy.client();
        // It may be closed before it has sent all.
        let _ = client.try_send(bytes);
        client.expect_closed();
        proxy.metric_until(HITS, &[("limit", "proxy_protocol")], |hits| hits == done as f64 + 1.0);
    }
    let line = proxy.log_line("no PROXY header: closed");
    assert_eq!((&line["level"], &line["listener"]), (&"DEBUG".into(), &"main".into()));
    // Half of one, and then the end.
    let mut client = proxy.client();
    client.send("PROXY TC");
    client.finish();
    client.expect_closed();
    proxy.metric_until(HITS, &[("limit", "proxy_protocol")], |hits| hits == 7.0);
    // A probe that only connects is no offence.
    let mut probe = proxy.client();
    probe.finish();
    probe.expect_closed();
    assert_eq!(proxy.metric(HITS, &[("limit", "proxy_protocol")]), 7.0);
    assert_eq!(origin.count(), 0);
    proxy.metric_until("shardgate_client_connections", &[], |open| open == 0.0);
}

#[test]
fn strangers_are_closed_at_once() {
    let origin = Origin::start("one");
    let listener = "proxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]";
    let proxy = Proxy::start(&config(origin.addr(), listener, UNCHECKED));
    let mut client = proxy.client();
    let _ = client.try_send(b"PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n");
    client.expect_closed();
    proxy.log_where("no PROXY header: closed", |line| line["error"] == "not from a trusted proxy");
    assert_eq!(proxy.metric(HITS, &[("limit", "proxy_protocol")]), 1.0);
}

#[test]
fn a_header_that_does_not_come_ends_with_the_time_for_heads() {
    let origin = Origin::start("one");
    let rest = format!("{UNCHECKED}\n[limits]\nheader_timeout = \"300ms\"");
    let proxy = Proxy::start(&config(origin.addr(), TRUSTING, &rest));
    let mut silent = proxy.client();
    let mut slow = proxy.client();
    slow.send("PROXY TCP4 192.");
    silent.expect_closed();
    slow.expect_closed();
    proxy.log_where("no PROXY header: closed", |line| line["error"] == "it took too long");
    // What the header has used up, the head has no more: it is refused by the usual rule.
    let mut late = proxy.client();
    late.send("PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\nGET /v1/BTC HTT");
    assert_eq!(late.response().status, 408);
}

#[test]
fn a_drain_ends_connections_that_have_said_nothing() {
    let origin = Origin::start("one");
    let rest = format!("{UNCHECKED}\n[server]\ndrain_timeout = \"2s\"");
    let mut proxy = Proxy::start(&config(origin.addr(), TRUSTING, &rest));
    let mut silent = proxy.client();
    proxy.metric_until("shardgate_client_connections", &[], |open| open == 1.0);
    proxy.signal(rustix::process::Signal::TERM);
    silent.expect_closed();
    assert!(proxy.wait_exit(crate::support::DEADLINE).success());
}

#[test]
fn limits_per_client_count_whom_the_header_names() {
    let origin = Origin::start("one");
    let rest = format!("{UNCHECKED}\n[limits]\nmax_connections_per_client = 1");
    let proxy = Proxy::start(&config(origin.addr(), TRUSTING, &rest));
    let open = |address: &str| {
        let mut client = proxy.client();
        client.send(format!("PROXY TCP6 {address} ::1 1 2\r\n{REQUEST}"));
        let status = client.response().status;
        (client, status)
    };
    let (first, status) = open("2001:db8::1");
    assert_eq!(status, 200);
    let (_other, status) = open("2001:db8:0:1::1");
    assert_eq!(status, 200, "another /64");
    assert_eq!(open("2001:db8::2").1, 503, "the same /64");
    assert_eq!(proxy.metric(HITS, &[("limit", "max_connections_per_client")]), 1.0);
    drop(first);
    poll("the place to come back", || (open("2001:db8::3").1 == 200).then_some(()));
}

#[test]
fn over_a_unix_socket_whoever_may_open_it_is_trusted() {
    let origin = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = format!("[[listeners]]\nname = \"unix\"\nbind = \"unix:{}\"\nproxy_protocol = true", path.display());
    let _proxy = Proxy::start(&config(origin.addr(), &listener, UNCHECKED));
    let mut client = Client::connect_unix(&path);
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 10");
    client.send(format!("00 443\r\n{REQUEST}"));
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.requests()[0].header("x-forwarded-for"), Some("192.0.2.7"));
}

/// A backend that keeps what each connection begins with, up to the end of the first head, answers, and says that the
/// connection may be used again.
struct Recorder {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Vec<u8>>>>::default());
        let kept = Arc::clone(&heads);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || Self::serve(stream, &kept));
            }
        });
        Self { address, heads }
    }

    fn serve(mut stream: TcpStream, heads: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b" HTTP/1.1\r\n") {
                if stream.read(&mut byte).ok()? == 0 {
                    // A check that has nothing to ask.
                    heads.lock().unwrap().extend((!head.is_empty()).then_some(head));
                    return None;
                }
                head.push(byte[0]);
            }
            let mut end = Vec::new();
            while !end.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).ok()?;
                end.push(byte[0]);
            }
            heads.lock().unwrap().push(head);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
        }
    }

    fn heads(&self) -> Vec<Vec<u8>> {
        self.heads.lock().unwrap().clone()
    }
}

#[test]
fn backends_are_told_before_anything_else() {
    let backend = Recorder::start();
    let trusting = "trusted_proxies = [\"127.0.0.1\"]";
    let version = |version: &str| {
        let rest = format!("proxy_protocol = \"{version}\"\n{UNCHECKED}");
        config(backend.address, trusting, &rest)
    };
    let proxy = Proxy::start(&version("v1"));
    let mut client = proxy.client();
    let (from, to) = (client.local_addr(), proxy.address());
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(client.request("GET", "/v1/BTC", &[("X-Forwarded-For", "192.0.2.7")], b"").status, 200);
    let line = |source: &str| format!("PROXY TCP4 {source} {}\r\nGET /v1/BTC HTTP/1.1\r\n", to.port()).into_bytes();
    let own = line(&format!("127.0.0.1 127.0.0.1 {}", from.port()));
    // One connection per request: each begins with the header.
    assert_eq!(backend.heads(), [own.clone(), own, line("192.0.2.7 127.0.0.1 0")]);

    assert!(proxy.reload(&version("v2")));
    assert_eq!(client.get("/v1/BTC").status, 200);
    let mut ends = vec![127, 0, 0, 1, 127, 0, 0, 1];
    ends.extend_from_slice(&from.port().to_be_bytes());
    ends.extend_from_slice(&to.port().to_be_bytes());
    let expected = [&block(0x21, 0x11, &ends), &b"GET /v1/BTC HTTP/1.1\r\n"[..]].concat();
    assert_eq!(backend.heads().pop(), Some(expected));

    // Off again: connections are kept, and none that was made for one client serves another.
    assert!(proxy.reload(&version("off")));
    for _ in 0..2 {
        assert_eq!(client.get("/v1/BTC").status, 200);
        assert_eq!(backend.heads().pop(), Some(b"GET /v1/BTC HTTP/1.1\r\n".to_vec()));
    }
}

#[test]
fn what_a_header_in_says_a_header_out_repeats() {
    let backend = Recorder::start();
    let rest = format!("proxy_protocol = \"v1\"\n{UNCHECKED}");
    let proxy = Proxy::start(&config(backend.address, TRUSTING, &rest));
    for (header, expected) in [
        ("PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n", "PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n"),
        ("PROXY TCP6 2001:db8::1 ::1 1000 443\r\n", "PROXY TCP6 2001:db8::1 ::1 1000 443\r\n"),
        ("PROXY UNKNOWN\r\n", "PROXY UNKNOWN\r\n"),
    ] {
        let mut client = proxy.client();
        client.send(format!("{header}{REQUEST}"));
        assert_eq!(client.response().status, 200);
        let head = String::from_utf8(backend.heads().pop().unwrap()).unwrap();
        assert_eq!(head, format!("{expected}GET /v1/BTC HTTP/1.1\r\n"));
    }
}

#[test]
fn checks_say_that_they_are_for_nobody() {
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", block(0x20, 0x00, &[]))] {
        let backend = Recorder::start();
        let rest = format!("proxy_protocol = \"{version}\"\nhealth = {{ interval = \"100ms\" }}");
        let _tcp = Proxy::start(&config(backend.address, "", &rest));
        poll("a TCP check", || backend.heads().contains(&header).then_some(()));
        let rest = format!("proxy_protocol = \"{version}\"\nhealth = {{ path = \"/healthz\" }}");
        let proxy = Proxy::start(&config(backend.address, "", &rest));
        proxy.metric_until("shardgate_backend_up", &[], |up| up == 1.0);
        let expected = [&header[..], b"GET /healthz HTTP/1.1\r\n"].concat();
        assert!(backend.heads().contains(&expected));
    }
}

#[test]
fn nginx_understands_what_it_is_told() {
    let nginx = Peer::nginx_behind_proxies("n");
    for version in ["v1", "v2"] {
        let rest = format!("proxy_protocol = \"{version}\"\nhealth = {{ path = \"/healthz\" }}");
        let proxy = Proxy::start(&config(nginx.addr(), "", &rest));
        proxy.metric_until("shardgate_backend_up", &[], |up| up == 1.0);
        let mut client = proxy.client();
        let (from, to) = (client.local_addr(), proxy.address());
        assert_eq!(client.get("/v1/BTC").text(), format!("n {from} {to}"), "{version}");
    }
}
