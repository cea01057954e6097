//! Queueing: what a request does when every backend that it could use is full, in which order, for how long.
//!
//! A test fills backends by requests that stand before a gate, and sees in `shardgate_queue_length` that another waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{After, Behaviour, Client, Gate, Origin, Proxy, poll};

/// One pool of these primaries that are not checked. `limits`: the inside of its table, `more`: further tables of it.
fn config(origins: &[&Origin], limits: &str, more: &str) -> String {
    let primaries: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    let primaries = primaries.join(", ");
    format!(
        r#"
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[[routes]]
path = "/quick/{{asset}}"
timeout = "200ms"
[regions.a]
[server]
workers = 2
[defaults]
balance = "round-robin"
health = false
limits = {{ {limits} }}
{more}
[pools.BTC.a]
primaries = [{primaries}]
"#
    )
}

/// Sends a GET and does not wait for its answer.
fn send(proxy: &Proxy, target: &str) -> Client {
    let mut client = proxy.client();
    let request = client.format("GET", target, &[], b"");
    client.send(request);
    client
}

/// Waits until so many requests wait.
fn queued(proxy: &Proxy, n: usize) {
    proxy.metric_until("shardgate_queue_length", &[("asset", "BTC"), ("region", "a")], |length| length == n as f64);
}

/// A request that waits, after as many others.
fn wait_behind(proxy: &Proxy, others: usize, target: &str) -> Client {
    let client = send(proxy, target);
    queued(proxy, others + 1);
    client
}

/// A backend with one request in it, and the gate before which that stands.
fn filled(proxy: &Proxy, origin: &Origin) -> (Gate, Client) {
    let gate = origin.hold("/v1/BTC");
    let client = send(proxy, "/v1/BTC?first");
    gate.waiting(1);
    (gate, client)
}

fn waits(proxy: &Proxy) -> f64 {
    proxy.metric("shardgate_queue_duration_seconds_count", &[("asset", "BTC"), ("region", "a")])
}

fn hits(proxy: &Proxy, limit: &str) -> f64 {
    proxy.metric("shardgate_limit_hits_total", &[("limit", limit)])
}

/// Nothing is left of anything.
fn drained(proxy: &Proxy) {
    queued(proxy, 0);
    for gauge in ["shardgate_backend_requests_in_flight", "shardgate_requests_in_flight"] {
        proxy.metric_until(gauge, &[], |n| n == 0.0);
    }
}

#[test]
fn the_oldest_is_served_first_or_the_newest() {
    for (order, expected) in [("fifo", ["first", "0", "1", "2", "3"]), ("lifo", ["first", "3", "2", "1", "0"])] {
        let one = Origin::start("one");
        let limits = format!("max_requests = 1, queue_timeout = \"60s\", queue_order = \"{order}\"");
        let proxy = Proxy::start(&config(&[&one], &limits, ""));
        let (gate, mut first) = filled(&proxy, &one);
        let mut waiting: Vec<_> = (0..4).map(|n| wait_behind(&proxy, n, &format!("/v1/BTC?{n}"))).collect();
        assert_eq!(one.count(), 1, "{order}");
        gate.open();
        assert_eq!(first.response().status, 200);
        for client in &mut waiting {
            assert_eq!((client.response().status, order), (200, order));
        }
        let served: Vec<_> = one.requests().iter().map(|request| request.target.replace("/v1/BTC?", "")).collect();
        assert_eq!(served, expected, "{order}");
        drained(&proxy);
        assert_eq!((waits(&proxy), hits(&proxy, "max_queue"), hits(&proxy, "queue_timeout")), (4.0, 0.0, 0.0));
    }
}

#[test]
fn whoever_waits_for_too_long_is_told_so() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "max_requests = 1, queue_timeout = \"50ms\"", ""));
    let (gate, mut first) = filled(&proxy, &one);
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.reason().as_str(), got.header("retry-after")), (503, "queue_timeout", Some("1")));
    let line = proxy.access_where(|line| line["reason"] == "queue_timeout");
    assert_eq!((&line["status"], &line["attempts"], &line["backend"]), (&503.into(), &0.into(), &().into()));
    assert!(line["duration"].as_f64().is_some_and(|seconds| seconds >= 0.05), "{line}");
    assert_eq!(proxy.metric("shardgate_requests_total", &[("reason", "queue_timeout"), ("code", "5xx")]), 1.0);
    assert_eq!((waits(&proxy), hits(&proxy, "queue_timeout")), (1.0, 1.0));
    gate.open();
    assert_eq!(first.response().status, 200);
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    drained(&proxy);
    assert_eq!(one.count(), 2);
}

#[test]
fn the_timeout_of_the_route_ends_a_wait_too() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "max_requests = 1, queue_timeout = \"60s\"", ""));
    let (gate, _first) = filled(&proxy, &one);
    let got = proxy.get("/quick/BTC");
    assert_eq!((got.status, got.reason().as_str()), (503, "queue_timeout"));
    assert_eq!((waits(&proxy), hits(&proxy, "queue_timeout")), (1.0, 0.0));
    gate.open();
    drained(&proxy);
}

#[test]
fn a_full_queue_is_overloaded_for_the_newest_or_the_oldest() {
    for (order, refused) in [("fifo", 1), ("lifo", 0)] {
        let one = Origin::start("one");
        let limits = format!("max_requests = 1, max_queue = 1, queue_timeout = \"60s\", queue_order = \"{order}\"");
        let proxy = Proxy::start(&config(&[&one], &limits, ""));
        let (gate, mut first) = filled(&proxy, &one);
        let mut two = [wait_behind(&proxy, 0, "/v1/BTC?old"), send(&proxy, "/v1/BTC?new")];
        let got = two[refused].response();
        assert_eq!((got.status, got.reason().as_str(), got.header("retry-after")), (503, "overloaded", Some("1")));
        queued(&proxy, 1);
        gate.open();
        assert_eq!((first.response().status, two[1 - refused].response().status), (200, 200), "{order}");
        assert_eq!(hits(&proxy, "max_queue"), 1.0);
        drained(&proxy);
    }
}

#[test]
fn without_a_queue_the_answer_comes_at_once() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "max_requests = 1, max_queue = 0, queue_timeout = \"1h\"", ""));
    let (gate, _first) = filled(&proxy, &one);
    assert_eq!(proxy.get("/v1/BTC").reason(), "overloaded");
    gate.open();
    drained(&proxy);
    assert!(proxy.series("shardgate_queue_length", &[]).is_empty());
}

#[test]
fn a_client_that_leaves_takes_its_request_out_of_the_queue() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "max_requests = 1, max_queue = 2, queue_timeout = \"60s\"", ""));
    let (gate, mut first) = filled(&proxy, &one);
    let leaver = wait_behind(&proxy, 0, "/v1/BTC?gone");
    let mut second = wait_behind(&proxy, 1, "/v1/BTC?second");
    drop(leaver);
    queued(&proxy, 1);
    let line = proxy.access_where(|line| line["reason"] == "client_closed");
    assert_eq!((&line["status"], &line["target"]), (&499.into(), &"/v1/BTC?gone".into()));
    // There is room in the queue again.
    let mut third = wait_behind(&proxy, 1, "/v1/BTC?third");
    gate.open();
    for client in [&mut first, &mut second, &mut third] {
        assert_eq!(client.response().status, 200);
    }
    drained(&proxy);
    assert_eq!(one.count(), 3);
    assert_eq!(waits(&proxy), 3.0);
}

/// Several clients on two workers, two backends. The backends say how many requests they had at once.
#[test]
fn the_limit_holds_over_workers_and_everybody_is_served() {
    const MAX: usize = 2;
    let origins = ["one", "two"].map(Origin::start);
    let most = Arc::new(AtomicUsize::new(0));
    for origin in &origins {
        let (now, most) = (AtomicUsize::new(0), Arc::clone(&most));
        origin.on_custom("/v1/BTC", move |_, exchange| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..20 {
                std::thread::yield_now();
            }
            now.fetch_sub(1, Ordering::SeqCst);
            exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            Ok(After::Keep)
        });
    }
    let proxy = Proxy::start(&config(&[&origins[0], &origins[1]], "max_requests = 2, queue_timeout = \"60s\"", ""));
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..40 {
                    assert_eq!(client.get("/v1/BTC").status, 200);
                }
            });
        }
    });
    assert!(most.load(Ordering::SeqCst) <= MAX);
    assert!(waits(&proxy) > 0.0, "nobody had to wait");
    assert_eq!(origins.iter().map(Origin::count).sum::<usize>(), 12 * 40);
    drained(&proxy);
}

#[test]
fn whichever_backend_has_room_first_serves() {
    let (one, two, far) = (Origin::start("one"), Origin::start("two"), Origin::start("far"));
    let limits = "max_requests = 1, queue_timeout = \"60s\"";
    let file = config(&[&one, &two], limits, "").replace("[regions.a]", "[regions.b]\n[regions.a]\nfallback = [\"b\"]");
    let file = file.replace("[server]", "[server]\ndefault_region = \"a\"");
    let proxy = Proxy::start(&format!("{file}[pools.BTC.b]\nprimaries = [\"{}\"]\n", far.addr()));
    let gates = [&one, &two, &far].map(|origin| origin.hold("/v1/BTC"));
    let _busy: Vec<_> = (0..3).map(|_| send(&proxy, "/v1/BTC")).collect();
    gates.iter().for_each(|gate| gate.waiting(1));
    let failovers = || proxy.metric("shardgate_failovers_total", &[("to_region", "b")]);
    let before = failovers();
    let mut waiting = wait_behind(&proxy, 0, "/v1/BTC");
    assert_eq!(failovers(), before, "it has been sent nowhere yet");
    gates[2].open();
    assert_eq!(waiting.response().origin(), "far");
    assert_eq!(failovers(), before + 1.0);
    gates.iter().for_each(|gate| gate.open());
    drained(&proxy);
}

#[test]
fn a_backend_that_comes_up_serves_who_waits() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let health = "path = \"/healthz\", interval = \"50ms\", fast_interval = \"20ms\", timeout = \"10s\"";
    let file = config(&[&one, &two], "max_requests = 1, queue_timeout = \"60s\"", "");
    two.set_health(503);
    let proxy = Proxy::start(&file.replace("health = false", &format!("health = {{ {health} }}")));
    let (gate, _first) = filled(&proxy, &one);
    let mut waiting = wait_behind(&proxy, 0, "/v1/BTC");
    two.set_health(200);
    assert_eq!(waiting.response().origin(), "two");
    gate.open();
    drained(&proxy);
}

#[test]
fn a_reload_keeps_the_queue() {
    let one = Origin::start("one");
    let file = config(&[&one], "max_requests = 1, max_queue = 1, queue_timeout = \"60s\"", "");
    let proxy = Proxy::start(&file);
    let (gate, mut first) = filled(&proxy, &one);
    let mut waiting = wait_behind(&proxy, 0, "/v1/BTC?waits");
    assert!(proxy.reload(&format!("{file}[pools.ETH.a]\nprimaries = [\"{}\"]\n", one.addr())));
    queued(&proxy, 1);
    assert_eq!(proxy.get("/v1/BTC").reason(), "overloaded", "the queue is full still");
    let mut eth = send(&proxy, "/v1/ETH?other");
    proxy.metric_until("shardgate_queue_length", &[("asset", "ETH")], |length| length == 1.0);
    gate.open();
    for client in [&mut first, &mut waiting, &mut eth] {
        assert_eq!(client.response().status, 200);
    }
    drained(&proxy);
    proxy.metric_until("shardgate_queue_length", &[], |length| length == 0.0);
}

/// A connection is closed as soon as somebody else lacks it, on whichever worker it is kept.
#[test]
fn a_request_waits_for_a_connection_too() {
    let one = Origin::start("one");
    let limits = "max_connections = 1, queue_timeout = \"60s\"";
    let proxy = Proxy::start(&config(&[&one], limits, "timeouts = { keepalive = \"1h\" }"));
    for _ in 0..8 {
        assert_eq!(proxy.get("/v1/BTC").status, 200);
    }
    let (gate, mut first) = filled(&proxy, &one);
    let mut waiting: Vec<_> = (0..4).map(|n| wait_behind(&proxy, n, "/v1/BTC")).collect();
    assert_eq!(proxy.metric("shardgate_backend_connections", &[]), 1.0);
    gate.open();
    assert_eq!(first.response().status, 200);
    assert!(waiting.iter_mut().all(|client| client.response().status == 200));
    drained(&proxy);
}

#[test]
fn a_retry_waits_unless_there_is_an_answer() {
    let (broken, other) = (Origin::start("broken"), Origin::start("other"));
    let proxy = Proxy::start(&config(&[&broken, &other], "max_requests = 1, queue_timeout = \"60s\"", ""));
    let gate = other.hold("/v1/btc");
    let _busy: Vec<_> = (0..2).map(|_| send(&proxy, "/v1/btc")).collect();
    poll("a request at each", || (broken.count() == 1).then_some(()));
    gate.waiting(1);
    proxy.metric_until("shardgate_requests_in_flight", &[], |n| n == 1.0);

    broken.on("/v1/BTC", Behaviour::Answer(503, Vec::new(), "busy".into()));
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.text().as_str()), (503, "busy"));
    assert_eq!(waits(&proxy), 0.0);

    broken.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    let mut waiting = wait_behind(&proxy, 0, "/v1/BTC");
    gate.open();
    assert_eq!(waiting.response().origin(), "other");
    assert_eq!(waits(&proxy), 1.0);
    drained(&proxy);
}

/// One is full, the other refuses connections: what is left to hope for is the one that is full.
#[test]
fn a_dead_backend_does_not_end_the_wait_for_a_full_one() {
    let (one, dead) = (Origin::start("one"), Origin::start("dead"));
    let proxy = Proxy::start(&config(&[&one, &dead], "max_requests = 1, queue_timeout = \"60s\"", ""));
    dead.kill();
    let (gate, _first) = filled(&proxy, &one);
    let mut client = proxy.client();
    let request = client.format("POST", "/v1/BTC", &[], b"once");
    client.send(request);
    queued(&proxy, 1);
    gate.open();
    assert_eq!(client.response().origin(), "one");
    assert_eq!(one.requests().last().map(|request| request.body.clone()), Some(b"once".to_vec()));
    drained(&proxy);
}

/// The body of a request that waits is not read, and comes whole.
#[test]
fn a_body_waits_with_its_request() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "max_requests = 1, queue_timeout = \"60s\"", ""));
    let (gate, _first) = filled(&proxy, &one);
    let body = vec![b'x'; 1 << 20];
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| -> io::Result<u16> { Ok(proxy.client().post("/v1/BTC", &body).status) });
        queued(&proxy, 1);
        gate.open();
        assert_eq!(sent.join().unwrap().unwrap(), 200);
    });
    assert_eq!(one.requests().last().map(|request| request.body.len()), Some(1 << 20));
    drained(&proxy);
}
