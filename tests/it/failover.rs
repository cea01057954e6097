//! Failover: tries, tiers, retries, limits. What a client sees of a backend's trouble, and what a backend sees twice.

use std::time::Duration;

use crate::support::{After, Behaviour, Client, Origin, Proxy, poll};

/// One asset in two regions: two primaries and a replica in `a`, one primary in `b`. Checks and ejection are off, so that
/// what is seen is what tries do.
fn config(a: [&Origin; 3], b: &Origin, more: &str) -> String {
    let [one, two, replica] = a.map(Origin::addr);
    format!(
        r#"
[server]
default_region = "a"
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
fallback = ["b"]
[regions.b]
fallback = ["a"]
[defaults]
balance = "round-robin"
health = false
outlier = false
{more}
[pools.BTC.a]
primaries = ["{one}", "{two}"]
replicas = ["{replica}"]
[pools.BTC.b]
primaries = ["{}"]
"#,
        b.addr()
    )
}

fn origins() -> (Origin, Origin, Origin, Origin) {
    (Origin::start("one"), Origin::start("two"), Origin::start("replica"), Origin::start("far"))
}

fn total(origins: &[&Origin]) -> usize {
    origins.iter().map(|origin| origin.count()).sum()
}

#[test]
fn a_whole_region_that_refuses_connections_costs_no_request() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    for dead in [&one, &two, &replica] {
        dead.kill();
    }
    for i in 0..10 {
        let mut client = proxy.client();
        let got = if i % 2 == 0 { client.get("/v1/BTC") } else { client.post("/v1/BTC", "once") };
        assert_eq!((got.status, got.origin()), (200, "far"));
    }
    // Connections that were refused are no retries: neither counted nor paid for.
    assert_eq!(proxy.metric("shardgate_retries_total", &[]), 0.0);
    let failed_over = proxy.metric("shardgate_failovers_total", &[("to_region", "b"), ("to_role", "primary")]);
    assert_eq!(failed_over, 10.0);
    assert_eq!(far.count(), 10);
    let line = proxy.access_where(|line| line["attempts"] == 4);
    assert_eq!(line["region"], "a");
}

/// One pool, one tier, nothing to fall back on.
fn one_tier(origins: &[&Origin], more: &str) -> String {
    let primaries: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[server]\nworkers = 1\n\
         [defaults]\nbalance = \"round-robin\"\nhealth = false\noutlier = false\n{more}\n[pools.BTC.a]\nprimaries = [{}]\n",
        primaries.join(", ")
    )
}

#[test]
fn dead_backends_of_the_only_tier_do_not_hide_the_living() {
    let origins = ["one", "two", "three", "four", "five"].map(Origin::start);
    let [one, two, three, four, living] = &origins;
    let proxy = Proxy::start(&one_tier(&[one, two, three, four, living], ""));
    for dead in [one, two, three, four] {
        dead.kill();
    }
    for i in 0..10 {
        let got = if i % 2 == 0 { proxy.get("/v1/BTC") } else { proxy.client().post("/v1/BTC", "once") };
        assert_eq!((got.status, got.origin()), (200, "five"), "request {i}");
    }
    assert_eq!(living.count(), 10);
    assert_eq!(proxy.metric("shardgate_retries_total", &[]), 0.0);
}

#[test]
fn a_retry_that_meets_a_full_or_dead_backend_is_still_one_retry() {
    let (broken, other, replica, far) = origins();
    let limits = "limits = { max_requests = 1 }";
    let config = config([&broken, &other, &replica], &far, limits).replace("[server]", "[server]\nworkers = 1");
    let proxy = Proxy::start(&config);
    broken.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    // Full, at first: of two requests that take turns one stays there. (Another spelling is another path to a backend.)
    let gate = other.hold("/v1/btc");
    let mut busy = [proxy.client(), proxy.client()];
    for client in &mut busy {
        let request = client.format("POST", "/v1/btc", &[], b"");
        client.send(request);
    }
    gate.waiting(1);
    poll("the other request", || (broken.count() == 1).then_some(()));
    proxy.metric_until("shardgate_requests_in_flight", &[], |n| n == 1.0);
    let retried = || proxy.metric("shardgate_retries_total", &[("result", "success")]);
    let before = retried();
    for i in 1..=4 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "replica");
        assert_eq!(retried() - before, f64::from(i));
    }
    gate.open();
    drop(busy);
    other.kill();
    let before = retried();
    for i in 1..=4 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "replica");
        assert_eq!(retried() - before, f64::from(i));
    }
    assert_eq!(proxy.metric("shardgate_retries_total", &[("result", "failure")]), 0.0);
}

#[test]
fn the_answer_that_goes_through_is_logged_with_its_backend() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let proxy = Proxy::start(&one_tier(&[&one, &two], "retry = { max = 1 }"));
    one.on("/v1/BTC", Behaviour::Answer(503, Vec::new(), "busy".into()));
    two.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    // Whichever comes first, the 503 is the only answer; `one` gave it.
    for _ in 0..2 {
        assert_eq!(proxy.get("/v1/BTC").status, 503);
    }
    for nth in [0, 1] {
        let line = poll("the line", || proxy.access_lines().get(nth).cloned());
        assert_eq!((&line["backend"], &line["attempts"]), (&one.addr().to_string().into(), &2.into()));
    }
}

#[test]
fn nobody_left_is_a_502_and_a_reason() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    for dead in [&one, &two, &replica, &far] {
        dead.kill();
    }
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.reason().as_str()), (502, "connect_failed"));
    assert_eq!(proxy.metric("shardgate_requests_total", &[("reason", "connect_failed"), ("code", "5xx")]), 1.0);
}

#[test]
fn what_a_backend_may_have_seen_is_repeated_only_without_effect() {
    for (what, behaviour) in [
        ("close", Behaviour::Raw(Vec::new(), After::Close)),
        ("reset", Behaviour::Raw(Vec::new(), After::Reset)),
        ("half a head", Behaviour::Raw(b"HTTP/1.1 200 OK\r\ncontent-".to_vec(), After::Close)),
        ("garbage", Behaviour::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), After::Close)),
    ] {
        let (one, two, replica, far) = origins();
        let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
        for broken in [&one, &two] {
            broken.on("/v1/BTC", behaviour.clone());
        }
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            let body = if method == "PUT" { "replayed" } else { "" };
            let got = proxy.client().request(method, "/v1/BTC", &[], body.as_bytes());
            assert_eq!(got.status, 200, "{what} {method}: {}", got.text());
            let last = replica.take_requests().pop().unwrap_or_else(|| panic!("{what} {method}: not at the replica"));
            assert_eq!(last.body, body.as_bytes(), "{what} {method}");
        }
        for broken in [&one, &two] {
            broken.take_requests();
        }
        for method in ["POST", "PATCH"] {
            let got = proxy.client().request(method, "/v1/BTC", &[], b"once");
            assert_eq!(got.status, 502, "{what} {method}");
            assert!(["upstream_reset", "upstream_protocol_error"].contains(&got.reason().as_str()), "{what}");
        }
        assert_eq!(total(&[&one, &two, &replica, &far]), 2, "{what}: a POST was sent twice");
    }
}

/// What goes to the client is in the access log already, and when all answer 503 the log must not fill up.
#[test]
fn a_gateway_error_that_is_the_answer_is_no_line_of_its_own() {
    let (one, two, replica, far) = origins();
    let retry = "[defaults.retry]\nbudget_percent = 0\nbudget_min = 0\n";
    let proxy = Proxy::start(&(config([&one, &two, &replica], &far, "") + retry));
    for origin in [&one, &two] {
        origin.on("/v1/BTC", Behaviour::Answer(503, vec![], "busy".into()));
    }
    assert_eq!(proxy.get("/v1/BTC").status, 503);
    assert_eq!(proxy.metric("shardgate_retries_total", &[("result", "no_budget")]), 1.0);
    assert!(!proxy.log().contains("a try failed"), "{}", proxy.log());
}

#[test]
fn a_gateway_error_is_retried_and_the_last_answer_goes_through() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    let trouble = |text: &str| Behaviour::Answer(503, vec![("x-from", text.into())], text.into());
    one.on("/v1/BTC", trouble("one"));
    two.on("/v1/BTC", trouble("two"));
    assert_eq!(proxy.get("/v1/BTC").origin(), "replica");
    assert_eq!(proxy.metric("shardgate_retries_total", &[("result", "success")]), 1.0);
    assert_eq!(proxy.metric("shardgate_retries_total", &[("result", "failure")]), 1.0);
    let line = proxy.log_line("a try failed");
    assert_eq!((&line["error"], &line["wrote"]), (&"answered 503".into(), &true.into()));

    replica.on("/v1/BTC", trouble("replica"));
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.text().as_str(), got.header("x-from")), (503, "replica", Some("replica")));
    let got = proxy.client().post("/v1/BTC", "x");
    assert_eq!(got.status, 503);
    assert!(got.header("x-from").is_some_and(|from| from != "replica"), "a POST is not retried");
}

#[test]
fn retries_can_be_turned_off_and_bounded() {
    for (retry, tries) in
        [("retry = false", 1), ("retry = { max = 1 }", 2), ("retry = { on = [\"gateway-error\"] }", 1)]
    {
        let (one, two, replica, far) = origins();
        let proxy = Proxy::start(&config([&one, &two, &replica], &far, retry));
        for origin in [&one, &two, &replica, &far] {
            origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
        }
        assert_eq!(proxy.get("/v1/BTC").reason(), "upstream_reset", "{retry}");
        assert_eq!(total(&[&one, &two, &replica, &far]), tries, "{retry}");
    }
}

#[test]
fn the_budget_bounds_retries_at_once() {
    let (one, two, replica, far) = origins();
    let retry = "retry = { max = 1, budget_min = 0, budget_percent = 0 }";
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, retry));
    for origin in [&one, &two] {
        origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    }
    assert_eq!(proxy.get("/v1/BTC").reason(), "upstream_reset");
    assert_eq!(proxy.metric("shardgate_retries_total", &[("result", "no_budget")]), 1.0);
}

#[test]
fn a_body_over_the_replay_limit_streams_and_is_not_repeated() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, "retry = { body_limit = \"1KiB\" }"));
    for origin in [&one, &two] {
        origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    }
    let small = proxy.client().request("PUT", "/v1/BTC", &[], &[b'x'; 1024]);
    assert_eq!((small.status, small.origin()), (200, "replica"));
    let large = proxy.client().request("PUT", "/v1/BTC", &[], &[b'x'; 1025]);
    assert_eq!(large.reason(), "upstream_reset");
}

/// What is kept of a body depends on what may follow once a byte has been written on such a connection.
#[test]
fn a_body_is_sent_again_whole_where_connections_have_served() {
    let (one, two, replica, far) = origins();
    let config = config([&one, &two, &replica], &far, "").replace("path = ", "idempotency_key = true\npath = ");
    let proxy = Proxy::start(&config.replace("[server]", "[server]\nworkers = 1"));
    for origin in [&one, &two] {
        origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    }
    let body = vec![b'x'; 40_000];
    for (method, fields, expected) in
        [("PUT", &[][..], 200), ("POST", &[("idempotency-key", "7")], 200), ("POST", &[], 502)]
    {
        // The same asset, of which they answer in this spelling.
        for origin in [&one, &two] {
            let served = origin.count();
            poll("a connection to it", || {
                proxy.get("/v1/btc");
                (origin.count() > served).then_some(())
            });
        }
        let tried = total(&[&one, &two, &replica, &far]);
        let got = proxy.client().request(method, "/v1/BTC", fields, &body);
        assert_eq!(got.status, expected, "{method}");
        if expected == 200 {
            assert_eq!(got.origin(), "replica");
            assert!(replica.requests().last().unwrap().body == body, "{method}");
        } else {
            assert_eq!((got.reason().as_str(), total(&[&one, &two, &replica, &far])), ("upstream_reset", tried + 1));
        }
    }
}

#[test]
fn a_backend_that_does_not_answer_is_given_up_in_time() {
    let (one, two, replica, far) = origins();
    let timeouts = "timeouts = { response = \"300ms\" }";
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, timeouts));
    let gates = [&one, &two].map(|origin| origin.hold("/v1/BTC"));
    assert_eq!(proxy.get("/v1/BTC").origin(), "far");
    let got = proxy.client().post("/v1/BTC", "once");
    assert_eq!((got.status, got.reason().as_str()), (504, "upstream_timeout"));
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "timeout")]), 3.0);
    gates.iter().for_each(|gate| gate.open());
}

#[test]
fn a_region_that_is_silent_does_not_take_all_tries() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, "timeouts = { response = \"200ms\" }"));
    let gates = [&one, &two, &replica].map(|origin| origin.hold("/v1/BTC"));
    for _ in 0..3 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "far");
    }
    assert_eq!(replica.count(), 0);
    gates.iter().for_each(|gate| gate.open());
}

#[test]
fn the_timeout_of_a_route_covers_all_tries() {
    let (one, two, replica, far) = origins();
    let config = config([&one, &two, &replica], &far, "").replace("path = ", "timeout = \"400ms\"\npath = ");
    let proxy = Proxy::start(&config);
    let gates = [&one, &two, &replica, &far].map(|origin| origin.hold("/v1/BTC"));
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.reason().as_str()), (504, "upstream_timeout"));
    assert_eq!(total(&[&one, &two, &replica, &far]), 1);
    gates.iter().for_each(|gate| gate.open());
}

#[test]
fn a_full_backend_is_passed_over_and_full_tiers_are_overloaded() {
    let (one, two, replica, far) = origins();
    let limits = "limits = { max_requests = 1, max_queue = 0 }";
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, limits));
    let gates = [&one, &two, &replica, &far].map(|origin| origin.hold("/v1/BTC"));
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        let bytes = client.format("GET", "/v1/BTC", &[], b"");
        client.send(bytes);
    }
    gates.iter().for_each(|gate| gate.waiting(1));
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.reason().as_str(), got.header("retry-after")), (503, "overloaded", Some("1")));
    gates.iter().for_each(|gate| gate.open());
    let mut names: Vec<_> = clients.iter_mut().map(|client| client.response().origin().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["far", "one", "replica", "two"]);
    assert_eq!(proxy.get("/v1/BTC").status, 200, "places are free again");
}

#[test]
fn a_connection_that_went_stale_costs_nothing() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    for round in 0..5 {
        for i in 0..4 {
            let got = proxy.client().post("/v1/BTC", format!("{round}.{i}"));
            assert_eq!(got.status, 200, "round {round}");
        }
        // Kills every idle connection; the backends listen again at once.
        for origin in [&one, &two] {
            origin.kill();
            origin.revive();
        }
        for origin in [&one, &two] {
            poll("idle connections to be noticed", || {
                let gone = proxy.metric("shardgate_backend_connections", &[("backend", &origin.addr().to_string())]);
                (gone == 0.0).then_some(())
            });
        }
    }
    let mut bodies: Vec<_> =
        [&one, &two].iter().flat_map(|o| o.requests()).map(|r| String::from_utf8(r.body).unwrap()).collect();
    bodies.sort();
    let sent: Vec<_> = (0..5).flat_map(|round| (0..4).map(move |i| format!("{round}.{i}"))).collect();
    assert_eq!(bodies, sent);
}

#[test]
fn a_client_that_leaves_cancels_the_exchange() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    let gates = [&one, &two].map(|origin| origin.hold("/v1/BTC"));
    let mut client = proxy.client();
    let request = client.format("GET", "/v1/BTC", &[], b"");
    client.send(request);
    let in_flight = |pass: fn(f64) -> bool| proxy.metric_until("shardgate_backend_requests_in_flight", &[], pass);
    in_flight(|n| n == 1.0);
    drop(client);
    in_flight(|n| n == 0.0);
    let line = proxy.access_where(|line| line["reason"] == "client_closed");
    // Who had it, though nobody waited for the answer.
    assert_eq!((&line["status"], &line["attempts"]), (&499.into(), &1.into()), "{line}");
    assert!([&one, &two].iter().any(|origin| line["backend"] == origin.addr().to_string()), "{line}");
    assert!(line["upstream_duration"].is_number(), "{line}");
    assert_eq!(proxy.metric("shardgate_requests_in_flight", &[]), 0.0);
    gates.iter().for_each(|gate| gate.open());
}

/// A listener whose queue is full, so that connecting to it takes for ever. (An address of TEST-NET is not to be used
/// here.)
struct Deaf {
    address: std::net::SocketAddr,
    _held: (socket2::Socket, Vec<std::net::TcpStream>),
}

impl Deaf {
    fn new() -> Self {
        let full = crate::support::origin::bound("127.0.0.1:0".parse().unwrap());
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let mut fillers = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            fillers.push(stream);
            assert!(fillers.len() < 64, "the queue does not fill");
        }
        Self { address, _held: (full, fillers) }
    }
}

#[test]
fn the_timeout_of_a_route_covers_connecting() {
    let deaf = Deaf::new();
    let one = Origin::start("one");
    let text = one_tier(&[&one], "timeouts = { connect = \"10m\" }");
    let text = text.replace(&one.addr().to_string(), &deaf.address.to_string());
    // With a connect time-out of ten minutes, that there is an answer at all shows it.
    let proxy = Proxy::start(&text.replace("path = ", "timeout = \"300ms\"\npath = "));
    assert_eq!(proxy.get("/v1/BTC").reason(), "connect_failed");
}

#[test]
fn the_connect_timeout_is_its_own() {
    let deaf = Deaf::new();
    let address = deaf.address;
    let (one, two, replica, far) = origins();
    let text = config([&one, &two, &replica], &far, "timeouts = { connect = \"200ms\" }");
    let text = text.replace(&one.addr().to_string(), &address.to_string());
    let proxy = Proxy::start(&text);
    for _ in 0..4 {
        let got = proxy.client().post("/v1/BTC", "x");
        assert_eq!((got.status, got.origin()), (200, "two"));
    }
    assert!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "connect_failed")]) >= 1.0);
}

#[test]
fn an_idempotency_key_lets_a_post_be_repeated_where_the_route_says_so() {
    let (one, two, replica, far) = origins();
    let config = config([&one, &two, &replica], &far, "");
    let keyed = config.replace("path = \"/v1/{asset}\"", "path = \"/v1/{asset}\"\nidempotency_key = true");
    let (plain, keyed) = (Proxy::start(&config), Proxy::start(&keyed));
    for broken in [&one, &two] {
        broken.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    }
    let post = |proxy: &Proxy, key: &[(&str, &str)]| proxy.client().request("POST", "/v1/BTC", key, b"once").status;
    let key = [("Idempotency-Key", "\"8e03978e\"")];
    assert_eq!(post(&keyed, &key), 200);
    let last = replica.take_requests().pop().expect("it went on to the replica");
    assert_eq!((last.header("idempotency-key"), &*last.body), (Some(key[0].1), &b"once"[..]));
    for broken in [&one, &two] {
        broken.take_requests();
    }
    assert_eq!(post(&plain, &key), 502);
    assert_eq!(post(&keyed, &[]), 502);
    assert_eq!(post(&keyed, &[("Idempotency-Key", "")]), 502);
    // A key that does not reach the backend tells it nothing.
    assert_eq!(post(&keyed, &[key[0], ("Connection", "idempotency-key")]), 502);
    assert_eq!(total(&[&one, &two, &replica, &far]), 4, "a POST was sent twice");
}

#[test]
fn two_backends_that_ask_for_time_are_enough() {
    let (one, two, replica, far) = origins();
    let proxy = Proxy::start(&config([&one, &two, &replica], &far, ""));
    let busy = |wait: &str| Behaviour::Answer(503, vec![("retry-after", wait.into())], b"busy".to_vec());
    one.on("/v1/BTC", busy("7"));
    assert_eq!((proxy.get("/v1/BTC").status, proxy.get("/v1/BTC").status), (200, 200), "one speaks for itself");
    two.on("/v1/BTC", busy("9"));
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.text().as_str()), (503, "busy"));
    assert!(["7", "9"].contains(&got.header("retry-after").unwrap_or_default()));
    assert_eq!((replica.count(), far.count()), (0, 0));
}
