//! Active checks: what brings a backend in, what takes it out, and what it is asked. Intervals here are short or so
//! long that only the first check is ever done; no test waits for one to pass.

use crate::support::{Behaviour, Origin, Proxy, poll};

/// One asset in one region, whose primaries are checked as `health` says (the inside of `[defaults.health]`).
fn config(health: &str, primaries: &[String], more: &str) -> String {
    let primaries: Vec<_> = primaries.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        r#"
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults]
balance = "round-robin"
[defaults.health]
{health}
[pools.BTC.a]
primaries = [{}]
{more}
"#,
        primaries.join(", ")
    )
}

const QUICK: &str = "path = \"/healthz\"\ninterval = \"50ms\"\nfast_interval = \"20ms\"\ntimeout = \"10s\"";
const ONCE: &str = "path = \"/healthz\"\ninterval = \"1h\"\nfast_interval = \"1h\"\ntimeout = \"10s\"";

fn addresses(origins: &[&Origin]) -> Vec<String> {
    origins.iter().map(|origin| origin.addr().to_string()).collect()
}

/// Waits until a backend is up, or down, in every pool that it is in.
fn wait_up(proxy: &Proxy, origin: &Origin, up: bool) {
    let (label, value) = (origin.addr().to_string(), f64::from(u8::from(up)));
    poll(if up { "it to be up" } else { "it to be down" }, || {
        let found = proxy.series("shardgate_backend_up", &[("backend", label.as_str())]);
        (!found.is_empty() && found.iter().all(|(_, is)| *is == value)).then_some(())
    });
}

#[test]
fn three_failures_take_a_backend_out_and_two_passes_bring_it_back() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(QUICK, &addresses(&[&one, &two]), ""));
    for origin in [&one, &two] {
        wait_up(&proxy, origin, true);
    }
    let label = one.addr().to_string();
    let of_one = |result| [("backend", label.as_str()), ("result", result)];

    one.set_health(503);
    wait_up(&proxy, &one, false);
    assert!(proxy.metric("shardgate_health_checks_total", &of_one("failure")) >= 3.0);
    let line = proxy.log_where("backend is down", |line| line["backend"] == *label);
    assert_eq!((line["region"].as_str(), line["to"].as_str()), (Some("a"), Some("down")));
    assert_eq!(line["cause"], "status 503");
    // What is gathered for some milliseconds before it is published has come when a turn is left out.
    poll("a turn that is left out", || {
        (proxy.get("/v1/BTC").origin() == "two" && proxy.get("/v1/BTC").origin() == "two").then_some(())
    });
    one.take_requests();
    for _ in 0..10 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "two");
    }
    assert_eq!(one.count(), 0);

    let passes = proxy.metric("shardgate_health_checks_total", &of_one("success"));
    one.set_health(204);
    wait_up(&proxy, &one, true);
    assert!(proxy.metric("shardgate_health_checks_total", &of_one("success")) >= passes + 2.0);
    proxy.log_where("backend is up", |line| line["backend"] == *label && line["to"] == "up");
    poll("traffic to the one that came back", || (proxy.get("/v1/BTC").origin() == "one").then_some(()));
    for to in ["up", "down"] {
        let labels = [("backend", label.as_str()), ("to", to), ("cause", "active")];
        let expected = if to == "up" { 2.0 } else { 1.0 };
        assert_eq!(proxy.metric("shardgate_backend_transitions_total", &labels), expected, "{to}");
    }
}

#[test]
fn a_backend_is_used_after_its_first_pass_and_not_before() {
    let origin = Origin::start("one");
    let gate = origin.hold("/ready");
    let health = "path = \"/ready\"\ninterval = \"50ms\"\nfast_interval = \"20ms\"\ntimeout = \"200ms\"\nrise = 9";
    let more = "[defaults.failover]\npanic_percent = 0";
    let proxy = Proxy::start(&config(health, &addresses(&[&origin]), more));
    let refused = proxy.get("/v1/BTC");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "no_healthy_backend"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(origin.requests().iter().all(|request| request.target == "/ready"), "nothing but checks");
    gate.open();
    poll("the first pass", || (proxy.get("/v1/BTC").status == 200).then_some(()));
    let labels = [("to", "up"), ("cause", "active")];
    assert_eq!(proxy.metric("shardgate_backend_transitions_total", &labels), 1.0);
}

#[test]
fn what_a_check_looks_like() {
    let origin = Origin::start("one");
    let health = "path = \"/ready?deep=1\"\ninterval = \"20ms\"\ntimeout = \"10s\"";
    let _proxy = Proxy::start(&config(health, &addresses(&[&origin]), ""));
    poll("five checks", || (origin.count() >= 5).then_some(()));
    assert_eq!(origin.accepted(), 1, "all on one connection");
    let check = &origin.requests()[0];
    assert_eq!((check.method.as_str(), check.target.as_str()), ("GET", "/ready?deep=1"));
    assert_eq!(check.header("host"), Some(&*origin.addr().to_string()));
    assert_eq!(check.header("user-agent"), Some("shardgate-health"));
}

#[test]
fn the_expected_status_is_configured() {
    let (plain, strict) = (Origin::start("plain"), Origin::start("strict"));
    for origin in [&plain, &strict] {
        origin.set_health(404);
    }
    let pool = format!("[pools.ETH.a]\nprimaries = [\"{}\"]\nhealth = {{ expect = \"400-404\" }}", strict.addr());
    let proxy = Proxy::start(&config(QUICK, &addresses(&[&plain]), &pool));
    wait_up(&proxy, &strict, true);
    wait_up(&proxy, &plain, false);
}

#[test]
fn in_panic_what_answers_is_used_and_what_refuses_is_not() {
    let [slow, sick, dead] = ["slow", "sick", "dead"].map(Origin::start);
    sick.set_health(500);
    slow.on("/ready", Behaviour::Hold(crate::support::Gate::new()));
    dead.kill();
    let pool = |origin: &Origin, path| {
        format!("[pools.{}.a]\nprimaries = [\"{}\"]\nhealth = {{ path = \"{path}\" }}\n", origin.name(), origin.addr())
    };
    let more = pool(&slow, "/ready") + &pool(&dead, "/healthz");
    let health = "path = \"/healthz\"\ninterval = \"50ms\"\ntimeout = \"100ms\"";
    let proxy = Proxy::start(&config(health, &addresses(&[&sick, &dead]), &more));
    for origin in [&slow, &sick, &dead] {
        wait_up(&proxy, origin, false);
    }
    for _ in 0..6 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "sick");
    }
    assert_eq!(proxy.get("/v1/slow").origin(), "slow");
    let refused = proxy.get("/v1/dead");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "no_healthy_backend"));
    assert_eq!(proxy.metric("shardgate_pool_panic", &[("asset", "BTC"), ("role", "primary")]), 1.0);
}

#[test]
fn without_a_path_a_connect_is_the_check() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let quick = "interval = \"50ms\"\nfast_interval = \"20ms\"\ntimeout = \"10s\"";
    let proxy = Proxy::start(&config(quick, &addresses(&[&one, &two]), ""));
    wait_up(&proxy, &one, true);
    one.kill();
    wait_up(&proxy, &one, false);
    proxy.log_where("backend is down", |line| line["cause"] == "refused");
    one.revive();
    wait_up(&proxy, &one, true);
    assert_eq!(one.count() + two.count(), 0, "nothing was asked");
}

#[test]
fn a_backend_in_several_pools_is_checked_once() {
    let origin = Origin::start("one");
    let pools: String = (0..20).map(|i| format!("[pools.A{i}.a]\nprimaries = [\"{}\"]\n", origin.addr())).collect();
    let proxy = Proxy::start(&config(ONCE, &addresses(&[&origin]), &pools));
    assert_eq!(proxy.get("/v1/A7").status, 200);
    assert_eq!(origin.checks(), 1);
    // It is told of each of them.
    assert_eq!(proxy.metric("shardgate_health_checks_total", &[("result", "success")]), 21.0);
}

#[test]
fn a_reload_asks_nobody_again_whom_it_does_not_change() {
    let [one, two, three] = ["one", "two", "three"].map(Origin::start);
    two.set_health(503);
    let proxy = Proxy::start(&config(ONCE, &addresses(&[&one, &two]), ""));
    wait_up(&proxy, &one, true);
    wait_up(&proxy, &two, false);
    two.set_health(200);
    // Another weight and another neighbour: the same backend with the same check.
    let more = format!("[pools.ETH.a]\nprimaries = [{{ address = \"{}\", weight = 3 }}]", one.addr());
    assert!(proxy.reload(&config(ONCE, &addresses(&[&one, &two, &three]), &more)));
    wait_up(&proxy, &one, true);
    wait_up(&proxy, &two, false);
    wait_up(&proxy, &three, true);
    assert_eq!([one.checks(), two.checks(), three.checks()], [1, 1, 1]);
    assert_eq!(proxy.get("/v1/ETH").origin(), "one");
    // Another check is another state: asked anew.
    assert!(proxy.reload(&config(&ONCE.replace("\"10s\"", "\"9s\""), &addresses(&[&one, &two]), "")));
    wait_up(&proxy, &two, true);
    assert_eq!([one.checks(), two.checks()], [2, 2]);
}

#[test]
fn checks_that_are_off_leave_every_backend_usable() {
    let (one, dead) = (Origin::start("one"), Origin::start("dead"));
    dead.kill();
    let toml = config(ONCE, &addresses(&[&one, &dead]), "health = false");
    let proxy = Proxy::start(&toml);
    wait_up(&proxy, &dead, true);
    assert_eq!(one.accepted(), 0);
    for _ in 0..4 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "one", "a refused connection costs a free try");
    }
    assert!(proxy.series("shardgate_health_checks_total", &[]).is_empty());
}

#[test]
fn a_name_is_resolved_at_load() {
    let origin = Origin::start("one");
    let name = format!("localhost:{}", origin.addr().port());
    let proxy = Proxy::start(&config(QUICK, &[name], ""));
    wait_up(&proxy, &origin, true);
    assert_eq!(proxy.get("/v1/BTC").origin(), "one");
}
