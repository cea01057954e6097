//! Logs: what stands in them, and that nobody who reads them, or does not, can hold a request up.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::proxy::binary;
use crate::support::{Origin, Proxy, poll};

fn config(origin: &Origin, log: &str) -> String {
    format!(
        r#"
        [[listeners]]
        name = "public"
        bind = "127.0.0.1:0"
        [[routes]]
        name = "predict"
        path = "/v1/{{asset}}"
        [regions.east]
        [pools.BTC.east]
        primaries = ["{}"]
        [admin]
        bind = "127.0.0.1:0"
        [log]
        {log}
        "#,
        origin.addr()
    )
}

/// The daemon with its standard output somewhere else: `redirection` is the shell's.
fn start_redirected(toml: &str, redirection: &str) -> Proxy {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shardgate.toml");
    fs::write(&file, toml).unwrap();
    let mut command = Command::new("sh");
    command.current_dir(directory.path()).arg("-c").arg(format!("mkfifo fifo && exec \"$@\" {redirection}"));
    command.arg("sh").arg(binary()).args(["run", "-c"]).arg(&file);
    let proxy = Proxy::spawn(command, Some(directory));
    proxy.log_line("ready");
    proxy
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn a_line_says_what_became_of_a_request() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, ""));
    let answer = proxy.client().request("POST", "/v1/btc?x=%22", &[("Host", "api.example.com")], b"12345");
    let line = proxy.access_where(|line| line["status"] == 200);
    for (field, expected) in [
        ("client", "127.0.0.1"),
        ("listener", "public"),
        ("method", "POST"),
        ("host", "api.example.com"),
        ("target", "/v1/btc?x=%22"),
        ("route", "predict"),
        ("asset", "BTC"),
        ("region", "east"),
        ("backend", &origin.addr().to_string()),
        ("request_id", answer.header("x-request-id").expect("an id")),
    ] {
        assert_eq!(line[field], expected, "{field} of {line}");
    }
    assert_eq!(line["reason"], Value::Null);
    assert_eq!(line["attempts"], 1);
    assert_eq!(line["bytes_in"], 5);
    assert_eq!(line["bytes_out"], answer.body.len());
    let (total, upstream) = (line["duration"].as_f64().unwrap(), line["upstream_duration"].as_f64().unwrap());
    assert!(total >= upstream && upstream > 0.0, "{line}");
    assert!(line["connect_duration"].is_number(), "{line}");
    let time: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(time).as_secs() < 60);
}

#[test]
fn a_refused_request_has_the_reason_its_client_was_given() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, ""));
    for (target, status) in [("/v1/nothing", 404), ("/nowhere/x", 404)] {
        let answer = proxy.get(target);
        assert_eq!(answer.status, status);
        let line = proxy.access_where(|line| line["target"] == target);
        assert_eq!(line["reason"], answer.reason());
        assert_eq!(line["request_id"], answer.json()["request_id"]);
        assert_eq!(line["backend"], Value::Null);
        assert_eq!(line["attempts"], 0);
    }
}

#[test]
fn clients_that_go_away_do_not_fill_the_log() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, ""));
    let mut client = proxy.client();
    client.send("POST /v1/BTC HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart");
    drop(client);
    let line = proxy.access_where(|line| line["method"] == "POST");
    assert_eq!((&line["status"], &line["reason"]), (&499.into(), &"client_closed".into()), "{line}");
    assert_eq!((&line["attempts"], &line["bytes_in"]), (&1.into(), &4.into()), "{line}");
    // The try had ended before the request's own line was written.
    assert!(!proxy.log().contains("a try"), "{}", proxy.log());
}

#[test]
fn a_line_is_json_whatever_was_sent() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, ""));
    for target in ["/v1/BTC?q=\"\\", "/v1/BTC?\u{e9}", "/v1/BTC?{<|>}`^"] {
        let mut client = proxy.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let status = client.response().status;
        assert!(matches!(status, 200 | 400), "{target}: {status}");
    }
    assert_eq!(proxy.get("/v1/BTC?last").status, 200);
    proxy.access_where(|line| line["target"] == "/v1/BTC?last");
    // Each is parsed. Workers write in batches of their own, so the last line need not come last.
    poll("four lines", || (proxy.access_lines().len() == 4).then_some(()));
}

#[test]
fn a_file_is_opened_anew_on_sigusr1() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, "access = \"access.log\""));
    let (log, moved) = (proxy.directory().join("access.log"), proxy.directory().join("access.log.1"));
    proxy.get("/v1/BTC?one");
    poll("the first line", || (lines(&log).len() == 1).then_some(()));
    fs::rename(&log, &moved).unwrap();
    proxy.get("/v1/BTC?two");
    poll("a line in the moved file", || (lines(&moved).len() == 2).then_some(()));
    proxy.signal(Signal::USR1);
    poll("the new file", || log.exists().then_some(()));
    proxy.get("/v1/BTC?three");
    poll("a line in the new file", || (lines(&log).len() == 1).then_some(()));
    assert_eq!(lines(&log)[0]["target"], "/v1/BTC?three");
    assert!(proxy.output().is_empty());
}

#[test]
fn a_reload_changes_where_lines_go() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, ""));
    proxy.get("/v1/BTC?one");
    proxy.access_where(|line| line["target"] == "/v1/BTC?one");
    assert!(proxy.reload(&config(&origin, "access = \"access.log\"\nformat = \"json\"")));
    proxy.get("/v1/BTC?two");
    let log = proxy.directory().join("access.log");
    poll("a line in the file", || lines(&log).iter().any(|line| line["target"] == "/v1/BTC?two").then_some(()));
    assert!(proxy.reload(&config(&origin, "access = \"off\"")));
    proxy.get("/v1/BTC?three");
    assert_eq!(proxy.access_lines().len(), 1);
    assert_eq!(lines(&log).len(), 1);
}

#[test]
fn a_full_disk_costs_lines_and_no_requests() {
    let origin = Origin::start("a");
    let proxy = start_redirected(&config(&origin, "format = \"json\""), "> /dev/full");
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
    proxy.metric_until("shardgate_log_lines_dropped_total", &[("log", "access")], |n| n == 10.0);
}

#[test]
fn a_reader_that_is_gone_costs_lines_and_no_requests() {
    let origin = Origin::start("a");
    // A pipe whose other end nobody has any more, and no standard output at all.
    for (redirection, lost) in [("3<> fifo > fifo 3>&-", 10.0), (">&-", 0.0)] {
        let proxy = start_redirected(&config(&origin, "format = \"json\""), redirection);
        let mut client = proxy.client();
        for _ in 0..10 {
            assert_eq!(client.get("/v1/BTC").status, 200, "{redirection}");
        }
        proxy.metric_until("shardgate_log_lines_dropped_total", &[("log", "access")], |n| n == lost);
    }
}

#[test]
fn a_reader_that_stands_still_costs_lines_and_no_requests() {
    let origin = Origin::start("a");
    // The pipe's other end is held by the process itself, which never reads it.
    let proxy = start_redirected(&config(&origin, "format = \"json\""), "3<> fifo > fifo");
    let mut client = proxy.client();
    let long = format!("/v1/BTC?{}", "x".repeat(6000));
    for _ in 0..400 {
        assert_eq!(client.get(&long).status, 200);
    }
    proxy.metric_until("shardgate_log_lines_dropped_total", &[("log", "access")], |n| n > 0.0);
}

#[test]
fn what_is_buffered_is_written_at_the_end() {
    let origin = Origin::start("a");
    let mut proxy = Proxy::start(&config(&origin, "access = \"access.log\""));
    let log = proxy.directory().join("access.log");
    {
        let mut client = proxy.client();
        for _ in 0..100 {
            assert_eq!(client.get("/v1/BTC").status, 200);
        }
    }
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit(crate::support::DEADLINE).code(), Some(0));
    assert_eq!(lines(&log).len(), 100);
}
