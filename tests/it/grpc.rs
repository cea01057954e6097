//! Calls of gRPC. What a client of HTTP/1.1 can show is shown with one; the rest with grpcio, at both ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;

use crate::support::h2_origin::{read, status, write};
use crate::support::http2::ask;
use crate::support::{H2Origin, Proxy, Response, poll};

const GRPC: (&str, &str) = ("Content-Type", "application/grpc+proto");

fn config(primary: &H2Origin, replica: &H2Origin, more: &str) -> String {
    format!(
        "[server]
         workers = 1
         [[listeners]]
         bind = '127.0.0.1:0'
         [[routes]]
         path = '/{{asset}}/{{*rest}}'
         [regions.us-east]
         [defaults]
         protocol = 'h2'
         health = false
         {more}
         [pools.BTC.us-east]
         primaries = ['{}']
         replicas = ['{}']
        ",
        primary.addr(),
        replica.addr()
    )
}

/// A call of `x.Y/Stall` gets the begin of an answer and nothing more.
fn stall(origin: &H2Origin) {
    origin.on("/BTC/x.Y/Stall", |_, mut respond| async move {
        let mut stream = respond.send_response(status(200), false)?;
        write(&mut stream, Bytes::from_static(b"begin"), false).await?;
        std::future::poll_fn(|cx| stream.poll_reset(cx)).await.map(drop)
    });
}

fn call(proxy: &Proxy, target: &str, more: &[(&str, &str)]) -> Response {
    let fields: Vec<_> = [GRPC].into_iter().chain(more.iter().copied()).collect();
    proxy.client().request("POST", target, &fields, b"\0\0\0\0\0")
}

fn grpc_status(answer: &Response) -> Option<&str> {
    answer.header("grpc-status")
}

/// Answers with nothing but a head that says how the call ended.
fn trailers_only(origin: &H2Origin, path: &str, code: &'static str, asked: &Arc<AtomicUsize>) {
    let asked = asked.clone();
    origin.on(path, move |request, mut respond| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            read(&mut request.into_parts().1).await?;
            let mut response = status(200);
            response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            response.headers_mut().insert("grpc-status", code.parse().unwrap());
            respond.send_response(response, true).map(drop)
        }
    });
}

#[test]
fn errors_of_ours_are_answers_of_grpc() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    let proxy = Proxy::start(&config(&a, &b, ""));
    let answer = call(&proxy, "/DOGE/x.Y/Z", &[]);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
    assert_eq!((grpc_status(&answer), answer.header("grpc-message")), (Some("12"), Some("unknown_asset")));
    assert!(answer.body.is_empty() && answer.header("x-request-id").is_some());
    let line = proxy.access_where(|line| line["target"] == "/DOGE/x.Y/Z");
    assert_eq!((line["status"].as_u64(), line["grpc_status"].as_u64()), (Some(200), Some(12)));
    assert_eq!(line["reason"], "unknown_asset");
    let counted = [("code", "4xx"), ("reason", "unknown_asset")];
    assert_eq!(proxy.metric("shardgate_requests_total", &counted), 1.0);
    // Whoever is no call gets what it always got.
    assert_eq!(proxy.client().post("/DOGE/x.Y/Z", b"").reason(), "unknown_asset");
}

#[test]
fn a_deadline_is_passed_on_and_kept() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    let (told, tell) = std::sync::mpsc::sync_channel(8);
    let told = std::sync::Mutex::new(told);
    a.on("/BTC/x.Y/Hang", move |request, mut respond| {
        let told = told.lock().unwrap().clone();
        async move {
            let left = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
            // It is given up at the deadline.
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            told.send((left, reset)).unwrap();
            Ok(())
        }
    });
    let proxy = Proxy::start(&config(&a, &b, ""));
    let answer = call(&proxy, "/BTC/x.Y/Hang", &[("grpc-timeout", "200m")]);
    assert_eq!(
        (answer.status, grpc_status(&answer), answer.header("grpc-message")),
        (200, Some("4"), Some("upstream_timeout"))
    );
    let (left, reset) = tell.recv_timeout(crate::support::DEADLINE).unwrap();
    let micros: u64 = left.strip_suffix('u').unwrap().parse().unwrap();
    assert!((1..=200_000).contains(&micros), "{left}");
    assert_eq!(reset, h2::Reason::CANCEL);
    let line = proxy.access_where(|line| line["reason"] == "upstream_timeout");
    assert_eq!((line["grpc_status"].as_u64(), line["attempts"].as_u64()), (Some(4), Some(1)));
    assert_eq!(line["backend"], a.addr().to_string());
    assert_eq!((a.accepted(), b.accepted()), (1, 0), "it is nobody's fault, and no retry");
    // Without one, or with one that is none, nothing is added.
    for fields in [&[][..], &[("grpc-timeout", "soon")]] {
        call(&proxy, "/BTC/x.Y/Z", fields);
        let seen = a.seen().pop().unwrap();
        assert_eq!(seen.header("grpc-timeout"), fields.first().map(|field| field.1));
    }
}

#[test]
fn a_deadline_ends_an_answer_that_has_begun() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    stall(&a);
    let proxy = Proxy::start(&config(&a, &b, ""));
    let mut client = proxy.client();
    client.send(client.format("POST", "/BTC/x.Y/Stall", &[GRPC, ("grpc-timeout", "300m")], b""));
    assert_eq!(client.head_only().0, 200);
    let rest = client.rest();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "to HTTP/1.1 it must not look whole");
    let line = proxy.access_where(|line| line["reason"] == "upstream_timeout");
    assert_eq!((line["grpc_status"].as_u64(), line["status"].as_u64()), (Some(4), Some(200)));
}

#[test]
fn over_http_2_a_deadline_ends_an_answer_with_its_status() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    stall(&a);
    let proxy = Proxy::start(&config(&a, &b, ""));
    let request = http::Request::post("http://a.example/BTC/x.Y/Stall").header("content-type", "application/grpc");
    let answer = ask(proxy.address(), request.header("grpc-timeout", "300m").body(vec![0; 5]).unwrap());
    assert_eq!((answer.status(), &answer.body[..]), (200, &b"begin"[..]));
    let trailers = answer.trailers.unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"4".parse().unwrap(), &"upstream_timeout".parse().unwrap())
    );
    let counted = [("code", "5xx"), ("reason", "upstream_timeout")];
    proxy.metric_until("shardgate_requests_total", &counted, |n| n == 1.0);
}

#[test]
fn unavailable_is_retried_where_the_operator_says_so() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    let asked = Arc::new(AtomicUsize::new(0));
    trailers_only(&a, "/BTC/x.Y/Z", "14", &asked);
    trailers_only(&a, "/BTC/x.Y/Other", "13", &asked);
    for (more, target, expected) in [
        ("", "/BTC/x.Y/Z", Some("14")),
        ("retry = { on = ['reset', 'gateway-error', 'connect-failure'] }", "/BTC/x.Y/Z", Some("14")),
        ("retry = { on = ['grpc-unavailable'] }", "/BTC/x.Y/Z", None),
        ("retry = { on = ['grpc-unavailable'] }", "/BTC/x.Y/Other", Some("13")),
    ] {
        let proxy = Proxy::start(&config(&a, &b, more));
        let answer = call(&proxy, target, &[]);
        assert_eq!(grpc_status(&answer), expected, "{more} {target}");
        let line = proxy.access_where(|line| line["target"] == target);
        assert_eq!(line["attempts"], if expected.is_none() { 2 } else { 1 }, "{more} {target}");
        assert_eq!(line["grpc_status"].as_u64().map(|code| code.to_string()).as_deref(), expected);
    }
    // What is no call is not looked at for it.
    let proxy = Proxy::start(&config(&a, &b, "retry = { on = ['grpc-unavailable'] }"));
    let answer = proxy.client().post("/BTC/x.Y/Z", b"");
    assert_eq!(grpc_status(&answer), Some("14"));
}

#[test]
fn unavailable_counts_against_a_backend() {
    let (a, b) = (H2Origin::start("a"), H2Origin::start("b"));
    let asked = Arc::new(AtomicUsize::new(0));
    trailers_only(&a, "/BTC/x.Y/Head", "14", &asked);
    trailers_only(&a, "/BTC/x.Y/Internal", "13", &asked);
    a.on("/BTC/x.Y/Late", |_, mut respond| async move {
        let mut stream = respond.send_response(status(200), false)?;
        write(&mut stream, Bytes::from_static(b"\0\0\0\0\0"), false).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "14".parse().unwrap());
        stream.send_trailers(trailers)
    });
    let outlier = "outlier = { consecutive_errors = 3 }";
    for target in ["/BTC/x.Y/Head", "/BTC/x.Y/Late"] {
        let proxy = Proxy::start(&config(&a, &b, outlier));
        // Only the other one says who it is.
        poll("the replica to serve", || call(&proxy, target, &[]).header("x-origin").map(drop));
        let errors = [("outcome", "gateway_error")];
        assert!(proxy.metric("shardgate_upstream_attempts_total", &errors) >= 3.0);
    }
    let proxy = Proxy::start(&config(&a, &b, outlier));
    for _ in 0..6 {
        call(&proxy, "/BTC/x.Y/Internal", &[]);
    }
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "ok")]), 6.0);
}

/// A server of grpcio, in a process of its own; killed on drop.
struct Server {
    child: Child,
    port: u16,
}

fn python() -> Command {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("target/peers/bin/python"));
    command.arg(root.join("tests/it/peers/grpc_peer.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = python().args(["serve", name]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn before(servers: &[&Server], more: &str) -> Proxy {
    let members = servers.iter().map(|s| format!("'127.0.0.1:{}'", s.port)).collect::<Vec<_>>().join(", ");
    Proxy::start(&format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         protocols = ['h1', 'h2']
         [[routes]]
         path = '/test.Echo/{{method}}'
         asset = ['header:x-asset']
         [regions.us-east]
         [defaults]
         protocol = 'h2'
         health = {{ grpc = true, interval = '200ms' }}
         {more}
         [pools.BTC.us-east]
         primaries = [{members}]
        "
    ))
}

/// What came of the calls of a case.
fn calls(proxy: &Proxy, case: &str) -> serde_json::Value {
    let output = python().args(["call", &proxy.address().to_string(), case]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said)
        .unwrap_or_else(|e| panic!("{case}: {e}\n{said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), proxy.log()))
}

#[test]
fn calls_of_every_kind_go_through() {
    let server = Server::start("one");
    let proxy = before(&[&server], "");
    let unary = calls(&proxy, "unary");
    assert_eq!((&unary["same"], &unary["status"]), (&true.into(), &"OK".into()), "{unary}");
    assert_eq!((&unary["initial"]["x-peer"], &unary["initial"]["x-seen"]), (&"one".into(), &"here".into()));
    assert_eq!(unary["after"], serde_json::json!(["yes", "00ff"]));
    let streams = calls(&proxy, "streams");
    assert_eq!(streams, serde_json::json!({"server": true, "client": 1_000_000, "bidi": true, "eager": 7}));
    assert_eq!(calls(&proxy, "many")["same"], true);
    let lines = proxy.access_lines();
    assert!(lines.iter().all(|line| line["grpc_status"] == 0 && line["status"] == 200), "{lines:?}");
}

#[test]
fn how_calls_end_is_passed_on() {
    let server = Server::start("one");
    let proxy = before(&[&server], "");
    let ended = calls(&proxy, "fail");
    for code in ["UNAVAILABLE", "NOT_FOUND", "INTERNAL", "RESOURCE_EXHAUSTED"] {
        assert_eq!(ended[code], serde_json::json!([code, "d\u{e9}tails: 100%", "yes"]));
    }
    assert_eq!(ended["asset"], serde_json::json!(["UNIMPLEMENTED", "unknown_asset"]));
    assert_eq!(ended["method"], "UNIMPLEMENTED");
    let deadline = calls(&proxy, "deadline");
    assert_eq!(deadline["status"], "DEADLINE_EXCEEDED");
    assert!(deadline["left"].as_f64().is_some_and(|left| left > 0.0 && left <= 0.7), "{deadline}");
    let cancelled = calls(&proxy, "cancel");
    assert!(cancelled["cancelled"].as_u64().is_some_and(|calls| calls > 0), "the backend is told: {cancelled}");
}

#[test]
fn without_a_backend_a_call_is_unavailable() {
    let server = Server::start("one");
    let proxy = before(&[&server], "");
    assert_eq!(calls(&proxy, "many")["same"], true);
    drop(server);
    proxy.metric_until("shardgate_backend_up", &[], |up| up == 0.0);
    let ended = calls(&proxy, "unavailable");
    assert_eq!(ended[0], "UNAVAILABLE");
    assert!(["no_healthy_backend", "connect_failed"].contains(&ended[1].as_str().unwrap()), "{ended}");
}

/// All clients' calls share a connection to the backend, and what compression remembers there: a value that grpc-core can't
/// parse, too.
#[test]
fn what_one_client_sends_does_not_spoil_the_calls_of_others() {
    let server = Server::start("one");
    let proxy = before(&[&server], "\n[server]\nworkers = 1");
    let ended = |timeout: &str| {
        let request = http::Request::post("http://shard.example/test.Echo/Unary").header("te", "trailers");
        let request = request.header("content-type", "application/grpc").header("x-asset", "BTC");
        let answer = ask(proxy.address(), request.header("grpc-timeout", timeout).body(vec![0; 5]).unwrap());
        let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
        trailers.get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    for garbage in ["S", "-1S", "5"] {
        assert_eq!(ended(garbage).as_deref(), Some("13"), "{garbage}");
        for timeout in ["20S", "21S", "22S"] {
            assert_eq!(ended(timeout).as_deref(), Some("0"), "{timeout} after {garbage}");
        }
    }
}
