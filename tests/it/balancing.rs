//! Balancing: how requests spread over the backends of a tier, and over tiers as health goes.

use crate::support::{Origin, Proxy, poll};

fn config(balance: &str, primaries: &[(&Origin, u16)], replicas: &[&Origin]) -> String {
    let primaries: Vec<_> =
        primaries.iter().map(|(o, weight)| format!("{{ address = \"{}\", weight = {weight} }}", o.addr())).collect();
    let replicas: Vec<_> = replicas.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        r#"
[server]
workers = 1
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults.health]
path = "/healthz"
interval = "100ms"
fast_interval = "20ms"
timeout = "20s" # a busy machine is not a sick backend
rise = 1
fall = 1
[pools.BTC.a]
balance = "{balance}"
primaries = [{}]
replicas = [{}]
"#,
        primaries.join(", "),
        replicas.join(", ")
    )
}

fn counts(proxy: &Proxy, origins: &[&Origin], requests: usize) -> Vec<usize> {
    for origin in origins {
        origin.take_requests();
    }
    let mut client = proxy.client();
    for _ in 0..requests {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
    origins.iter().map(|origin| origin.count()).collect()
}

#[test]
fn round_robin_is_exact_by_weight() {
    let (one, two, three) = (Origin::start("one"), Origin::start("two"), Origin::start("three"));
    let proxy = Proxy::start(&config("round-robin", &[(&one, 5), (&two, 1), (&three, 1)], &[]));
    assert_eq!(counts(&proxy, &[&one, &two, &three], 70), [50, 10, 10]);
}

#[test]
fn random_and_least_request_go_by_weight() {
    for balance in ["random", "least-request"] {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        let proxy = Proxy::start(&config(balance, &[(&one, 3), (&two, 1)], &[]));
        let counts = counts(&proxy, &[&one, &two], 400);
        // 300 expected of a binomial with a deviation of 8.7; the bounds are 6 of those away.
        assert!((248..=352).contains(&counts[0]), "{balance}: {counts:?}");
    }
}

#[test]
fn least_request_avoids_the_busy() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config("least-request", &[(&one, 1), (&two, 1)], &[]));
    let gate = one.hold("/v1/BTC");
    let mut waiting = Vec::new();
    poll("a request to be held", || {
        let mut client = proxy.client();
        let request = client.format("GET", "/v1/BTC", &[], b"");
        client.send(request);
        waiting.push(client);
        (one.count() > 0).then_some(())
    });
    gate.waiting(1);
    proxy.metric_until("shardgate_requests_in_flight", &[], |n| n == 1.0);
    assert_eq!(counts(&proxy, &[&two], 50), [50]);
    gate.open();
}

#[test]
fn load_spills_as_primaries_go_and_comes_back() {
    let primaries = [Origin::start("p1"), Origin::start("p2")];
    let replica = Origin::start("r");
    let weighted: Vec<_> = primaries.iter().map(|origin| (origin, 1)).collect();
    let proxy = Proxy::start(&config("round-robin", &weighted, &[&replica]));
    assert_eq!(counts(&proxy, &[&replica], 50), [0]);

    let up = |origin: &Origin, n: f64| {
        let address = origin.addr().to_string();
        proxy.metric_until("shardgate_backend_up", &[("backend", &address)], |up| up == n);
    };
    primaries[0].set_health(503);
    up(&primaries[0], 0.0);
    // Half of the weight, times 1.4: the primaries keep 70 %.
    let ratio = |role, ratio| proxy.metric_until("shardgate_tier_load_ratio", &[("role", role)], |got| got == ratio);
    ratio("primary", 0.7);
    ratio("replica", 0.3);
    let spilled = counts(&proxy, &[&replica], 400)[0];
    assert!((65..=175).contains(&spilled), "of 400 requests, 30 % were to spill: {spilled}");

    primaries[1].set_health(503);
    up(&primaries[1], 0.0);
    ratio("replica", 1.0);
    assert_eq!(counts(&proxy, &[&replica], 20), [20]);

    for primary in &primaries {
        primary.set_health(200);
        up(primary, 1.0);
    }
    ratio("replica", 0.0);
    assert_eq!(counts(&proxy, &[&replica], 20), [0]);
}
