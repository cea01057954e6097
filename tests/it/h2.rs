//! HTTP/2 towards clients: requests and answers, their bodies under flow control, drain, and real clients.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::Request;
use rustix::process::Signal;

use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WINDOW_UPDATE, block, request, settings,
};
use crate::support::http2::{ask, ask_all, get};
use crate::support::{After, Behaviour, Client, DEADLINE, Frames, Gate, Origin, Proxy, frame, poll};

/// A proxy before one backend.
pub fn config(origin: &Origin, more: &str) -> String {
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n\
         [defaults]\nhealth = false\nretry = false\n[pools.BTC.a]\nprimaries = [\"{}\"]\n{more}\n",
        origin.addr()
    )
}

fn post(path: &str, body: &[u8]) -> Request<Vec<u8>> {
    Request::post(format!("http://shard.example{path}")).body(body.to_vec()).unwrap()
}

/// The head of a POST whose body comes.
fn begun(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = crate::support::frames::get("/v1/BTC").to_vec();
    fields[0].1 = "POST";
    fields.extend_from_slice(more);
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
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
    assert_eq!(proxy.metric("shardgate_client_connections_total", &[]), 1.0);
}

#[test]
fn a_head_goes_on_as_one_of_http_1() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let asked = Request::get("http://shard.example/v1/BTC")
        .header("cookie", "a=1")
        .header("te", "trailers")
        .header("x-a", "1")
        .header("cookie", "b=2")
        .body(vec![]);
    assert_eq!(ask(proxy.address(), asked.unwrap()).status(), 200);
    let request = origin.take_requests().remove(0);
    assert_eq!(request.header_all("cookie"), ["a=1; b=2"]);
    assert_eq!((request.header("x-a"), request.header("te")), (Some("1"), None));

    // What speaks of one connection does not come back, whatever the backend's case of letters.
    let fields = vec![
        ("Connection", "X-Hop".to_owned()),
        ("X-Hop", "1".into()),
        ("Keep-Alive", "9".into()),
        ("X-Up", "1".into()),
    ];
    origin.on("/v1/BTC", Behaviour::Answer(200, fields, b"hi".to_vec()));
    let answer = ask(proxy.address(), get("/v1/BTC"));
    let names: Vec<_> = answer.head.headers.keys().map(|name| name.as_str()).collect();
    assert!(
        names.contains(&"x-up") && !["connection", "x-hop", "keep-alive"].iter().any(|n| names.contains(n)),
        "{names:?}"
    );
}

#[test]
fn limits_are_those_of_http_1() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(
        &origin,
        "[limits]\nmax_header_bytes = \"2KiB\"\nmax_target_bytes = \"1KiB\"\nmax_headers = 20\nmax_body_bytes = \"10KiB\"",
    ));
    let mut large = get("/v1/BTC");
    large.headers_mut().insert("x", "y".repeat(2048).parse().unwrap());
    let mut many = get("/v1/BTC");
    (0..30).for_each(|n| {
        drop(many.headers_mut().insert(http::HeaderName::try_from(format!("x{n}")).unwrap(), "1".parse().unwrap()))
    });
    for (request, status, limit) in [
        (large, 431, "max_header_bytes"),
        (many, 431, "max_headers"),
        (get(&format!("/v1/{}", "x".repeat(1100))), 414, "max_target_bytes"),
        (post("/v1/BTC", &[b'x'; 20_000]), 413, "max_body_bytes"),
    ] {
        assert_eq!(ask(proxy.address(), request).status(), status, "{limit}");
        assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", limit)]), 1.0, "{limit}");
    }
    assert_eq!(ask(proxy.address(), get("/v1/BTC")).status(), 200);
}

#[test]
fn answers_without_a_body_have_none() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut head = get("/v1/BTC");
    *head.method_mut() = http::Method::HEAD;
    origin.on("/v1/BTC", Behaviour::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n".to_vec(), After::Keep));
    let answer = ask(proxy.address(), head);
    assert_eq!((answer.status(), answer.header("content-length"), answer.body.len()), (200, Some("7"), 0));
    for status in [204, 304] {
        origin.on("/v1/BTC", Behaviour::Raw(format!("HTTP/1.1 {status} X\r\netag: \"a\"\r\n\r\n").into(), After::Keep));
        let answer = ask(proxy.address(), get("/v1/BTC"));
        assert_eq!((answer.status(), answer.header("content-length"), answer.body.len()), (status, None, 0));
    }
}

#[test]
fn bodies_go_both_ways() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    // Larger than every window, of a length that is said and of one that is not.
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut said = post("/v1/BTC", &large);
    said.headers_mut().insert("content-length", large.len().into());
    for request in [post("/v1/BTC", &large), said] {
        assert_eq!(ask(proxy.address(), request).status(), 200);
        assert!(origin.take_requests().remove(0).body == large);
    }
    origin.on("/v1/BTC", Behaviour::Answer(200, vec![], large.clone()));
    assert!(ask(proxy.address(), get("/v1/BTC")).body == large);
    origin.on("/v1/BTC", Behaviour::Chunked(large.chunks(50_000).map(<[u8]>::to_vec).collect()));
    let answer = ask(proxy.address(), get("/v1/BTC"));
    assert!(answer.body == large && answer.header("content-length").is_none());
}

#[test]
fn a_body_that_breaks_does_not_look_whole() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    for answer in ["content-length: 9\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let gate = Gate::new();
        let passed = gate.clone();
        origin.on_custom("/v1/BTC", move |_, exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{answer}"))?;
            passed.pass();
            Ok(After::Close)
        });
        let mut client = Frames::connect(proxy.address());
        client.send(request(1, "/v1/BTC"));
        let data = client.until("half of it", |f| f.kind == DATA);
        assert_eq!((data.payload.as_slice(), data.flags), (&b"half"[..], 0));
        gate.open();
        let last = client.until("a reset", |f| f.stream == 1);
        assert_eq!((last.kind, last.number(0)), (RST_STREAM, 2));
    }
    let line = proxy.access_where(|line| line["reason"] == "upstream_truncated");
    assert_eq!(line["status"], 200);
}

#[test]
fn an_answer_before_the_body_says_that_the_rest_is_not_wanted() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    origin.on(
        "/v1/BTC",
        Behaviour::Early(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec(), After::Stall),
    );
    let mut client = Frames::connect(proxy.address());
    client.send([begun(1, &[]), frame(DATA, 0, 1, b"some")].concat());
    client.head(1);
    let data = client.until("the body", |f| f.kind == DATA);
    assert_eq!((data.payload.as_slice(), data.flags), (&b"no"[..], END_STREAM));
    let reset = client.until("a reset", |f| f.kind == RST_STREAM);
    assert_eq!((reset.stream, reset.number(0)), (1, 0));
    // The connection goes on.
    client.send(request(3, "/nowhere"));
    assert_eq!(client.head(3).status(), Some(404));
}

#[test]
fn who_waits_to_be_asked_for_the_body_is_asked() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = Frames::connect(proxy.address());
    client.send(begun(1, &[("expect", "100-continue"), ("content-length", "4")]));
    let interim = client.head(1);
    // 100 is not among the statuses of HPACK's table: literal, of name 8.
    assert!(interim.status() == Some(100) && interim.flags & END_STREAM == 0, "{interim:?}");
    client.send(frame(DATA, END_STREAM, 1, b"body"));
    assert_eq!(client.head(1).status(), Some(200));
    assert_eq!(origin.requests()[0].body, b"body");
}

#[test]
fn interim_answers_reach_the_client() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let hints =
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    origin.on("/v1/BTC", Behaviour::Raw(hints.to_vec(), After::Keep));
    let mut client = Frames::connect(proxy.address());
    client.send(request(1, "/v1/BTC"));
    let interim = client.head(1);
    assert!(interim.status() == Some(103) && interim.flags & END_STREAM == 0, "{interim:?}");
    let last = client.head(1);
    assert_eq!((last.status(), last.flags & END_STREAM), (Some(200), END_STREAM));
}

#[test]
fn a_stream_that_the_client_resets_cancels_its_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let gate = origin.hold("/v1/BTC");
    let mut client = Frames::connect(proxy.address());
    client.send([request(1, "/v1/BTC"), request(3, "/v1/BTC")].concat());
    gate.waiting(2);
    client.send(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
    let line = proxy.access_where(|line| line["reason"] == "client_closed");
    assert_eq!(line["status"], 499);
    proxy.metric_until("shardgate_requests_in_flight", &[], |open| open == 1.0);
    gate.open();
    assert_eq!(client.head(3).status(), Some(200));
}

/// A backend that says on `/v1/BTC` how many blocks of 64 KiB it could send.
pub fn endless(origin: &Origin) -> Arc<AtomicUsize> {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    origin.on_custom("/v1/BTC", move |_, exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1u64 << 40))?;
        let block = vec![b'x'; 64 * 1024];
        loop {
            exchange.send(&block)?;
            counted.fetch_add(1, SeqCst);
        }
    });
    sent
}

#[test]
fn a_client_that_reads_slowly_slows_the_backend() {
    let origin = Origin::start("one");
    let sent = endless(&origin);
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = Frames::connect_with(proxy.address(), &[(4, 1000)]);
    client.send(request(1, "/v1/BTC"));
    takes(&mut client, 1000);
    // The backend comes to a stand with what buffers hold: sockets and the proxy, some megabytes.
    let mut last = usize::MAX;
    let stands = poll("the backend to stand", || {
        std::thread::sleep(std::time::Duration::from_millis(50)); // between two looks
        let now = sent.load(SeqCst);
        (std::mem::replace(&mut last, now) == now).then_some(now)
    });
    assert!(stands < 16 * 16, "{stands} blocks");
    // Others are served meanwhile, on the same connection, and what was said of windows holds to the byte.
    client.send(request(3, "/nowhere"));
    assert_eq!(client.head(3).status(), Some(404));
    client.send(frame(WINDOW_UPDATE, 0, 1, &500u32.to_be_bytes()));
    takes(&mut client, 500);
    client.send(settings(&[(4, 2000)]));
    takes(&mut client, 1000);
}

/// So many bytes on the first stream, in however many frames.
fn takes(client: &mut Frames, bytes: usize) {
    let mut taken = 0;
    while taken < bytes {
        taken += client.until("data", |f| f.kind == DATA && f.stream == 1).payload.len();
    }
    assert_eq!(taken, bytes);
}

#[test]
fn a_client_that_reads_nothing_is_logged_as_that() {
    let origin = Origin::start("one");
    let _sent = endless(&origin);
    let proxy = Proxy::start(&config(&origin, "[limits]\nmin_body_rate = \"off\"\nidle_timeout = \"1s\""));
    let mut client = Frames::connect_with(proxy.address(), &[(4, 1000)]);
    client.send(request(1, "/v1/BTC"));
    client.until("a reset", |f| f.kind == RST_STREAM && f.stream == 1);
    let line = proxy.access_where(|line| line["reason"] == "slow_reader");
    assert_eq!((&line["status"], &line["method"]), (&200.into(), &"GET".into()), "{line}");
    proxy.metric_until("shardgate_limit_hits_total", &[("limit", "idle_timeout")], |n| n == 1.0);
    proxy.metric_until("shardgate_requests_total", &[("reason", "slow_reader"), ("code", "2xx")], |n| n == 1.0);
}

#[test]
fn a_backend_that_reads_slowly_slows_the_client() {
    let origin = Origin::start("one");
    let gate = Gate::new();
    let stands = gate.clone();
    origin.on_custom("/v1/BTC", move |_, _| {
        stands.pass();
        Ok(After::Close)
    });
    let proxy = Proxy::start(&config(&origin, "[limits]\nmax_body_bytes = \"1GiB\""));
    let mut client = Frames::connect(proxy.address());
    client.send(begun(1, &[]));
    let (mut window, mut acknowledged) = (65_535usize, 0usize);
    // What the backend's socket takes is acknowledged; then the windows are shut.
    let mut quiet = 0;
    while quiet < 3 {
        let now = window.min(16_384);
        if now > 0 {
            client.send(frame(DATA, 0, 1, &vec![b'x'; now]));
            window -= now;
        }
        client.send(frame(6, 0, 0, b"in order"));
        loop {
            let got = client.next().unwrap();
            match (got.kind, got.stream) {
                (WINDOW_UPDATE, 1) => {
                    window += got.number(0) as usize;
                    acknowledged += got.number(0) as usize;
                    quiet = 0;
                }
                (6, 0) => break,
                _ => {}
            }
        }
        if window == 0 {
            quiet += 1;
            std::thread::sleep(std::time::Duration::from_millis(100)); // between two looks
        }
        assert!(acknowledged < 64 << 20, "the client is never held back");
    }
}

#[test]
fn drain_says_goaway_and_lets_streams_end() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::start(&config(&origin, "[server]\ndrain_timeout = \"2s\""));
    let gate = origin.hold("/v1/BTC");
    let mut busy = Frames::connect(proxy.address());
    let mut idle = Frames::connect(proxy.address());
    busy.send(request(1, "/v1/BTC"));
    gate.waiting(1);
    proxy.signal(Signal::TERM);
    let goodbye = busy.until("a goodbye", |f| f.kind == GOAWAY);
    assert_eq!((goodbye.number(0), goodbye.number(4)), (i32::MAX.cast_unsigned(), 0));
    let ping = busy.until("a ping", |f| f.kind == 6);
    busy.send(frame(6, 1, 0, &ping.payload));
    assert_eq!(busy.until("the last word", |f| f.kind == GOAWAY).number(0), 1);
    gate.open();
    let head = busy.head(1);
    assert_eq!(head.status(), Some(200));
    assert!(busy.rest().iter().any(|f| f.kind == DATA && f.flags & END_STREAM != 0));
    assert!(idle.rest().iter().any(|f| f.kind == GOAWAY && f.number(4) == 0));
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_listener_speaks_what_it_is_told_to() {
    let origin = Origin::start("one");
    let listeners = "[[listeners]]\nname = \"old\"\nbind = \"127.0.0.1:0\"\nprotocols = [\"h1\"]\n\
         [[listeners]]\nname = \"new\"\nbind = \"127.0.0.1:0\"\nprotocols = [\"h2\"]\n";
    let toml = config(&origin, "").replace("[[listeners]]\nbind = \"127.0.0.1:0\"\n", listeners);
    let proxy = Proxy::start(&toml);
    assert_eq!(ask(proxy.addr("new"), get("/v1/BTC")).status(), 200);
    assert_eq!(Client::connect(proxy.addr("old")).get("/v1/BTC").status, 200);
    let mut client = Client::connect(proxy.addr("old"));
    client.send(crate::support::frames::PREFACE);
    assert_eq!(client.response().status, 400);
    // The way by Upgrade is not taken, nor offered to the backend.
    let mut client = Client::connect(proxy.addr("old"));
    let fields =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    assert_eq!(client.request("GET", "/v1/BTC", &fields, b"").status, 200);
    let asked = origin.requests().pop().unwrap();
    assert!(asked.header("upgrade").is_none() && asked.header("http2-settings").is_none(), "{asked:?}");
}

#[test]
fn curl_and_h2load_are_served() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, ""));
    let target = format!("http://{}/v1/BTC", proxy.address());
    let asked = ["-sS", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}", &target];
    let out = Command::new("curl").args(asked).output().expect("curl");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.ends_with(" 2 200"), "{out}");

    origin.on("/v1/BTC", Behaviour::Answer(200, vec![], vec![b'x'; 700]));
    let out = Command::new("h2load").args(["-n", "10000", "-c", "10", "-m", "100", &target]).output().expect("h2load");
    let out = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.contains("10000 succeeded, 0 failed, 0 errored, 0 timeout"), "{out}");
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[]), 0.0);
    poll("all to be over", || (proxy.metric("shardgate_requests_in_flight", &[]) == 0.0).then_some(()));
}
