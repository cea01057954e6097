//! Ejection: what errors of requests take a backend out, what brings it back, and what is left when all are bad.
//! Checks are off or connect only, so that requests alone see what is wrong.

use serde_json::Value;

use crate::support::{After, Behaviour, Origin, Proxy, Response, poll};

/// One pool, in turn, with these lines in `[defaults]` and what follows.
fn config(origins: &[&Origin], more: &str) -> String {
    let primaries: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[server]\nworkers = 1\n\
         [defaults]\nbalance = \"round-robin\"\n{more}\n[pools.BTC.a]\nprimaries = [{}]\n",
        primaries.join(", ")
    )
}

const NO_CHECKS: &str = "health = false\nretry = false\n";

fn status_of(proxy: &Proxy, origin: &Origin) -> Value {
    let status = proxy.admin_request("GET", "/api/v1/status").json();
    let backends = status["pools"][0]["backends"].as_array().expect("backends").clone();
    let address = origin.addr().to_string();
    backends.into_iter().find(|backend| backend["address"] == *address).expect("it is in the pool")
}

fn wait_state(proxy: &Proxy, origin: &Origin, state: &str) -> Value {
    poll(&format!("it to be {state}"), || {
        let backend = status_of(proxy, origin);
        (backend["state"] == *state).then_some(backend)
    })
}

/// Sends until the backend is ejected; how many of its answers were bad.
fn send_until_ejected(proxy: &Proxy, origin: &Origin, is_bad: impl Fn(Response) -> bool) -> usize {
    let mut bad = 0;
    poll("an ejection", || {
        bad += usize::from(is_bad(proxy.get("/v1/BTC")));
        (status_of(proxy, origin)["state"] == "ejected").then_some(())
    });
    bad
}

fn ejections(proxy: &Proxy, origin: &Origin, enforced: &str) -> f64 {
    let label = origin.addr().to_string();
    let labels = [("backend", label.as_str()), ("detector", "consecutive_errors"), ("enforced", enforced)];
    proxy.metric("shardgate_outlier_ejections_total", &labels)
}

#[test]
fn five_errors_in_a_row_take_a_backend_out() {
    let (one, two, three) = (Origin::start("one"), Origin::start("two"), Origin::start("three"));
    let proxy = Proxy::start(&config(&[&one, &two, &three], NO_CHECKS));
    one.on("/v1/BTC", Behaviour::Answer(503, vec![], b"no".to_vec()));
    let bad = send_until_ejected(&proxy, &one, |response| response.status == 503);
    assert!((5..=6).contains(&bad), "{bad}");
    let backend = status_of(&proxy, &one);
    assert_eq!((&backend["usable"], &backend["cause"]), (&Value::Bool(false), &"consecutive_errors".into()));
    assert!(backend["ejected_for"].as_f64().is_some_and(|left| left > 20.0 && left <= 30.0), "{backend}");
    let line = proxy.log_line("backend is ejected");
    assert_eq!((&line["cause"], &line["seconds"]), (&"consecutive_errors".into(), &30.0.into()));
    assert_eq!(ejections(&proxy, &one, "true"), 1.0);
    let passive = [("to", "down"), ("cause", "passive")];
    assert_eq!(proxy.metric("shardgate_backend_transitions_total", &passive), 1.0);
    // What is gathered for some milliseconds before it is published has come when a turn is left out.
    poll("a turn that is left out", || {
        let good = (0..3).filter(|_| proxy.get("/v1/BTC").status == 200).count();
        (good == 3).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(proxy.get("/v1/BTC").status, 200);
    }
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert_eq!(told["tiers"][0]["servers"][0]["state"], "ejected");
}

#[test]
fn bodies_that_break_off_take_a_backend_out_though_every_head_is_good() {
    for after in [After::Close, After::Reset] {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        // Checks pass all the time: they only connect.
        let checks =
            "retry = false\n[defaults.health]\ninterval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"10s\"";
        let proxy = Proxy::start(&config(&[&one, &two], checks));
        let short = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this".to_vec();
        one.on("/v1/BTC", Behaviour::Raw(short, after));
        let mut broken = 0;
        poll("an ejection", || {
            let mut client = proxy.client();
            client.send("GET /v1/BTC HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let rest = client.rest();
            broken += usize::from(!rest.starts_with(b"HTTP/1.1 200") || !rest.ends_with(b"}"));
            (status_of(&proxy, &one)["state"] == "ejected").then_some(())
        });
        assert!((5..=6).contains(&broken), "{broken}");
        // A check that can't see what is wrong does not bring it back.
        let label = one.addr().to_string();
        let passes =
            || proxy.metric("shardgate_health_checks_total", &[("backend", label.as_str()), ("result", "success")]);
        let before = passes();
        poll("some more checks", || (passes() > before + 3.0).then_some(()));
        assert_eq!(status_of(&proxy, &one)["state"], "ejected");
    }
}

#[test]
fn a_good_answer_ends_the_row() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], NO_CHECKS));
    for _ in 0..4 {
        one.on("/v1/BTC", Behaviour::Answer(502, vec![], vec![]));
        for _ in 0..8 {
            proxy.get("/v1/BTC");
        }
        one.forget("/v1/BTC");
        proxy.get("/v1/BTC");
        proxy.get("/v1/BTC");
    }
    assert_eq!(one.count(), 20);
    assert_eq!(ejections(&proxy, &one, "true"), 0.0);
}

#[test]
fn after_its_time_one_request_decides() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let terms = "[defaults.outlier]\nbase_ejection = \"100ms\"\nmax_ejection = \"1h\"";
    let proxy = Proxy::start(&config(&[&one, &two], &format!("{NO_CHECKS}{terms}")));
    one.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    send_until_ejected(&proxy, &one, |response| response.status == 503);
    wait_state(&proxy, &one, "half-open");

    // One at a time: while it waits for that one, everything else goes to the other.
    let gate = one.hold("/v1/BTC");
    let trial = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..2).map(|_| scope.spawn(|| proxy.get("/v1/BTC").status)).collect();
        gate.waiting(1);
        for _ in 0..6 {
            assert_eq!(proxy.get("/v1/BTC").origin(), "two");
        }
        gate.open();
        asking.into_iter().map(|asked| asked.join().expect("an answer")).collect::<Vec<_>>()
    });
    assert_eq!(trial, [200, 200]);
    wait_state(&proxy, &one, "not-checked");
    proxy.log_line("backend is no longer ejected");

    // Bad again, and then bad while half-open: each ejection is longer than the one before.
    one.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    send_until_ejected(&proxy, &one, |response| response.status == 503);
    wait_state(&proxy, &one, "half-open");
    let before = ejections(&proxy, &one, "true");
    poll("another ejection", || {
        proxy.get("/v1/BTC");
        (ejections(&proxy, &one, "true") > before).then_some(())
    });
}

#[test]
fn never_the_last_one_and_never_too_many() {
    let origins = ["one", "two", "three", "four"].map(Origin::start);
    let [one, two, three, four] = &origins;
    let proxy = Proxy::start(&config(&[one, two, three, four], NO_CHECKS));
    for origin in &origins {
        origin.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    }
    poll("all to have failed enough", || {
        proxy.get("/v1/BTC");
        let states = origins.each_ref().map(|origin| status_of(&proxy, origin)["state"].clone());
        let count = |word: &str| states.iter().filter(|state| **state == word).count();
        (count("ejected") == 2 && count("spared") == 2).then_some(())
    });
    // Those that are spared serve, and are given the requests.
    assert_eq!(proxy.get("/v1/BTC").status, 503);

    let alone = Origin::start("alone");
    let proxy = Proxy::start(&config(&[&alone], NO_CHECKS));
    alone.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    for _ in 0..12 {
        assert_eq!(proxy.get("/v1/BTC").body, b"");
    }
    wait_state(&proxy, &alone, "spared");
    alone.forget("/v1/BTC");
    assert_eq!(proxy.get("/v1/BTC").status, 200);
}

#[test]
fn not_enforced_it_is_counted_only() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], &format!("{NO_CHECKS}[defaults.outlier]\nenforce = false")));
    one.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    for _ in 0..40 {
        proxy.get("/v1/BTC");
    }
    poll("it to be counted", || (ejections(&proxy, &one, "false") == 4.0).then_some(()));
    assert_eq!(one.count(), 20);
    assert_eq!(status_of(&proxy, &one)["state"], "not-checked");
    assert_eq!(ejections(&proxy, &one, "true"), 0.0);
    let transitions = proxy.series("shardgate_backend_transitions_total", &[("cause", "passive")]);
    assert!(transitions.is_empty(), "{transitions:?}");

    let off = Proxy::start(&config(&[&one, &two], &format!("{NO_CHECKS}outlier = false")));
    for _ in 0..40 {
        off.get("/v1/BTC");
    }
    assert_eq!(one.count(), 40);
    assert!(off.series("shardgate_outlier_ejections_total", &[]).is_empty());
}

#[test]
fn a_check_that_saw_it_brings_it_back() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let checks = "retry = false\n[defaults.health]\npath = \"/healthz\"\ninterval = \"20ms\"\nfast_interval = \"20ms\"\n\
                  timeout = \"10s\"\nfall = 1000";
    let proxy = Proxy::start(&config(&[&one, &two], checks));
    one.on("/v1/BTC", Behaviour::Answer(503, vec![], vec![]));
    one.set_health(500);
    send_until_ejected(&proxy, &one, |response| response.status == 503);
    one.forget("/v1/BTC");
    one.set_health(200);
    wait_state(&proxy, &one, "up");
}

#[test]
fn a_check_that_connects_brings_back_what_could_not_be_connected_to() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let checks = "retry = false\n[defaults.health]\ninterval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"10s\"\nfall = 1000";
    let proxy = Proxy::start(&config(&[&one, &two], checks));
    one.kill();
    let served = send_until_ejected(&proxy, &one, |response| response.status == 200);
    assert!(served >= 5, "the refused tries went on to the other one: {served}");
    one.revive();
    wait_state(&proxy, &one, "up");
}

#[test]
fn one_that_comes_back_is_loaded_little_by_little() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let slow = "retry = false\n[defaults.slow_start]\nwindow = \"1h\"\n[defaults.health]\npath = \"/healthz\"\n\
                interval = \"20ms\"\nfast_interval = \"20ms\"\ntimeout = \"10s\"";
    let proxy = Proxy::start(&config(&[&one, &two], slow));
    let share = |n: usize| {
        one.take_requests();
        (0..n).for_each(|_| assert_eq!(proxy.get("/v1/BTC").status, 200));
        one.count()
    };
    wait_state(&proxy, &one, "up");
    wait_state(&proxy, &two, "up");
    assert_eq!(share(20), 10, "when the process starts everything is equally cold");
    one.set_health(503);
    wait_state(&proxy, &one, "down");
    one.set_health(200);
    poll("it to warm up", || {
        let backend = status_of(&proxy, &one);
        (backend["state"] == "up" && backend["slow_start"].as_f64().is_some_and(|share| share < 0.11)).then_some(())
    });
    // A tenth against a whole: 1 of 11.
    let got = share(110);
    assert!((9..=11).contains(&got), "{got}");
    // Who is added warms up, too; who was there goes on as it was.
    let three = Origin::start("three");
    assert!(proxy.reload(&config(&[&one, &two, &three], slow)));
    assert!(status_of(&proxy, &three)["slow_start"].as_f64().is_some_and(|share| share < 0.11));
    assert_eq!(status_of(&proxy, &two)["slow_start"], Value::Null);
    let quick = slow.replace("1h", "100ms");
    assert!(proxy.reload(&config(&[&one, &two, &three], &quick)));
    poll("the whole weight", || {
        let warm = [&one, &two, &three].iter().all(|origin| status_of(&proxy, origin)["slow_start"].is_null());
        warm.then_some(())
    });
}

#[test]
fn time_outs_and_broken_heads_count_too() {
    for raw in [&b"HTTP/1.1 200 OK\r\nbroken"[..], b"garbage\r\n\r\n", b""] {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        let timeouts = "[defaults.timeouts]\nresponse = \"50ms\"";
        let proxy = Proxy::start(&config(&[&one, &two], &format!("{NO_CHECKS}{timeouts}")));
        let after = if raw.is_empty() { After::Stall } else { After::Close };
        one.on("/v1/BTC", Behaviour::Raw(raw.to_vec(), after));
        let bad = send_until_ejected(&proxy, &one, |response| response.status >= 500);
        assert!((5..=6).contains(&bad), "{bad}");
    }
}

#[test]
fn clients_that_leave_say_nothing_about_a_backend() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], NO_CHECKS));
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this".to_vec();
    one.on("/v1/BTC", Behaviour::Raw(head, After::Stall));
    for _ in 0..16 {
        let mut client = proxy.client();
        client.send("GET /v1/BTC HTTP/1.1\r\nhost: x\r\n\r\n");
        if client.head_only().1.iter().all(|(name, _)| name != "x-origin") {
            client.take(9);
        }
    }
    poll("all to have left", || {
        (proxy.metric("shardgate_requests_in_flight", &[("asset", "BTC")]) == 0.0).then_some(())
    });
    assert_eq!(ejections(&proxy, &one, "true"), 0.0);
    assert_eq!(status_of(&proxy, &one)["state"], "not-checked");
}

#[test]
fn a_client_that_does_not_send_its_body_says_nothing_about_a_backend() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&[&one, &two], NO_CHECKS));
    for origin in [&one, &two] {
        // A server that waits only so long for a body.
        origin.on("/v1/BTC", Behaviour::Early(Vec::new(), After::Close));
    }
    for _ in 0..16 {
        let mut client = proxy.client();
        client.send("POST /v1/BTC HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx");
        assert_eq!(client.response().status, 502);
    }
    for origin in [&one, &two] {
        assert_eq!(status_of(&proxy, origin)["state"], "not-checked");
    }
    assert!(proxy.series("shardgate_outlier_ejections_total", &[]).is_empty());
}
