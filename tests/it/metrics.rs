//! Metrics: what a scrape of the daemon shows, and that Prometheus's own tool has nothing to say against it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shardgate::model::{Outcome, Reason, Role};
use shardgate::telemetry::{Cause, Metrics, RetryResult, families};

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
    metrics.config("00ff", SystemTime::now());
    metrics.reload(true);
    metrics.limit_hit("max_connections");
    let _connection = metrics.listener(&awkward).connected();
    let worker = metrics.worker();
    for asset in [asset, awkward] {
        let key = worker.key(&asset, &region);
        key.started().finished(200, None, Duration::from_millis(1), 1, 1);
        key.started().finished(503, Some(Reason::NoHealthyBackend), Duration::from_millis(1), 1, 1);
        key.retry(RetryResult::Success);
        key.failover(&region, Role::Replica);
        worker.pool(&asset, &region).upstream(Duration::from_millis(1));
        worker.pool(&asset, &region).connect(Duration::from_millis(1));
        worker.backend(&asset, &region, &backend).attempt(Outcome::Ok);
        metrics.health_check(&asset, &region, &backend, true);
        metrics.transition(&asset, &region, &backend, true, Cause::Active);
    }
    let page = metrics.encode();
    for spec in families() {
        let name = spec.full_name();
        assert!(page.contains(&format!("# HELP {name} {}", spec.help)), "{name} has no help in\n{page}");
        assert!(page.contains(&format!("\n{name}")), "{name} has no series in\n{page}");
    }
    promtool(&page);
}
