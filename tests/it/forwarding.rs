//! Forwarding: what a backend sees of a request and a client of a response.

use std::io::Write;
use std::sync::Arc;

use crate::support::{After, Behaviour, Origin, Proxy};

fn config(origin: &Origin, listener: &str, route: &str, defaults: &str) -> String {
    format!(
        r#"
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
{listener}
[[routes]]
name = "all"
asset = ["const:BTC"]
{route}
[regions.a]
[defaults]
health = false
{defaults}
[pools.BTC.a]
primaries = ["{}"]
"#,
        origin.addr()
    )
}

fn start(origin: &Origin) -> Proxy {
    Proxy::start(&config(origin, "", "", ""))
}

#[test]
fn the_target_goes_through_byte_for_byte() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let targets = ["/a//b/../c;x=1?q=%2f%00&&=", "/%c3%28/", "/?", "/a?b?c", "/~!$&'()*+,;=:@-._"];
    let mut client = proxy.client();
    for target in targets {
        assert_eq!(client.get(target).status, 200, "{target}");
    }
    let seen: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(seen, targets);
}

#[test]
fn hop_by_hop_fields_end_here_both_ways() {
    let origin = Origin::start("one");
    let answer = [("connection", "x-private"), ("x-private", "1"), ("keep-alive", "timeout=9"), ("x-kept", "1")];
    let answer = answer.map(|(name, value)| (name, value.to_owned())).to_vec();
    origin.on("/x", Behaviour::Answer(200, answer, b"ok".to_vec()));
    let proxy = start(&origin);
    let fields = [
        ("Connection", "keep-alive, X-Secret"),
        ("X-Secret", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Upgrade", "websocket"),
        ("Proxy-Connection", "close"),
        ("X-Kept", "yes"),
    ];
    let got = proxy.client().request("GET", "/x", &fields, b"");
    assert_eq!((got.header("x-private"), got.header("keep-alive"), got.header("x-kept")), (None, None, Some("1")));
    let seen = origin.requests().pop().unwrap();
    for name in ["connection", "x-secret", "keep-alive", "te", "upgrade", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-kept"), Some("yes"));
}

#[test]
fn the_backend_learns_who_asks_and_strangers_cannot_lie() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let lies = [
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-User", "root"),
        ("Forwarded", "for=1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Request-Id", "mine"),
        ("Via", "1.1 other"),
        ("Host", "api.example.com"),
    ];
    let got = proxy.client().request("GET", "/x", &lies, b"");
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.header_all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.header_all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.header_all("x-forwarded-host"), ["api.example.com"]);
    assert_eq!(seen.header_all("host"), ["api.example.com"]);
    assert_eq!(seen.header_all("via"), ["1.1 other, 1.1 shardgate"]);
    for name in ["x-forwarded-user", "forwarded", "x-real-ip"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    let id = seen.header("x-request-id").unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(got.header("x-request-id"), Some(id));
    assert!(got.header("date").is_some());
}

#[test]
fn a_trusted_proxy_is_believed() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "trusted_proxies = [\"127.0.0.0/8\"]", "", ""));
    let fields = [("X-Forwarded-For", "9.9.9.9, 203.0.113.7"), ("X-Forwarded-Proto", "https"), ("X-Request-Id", "abc")];
    let got = proxy.client().request("GET", "/x", &fields, b"");
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.header_all("x-forwarded-for"), ["9.9.9.9, 203.0.113.7, 127.0.0.1"]);
    assert_eq!(seen.header_all("x-forwarded-proto"), ["https"]);
    assert_eq!((seen.header("x-request-id"), got.header("x-request-id")), (Some("abc"), Some("abc")));
    let line = proxy.access_where(|line| line["request_id"] == "abc");
    assert_eq!(line["client"], "203.0.113.7");
}

#[test]
fn forwarded_of_a_trusted_proxy_is_believed_and_goes_on() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "trusted_proxies = [\"127.0.0.0/8\"]", "", ""));
    let forwarded = "for=9.9.9.9, for=\"[2001:db8::7]:4711\";proto=https;host=\"a.example\"";
    for (fields, client) in [
        (vec![("Forwarded", forwarded)], "2001:db8::7"),
        (vec![("Forwarded", forwarded), ("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
        (vec![("Forwarded", "for=9.9.9.9, for=_hidden")], "127.0.0.1"),
    ] {
        assert_eq!(proxy.client().request("GET", "/x", &fields, b"").status, 200);
        let seen = origin.requests().pop().unwrap();
        let expected = format!("{}, for=127.0.0.1;proto=http", fields[0].1);
        assert_eq!(seen.header_all("forwarded"), [expected]);
        proxy.access_where(|line| line["client"] == client);
    }
}

#[test]
fn host_and_via_as_the_pool_says() {
    let origin = Origin::start("one");
    let address = origin.addr().to_string();
    for (defaults, host, via) in [
        ("host = \"backend\"", address.as_str(), Some("1.1 shardgate")),
        ("host = \"internal.example\"\nvia = false", "internal.example", None),
        ("host = \"preserve\"", "api.example.com", Some("1.1 shardgate")),
    ] {
        let proxy = Proxy::start(&config(&origin, "", "", defaults));
        assert_eq!(proxy.client().request("GET", "/x", &[("Host", "api.example.com")], b"").status, 200);
        let seen = origin.requests().pop().unwrap();
        assert_eq!((seen.header_all("host"), seen.header("via")), (vec![host], via), "{defaults}");
    }
}

#[test]
fn an_absolute_target_names_the_host() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let mut client = proxy.client();
    client.send("GET http://real.example/x?y HTTP/1.1\r\nHost: real.example\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen = origin.requests().pop().unwrap();
    assert_eq!((seen.target.as_str(), seen.header_all("host")), ("/x?y", vec!["real.example"]));
}

#[test]
fn rewrites_and_header_edits_of_a_route() {
    let origin = Origin::start("one");
    origin
        .on("/api/x", Behaviour::Answer(200, vec![("x-old", "1".into()), ("server", "origin".into())], b"ok".to_vec()));
    let route = r#"
rewrite = { strip_prefix = "/v1", add_prefix = "/api" }
headers = { request = { set = { x-tier = "gold" }, remove = ["cookie"] }, response = { set = { x-new = "2" }, remove = ["x-old"] } }
"#;
    let proxy = Proxy::start(&config(&origin, "", route, ""));
    let got = proxy.client().request("GET", "/v1/x?q=1", &[("Cookie", "a=b"), ("X-Tier", "lead")], b"");
    assert_eq!((got.status, got.header("x-new"), got.header("x-old")), (200, Some("2"), None));
    assert_eq!(got.header("server"), Some("origin"));
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.target, "/api/x?q=1");
    assert_eq!((seen.header_all("x-tier"), seen.header("cookie")), (vec!["gold"], None));
}

#[test]
fn redirects_and_fixed_answers() {
    let origin = Origin::start("one");
    let more = r#"
[[routes]]
path = "/old/{x}"
redirect = "https://{host}{target}"
[[routes]]
path = "/ping"
respond = { status = 418, body = "short and stout" }
"#;
    let proxy = Proxy::start(&config(&origin, "", more, ""));
    let host = [("Host", "a.example:8080")];
    let got = proxy.client().request("GET", "/old/1?q", &host, b"");
    assert_eq!((got.status, got.header("location")), (301, Some("https://a.example:8080/old/1?q")));
    let got = proxy.client().request("POST", "/old/1", &host, b"x");
    assert_eq!((got.status, got.header("location")), (308, Some("https://a.example:8080/old/1")));
    let got = proxy.get("/ping");
    assert_eq!((got.status, got.text().as_str()), (418, "short and stout"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn bodies_stream_both_ways() {
    let origin = Origin::start("one");
    // Counts the bytes of the request as they come: only a proxy that streams gets past the first.
    origin.on_custom("/count", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for letter in ["a", "b", "c"] {
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains(letter) {
                seen.extend(exchange.piece()?);
            }
            exchange.send(format!("1\r\n{letter}\r\n"))?;
        }
        exchange.send("0\r\n\r\n")?;
        Ok(After::Close)
    });
    let proxy = start(&origin);
    let mut client = proxy.client();
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    assert_eq!(client.head_only().0, 200);
    assert_eq!(client.take(6), b"1\r\na\r\n");
    client.send("1\r\nb\r\n");
    assert_eq!(client.take(6), b"1\r\nb\r\n");
    client.send("1\r\nc\r\n0\r\n\r\n");
    assert_eq!(client.take(11), b"1\r\nc\r\n0\r\n\r\n");
    let line = proxy.access_where(|line| line["target"] == "/count");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&3.into(), &3.into()));
}

#[test]
fn large_bodies_arrive_whole() {
    let origin = Origin::start("one");
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|i| [(i >> 8) as u8, i as u8]).collect();
    origin.on("/down", Behaviour::Answer(200, vec![], large.clone()));
    let pieces = large.chunks(7_919).map(<[u8]>::to_vec).collect();
    origin.on("/chunked", Behaviour::Chunked(pieces));
    let proxy = start(&origin);
    let mut client = proxy.client();
    assert!(client.get("/down").body == large);
    assert!(client.get("/chunked").body == large);
    assert_eq!(client.post("/up", &large).status, 200);
    assert!(origin.requests().pop().unwrap().body == large);
}

#[test]
fn bodies_over_the_limit_are_refused() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "", "max_body_bytes = \"1KiB\"", ""));
    let got = proxy.client().post("/x", [b'x'; 1025]);
    assert_eq!((got.status, got.reason().as_str()), (413, "request_too_large"));
    assert_eq!(origin.count(), 0);
    let mut client = proxy.client();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("400\r\n{}\r\n1\r\nx\r\n", "x".repeat(1024)));
    let got = client.response();
    assert_eq!((got.status, got.reason().as_str()), (413, "request_too_large"));
    client.expect_closed();
    assert_eq!(proxy.metric("shardgate_limit_hits_total", &[("limit", "max_body_bytes")]), 2.0);
    assert_eq!(proxy.client().post("/x", [b'x'; 1024]).status, 200);
}

#[test]
fn head_204_and_304_have_no_body() {
    let origin = Origin::start("one");
    origin.on("/sized", Behaviour::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(), After::Keep));
    origin.on("/204", Behaviour::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), After::Keep));
    origin.on("/304", Behaviour::Raw(b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n".to_vec(), After::Keep));
    let proxy = start(&origin);
    let mut client = proxy.client();
    let got = client.request("HEAD", "/sized", &[], b"");
    assert_eq!((got.status, got.header("content-length")), (200, Some("5")));
    assert_eq!(client.get("/204").status, 204);
    let got = client.get("/304");
    assert_eq!((got.status, got.header("etag")), (304, Some("\"x\"")));
    assert_eq!(client.get("/other").status, 200, "the connection is still in step");
    assert_eq!(origin.accepted(), 1, "the backend's connection was kept");
}

#[test]
fn trailers_are_dropped_and_interim_answers_go_through() {
    let origin = Origin::start("one");
    let chunked =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    origin.on("/trailers", Behaviour::Raw(chunked.to_vec(), After::Keep));
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    origin.on("/hints", Behaviour::Raw(hints.to_vec(), After::Keep));
    let proxy = start(&origin);
    let mut client = proxy.client();
    let got = client.get("/trailers");
    assert_eq!((got.text().as_str(), got.trailers.len(), got.header("trailer")), ("ok", 0, None));
    let got = client.get("/hints");
    assert_eq!((got.status, got.text().as_str()), (200, "ok"));
    assert_eq!(got.interim.len(), 1);
    assert_eq!(got.interim[0].0, 103);
}

#[test]
fn a_body_that_is_waited_for_is_asked_for_when_the_backend_asks() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let mut client = proxy.client();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head_only().0, 100);
    client.send("body");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.requests().pop().unwrap().body, b"body");

    // A final answer instead: passed on, nothing asked for, and the connection ends.
    let no = b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno".to_vec();
    origin.on("/no", Behaviour::Early(no, After::Keep));
    client.send("POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    let got = client.response();
    assert_eq!((got.status, got.interim.len(), got.header("connection")), (417, 0, Some("close")));
    client.expect_closed();
}

#[test]
fn an_early_answer_goes_through_while_the_body_is_still_coming() {
    let origin = Origin::start("one");
    origin
        .on("/early", Behaviour::Early(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec(), After::Keep));
    let proxy = start(&origin);
    let mut client = proxy.client();
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst bytes");
    let got = client.response();
    assert_eq!((got.status, got.text().as_str(), got.header("connection")), (403, "no", Some("close")));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start("one");
    let gate = origin.hold("/slow");
    let proxy = start(&origin);
    let mut client = proxy.client();
    let mut bytes = Vec::new();
    for target in ["/slow", "/b", "/c"] {
        bytes.extend(client.format("GET", target, &[], b""));
    }
    client.send(bytes);
    gate.waiting(1);
    gate.open();
    for target in ["/slow", "/b", "/c"] {
        let got = client.response();
        assert_eq!(got.status, 200);
        assert!(got.text().contains(target), "{target}: {}", got.text());
    }
}

#[test]
fn answers_of_http_1_0_servers_end_with_the_connection() {
    let origin = Origin::start("one");
    origin.on("/old", Behaviour::Raw(b"HTTP/1.0 200 OK\r\n\r\nuntil the end".to_vec(), After::Close));
    let proxy = start(&origin);
    let mut client = proxy.client();
    for _ in 0..2 {
        assert_eq!(client.get("/old").text(), "until the end");
    }
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn backends_on_unix_sockets_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    std::thread::spawn({
        let seen = Arc::clone(&seen);
        move || {
            use std::io::Read;
            while let Ok((mut stream, _)) = listener.accept() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nunix");
            }
        }
    });
    let origin = Origin::start("unused");
    let text = config(&origin, "", "", "").replace(&origin.addr().to_string(), &format!("unix:{}", path.display()));
    let proxy = Proxy::start(&text);
    let got = proxy.client().request("GET", "/x", &[("Host", "a.example")], b"");
    assert_eq!((got.status, got.text().as_str()), (200, "unix"));
    assert!(seen.lock().unwrap()[0].to_ascii_lowercase().contains("host: a.example"));
}

/// RFC 9110, 7.6.2: who gets an OPTIONS or a TRACE with no hop left is the one that was meant.
#[test]
fn without_a_hop_left_the_answer_is_ours() {
    let origin = Origin::start("one");
    let proxy = start(&origin);
    let mut client = proxy.client();
    let answer = client.request("OPTIONS", "/a", &[("Max-Forwards", "0")], b"");
    assert_eq!((answer.status, answer.header("server"), answer.text().as_str()), (200, Some("shardgate"), ""));
    let answer = client.request("TRACE", "/a", &[("max-forwards", "0"), ("cookie", "secret")], b"");
    assert_eq!((answer.status, answer.reason().as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    for value in ["", "-1", "1.5", "1, 1", "one"] {
        let answer = client.request("OPTIONS", "/a", &[("max-forwards", value)], b"");
        assert_eq!((answer.status, answer.reason().as_str()), (400, "bad_request"), "{value:?}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(client.request("OPTIONS", "/a", &[("max-forwards", "1")], b"").status, 200);
    assert_eq!(origin.requests()[0].header("max-forwards"), Some("0"));
}
