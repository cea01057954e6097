//! Hedging: a second try beside a slow first one. What a client gets, what backends see, and what is counted.
//!
//! Backends are asked in turn, so it is known which is the next when a test begins: that is the first of its `origins`. A
//! hedge goes to the second, and a retry to the third.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{After, Behaviour, Client, Gate, Origin, Proxy, poll};

/// Requests until there may be hedges. They save up five.
const WARM: usize = 100;

/// One pool, one worker, a route with `hedge` and one without.
fn config(origins: &[Origin], more: &str) -> String {
    let primaries: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[server]\nworkers = 1\n[regions.a]\n\
         [[routes]]\npath = \"/v1/{{asset}}\"\nhedge = true\n[[routes]]\npath = \"/plain/{{asset}}\"\n\
         [defaults]\nbalance = \"round-robin\"\nhealth = false\n{more}\n[pools.BTC.a]\nprimaries = [{}]\n",
        primaries.join(", ")
    )
}

fn start(count: usize, more: &str) -> (Vec<Origin>, Proxy) {
    let mut origins: Vec<_> = ["one", "two", "three"].into_iter().take(count).map(Origin::start).collect();
    let proxy = Proxy::start(&config(&origins, more));
    let mut client = proxy.client();
    let answers: Vec<_> = (0..WARM).map(|_| client.get("/v1/BTC").origin().to_owned()).collect();
    origins.sort_by_key(|origin| answers[WARM - count..].iter().position(|name| name == origin.name()));
    assert_eq!(hedges(&proxy, &[]), 0.0);
    (origins, proxy)
}

#[derive(Clone, Copy)]
enum Act {
    Answer(u16),
    Close,
    /// Nothing until the other side ends the connection.
    Stall,
}

/// From now on each backend does this to a request, once the gate is open. Gives how many have been asked.
fn script(origins: &[Origin], acts: &[(&Gate, Act)]) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    for (origin, (gate, act)) in origins.iter().zip(acts) {
        let (name, asked) = (origin.name().to_owned(), Arc::clone(&asked));
        let (gate, act) = (Gate::clone(gate), *act);
        origin.on_custom("/v1/BTC", move |_, exchange| {
            asked.fetch_add(1, Ordering::SeqCst);
            gate.pass();
            match act {
                Act::Answer(status) => {
                    let head = format!("HTTP/1.1 {status} Said\r\nx-origin: {name}\r\ncontent-length: 0\r\n\r\n");
                    exchange.send(head).map(|()| After::Keep)
                }
                Act::Close => Ok(After::Close),
                Act::Stall => Ok(After::Stall),
            }
        });
    }
    asked
}

/// Waits until the first and the second have been asked.
fn until_both(asked: &AtomicUsize) {
    poll("the second try", || (asked.load(Ordering::SeqCst) == 2).then_some(()));
}

fn open() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

/// A GET under way.
fn send(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    let request = client.format("GET", "/v1/BTC", &[], b"");
    client.send(request);
    client
}

fn total(origins: &[Origin]) -> usize {
    origins.iter().map(Origin::count).sum()
}

fn hedges(proxy: &Proxy, labels: &[(&str, &str)]) -> f64 {
    proxy.metric("shardgate_hedges_total", labels)
}

fn retries(proxy: &Proxy) -> f64 {
    proxy.metric("shardgate_retries_total", &[])
}

/// Tries that were counted against a backend.
fn errors(proxy: &Proxy) -> f64 {
    let attempts = |labels: &[(&str, &str)]| proxy.metric("shardgate_upstream_attempts_total", labels);
    attempts(&[]) - attempts(&[("outcome", "ok")])
}

/// Waits until no request is at a backend.
fn until_idle(proxy: &Proxy) {
    proxy.metric_until("shardgate_backend_requests_in_flight", &[], |n| n == 0.0);
}

#[test]
fn the_second_answers_while_the_first_is_slow() {
    let (origins, proxy) = start(2, "outlier = { consecutive_errors = 1 }");
    let asked = script(&origins, &[(&open(), Act::Stall), (&open(), Act::Answer(200))]);
    let answer = proxy.get("/v1/BTC");
    assert_eq!((answer.status, answer.origin()), (200, origins[1].name()));
    until_both(&asked);
    let [loser, winner] = [&origins[0], &origins[1]];
    // The loser's connection is closed, its place given back, and nobody blames it.
    poll("the end of the loser's connection", || (loser.open_connections() == 0).then_some(()));
    until_idle(&proxy);
    assert_eq!((hedges(&proxy, &[("result", "won")]), hedges(&proxy, &[])), (1.0, 1.0));
    assert_eq!((retries(&proxy), errors(&proxy)), (0.0, 0.0));
    assert_eq!(proxy.metric("shardgate_outlier_ejections_total", &[]), 0.0);
    let line = proxy.access_where(|line| line["attempts"] == 2);
    assert_eq!((&line["status"], &line["backend"]), (&200.into(), &winner.addr().to_string().into()));
    assert_eq!(line["reason"], serde_json::Value::Null);
    // It is asked like before, and every answer is that to its own request.
    origins.iter().for_each(|origin| origin.forget("/v1/BTC"));
    let before = loser.count();
    let mut client = proxy.client();
    for i in 0..20 {
        let target = format!("/v1/BTC?n={i}");
        let answer = client.get(&target);
        assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some(&*target)));
    }
    assert!(loser.count() >= before + 9);
}

#[test]
fn the_first_answers_after_all() {
    let (origins, proxy) = start(2, "");
    let gate = Gate::new();
    let asked = script(&origins, &[(&gate, Act::Answer(200)), (&open(), Act::Stall)]);
    let mut client = send(&proxy);
    until_both(&asked);
    gate.open();
    let answer = client.response_to("GET");
    assert_eq!((answer.status, answer.origin()), (200, origins[0].name()));
    poll("the end of the loser's connection", || (origins[1].open_connections() == 0).then_some(()));
    until_idle(&proxy);
    assert_eq!((hedges(&proxy, &[("result", "lost")]), hedges(&proxy, &[])), (1.0, 1.0));
    assert_eq!((retries(&proxy), errors(&proxy)), (0.0, 0.0));
    assert_eq!(proxy.access_where(|line| line["attempts"] == 2)["status"], 200);
}

#[test]
fn one_that_fails_leaves_the_request_to_the_other() {
    use Act::{Answer, Close};
    // What the first and the second do, which fails first; the status, who gave it, tries, retries, and the hedge.
    for (acts, fails_first, status, by, attempts, retried, result) in [
        ([Close, Answer(200), Answer(500)], 0, 200, 1, 2, 0.0, "won"),
        ([Answer(503), Answer(200), Answer(500)], 0, 200, 1, 2, 0.0, "won"),
        ([Answer(200), Close, Answer(500)], 1, 200, 0, 2, 0.0, "lost"),
        ([Answer(200), Answer(503), Answer(500)], 1, 200, 0, 2, 0.0, "lost"),
        ([Close, Close, Answer(200)], 0, 200, 2, 3, 1.0, "lost"),
        ([Close, Close, Answer(200)], 1, 200, 2, 3, 1.0, "lost"),
        ([Answer(503), Close, Answer(200)], 0, 200, 2, 3, 1.0, "lost"),
    ] {
        let (origins, proxy) = start(3, "outlier = false");
        let gates = [Gate::new(), Gate::new()];
        let acts = [(&gates[0], acts[0]), (&gates[1], acts[1]), (&open(), acts[2])];
        let asked = script(&origins, &acts);
        let mut client = send(&proxy);
        gates.iter().for_each(|gate| gate.waiting(1));
        gates[fails_first].open();
        // A held 503 counts when it is let go of; that it came shows in the times of tries.
        let tries = (WARM + 1) as f64;
        proxy.metric_until("shardgate_upstream_duration_seconds_count", &[], |n| n == tries);
        gates[1 - fails_first].open();
        let answer = client.response_to("GET");
        assert_eq!((answer.status, answer.origin()), (status, origins[by].name()), "{result}");
        assert_eq!(asked.load(Ordering::SeqCst), attempts);
        proxy.access_where(|line| line["attempts"] == attempts);
        until_idle(&proxy);
        assert_eq!((retries(&proxy), hedges(&proxy, &[])), (retried, 1.0));
        assert_eq!(hedges(&proxy, &[("result", result)]), 1.0);
    }
}

#[test]
fn a_hedge_is_one_of_the_further_tries() {
    let (origins, proxy) = start(3, "outlier = false\nretry = { max = 1 }");
    let gates = [Gate::new(), Gate::new()];
    script(&origins, &[(&gates[0], Act::Close), (&gates[1], Act::Answer(503))]);
    let mut client = send(&proxy);
    gates.iter().for_each(|gate| gate.waiting(1));
    gates.iter().for_each(Gate::open);
    assert_eq!(client.response_to("GET").status, 503);
    assert_eq!((total(&origins), retries(&proxy)), (WARM + 2, 0.0));
}

#[test]
fn a_client_that_leaves_ends_both() {
    let (origins, proxy) = start(2, "");
    let asked = script(&origins, &[(&open(), Act::Stall), (&open(), Act::Stall)]);
    let client = send(&proxy);
    until_both(&asked);
    drop(client);
    for origin in &origins {
        poll("the end of its connection", || (origin.open_connections() == 0).then_some(()));
    }
    until_idle(&proxy);
    assert_eq!((hedges(&proxy, &[("result", "lost")]), errors(&proxy)), (1.0, 0.0));
    assert_eq!(proxy.access_where(|line| line["status"] == 499)["reason"], "client_closed");
}

#[test]
fn one_request_in_twenty_is_hedged() {
    let (origins, proxy) = start(2, "");
    let gates: Vec<_> = origins.iter().map(|origin| origin.hold("/v1/BTC")).collect();
    let mut clients: Vec<_> = (0..20).map(|_| send(&proxy)).collect();
    let more = || total(&origins) - WARM - 20;
    // Each of them takes long, so each is due.
    let no_budget = |n: f64| total(&origins) >= WARM + 20 && n + more() as f64 == 20.0;
    proxy.metric_until("shardgate_hedges_total", &[("result", "no_budget")], no_budget);
    assert!((5..=6).contains(&more()), "{} hedges", more());
    gates.iter().for_each(Gate::open);
    for client in &mut clients {
        assert_eq!(client.response_to("GET").status, 200);
    }
    let done = hedges(&proxy, &[("result", "won")]) + hedges(&proxy, &[("result", "lost")]);
    assert_eq!(done, more() as f64);
}

#[test]
fn what_has_an_effect_is_not_hedged_and_only_where_a_route_says_so() {
    let (origins, proxy) = start(2, "");
    let gates: Vec<_> = origins.iter().flat_map(|o| [o.hold("/v1/btc"), o.hold("/plain/BTC")]).collect();
    let mut waiting = Vec::new();
    for (method, target) in [("POST", "/v1/btc"), ("PUT", "/v1/btc"), ("DELETE", "/v1/btc"), ("GET", "/plain/BTC")] {
        let mut client = proxy.client();
        let request = client.format(method, target, &[], b"");
        client.send(request);
        waiting.push((method, client));
    }
    poll("all requests", || (total(&origins) == WARM + 4).then_some(()));
    // One that came later is hedged: so for the others it would have been time.
    for method in ["GET", "HEAD", "OPTIONS"] {
        let gate = Gate::new();
        let asked = script(&origins, &[(&gate, Act::Answer(204)), (&gate, Act::Answer(204))]);
        let mut client = proxy.client();
        let request = client.format(method, "/v1/BTC", &[], b"");
        client.send(request);
        until_both(&asked);
        gate.open();
        assert_eq!(client.response_to(method).status, 204);
    }
    assert_eq!(total(&origins), WARM + 4 + 6);
    gates.iter().for_each(Gate::open);
    for (method, mut client) in waiting {
        assert_eq!(client.response_to(method).status, 200, "{method}");
    }
    assert_eq!(total(&origins), WARM + 4 + 6);
}

#[test]
fn a_body_goes_to_both() {
    for more in ["", "retry = false"] {
        let (origins, proxy) = start(2, more);
        let gates: Vec<_> = origins.iter().map(|origin| origin.hold("/v1/BTC")).collect();
        let mut client = proxy.client();
        let request = client.format("GET", "/v1/BTC", &[], b"which");
        client.send(request);
        gates.iter().for_each(|gate| gate.waiting(1));
        gates[1].open();
        assert_eq!(client.response_to("GET").json()["body"], "which");
        for origin in &origins {
            assert_eq!(origin.requests().last().unwrap().body, b"which");
        }
        gates[0].open();
    }
}

#[test]
fn one_on_probation_is_neither_asked_nor_left_to_another() {
    let more = "retry = false\noutlier = { consecutive_errors = 1, base_ejection = \"1s\" }";
    let (origins, proxy) = start(2, &format!("{more}\ntimeouts = {{ response = \"1s\" }}"));
    script(&origins, &[(&open(), Act::Close), (&open(), Act::Answer(200))]);
    assert_eq!(proxy.get("/v1/BTC").reason(), "upstream_reset");
    poll("a backend that is half-open", || {
        proxy.admin_request("GET", "/api/v1/status").text().contains("\"half-open\"").then_some(())
    });
    // Whichever is asked: it or the other one is on probation.
    script(&origins, &[(&open(), Act::Stall), (&open(), Act::Stall)]);
    assert_eq!(proxy.get("/v1/BTC").reason(), "upstream_timeout");
    assert_eq!((total(&origins), hedges(&proxy, &[])), (WARM + 2, 0.0));
}

#[test]
fn without_room_or_without_the_body_there_is_none() {
    let hang = "retry = false\noutlier = false\ntimeouts = { response = \"1s\" }";
    // The other backend is full.
    let (origins, proxy) = start(2, &format!("{hang}\nlimits = {{ max_requests = 1 }}"));
    let gates: Vec<_> = origins.iter().map(|origin| origin.hold("/v1/btc")).collect();
    let mut client = proxy.client();
    let request = client.format("POST", "/v1/btc", &[], b"");
    client.send(request);
    poll("the request", || (total(&origins) == WARM + 1).then_some(()));
    script(&origins, &[(&open(), Act::Stall), (&open(), Act::Stall)]);
    assert_eq!(proxy.get("/v1/BTC").reason(), "upstream_timeout");
    assert_eq!((total(&origins), hedges(&proxy, &[])), (WARM + 2, 0.0));
    gates.iter().for_each(Gate::open);

    // The body is too large to be kept.
    let (origins, proxy) = start(2, hang);
    for origin in &origins {
        origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Stall));
    }
    let answer = proxy.client().request("GET", "/v1/BTC", &[], &[b'x'; 100_000]);
    assert_eq!(answer.reason(), "upstream_timeout");
    assert_eq!((total(&origins), hedges(&proxy, &[])), (WARM + 1, 0.0));
}

#[test]
fn a_retry_budget_that_is_used_up_allows_none() {
    let (origins, proxy) = start(2, "retry = { budget_min = 0, budget_percent = 0 }");
    let gate = Gate::new();
    script(&origins, &[(&gate, Act::Answer(200))]);
    let mut client = send(&proxy);
    proxy.metric_until("shardgate_hedges_total", &[("result", "no_budget")], |n| n == 1.0);
    gate.open();
    assert_eq!(client.response_to("GET").status, 200);
    assert_eq!(total(&origins), WARM + 1);
}
