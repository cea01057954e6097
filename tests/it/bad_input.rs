//! Bad input: what must be refused is refused with the right status, the connection is closed, and no backend gets a
//! byte of it. Raw bytes, because a client library would not send them. The rules themselves have their tables in
//! `message::framing`; here they are seen from outside.

use serde_json::{Value, json};

use crate::support::{Client, Origin, Proxy};

fn config(origin: &Origin) -> String {
    format!(
        r#"
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults]
health = false
[limits]
max_header_bytes = "4KiB"
max_headers = 20
max_target_bytes = "1KiB"
max_body_bytes = "4KiB"
[pools.BTC.a]
primaries = ["{}"]
"#,
        origin.addr()
    )
}

/// Sent, its answer read, and the connection seen to close.
fn refused(proxy: &Proxy, bytes: &[u8]) -> (u16, String) {
    let mut client = proxy.client();
    client.send(bytes);
    let answer = client.response();
    assert_eq!(answer.header("connection"), Some("close"), "{}: {answer:?}", bytes.escape_ascii());
    assert_eq!(answer.header("server"), Some("shardgate"));
    client.expect_closed();
    (answer.status, answer.reason())
}

/// A GET with these lines for fields.
fn get(fields: &str) -> String {
    format!("GET /v1/BTC HTTP/1.1\r\n{fields}\r\n\r\n")
}

/// A POST in chunks with this body.
fn chunked(body: &str) -> String {
    format!("POST /v1/BTC HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[test]
fn heads_that_break_a_rule_get_400_and_reach_no_backend() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let host = "Host: x\r\n";
    let cases: &[(&str, String)] = &[
        ("no Host", "GET /v1/BTC HTTP/1.1\r\n\r\n".into()),
        ("two Hosts", get("Host: x\r\nHost: x")),
        ("space in Host", get("Host: a b")),
        ("user in Host", get("Host: x@evil")),
        ("two ports in Host", get("Host: a:80:81")),
        ("empty Host", get("Host:")),
        ("path in Host", get("Host: a/b")),
        ("length and chunked", get(&format!("{host}Content-Length: 5\r\nTransfer-Encoding: chunked"))),
        ("chunked and length", get(&format!("{host}Transfer-Encoding: chunked\r\nContent-Length: 5"))),
        ("two lengths that differ", get(&format!("{host}Content-Length: 5\r\nContent-Length: 6"))),
        ("two lengths that agree", get(&format!("{host}Content-Length: 5\r\nContent-Length: 5"))),
        ("a list of lengths", get(&format!("{host}Content-Length: 5, 5"))),
        ("a length with a sign", get(&format!("{host}Content-Length: +5"))),
        ("a length below zero", get(&format!("{host}Content-Length: -1"))),
        ("a length that overflows", get(&format!("{host}Content-Length: 18446744073709551616"))),
        ("chunked is not last", get(&format!("{host}Transfer-Encoding: chunked, identity"))),
        ("a coding before chunked", get(&format!("{host}Transfer-Encoding: gzip, chunked"))),
        ("chunked twice", get(&format!("{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"))),
        ("a strange coding", get(&format!("{host}Transfer-Encoding: xchunked"))),
        (
            "chunked in HTTP/1.0",
            "POST /v1/BTC HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("space before the colon", get(&format!("{host}A : b"))),
        ("space before Content-Length's", get(&format!("{host}Content-Length : 5"))),
        ("folding", get(&format!("{host}A: b\r\n c"))),
        ("folding of the first field", "GET /v1/BTC HTTP/1.1\r\n Host: x\r\n\r\n".into()),
        ("no colon", get(&format!("{host}A"))),
        ("no name", get(&format!("{host}: b"))),
        ("NUL in a value", get(&format!("{host}A: b\0c"))),
        ("NUL in a name", get(&format!("{host}A\0: b"))),
        ("NUL in the target", "GET /v1/BTC\0 HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("bare CR in a value", get(&format!("{host}A: b\rc"))),
        ("bare CR in the request line", "GET /v1/BTC\r HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("bare LF everywhere", "GET /v1/BTC HTTP/1.1\nHost: x\n\n".into()),
        ("bare LF after the request line", "GET /v1/BTC HTTP/1.1\nHost: x\r\n\r\n".into()),
        ("bare LF after a field", get("Host: x\nA: b")),
        ("bare LF at the end", "GET /v1/BTC HTTP/1.1\r\nHost: x\r\n\n".into()),
        ("HTTP/0.9", "GET /v1/BTC\r\n".into()),
        ("HTTP/1.2", "GET /v1/BTC HTTP/1.2\r\nHost: x\r\n\r\n".into()),
        ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".into()),
        ("two spaces", "GET  /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a space in the target", "GET /v1/B TC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a fragment", "GET /v1/BTC#a HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("not ASCII in the target", "GET /v1/\u{e9} HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("no form of target", "GET v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("* with GET", "GET * HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("another scheme", "GET ftp://x/v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("a user in the target", "GET http://u@x/v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("CONNECT", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n".into()),
        ("a method that is none", "G@T /v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".into()),
    ];
    for (what, bytes) in cases {
        assert_eq!(refused(&proxy, bytes.as_bytes()), (400, "bad_request".into()), "{what}");
    }
    assert_eq!((origin.count(), origin.accepted()), (0, 0));
    assert_eq!(proxy.metric("shardgate_requests_total", &[("reason", "bad_request")]), cases.len() as f64);
    let line = proxy.access_where(|line| line["reason"] == "bad_request");
    assert_eq!(line["status"], 400);
}

/// What its sender can mend is said to it, and the log has what it asked for.
#[test]
fn a_bad_request_is_told_what_is_bad_and_logged_as_sent() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    for (bytes, method, target, detail) in [
        ("DELETE /v1/BTC HTTP/1.1\r\n\r\n", "DELETE", json!("/v1/BTC"), "no Host"),
        ("PUT /v1/BTC HTTP/9.9\r\nHost: x\r\n\r\n", "PUT", Value::Null, "not a request line of HTTP/1.0 or 1.1"),
        ("GARBAGE\r\n\r\n", "-", Value::Null, "not a request line of HTTP/1.0 or 1.1"),
    ] {
        let mut client = proxy.client();
        client.send(bytes.as_bytes());
        let answer: Value = serde_json::from_str(&client.response().text()).unwrap();
        assert_eq!((&answer["reason"], &answer["detail"]), (&json!("bad_request"), &json!(detail)), "{bytes:?}");
        let line = proxy.access_where(|line| line["request_id"] == answer["request_id"]);
        assert_eq!((&line["method"], &line["target"]), (&json!(method), &target), "{bytes:?}");
    }
}

#[test]
fn what_is_too_large_gets_the_status_that_says_so() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let long = format!("GET /v1/{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1100));
    assert_eq!(refused(&proxy, long.as_bytes()), (414, "target_too_long".into()));
    let endless = format!("GET /v1/{}", "a".repeat(5000));
    assert_eq!(refused(&proxy, endless.as_bytes()), (414, "target_too_long".into()));
    let large = get(&format!("Host: x\r\nA: {}", "a".repeat(4096)));
    assert_eq!(refused(&proxy, large.as_bytes()), (431, "headers_too_large".into()));
    let many = get(&format!("Host: x{}", "\r\nA: b".repeat(20)));
    assert_eq!(refused(&proxy, many.as_bytes()), (431, "headers_too_large".into()));
    for (limit, hits) in [("max_target_bytes", 2.0), ("max_header_bytes", 1.0), ("max_headers", 1.0)] {
        assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", limit)]), hits, "{limit}");
    }
    let body = "POST /v1/BTC HTTP/1.1\r\nHost: x\r\nContent-Length: 4097\r\n\r\n";
    assert_eq!(refused(&proxy, body.as_bytes()), (413, "request_too_large".into()));
    assert_eq!((origin.count(), origin.accepted()), (0, 0));
}

#[test]
fn bodies_that_break_a_rule_end_the_exchange() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let cases: &[(&str, &str)] = &[
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("not hexadecimal", "xyz\r\nhello\r\n0\r\n\r\n"),
        ("a prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("overflow", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ("space after the size", "5 \r\nhello\r\n0\r\n\r\n"),
        ("LF after the size", "5\nhello\r\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        ("longer than said", "5\r\nhello!\r\n0\r\n\r\n"),
        ("LF after the data", "5\r\nhello\n0\r\n\r\n"),
        ("LF at the end", "5\r\nhello\r\n0\r\n\n"),
        ("a trailer with a space before its colon", "5\r\nhello\r\n0\r\nA : b\r\n\r\n"),
        ("a folded trailer", "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n"),
    ];
    for (what, body) in cases {
        // What stands behind it must never be taken for a request.
        let bytes = chunked(body) + "GET /v1/BTC?smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(refused(&proxy, bytes.as_bytes()), (400, "bad_request".into()), "{what}");
    }
    let long = chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5000)));
    assert_eq!(refused(&proxy, long.as_bytes()), (400, "bad_request".into()));
    let trailers = chunked(&format!("5\r\nhello\r\n0\r\nA: {}\r\n\r\n", "a".repeat(9000)));
    assert_eq!(refused(&proxy, trailers.as_bytes()), (400, "bad_request".into()));
    // A backend may have got the beginning of such a request, but never one that looks whole.
    for raw in origin.raw() {
        let raw = String::from_utf8_lossy(&raw).into_owned();
        assert!(!raw.contains("smuggled") && !raw.ends_with("0\r\n\r\n"), "{raw:?}");
    }
}

#[test]
fn a_body_over_the_limit_is_cut_off() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let mut client = proxy.client();
    client.send(chunked(&format!("1000\r\n{}\r\n", "a".repeat(4096))));
    client.send("1\r\na\r\n");
    let answer = client.response();
    assert_eq!((answer.status, answer.reason()), (413, "request_too_large".into()));
    assert_eq!(answer.header("connection"), Some("close"));
    client.expect_closed();
    assert!(origin.raw().iter().all(|raw| !raw.ends_with(b"0\r\n\r\n")));
}

#[test]
fn a_bad_request_behind_good_ones_is_answered_in_its_turn() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let gate = origin.hold("/v1/BTC");
    let mut client = proxy.client();
    client.send(get("Host: x") + &get("Host: a b") + &get("Host: x\r\nA: smuggled"));
    gate.waiting(1);
    gate.open();
    assert_eq!(client.response().status, 200);
    assert_eq!(client.response().reason(), "bad_request");
    client.expect_closed();
    assert_eq!(origin.count(), 1);
}

#[test]
fn the_answer_to_a_bad_head_request_has_no_body() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let mut client = proxy.client();
    client.send("HEAD /v1/BTC HTTP/1.1\r\nHost: a b\r\n\r\n");
    assert_eq!(client.response_to("HEAD").status, 400);
    client.expect_closed();
}

#[test]
fn what_is_only_unusual_is_served() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let cases: &[(&str, String)] = &[
        ("an empty line in front", format!("\r\n{}", get("Host: x"))),
        ("absolute-form", "GET http://x/v1/BTC HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        ("tabs around a value", get("Host:\tx \t")),
        ("an empty value", get("Host: x\r\nA:")),
        ("a length with zeros in front", "POST /v1/BTC HTTP/1.1\r\nHost: x\r\nContent-Length: 0002\r\n\r\nok".into()),
        ("an extension and a trailer", chunked("2;a=\"b\"\r\nok\r\n0\r\nA: b\r\n\r\n")),
        ("an IPv6 host", get("Host: [::1]:8080")),
    ];
    for (what, bytes) in cases {
        let mut client = proxy.client();
        client.send(bytes);
        assert_eq!(client.response().status, 200, "{what}");
    }
    let seen = origin.take_requests();
    assert_eq!(seen.len(), cases.len());
    assert!(seen.iter().all(|request| request.header("trailer").is_none() && request.target == "/v1/BTC"));
    assert!(origin.raw().iter().all(|raw| !String::from_utf8_lossy(raw).contains("a=\"b\"")));
    // obs-text goes through as it is.
    let mut client = proxy.client();
    client.send([&b"GET /v1/BTC HTTP/1.1\r\nHost: x\r\nA: "[..], b"\xe9\xff\r\n\r\n"].concat());
    assert_eq!(client.response().status, 200);
    assert!(origin.requests().pop().is_some_and(|request| request.head.windows(2).any(|pair| pair == b"\xe9\xff")));
}

#[test]
fn a_request_in_single_bytes_is_a_request() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin));
    let mut client: Client = proxy.client();
    for byte in chunked("2;a\r\nok\r\n0\r\nA: b\r\n\r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.requests().pop().map(|request| request.body), Some(b"ok".to_vec()));
}
