//! Answers of backends that are not whole: what a client sees of them depends on whether any of it had been passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::{After, Behaviour, Gate, Origin, Proxy, poll};

/// One pool of two, without checks.
fn config(origins: [&Origin; 2], more: &str) -> String {
    let [one, two] = origins.map(Origin::addr);
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n\
         [defaults]\nhealth = false\n{more}\n[pools.BTC.a]\nprimaries = [\"{one}\", \"{two}\"]\n"
    )
}

/// Answers that are not whole, and how they end.
const BROKEN: [(&str, &[u8], After); 3] = [
    ("short", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", After::Close),
    ("reset", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", After::Reset),
    ("no last chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", After::Close),
];

/// Both send these bytes, and end so when the gate opens.
fn send_and_wait(origins: [&Origin; 2], bytes: &'static [u8], after: After) -> Gate {
    let gate = Gate::new();
    for origin in origins {
        let gate = gate.clone();
        origin.on_custom("/v1/BTC", move |_, exchange| {
            exchange.send(bytes)?;
            gate.pass();
            Ok(after)
        });
    }
    gate
}

#[test]
fn a_body_that_ends_early_ends_the_client_s_connection() {
    for (what, bytes, after) in BROKEN {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        let proxy = Proxy::start(&config([&one, &two], ""));
        let gate = send_and_wait([&one, &two], bytes, after);
        let mut client = proxy.client();
        let request = client.format("GET", "/v1/BTC", &[], b"");
        client.send(request);
        assert_eq!(client.head_only().0, 200, "{what}");
        gate.open();
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(rest.contains("half") && !rest.ends_with("0\r\n\r\n"), "{what}: {rest:?}");
        let line = proxy.access_where(|line| line["reason"] == "upstream_truncated");
        assert_eq!(line["status"], 200, "{what}");
        assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "truncated")]), 1.0, "{what}");
    }
}

/// Who was not asked for the body has not broken it off.
#[test]
fn an_answer_before_the_body_that_ends_early_is_the_backend_s_fault() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config([&one, &two], ""));
    let bytes = b"HTTP/1.1 413 Too Large\r\ncontent-length: 100\r\n\r\nhalf";
    let gate = send_and_wait([&one, &two], bytes, After::Close);
    let mut client = proxy.client();
    client.send("PUT /v1/BTC HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head_only().0, 413);
    gate.open();
    assert!(client.rest().ends_with(b"half"));
    proxy.access_where(|line| line["reason"] == "upstream_truncated" && line["status"] == 413);
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "truncated")]), 1.0);
}

#[test]
fn a_body_that_breaks_before_it_is_passed_on_is_a_failed_try() {
    for (what, bytes, after) in BROKEN.into_iter().filter(|broken| broken.2 == After::Close) {
        for (method, status) in [("GET", 200), ("POST", 502)] {
            let (one, two) = (Origin::start("one"), Origin::start("two"));
            let proxy = Proxy::start(&config([&one, &two], ""));
            let (gate, first) = (Gate::new(), Arc::new(AtomicBool::new(true)));
            for origin in [&one, &two] {
                let (gate, first) = (gate.clone(), Arc::clone(&first));
                origin.on_custom("/v1/BTC", move |_, exchange| {
                    if !first.swap(false, Ordering::SeqCst) {
                        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
                        return Ok(After::Keep);
                    }
                    gate.pass();
                    exchange.send(bytes)?;
                    Ok(after)
                });
            }
            let mut client = proxy.client();
            let request = client.format(method, "/v1/BTC", &[], b"");
            client.send(request);
            gate.waiting(1);
            // When it looks again, all that will ever come has come.
            proxy.stop();
            gate.open();
            poll("the end", || (one.open_connections() + two.open_connections() == 0).then_some(()));
            proxy.signal(Signal::CONT);
            let got = client.response_to(method);
            assert_eq!(got.status, status, "{what}");
            if method == "POST" {
                assert_eq!((got.reason().as_str(), one.count() + two.count()), ("upstream_truncated", 1), "{what}");
            }
            assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "truncated")]), 1.0, "{what}");
        }
    }
}

#[test]
fn a_stalled_body_ends_after_the_idle_timeout() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config([&one, &two], "timeouts = { idle = \"300ms\" }"));
    for origin in [&one, &two] {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec();
        origin.on("/v1/BTC", Behaviour::Raw(bytes, After::Stall));
    }
    let mut client = proxy.client();
    let request = client.format("GET", "/v1/BTC", &[], b"");
    client.send(request);
    assert!(client.try_response_to("GET").is_err());
    proxy.access_where(|line| line["reason"] == "upstream_stalled");
}
