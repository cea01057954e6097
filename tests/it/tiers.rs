//! Tiers: a pool's primaries, its replicas, and the fallback regions, by the share of each that is healthy.

use std::collections::HashMap;

use crate::support::{Origin, Proxy, poll};

/// Two regions, each the other's fallback. `settings` goes into `[defaults]`.
fn config(settings: &str, pools: &[(&str, &[&Origin], &[&Origin])]) -> String {
    let mut text = format!(
        "[[listeners]]\nbind = '127.0.0.1:0'\n[server]\nworkers = 1\ndefault_region = 'us-east'\n[[routes]]\n\
         path = '/v1/predict/{{asset}}'\n[regions.us-east]\nfallback = ['eu-west']\n[regions.eu-west]\n\
         fallback = ['us-east']\n[defaults]\nbalance = 'round-robin'\n{settings}\n"
    );
    let list = |origins: &[&Origin]| origins.iter().map(|o| format!("'{}'", o.addr())).collect::<Vec<_>>().join(", ");
    for (region, primaries, replicas) in pools {
        text += &format!("[pools.BTC.{region}]\nprimaries = [{}]\nreplicas = [{}]\n", list(primaries), list(replicas));
    }
    text
}

/// One result decides; but a busy machine is not a sick backend, so only answers do.
const CHECKED: &str =
    "health = { path = '/healthz', interval = '100ms', fast_interval = '50ms', timeout = '20s', rise = 1, fall = 1 }";

fn origins<const N: usize>(names: [&str; N]) -> [Origin; N] {
    names.map(Origin::start)
}

/// Who answers `n` GETs on one connection; every one of them must be answered by an origin.
fn shares(proxy: &Proxy, n: usize) -> HashMap<String, usize> {
    let mut client = proxy.client();
    let mut shares = HashMap::new();
    for _ in 0..n {
        *shares.entry(client.get("/v1/predict/BTC").origin().to_owned()).or_default() += 1;
    }
    shares
}

fn wait_up(proxy: &Proxy, origin: &Origin, up: bool) {
    let backend = origin.addr().to_string();
    poll(&format!("{} to be up: {up}", origin.name()), || {
        let series = proxy.series("shardgate_backend_up", &[("backend", &backend)]);
        (series.first()?.1 == f64::from(u8::from(up))).then_some(())
    });
}

/// Facts are gathered for a moment before they take effect.
fn all_to(proxy: &Proxy, name: &str) {
    let wanted = HashMap::from([(name.to_owned(), 20)]);
    poll(&format!("all load to go to {name}"), || (shares(proxy, 20) == wanted).then_some(()));
}

#[test]
fn load_goes_to_replicas_and_then_to_the_fallback_region() {
    let [a, r, far] = origins(["a", "r", "far"]);
    let proxy = Proxy::start(&config(CHECKED, &[("us-east", &[&a], &[&r]), ("eu-west", &[&far], &[])]));
    assert_eq!(shares(&proxy, 20), HashMap::from([("a".into(), 20)]));
    a.set_health(500);
    wait_up(&proxy, &a, false);
    all_to(&proxy, "r");
    r.set_health(500);
    wait_up(&proxy, &r, false);
    all_to(&proxy, "far");
    assert!(proxy.metric("shardgate_failovers_total", &[("region", "us-east"), ("to_region", "eu-west")]) >= 20.0);
    a.set_health(200);
    wait_up(&proxy, &a, true);
    all_to(&proxy, "a");
}

#[test]
fn half_of_the_primaries_leave_three_tenths_to_the_replicas() {
    let [a, b, c, d, r] = origins(["a", "b", "c", "d", "r"]);
    let proxy = Proxy::start(&config(CHECKED, &[("us-east", &[&a, &b, &c, &d], &[&r])]));
    for sick in [&a, &b] {
        sick.set_health(503);
        wait_up(&proxy, sick, false);
    }
    poll("the sick to get nothing", || shares(&proxy, 40).keys().all(|name| name != "a" && name != "b").then_some(()));
    let shares = shares(&proxy, 1000);
    assert!(!shares.contains_key("a") && !shares.contains_key("b"), "{shares:?}");
    // 1.4 × 50 % = 70 %; four standard deviations to both sides.
    assert!((240..=360).contains(&shares["r"]), "{shares:?}");
}

#[test]
fn below_the_panic_threshold_the_sick_are_used_again_but_not_the_dead() {
    let [a, b, c, dead] = origins(["a", "b", "c", "dead"]);
    let proxy = Proxy::start(&config(CHECKED, &[("us-east", &[&a, &b, &c, &dead], &[])]));
    dead.kill();
    for sick in [&b, &c] {
        sick.set_health(503);
    }
    for down in [&b, &c, &dead] {
        wait_up(&proxy, down, false);
    }
    let shares = shares(&proxy, 60);
    for name in ["a", "b", "c"] {
        assert!(shares.contains_key(name), "{shares:?}");
    }
    proxy.metric_until("shardgate_pool_panic", &[], |panic| panic == 1.0);
}

#[test]
fn another_region_is_given_only_what_it_has_room_for() {
    let [near, far_one, far_two] = origins(["near", "far-one", "far-two"]);
    let pools: [(&str, &[&Origin], &[&Origin]); 2] =
        [("us-east", &[&near], &[]), ("eu-west", &[&far_one, &far_two], &[])];
    let settings =
        "health = false\noutlier = false\nretry = false\nlimits = { max_queue = 0 }\nfailover = { capacity = 2 }";
    let proxy = Proxy::start(&config(settings, &pools));
    near.kill();
    // Two of its own and two of the other region's: then there is no room for the other region any more.
    let gates = [&far_one, &far_two].map(|far| far.hold("/v1/predict/BTC"));
    let ask = |region: &str| {
        let mut client = proxy.client();
        client.send(format!("GET /v1/predict/BTC HTTP/1.1\r\nhost: x\r\nx-region: {region}\r\n\r\n"));
        client
    };
    let in_flight = |n: f64| proxy.metric_until("shardgate_requests_in_flight", &[], |is| is == n);
    let mut held: Vec<_> = ["eu-west", "us-east", "eu-west", "us-east"].map(ask).into();
    in_flight(4.0);
    let turned_away = ask("us-east").response();
    assert_eq!((turned_away.status, turned_away.reason().as_str()), (503, "overloaded"));
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "capacity")]), 1.0);
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/predict/BTC&header=x-region:us-east").json();
    assert_eq!(told["pick"]["region"], "us-east", "it would still be tried at home");
    // Its own requests are always let in.
    held.push(ask("eu-west"));
    in_flight(5.0);
    gates.iter().for_each(|gate| gate.open());
    for client in &mut held {
        assert_eq!(client.response().status, 200);
    }
    assert!(ask("us-east").response().origin().starts_with("far"));
}
