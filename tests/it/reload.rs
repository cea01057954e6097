//! Reload: what a new file changes, what a bad one does not, and that clients notice neither.

use crate::support::{Origin, Proxy, poll};

fn config(pools: &str, more: &str) -> String {
    format!(
        r#"
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
{more}
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults.health]
path = "/healthz"
interval = "100ms"
fast_interval = "50ms"
{pools}
"#
    )
}

fn pool(asset: &str, origins: &[&Origin]) -> String {
    let addresses: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!("[pools.{asset}.a]\nprimaries = [{}]\n", addresses.join(", "))
}

#[test]
fn pools_come_and_go_and_connections_stay() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&pool("BTC", &[&one]), ""));
    let mut client = proxy.client();
    assert_eq!(client.get("/v1/BTC").origin(), "one");
    assert_eq!(client.get("/v1/ETH").reason(), "unknown_asset");
    let before = proxy.config_hash();
    let accepted = one.accepted();

    assert!(proxy.reload(&config(&(pool("BTC", &[&one]) + &pool("ETH", &[&two])), "")));
    assert_ne!(proxy.config_hash(), before);
    assert_eq!(client.get("/v1/ETH").origin(), "two", "its first round of checks is over by now");
    assert_eq!(client.get("/v1/BTC").origin(), "one");
    assert_eq!(one.accepted(), accepted, "the connection to the unchanged backend was kept");

    assert!(proxy.reload(&config(&pool("ETH", &[&two]), "")));
    assert_eq!(client.get("/v1/BTC").reason(), "unknown_asset");
    assert_eq!(client.get("/v1/ETH").origin(), "two");
    assert_eq!(proxy.metric("shardgate_client_connections_total", &[]), 1.0);
    assert!(proxy.series("shardgate_upstream_attempts_total", &[("asset", "BTC")]).is_empty());
    assert!(proxy.series("shardgate_backend_up", &[("asset", "BTC")]).is_empty());
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    let one = Origin::start("one");
    let good = config(&pool("BTC", &[&one]), "");
    let proxy = Proxy::start(&good);
    let before = proxy.config_hash();
    assert!(!proxy.reload(&good.replace("primaries", "primarys")));
    proxy.log_says("did you mean");
    assert_eq!(proxy.config_hash(), before);
    assert_eq!(proxy.metric("shardgate_config_last_reload_successful", &[]), 0.0);
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    assert!(!proxy.reload(&format!("[server]\nworkers = 7\n{good}")));
    proxy.log_says("server.workers");
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    assert!(proxy.reload(&good));
    assert_eq!(proxy.metric("shardgate_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn listeners_come_and_go() {
    let one = Origin::start("one");
    let pools = pool("BTC", &[&one]);
    let proxy = Proxy::start(&config(&pools, ""));
    let mut kept = proxy.client();
    assert_eq!(kept.get("/v1/BTC").status, 200);
    assert!(proxy.reload(&config(&pools, "[[listeners]]\nname = \"second\"\nbind = \"127.0.0.1:0\"\n")));
    let second = proxy.addr_soon("second");
    let mut client = crate::support::Client::connect(second);
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert!(proxy.reload(&config(&pools, "")));
    poll("the second listener to be closed", || crate::support::Client::try_connect(second).is_err().then_some(()));
    assert_eq!(kept.get("/v1/BTC").status, 200);
    poll("the idle connection to be drained", || client.is_closed().then_some(()));
    assert!(proxy.series("shardgate_client_connections", &[("listener", "second")]).is_empty());
}

#[test]
fn a_listener_gets_another_name_or_the_address_of_another() {
    let one = Origin::start("one");
    let pools = pool("BTC", &[&one]);
    let directory = tempfile::tempdir().unwrap();
    let listener = |name: &str, file: &str| {
        let name = if name.is_empty() { String::new() } else { format!("name = \"{name}\"\n") };
        format!("[[listeners]]\n{name}bind = \"unix:{}/{file}\"\n", directory.path().display())
    };
    let serve = |proxy: &Proxy, file: &str, name: &str| {
        let path = directory.path().join(file);
        assert_eq!(crate::support::Client::connect_unix(&path).get(&format!("/v1/BTC?{file}={name}")).status, 200);
        let line = proxy.access_where(|line| line["target"] == format!("/v1/BTC?{file}={name}"));
        assert!(line["listener"].as_str().unwrap().contains(name), "{line}");
    };
    let proxy = Proxy::start(&config(&pools, &(listener("", "a") + &listener("b", "b"))));
    serve(&proxy, "a", "unix:");
    assert!(proxy.reload(&config(&pools, &(listener("public", "a") + &listener("b", "b")))));
    serve(&proxy, "a", "public");
    assert!(proxy.reload(&config(&pools, &(listener("public", "b") + &listener("b", "a")))));
    serve(&proxy, "a", "b");
    serve(&proxy, "b", "public");
    assert!(proxy.reload(&config(&pools, &listener("b", "a"))));
    serve(&proxy, "a", "b");
    poll("the other to go", || (!directory.path().join("b").exists()).then_some(()));
}

#[test]
fn a_listener_that_can_t_be_bound_refuses_the_reload() {
    let one = Origin::start("one");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&config(&pool("BTC", &[&one]), ""));
    let more = format!("[[listeners]]\nname = \"second\"\nbind = \"{}\"\n", taken.local_addr().unwrap());
    assert!(!proxy.reload(&config(&pool("BTC", &[&one]), &more)));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
}

#[test]
fn health_survives_a_reload() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    two.set_health(500);
    let pools = pool("BTC", &[&one, &two]);
    let proxy = Proxy::start(&config(&pools, ""));
    let two_is_down = || proxy.metric("shardgate_backend_up", &[("backend", &two.addr().to_string())]) == 0.0;
    assert!(two_is_down());
    let checks = one.checks();
    assert!(proxy.reload(&config(&(pools + "weights = 1\n").replace("weights = 1\n", ""), "# changed\n")));
    assert!(two_is_down());
    for _ in 0..10 {
        assert_eq!(proxy.get("/v1/BTC").origin(), "one");
    }
    poll("checks to go on", || (one.checks() > checks).then_some(()));
}

#[test]
fn the_admin_address_reloads_and_answers_with_the_diagnostics() {
    let one = Origin::start("one");
    let good = config(&pool("BTC", &[&one]), "");
    let proxy = Proxy::start(&good);
    assert_eq!(proxy.admin_request("POST", "/api/v1/reload").status, 200);
    std::fs::write(proxy.config_file(), "[nonsense]\n").unwrap();
    let got = proxy.admin_request("POST", "/api/v1/reload");
    assert_eq!(got.status, 422);
    assert!(got.text().contains("nonsense"), "{}", got.text());
    assert_eq!(proxy.get("/v1/BTC").status, 200);
}

#[test]
fn a_request_in_flight_ends_as_it_began() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let gate = one.hold("/v1/BTC");
    let proxy = Proxy::start(&config(&pool("BTC", &[&one]), ""));
    let mut client = proxy.client();
    client.send(client.format("GET", "/v1/BTC", &[], b""));
    gate.waiting(1);
    assert!(proxy.reload(&config(&pool("BTC", &[&two]), "")));
    assert_eq!(proxy.get("/v1/BTC").origin(), "two");
    gate.open();
    assert_eq!(client.response().origin(), "one");
    assert_eq!(client.get("/v1/BTC").origin(), "two");
}

#[test]
fn signals_that_come_together_are_heeded_and_the_admin_address_stays() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&pool("BTC", &[&one]), ""));
    let next = config(&pool("BTC", &[&two]), "");
    std::fs::write(proxy.config_file(), format!("{next}\n[admin]\nbind = \"127.0.0.1:0\"\n")).unwrap();
    for _ in 0..5 {
        proxy.signal(rustix::process::Signal::HUP);
    }
    poll("the new file", || (proxy.get("/v1/BTC").origin() == "two").then_some(()));
    assert!(!proxy.reload(&format!("{next}\n[admin]\nbind = \"127.0.0.2:0\"\n")));
    proxy.log_says("admin.bind");
}

#[test]
fn the_token_and_the_number_of_series_follow_the_file() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let pools = pool("BTC", &[&one]) + &pool("ETH", &[&two]);
    let admin = |more: &str| config(&pools, "") + &format!("[admin]\nbind = \"127.0.0.1:0\"\n{more}\n");
    let proxy = Proxy::start(&(admin("") + "[metrics]\nmax_pools = 1\n"));
    for asset in ["BTC", "ETH"] {
        assert_eq!(proxy.get(&format!("/v1/{asset}")).status, 200);
    }
    let own = |asset| !proxy.series("shardgate_requests_total", &[("asset", asset)]).is_empty();
    assert_eq!([own("BTC"), own("ETH"), own("_other")].iter().filter(|own| **own).count(), 2);
    std::fs::write(proxy.directory().join("token"), "secret\n").unwrap();
    assert!(proxy.reload(&(admin("token_file = \"token\"") + "[metrics]\nmax_pools = 10\n")));
    for asset in ["BTC", "ETH"] {
        assert_eq!(proxy.get(&format!("/v1/{asset}")).status, 200);
        assert!(own(asset));
    }
    assert_eq!(proxy.admin_request("POST", "/api/v1/reload").status, 401);
}
