//! Metrics: what a scrape of the daemon shows, and that Prometheus's own tool has nothing to say against it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shardgate::model::{Detector, Outcome, Reason, Role};
use shardgate::telemetry::{Cause, CertificateEnd, Handshake, HedgeResult, Metrics, RetryResult, families};

use crate::support::{Origin, Proxy};

/// Passes if `promtool check metrics` neither fails nor complains.
fn promtool(page: &str) {
    let mut tool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("promtool can't be run ({e}): install Debian's package `prometheus`"));
    tool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "promtool ({}): {said}\nof\n{page}", output.status);
}

#[test]
fn promtool_accepts_every_metric() {
    let metrics = Metrics::new(10);
    let [asset, region, backend, awkward]: [Arc<str>; 4] =
        ["BTC", "us-east", "10.1.0.11:8000", "B\"R\\K\n.B"].map(Arc::from);
    metrics.config("00ff", 10, SystemTime::now());
    metrics.reload(true);
    metrics.limit_hit("max_connections");
    let _connection = metrics.listener(&awkward).connected();
    metrics.listener(&awkward).handshake(Handshake::Full);
    let end = CertificateEnd { listener: awkward.clone(), certificate: awkward.clone(), not_after: 2_000_000_000 };
    metrics.certificates(vec![end]);
    let worker = metrics.worker();
    for asset in [asset, awkward] {
        let key = worker.key(&asset, &region);
        key.started().finished(200, None, Duration::from_millis(1), 1, 1);
        key.started().finished(503, Some(Reason::NoHealthyBackend), Duration::from_millis(1), 1, 1);
        key.retry(RetryResult::Success);
        let mut tunnel = key.started();
        tunnel.tunnelled();
        tunnel.finished(101, None, Duration::from_millis(1), 1, 1);
        key.hedge(HedgeResult::Won);
        key.failover(&region, Role::Replica);
        worker.pool(&asset, &region).upstream(Duration::from_millis(1));
        worker.pool(&asset, &region).connect(Duration::from_millis(1));
        drop(worker.pool(&asset, &region).queued());
        worker.pool(&asset, &region).waited(Duration::from_millis(1));
        worker.backend(&asset, &region, &backend).attempt(Outcome::Ok);
        worker.backend(&asset, &region, &backend).load_report(true);
        metrics.transition(&asset, &region, &backend, true, Cause::Active);
        metrics.ejection(&asset, &region, &backend, Detector::SuccessRate, true);
    }
    let page = metrics.encode();
    for spec in families() {
        let name = spec.full_name();
        assert!(page.contains(&format!("# HELP {name} {}", spec.help)), "{name} has no help in\n{page}");
        assert!(page.contains(&format!("\n{name}")), "{name} has no series in\n{page}");
    }
    promtool(&page);
}

/// Two backends for one asset, a catch-all, and what can't be served.
fn config(one: &Origin, two: &Origin) -> String {
    format!(
        r#"
        [[listeners]]
        name = "public"
        bind = "127.0.0.1:0"
        [[routes]]
        path = "/v1/{{asset}}"
        [defaults.health]
        path = "/healthz"
        interval = "50ms"
        fast_interval = "20ms"
        [server]
        default_region = "east"
        [regions.east]
        [regions.west]
        [pools.BTC.east]
        primaries = ["{}"]
        [pools."*".east]
        primaries = ["{}"]
        "#,
        one.addr(),
        two.addr()
    )
}

#[test]
fn requests_are_counted_by_key_class_and_reason() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&one, &two));
    let mut client = proxy.client();
    assert_eq!(client.post("/v1/btc", "12345").status, 200);
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(client.get("/v1/anything").status, 200);
    assert_eq!(client.get("/elsewhere/x").reason(), "no_route");
    let refused = client.request("GET", "/v1/BTC", &[("x-region", "mars")], b"");
    assert_eq!(refused.reason(), "unknown_region");

    let requests = "shardgate_requests_total";
    for (labels, expected) in [
        ([("asset", "BTC"), ("region", "east"), ("code", "2xx"), ("reason", "")], 2.0),
        ([("asset", "*"), ("region", "east"), ("code", "2xx"), ("reason", "")], 1.0),
        ([("asset", "_unknown"), ("region", "_unknown"), ("code", "4xx"), ("reason", "no_route")], 1.0),
    ] {
        proxy.metric_until(requests, &labels, |n| n == expected);
    }
    proxy.metric_until(requests, &[("reason", "unknown_region")], |n| n == 1.0);
    let key = [("asset", "BTC"), ("region", "east")];
    assert_eq!(proxy.metric("shardgate_request_bytes_total", &key), 5.0);
    assert!(proxy.metric("shardgate_response_bytes_total", &key) > 0.0);
    assert_eq!(proxy.metric("shardgate_request_duration_seconds_count", &key), 2.0);
    assert_eq!(proxy.metric("shardgate_requests_in_flight", &[]), 0.0);
    assert_eq!(proxy.metric("shardgate_upstream_duration_seconds_count", &key), 2.0);
    assert_eq!(proxy.metric("shardgate_upstream_connect_duration_seconds_count", &key), 1.0);
    let address = one.addr().to_string();
    let backend = [("asset", "BTC"), ("region", "east"), ("backend", address.as_str())];
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[&backend[..], &[("outcome", "ok")]].concat()), 2.0);
    assert_eq!(proxy.metric("shardgate_backend_up", &[&backend[..], &[("role", "primary")]].concat()), 1.0);
    assert_eq!(proxy.metric("shardgate_backend_weight", &backend), 1.0);
    assert_eq!(proxy.metric("shardgate_client_connections", &[("listener", "public")]), 1.0);
    assert_eq!(proxy.metric("shardgate_client_connections_total", &[("listener", "public")]), 1.0);
    assert!(proxy.metric("shardgate_health_checks_total", &[&backend[..], &[("result", "success")]].concat()) >= 1.0);
    assert_eq!(proxy.metric("shardgate_tier_load_ratio", &[&key[..], &[("role", "primary")]].concat()), 1.0);

    promtool(&proxy.admin_request("GET", "/metrics").text());
}

#[test]
fn gauges_follow_what_happens() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&one, &two));
    let gate = one.hold("/v1/BTC");
    let mut client = proxy.client();
    client.send("GET /v1/BTC HTTP/1.1\r\nHost: a\r\n\r\n");
    gate.waiting(1);
    let key = [("asset", "BTC"), ("region", "east")];
    for name in ["shardgate_requests_in_flight", "shardgate_backend_requests_in_flight"] {
        assert_eq!(proxy.metric(name, &key), 1.0, "{name}");
    }
    assert!(proxy.metric("shardgate_backend_connections", &key) >= 1.0);
    // The client goes: nothing stays in flight.
    drop(client);
    for name in ["shardgate_requests_in_flight", "shardgate_backend_requests_in_flight", "shardgate_client_connections"]
    {
        proxy.metric_until(name, &[], |n| n == 0.0);
    }
    proxy.metric_until("shardgate_requests_total", &[("reason", "client_closed")], |n| n == 1.0);
    gate.open();

    // What answers wrongly may still be used in panic; what nobody listens at, or is drained, leaves nobody to panic with.
    one.set_health(503);
    let address = one.addr().to_string();
    let backend = [("asset", "BTC"), ("backend", address.as_str())];
    proxy.metric_until("shardgate_backend_up", &backend, |n| n == 0.0);
    proxy.metric_until("shardgate_pool_panic", &key, |n| n == 1.0);
    one.kill();
    proxy.metric_until("shardgate_pool_panic", &key, |n| n == 0.0);
    let down = [&backend[..], &[("to", "down"), ("cause", "active")]].concat();
    proxy.metric_until("shardgate_backend_transitions_total", &down, |n| n == 1.0);
}

#[test]
fn series_end_with_what_they_describe() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config(&one, &two));
    let mut client = proxy.client();
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(client.get("/v1/other").status, 200);
    proxy.metric_until("shardgate_requests_total", &[("asset", "BTC")], |n| n == 1.0);
    let hash = proxy.config_hash();

    let without = config(&one, &two).replace("[pools.BTC.east]", "[pools.ETH.east]");
    assert!(proxy.reload(&without));
    assert_ne!(proxy.config_hash(), hash);
    let page = proxy.admin_request("GET", "/metrics").text();
    assert!(!page.contains("asset=\"BTC\""), "{page}");
    assert_eq!(proxy.metric("shardgate_requests_total", &[("asset", "*")]), 1.0);
    assert_eq!(proxy.metric("shardgate_config_last_reload_successful", &[]), 1.0);

    // Nor under a name that is another's by now.
    assert_eq!(client.get("/v1/ETH").status, 200);
    proxy.metric_until("shardgate_requests_total", &[("asset", "ETH")], |n| n == 1.0);
    assert!(proxy.reload(&(config(&one, &two) + "[assets.BTC]\naliases = ['ETH']\n")));
    let page = proxy.admin_request("GET", "/metrics").text();
    assert!(!page.contains("asset=\"ETH\""), "{page}");

    assert!(!proxy.reload("nonsense = true"));
    assert_eq!(proxy.metric("shardgate_config_last_reload_successful", &[]), 0.0);
    assert_eq!(proxy.metric("shardgate_requests_total", &[("asset", "*")]), 1.0);
}
