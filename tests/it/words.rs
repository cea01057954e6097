//! What backends say of themselves: load reports, announced drain, agents. And that clients see nothing of it.

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::proxy::AUTHORIZED;
use crate::support::{Behaviour, Client, Origin, Proxy, Response, poll};

/// One pool in turn, with these lines in `[defaults]` and what follows.
fn config(origins: &[&Origin], more: &str) -> String {
    let primaries: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[server]\nworkers = 1\n\
         [defaults]\n{more}\n[pools.BTC.a]\nprimaries = [{}]\n",
        primaries.join(", ")
    )
}

const NO_CHECKS: &str = "balance = \"round-robin\"\nhealth = false\nretry = false\n";
const CHECKS: &str = "balance = \"round-robin\"\nretry = false\n\
    health = { path = \"/ready\", interval = \"50ms\", fast_interval = \"20ms\", timeout = \"10s\" }\n";

fn status_of(proxy: &Proxy, origin: &Origin) -> Value {
    let status = proxy.admin_request("GET", "/api/v1/status").json();
    let backends = status["pools"][0]["backends"].as_array().expect("backends").clone();
    let address = origin.addr().to_string();
    backends.into_iter().find(|backend| backend["address"] == *address).expect("it is in the pool")
}

fn wait_state(proxy: &Proxy, origin: &Origin, state: &str, cause: &str) {
    poll(&format!("it to be {state} {cause}"), || {
        let backend = status_of(proxy, origin);
        (backend["state"] == *state && backend["cause"].as_str().unwrap_or_default() == cause).then_some(())
    });
}

/// An answer with this status, field and body.
fn answer(status: u16, field: (&'static str, &str), body: &str) -> Behaviour {
    Behaviour::Answer(status, vec![(field.0, field.1.to_owned())], body.into())
}

const STATE: &str = "X-Shardgate-State";

fn put_load(proxy: &Proxy, address: &str, body: &str) -> Response {
    let target = format!("/api/v1/pools/BTC/a/backends/{address}/load");
    let length = body.len().to_string();
    let fields = [("Connection", "close"), AUTHORIZED, ("Content-Length", length.as_str())];
    Client::connect(proxy.admin()).request("PUT", &target, &fields, body.as_bytes())
}

#[test]
fn load_reports_are_heard_and_never_passed_on() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], "health = false\nretry = false\n"));
    let label = one.addr().to_string();
    let reports = |result| {
        let labels = [("backend", label.as_str()), ("asset", "BTC"), ("result", result)];
        proxy.metric("shardgate_load_reports_total", &labels)
    };
    let good = [
        ("Endpoint-Load-Metrics", "TEXT cpu_utilization=0.5,rps_fractional=100", 0.5),
        ("endpoint-load-metrics", "JSON {\"cpu_utilization\":0.9,\"application_utilization\":0.625}", 0.625),
        ("ENDPOINT-LOAD-METRICS-BIN", "CQAAAAAAAOg/", 0.75),
        ("endpoint-load-metrics", "BIN CQAAAAAAAPA/", 1.0),
    ];
    for (name, value, utilization) in good {
        one.on("/v1/BTC", answer(200, (name, value), "ok"));
        let response = proxy.get("/v1/BTC");
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!(response.header(name), None, "{value}");
        proxy.metric_until("shardgate_backend_utilization", &[("backend", &label)], |seen| seen == utilization);
    }
    assert_eq!((reports("used"), reports("ignored")), (4.0, 0.0));
    let bad = [
        ("endpoint-load-metrics", "TEXT cpu_utilization=NaN"),
        ("endpoint-load-metrics", "TEXT cpu_utilization=0.1,cpu_utilization=0.1"),
        ("endpoint-load-metrics", ""),
        ("endpoint-load-metrics-bin", "CQAAAAAAAOA/="),
    ];
    for (name, value) in bad {
        one.on("/v1/BTC", answer(502, (name, value), "ok"));
        let response = proxy.get("/v1/BTC");
        assert_eq!((response.status, response.header(name)), (502, None), "{value}");
    }
    let twice = vec![("endpoint-load-metrics", "TEXT cpu_utilization=0.1".to_owned()); 2];
    one.on("/v1/BTC", Behaviour::Answer(200, twice, b"ok".to_vec()));
    assert_eq!(proxy.get("/v1/BTC").header("endpoint-load-metrics"), None);
    assert_eq!((reports("used"), reports("ignored")), (4.0, 5.0));
    let backend = status_of(&proxy, &one);
    assert_eq!((&backend["utilization"], &backend["load_weight"]), (&1.0.into(), &Value::Null));
}

/// The one test that waits for a time to pass: nobody can shorten the ten seconds in which reports are not used.
#[test]
fn reports_move_the_weights_after_ten_seconds() {
    let (busy, idle) = (Origin::start("busy"), Origin::start("idle"));
    let proxy = Proxy::start(&config(&[&busy, &idle], "health = false\nretry = false\n"));
    for (origin, utilization) in [(&busy, "0.6"), (&idle, "0.2")] {
        let report = format!("TEXT cpu_utilization={utilization},rps_fractional=100");
        origin.on("/v1/BTC", answer(200, ("endpoint-load-metrics", &report), ""));
    }
    // 100 / 0.6 and 100 / 0.2, beside their mean.
    let mut client = proxy.client();
    poll("the weights", || {
        (0..4).for_each(|_| assert_eq!(client.get("/v1/BTC").status, 200));
        let weights = [&busy, &idle].map(|origin| status_of(&proxy, origin)["load_weight"].clone());
        (weights == [0.5, 1.5].map(Value::from)).then_some(())
    });
    busy.take_requests();
    idle.take_requests();
    (0..400).for_each(|_| assert_eq!(client.get("/v1/BTC").status, 200));
    // A quarter is 100, and six standard deviations are 52.
    assert!((48..=152).contains(&busy.count()), "{} and {}", busy.count(), idle.count());
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert_eq!(told["tiers"][0]["servers"][0]["load_weight"], 0.5);
}

#[test]
fn what_stands_in_interim_answers_is_not_passed_on_either() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], NO_CHECKS));
    let text = "HTTP/1.1 103 Early Hints\r\nx-shardgate-state: drain\r\nlink: </a>\r\n\r\n\
        HTTP/1.1 200 OK\r\ncontent-length: 0\r\nendpoint-load-metrics: TEXT cpu_utilization=0.5\r\n\r\n";
    one.on("/v1/BTC", Behaviour::Raw(text.into(), crate::support::After::Keep));
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.1\r\nHost: a\r\n\r\n");
    for (status, fields) in [client.head_only(), client.head_only()] {
        let ours = |name: &str| name.contains("shardgate") || name.contains("endpoint");
        assert!(fields.iter().all(|(name, _)| !ours(&name.to_ascii_lowercase())), "{status}: {fields:?}");
    }
}

#[test]
fn load_can_be_reported_for_a_backend() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], "health = false\n"));
    let address = one.addr().to_string();
    let told = put_load(&proxy, &address, "{\"utilization\":0.7,\"rps\":120}");
    assert_eq!((told.status, &told.json()["rps"]), (200, &120.0.into()), "{}", told.text());
    poll("the report to be looked at", || (status_of(&proxy, &one)["utilization"] == 0.7).then_some(()));
    assert_eq!(status_of(&proxy, &two)["utilization"], Value::Null);
    for (address, body, status, reason) in [
        (address.as_str(), "{\"utilization\":-1}", 422, "bad_report"),
        (&address, "{\"load\":1}", 400, "bad_request"),
        ("10.0.0.1:1", "{\"utilization\":0.7}", 404, "unknown_backend"),
    ] {
        let told = put_load(&proxy, address, body);
        assert_eq!((told.status, told.json()["reason"].as_str()), (status, Some(reason)), "{body}");
    }
    for target in ["/api/v1/pools/ETH/a/backends/x:1/load", "/api/v1/pools/BTC/b/backends/x:1/load"] {
        let fields = [("Connection", "close"), AUTHORIZED, ("Content-Length", "19")];
        let told = Client::connect(proxy.admin()).request("PUT", target, &fields, b"{\"utilization\":0.7}");
        assert_eq!(told.status, 404, "{target}: {}", told.text());
    }
}

#[test]
fn a_backend_that_announces_drain_gets_nothing_new_until_it_is_ready() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], CHECKS));
    one.on("/v1/BTC", answer(200, (STATE, "drain"), "bye"));
    poll("its answer", || (proxy.get("/v1/BTC").text() == "bye").then_some(()));
    wait_state(&proxy, &one, "announced-drain", "response");
    let line = proxy.log_line("backend announces drain");
    assert_eq!((&line["by"], &line["backend"]), (&"response".into(), &one.addr().to_string().into()));
    one.forget("/v1/BTC");
    let asked = || one.requests().iter().filter(|request| request.target == "/v1/BTC").count();
    // What is gathered for some milliseconds before it is published has come when a turn is left out.
    poll("a turn that is left out", || (0..2).all(|_| proxy.get("/v1/BTC").origin() == "two").then_some(()));
    let before = asked();
    for _ in 0..10 {
        let response = proxy.get("/v1/BTC");
        assert_eq!((response.origin(), response.header(STATE)), ("two", None));
    }
    assert_eq!(asked(), before);
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert_eq!(told["tiers"][0]["servers"][0]["state"], "announced-drain: response");
    // Its checks pass all the time, and that says nothing. Its word does.
    one.on("/ready", answer(200, (STATE, "ready"), ""));
    wait_state(&proxy, &one, "up", "");
    assert_eq!(proxy.log_line("backend no longer drains")["cause"], "checks");
    poll("its turn", || (proxy.get("/v1/BTC").origin() == "one").then_some(()));
    for to in ["down", "up"] {
        let labels = [("to", to), ("cause", "announced")];
        assert_eq!(proxy.metric("shardgate_backend_transitions_total", &labels), 1.0, "{to}");
    }
}

#[test]
fn one_that_was_started_anew_is_ready_without_a_word() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], CHECKS));
    one.on("/v1/BTC", answer(200, (STATE, "draining"), "bye"));
    poll("its answer", || (proxy.get("/v1/BTC").text() == "bye").then_some(()));
    wait_state(&proxy, &one, "announced-drain", "response");
    one.kill();
    one.forget("/v1/BTC");
    let refused = [("result", "failure"), ("backend", &*one.addr().to_string())];
    proxy.metric_until("shardgate_health_checks_total", &refused, |failures| failures > 0.0);
    one.revive();
    wait_state(&proxy, &one, "up", "");
}

#[test]
fn without_anybody_left_there_is_no_panic_for_those_that_drain() {
    let one = Origin::start("one");
    let proxy = Proxy::start(&config(&[&one], NO_CHECKS));
    one.on("/v1/BTC", answer(200, (STATE, "drain"), "bye"));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    wait_state(&proxy, &one, "announced-drain", "response");
    let refused = poll("a refusal", || Some(proxy.get("/v1/BTC")).filter(|response| response.status == 503));
    assert_eq!(refused.reason(), "no_healthy_backend");
}

#[test]
fn a_check_that_is_told_of_drain_needs_no_row() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let health = CHECKS.replace("timeout", "fall = 1000, timeout");
    let proxy = Proxy::start(&config(&[&one, &two], &health));
    wait_state(&proxy, &one, "up", "");
    let cases = [
        answer(503, ("content-type", "application/json"), "{\"status\":\"draining\"}"),
        answer(200, (STATE, "drain"), "fine"),
        Behaviour::Raw(b"HTTP/1.1 503 No\r\n\r\nDRAIN\n".to_vec(), crate::support::After::Close),
    ];
    for behaviour in cases {
        one.on("/ready", behaviour);
        wait_state(&proxy, &one, "announced-drain", "check");
        poll("a turn that is left out", || (0..2).all(|_| proxy.get("/v1/BTC").origin() == "two").then_some(()));
        one.forget("/ready");
        wait_state(&proxy, &one, "up", "");
    }
    let line = proxy.log_line("backend announces drain");
    assert_eq!(line["by"], "check");
    // Another failure is another matter, and so is a page that passes and speaks of it.
    one.on("/ready", answer(200, ("x", "y"), "draining"));
    two.on("/ready", answer(503, ("x", "y"), "{\"draining\":false}"));
    let failures = [("result", "failure"), ("backend", &*two.addr().to_string())];
    proxy.metric_until("shardgate_health_checks_total", &failures, |failures| failures >= 3.0);
    for origin in [&one, &two] {
        assert_eq!(status_of(&proxy, origin)["state"], "up");
    }
}

#[test]
fn an_agent_speaks_for_its_backend() {
    let one = Origin::start_on("one", "127.0.0.2:0".parse().unwrap());
    let two = Origin::start_on("two", "127.0.0.3:0".parse().unwrap());
    // Nobody answers beside the other one, which says nothing about it.
    let agent = Agent::start("127.0.0.2", "maint # being moved\n");
    let asked =
        format!("health = {{ agent = {{ port = {}, interval = \"30ms\" }}, interval = \"50ms\" }}\n", agent.port());
    let toml = config(&[&one, &two], &asked);
    let proxy = Proxy::start(&toml);
    // It was asked before anything was sent.
    for _ in 0..6 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "two");
    }
    wait_state(&proxy, &one, "announced-drain", "agent");
    assert_eq!(status_of(&proxy, &one)["agent"], "maint # being moved");
    assert_eq!(status_of(&proxy, &two)["state"], "up");
    agent.say("ready\n");
    wait_state(&proxy, &one, "up", "");
    agent.say("75%,up");
    poll("its weight", || (status_of(&proxy, &one)["load_weight"] == 0.75).then_some(()));
    let label = one.addr().to_string();
    assert_eq!(proxy.metric("shardgate_backend_load_weight", &[("backend", &label)]), 0.75);
    agent.say("down # disk full\n");
    wait_state(&proxy, &one, "down", "agent");
    let line = proxy.log_where("backend is down", |line| line["backend"] == *label);
    assert_eq!((&line["cause"], &line["said"]), (&"agent".into(), &"down # disk full".into()));
    // What it does not speak of stays.
    agent.say("\u{1b}[2J up\n");
    agent.say("100%\n");
    poll("its weight", || (status_of(&proxy, &one)["load_weight"] == Value::Null).then_some(()));
    assert_eq!(status_of(&proxy, &one)["state"], "down");
    agent.say("up\n");
    wait_state(&proxy, &one, "up", "");
    agent.say("0%\n");
    wait_state(&proxy, &one, "announced-drain", "agent");
    for to in ["down", "up"] {
        let labels = [("backend", label.as_str()), ("to", to), ("cause", "announced")];
        assert_eq!(proxy.metric("shardgate_backend_transitions_total", &labels), if to == "up" { 2.0 } else { 3.0 });
    }
    // A reload keeps what it has said; without an agent nobody has said it.
    assert!(proxy.reload(&toml.replace("interval = \"50ms\"", "interval = \"60ms\"")));
    assert_eq!(status_of(&proxy, &one)["state"], "announced-drain");
    assert!(proxy.reload(&config(&[&one, &two], "")));
    wait_state(&proxy, &one, "up", "");
}
