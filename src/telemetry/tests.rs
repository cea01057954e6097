//! The metrics as a scrape sees them.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::model::{Outcome, Reason, Role};

fn name(text: &str) -> Arc<str> {
    text.into()
}

/// The value of one series, by its text before the space.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.encode();
    let line = text.lines().find_map(|line| line.strip_prefix("shardgate_")?.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

fn serve(worker: &WorkerMetrics, asset: &str, region: &str, reason: Option<Reason>) {
    let key = worker.key(&name(asset), &name(region));
    let status = if reason.is_some() { 503 } else { 200 };
    key.started().finished(status, reason, Duration::from_millis(3), 10, 100);
}

#[test]
fn sums_over_workers_are_right_while_scraping() {
    const ROUNDS: u64 = 5_000;
    let metrics = Metrics::new(10);
    let listener = metrics.listener(&name("public"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let worker = metrics.worker();
                let (btc, east) = (name("BTC"), name("us-east"));
                let key = worker.key(&btc, &east);
                let pool = worker.pool(&btc, &east);
                let backend = worker.backend(&btc, &east, &name("10.1.0.11:8000"));
                for _ in 0..ROUNDS {
                    let _connection = listener.connected();
                    let request = key.started();
                    backend.attempt(Outcome::Ok);
                    pool.upstream(Duration::from_millis(2));
                    request.finished(200, None, Duration::from_millis(4), 1, 2);
                }
            });
        }
        let mut last = 0.0;
        for _ in 0..20 {
            let now = value(&metrics, r#"response_bytes_total{asset="BTC",region="us-east"}"#).unwrap_or(0.0);
            assert!(now >= last);
            last = now;
        }
    });
    let n = (4 * ROUNDS) as f64;
    let pool = r#"asset="BTC",region="us-east""#;
    for (series, expected) in [
        (format!(r#"requests_total{{{pool},code="2xx",reason=""}}"#), n),
        (format!("requests_in_flight{{{pool}}}"), 0.0),
        (format!("request_bytes_total{{{pool}}}"), n),
        (format!("response_bytes_total{{{pool}}}"), 2.0 * n),
        (format!("request_duration_seconds_count{{{pool}}}"), n),
        (format!(r#"request_duration_seconds_bucket{{{pool},le="0.0025"}}"#), 0.0),
        (format!(r#"request_duration_seconds_bucket{{{pool},le="0.005"}}"#), n),
        (format!(r#"upstream_duration_seconds_bucket{{{pool},le="0.0025"}}"#), n),
        (format!(r#"upstream_attempts_total{{{pool},backend="10.1.0.11:8000",outcome="ok"}}"#), n),
        (r#"client_connections{listener="public"}"#.into(), 0.0),
        (r#"client_connections_total{listener="public"}"#.into(), n),
    ] {
        assert_eq!(value(&metrics, &series), Some(expected), "{series}");
    }
    let sum = value(&metrics, &format!("request_duration_seconds_sum{{{pool}}}")).unwrap();
    assert!((sum - n * 0.004).abs() < 1e-6, "{sum}");
}

#[test]
fn a_request_that_is_dropped_is_no_longer_in_flight_and_not_counted() {
    let metrics = Metrics::new(10);
    let key = metrics.worker().key(&name("BTC"), &name("us-east"));
    let series = r#"requests_in_flight{asset="BTC",region="us-east"}"#;
    let (one, two) = (key.started(), key.started());
    assert_eq!(value(&metrics, series), Some(2.0));
    drop(one);
    assert_eq!(value(&metrics, series), Some(1.0));
    drop(two);
    assert_eq!(value(&metrics, series), Some(0.0));
    assert!(!metrics.encode().contains("requests_total{"));
}

#[test]
fn reasons_failovers_and_retries_have_their_words() {
    let metrics = Metrics::new(10);
    let worker = metrics.worker();
    serve(&worker, "BTC", "us-east", Some(Reason::NoHealthyBackend));
    let key = worker.key(&name("BTC"), &name("us-east"));
    key.failover(&name("eu-west"), Role::Replica);
    key.failover(&name("eu-west"), Role::Replica);
    key.failover(&name("us-east"), Role::Replica);
    key.retry(RetryResult::NoBudget);
    key.hedge(HedgeResult::Lost);
    metrics.worker().key(&name("BTC"), &name("us-east")).failover(&name("eu-west"), Role::Replica);
    for (series, expected) in [
        (r#"requests_total{asset="BTC",region="us-east",code="5xx",reason="no_healthy_backend"}"#, 1.0),
        (r#"failovers_total{asset="BTC",region="us-east",to_region="eu-west",to_role="replica"}"#, 3.0),
        (r#"failovers_total{asset="BTC",region="us-east",to_region="us-east",to_role="replica"}"#, 1.0),
        (r#"retries_total{asset="BTC",region="us-east",result="no_budget"}"#, 1.0),
        (r#"hedges_total{asset="BTC",region="us-east",result="lost"}"#, 1.0),
    ] {
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }
}

#[test]
fn pools_beyond_the_limit_share_one_pair_of_labels() {
    let metrics = Metrics::new(2);
    let worker = metrics.worker();
    for asset in ["A", "B", "C", "D", "A"] {
        serve(&worker, asset, "us-east", None);
    }
    serve(&worker, UNKNOWN, "us-east", Some(Reason::UnknownAsset));
    metrics.transition(&name("D"), &name("us-east"), &name("10.1.0.11:8000"), true, Cause::Active);
    for (asset, expected) in [("A", Some(2.0)), ("B", Some(1.0)), ("C", None), (UNKNOWN, Some(1.0))] {
        let series = format!(r#"request_duration_seconds_count{{asset="{asset}",region="us-east"}}"#);
        assert_eq!(value(&metrics, &series), expected, "{asset}");
    }
    let other = r#"request_duration_seconds_count{asset="_other",region="_other"}"#;
    assert_eq!(value(&metrics, other), Some(2.0));
    let labels = r#"asset="_other",region="_other",backend="_other",to="up",cause="active""#;
    assert_eq!(value(&metrics, &format!("backend_transitions_total{{{labels}}}")), Some(1.0));
}

#[test]
fn series_end_with_what_they_speak_of() {
    let metrics = Metrics::new(2);
    let worker = metrics.worker();
    let backend = name("10.1.0.11:8000");
    for (asset, region) in [("A", "r1"), ("B", "r1")] {
        serve(&worker, asset, region, None);
        worker.pool(&name(asset), &name(region)).connect(Duration::ZERO);
        worker.backend(&name(asset), &name(region), &backend).attempt(Outcome::Reset);
        worker.key(&name(asset), &name(region)).failover(&name("r2"), Role::Primary);
        metrics.transition(&name(asset), &name(region), &backend, false, Cause::Active);
    }
    serve(&worker, UNKNOWN, UNKNOWN, Some(Reason::NoRoute));
    serve(&worker, UNKNOWN, "r2", Some(Reason::UnknownAsset));

    // B goes, and the region r2; A loses its backend.
    metrics.retain(|subject| match subject {
        Subject::Region(region) => region == "r1",
        Subject::Asset(asset) => asset == "A",
        Subject::Pool { asset, .. } => asset == "A",
        Subject::Backend { .. } => false,
    });
    let text = metrics.encode();
    for gone in [r#"asset="B""#, "r2", "10.1.0.11"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    for stays in [
        r#"requests_total{asset="A",region="r1",code="2xx",reason=""} 1"#,
        r#"requests_total{asset="_unknown",region="_unknown",code="5xx",reason="no_route"} 1"#,
        r#"upstream_connect_duration_seconds_count{asset="A",region="r1"} 1"#,
    ] {
        assert!(text.contains(stays), "{stays} not in {text}");
    }
    // The place of B is free again.
    serve(&worker, "C", "r1", None);
    assert!(metrics.encode().contains(r#"{asset="C",region="r1"}"#));
}

#[test]
fn reloads_and_listeners_are_told() {
    let metrics = Metrics::new(1);
    assert_eq!(value(&metrics, "config_last_reload_successful"), None);
    metrics.config("00ff", 10, UNIX_EPOCH + Duration::from_millis(1500));
    assert_eq!(value(&metrics, r#"config_info{hash="00ff"}"#), Some(1.0));
    assert_eq!(value(&metrics, "config_last_reload_success_timestamp_seconds"), Some(1.5));
    metrics.reload(false);
    assert_eq!(value(&metrics, "config_last_reload_successful"), Some(0.0));
    assert_eq!(value(&metrics, r#"config_reloads_total{result="failure"}"#), Some(1.0));
    metrics.reload(true);
    assert_eq!(value(&metrics, "config_last_reload_successful"), Some(1.0));
    metrics.draining(true);
    assert_eq!(value(&metrics, "draining"), Some(1.0));

    let connection = metrics.listener(&name("public")).connected();
    assert_eq!(value(&metrics, r#"client_connections{listener="public"}"#), Some(1.0));
    metrics.remove_listener("public");
    drop(connection);
    assert_eq!(value(&metrics, r#"client_connections{listener="public"}"#), None);
}

#[test]
fn every_name_is_well_formed_and_once() {
    let mut names: Vec<_> = families().iter().map(|spec| spec.desc().unwrap().fq_name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), families().len());
}

#[test]
fn the_reference_names_every_metric_with_its_labels() {
    let reference = include_str!("../../docs/metrics.md");
    for spec in families() {
        let row = reference.lines().find(|line| line.starts_with(&format!("| `{}` |", spec.full_name())));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/metrics.md", spec.full_name()));
        let labels: Vec<_> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
        assert!(row.contains(&format!("| {} |", labels.join(" ")).replace("|  |", "| |")), "{row}");
    }
}

#[test]
fn each_certificate_of_a_listener_is_one_series() {
    let metrics = Metrics::new(10);
    let end = |listener: &str, certificate: &str, not_after| CertificateEnd {
        listener: name(listener),
        certificate: name(certificate),
        not_after,
    };
    metrics.certificates(vec![end("b", "c.pem", 9), end("a", "c.pem", 7), end("a", "d.pem", 6), end("a", "c.pem", 5)]);
    let text = metrics.encode();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("c.pem") || line.contains("d.pem")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    let of = |listener, certificate| {
        let labels = format!("{{listener=\"{listener}\",certificate=\"{certificate}\"}}");
        value(&metrics, &format!("tls_certificate_expiry_timestamp_seconds{labels}"))
    };
    assert_eq!([of("a", "c.pem"), of("a", "d.pem"), of("b", "c.pem")], [Some(5.0), Some(6.0), Some(9.0)]);
}
