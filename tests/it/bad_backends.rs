//! Backends that break the rules: what they do must harm neither the client, nor the next request, nor the daemon.

use crate::support::{After, Behaviour, Origin, Proxy};

fn start(origin: &Origin, defaults: &str) -> Proxy {
    Proxy::start(&format!(
        r#"
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
asset = ["const:BTC"]
[server]
workers = 1
[regions.a]
[defaults]
health = false
{defaults}
[pools.BTC.a]
primaries = ["{}"]
"#,
        origin.addr()
    ))
}

#[test]
fn a_response_that_can_t_be_passed_on_unharmed_is_a_502() {
    let origin = Origin::start("bad");
    let proxy = start(&origin, "");
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(70_000));
    let answers = [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nabc",
        "HTTP/1.1 20 OK\r\n\r\n",
        "hello\r\n\r\n",
        &long,
    ];
    let mut client = proxy.client();
    for (i, answer) in answers.into_iter().enumerate() {
        let path = format!("/{i}");
        origin.on(&path, Behaviour::Raw(answer.into(), After::Keep));
        for method in ["GET", "POST"] {
            let response = client.request(method, &path, &[], b"");
            assert_eq!((response.status, &*response.reason()), (502, "upstream_protocol_error"), "{method} {answer:?}");
            assert_eq!(client.get("/good").origin(), "bad");
        }
        assert_eq!(origin.take_requests().len(), 4, "{answer:?}");
    }
}

#[test]
fn bytes_after_an_answer_reach_nobody() {
    let origin = Origin::start("bad");
    let proxy = start(&origin, "");
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\nok",
    ];
    let mut client = proxy.client();
    for (i, answer) in answers.into_iter().enumerate() {
        let path = format!("/{i}");
        origin.on(&path, Behaviour::Raw(format!("{answer}{evil}").into(), After::Keep));
        assert!(client.get(&path).status < 500);
        assert_eq!(client.get("/good").origin(), "bad");
        assert!(client.request("HEAD", &path, &[], b"").status < 500);
        assert_eq!(client.get("/good").origin(), "bad");
    }
}

#[test]
fn an_interim_response_loses_what_it_may_not_say() {
    let origin = Origin::start("bad");
    let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nconnection: x-secret\r\nx-secret: 1\r\ncontent-length: 7\r\n\
                   transfer-encoding: chunked\r\nkeep-alive: timeout=3\r\n\r\n";
    let answer = format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    origin.on("/x", Behaviour::Raw(answer.into(), After::Keep));
    let response = start(&origin, "").get("/x");
    assert_eq!((response.status, &*response.text()), (200, "ok"));
    assert_eq!(response.interim, [(103, vec![("link".to_owned(), "</a>".to_owned())])]);
}

#[test]
fn endless_interim_responses_are_a_502() {
    let origin = Origin::start("bad");
    origin.on_custom("/x", |_, exchange| {
        loop {
            exchange.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(100))?;
        }
    });
    // Time-outs far away: it is the number that ends it.
    let proxy = start(&origin, "timeouts = { response = \"600s\" }");
    let response = proxy.get("/x");
    assert_eq!((response.status, &*response.reason()), (502, "upstream_protocol_error"));
    assert!(response.interim.len() <= 16);
}

#[test]
fn a_connection_that_is_still_uploading_serves_nobody_else() {
    let origin = Origin::start("early");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    origin.on_custom("/early", move |_, exchange| {
        exchange.send(&answer)?;
        exchange.body()?;
        Ok(After::Keep)
    });
    let proxy = start(&origin, "");
    let mut uploading = proxy.client();
    uploading.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc");
    let response = uploading.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    // The other connection to the backend is not one on which the rest of that body is awaited.
    let before = origin.accepted();
    assert_eq!(proxy.get("/other").origin(), "early");
    assert_eq!(origin.accepted(), before + 1);
    // And the end of the answer ends both sides of the upload, without a time-out.
    uploading.expect_closed();
    proxy.metric_until("shardgate_backend_connections", &[], |open| open <= 1.0);
}

#[test]
fn an_upload_that_breaks_under_its_answer_is_not_the_backend_s_fault() {
    let origin = Origin::start("early");
    origin.on_custom("/echo", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")?;
        exchange.body()?;
        Ok(After::Keep)
    });
    let proxy = start(&origin, "");
    let mut client = proxy.client();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert_eq!(client.head_only().0, 200);
    client.send("no chunk\r\n");
    let line = proxy.access_where(|line| line["target"] == "/echo");
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"bad_request".into()));
    let truncated = [("outcome", "truncated")];
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &truncated), 0.0);
}
