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
