//! Backends that speak HTTP/2, behind clients that speak HTTP/1.1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::HeaderMap;

use crate::support::frames::{self, END_HEADERS, HEADERS, RST_STREAM};
use crate::support::h2_origin::{read, status, write};
use crate::support::h2_script::{DATA, Frames};
use crate::support::http2::run;
use crate::support::{Client, DEADLINE, H2Origin, Proxy, poll};

/// One worker, so that what a worker keeps is all there is.
fn config(addresses: &[SocketAddr], more: &str) -> String {
    let members = addresses.iter().map(|a| format!("'{a}'")).collect::<Vec<_>>().join(", ");
    format!(
        "[server]
         workers = 1
         [[listeners]]
         bind = '127.0.0.1:0'
         [[routes]]
         path = '/v1/predict/{{asset}}'
         [[routes]]
         path = '/{{*rest}}'
         asset = ['const:BTC']
         [regions.us-east]
         [defaults]
         protocol = 'h2'
         balance = 'round-robin'
         health = false
         {more}
         [pools.BTC.us-east]
         primaries = [{members}]
        "
    )
}

fn proxy(origin: &H2Origin, more: &str) -> Proxy {
    Proxy::start(&config(&[origin.addr()], more))
}

#[test]
fn requests_and_bodies_go_both_ways() {
    let origin = H2Origin::start("a");
    let proxy = proxy(&origin, "");
    let mut client = proxy.client();
    let answer = client.request("GET", "/v1/predict/BTC?x=1", &[("Host", "api.example"), ("X-Mine", "1")], b"");
    assert_eq!((answer.status, answer.origin(), answer.version.as_str()), (200, "a", "HTTP/1.1"));
    assert_eq!(answer.json()["uri"], "http://api.example/v1/predict/BTC?x=1");
    let big = "0123456789".repeat(100_000);
    let answer = client.post("/v1/predict/BTC", &big);
    assert_eq!((answer.json()["method"].as_str(), answer.json()["body"] == big.as_str()), (Some("POST"), true));
    let chunked =
        client.request("POST", "/v1/predict/BTC", &[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(chunked.json()["body"], "abc");
    let head = client.request("HEAD", "/v1/predict/BTC", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").is_some());
    client.post("/v1/predict/BTC", "");

    let seen = origin.seen();
    assert_eq!(origin.accepted(), 1, "one connection for all");
    let first = &seen[0];
    assert_eq!((first.header("x-mine"), first.header("host")), (Some("1"), None));
    for gone in ["connection", "te", "transfer-encoding", "keep-alive", "upgrade", "content-length"] {
        assert_eq!(first.header(gone), None, "{gone}");
    }
    assert!(first.header("x-request-id").is_some() && first.header("via").is_some());
    assert_eq!(first.header("x-forwarded-host"), Some("api.example"));
    assert_eq!(seen[1].header("content-length"), Some("1000000"));
    assert_eq!((seen[2].header("content-length"), seen[4].header("content-length")), (None, Some("0")));
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "ok")]), 5.0);
}

#[test]
fn many_at_once_share_a_connection() {
    let origin = H2Origin::start("a");
    let held = Held::on(&origin, "/held");
    let proxy = proxy(&origin, "");
    let mut clients = get_held(&proxy, 20);
    held.waiting(20);
    assert_eq!(origin.accepted(), 1);
    held.gate.send(true).unwrap();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_slow_client_stops_its_own_stream_only() {
    const ALL: usize = 32 << 20;
    let origin = H2Origin::start("a");
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    origin.on("/big", move |_, mut respond| {
        let counted = counted.clone();
        async move {
            let mut stream = respond.send_response(status(200), false)?;
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            for _ in 0..ALL / piece.len() {
                write(&mut stream, piece.clone(), false).await?;
                counted.fetch_add(piece.len(), Ordering::SeqCst);
            }
            stream.send_data(Bytes::new(), true)
        }
    });
    let proxy = proxy(&origin, "");
    let mut slow = proxy.client();
    slow.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n");
    // It stops when sockets and windows are full, and the others go on.
    let mut before = usize::MAX;
    poll("the backend to be stopped", || {
        assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
        std::thread::sleep(std::time::Duration::from_millis(50)); // between two looks
        let now = sent.load(Ordering::SeqCst);
        (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
    });
    assert!(sent.load(Ordering::SeqCst) < ALL, "the window did not hold it back");
    assert_eq!(slow.response().body.len(), ALL);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn trailers_end_with_http_1() {
    let origin = H2Origin::start("a");
    origin.on("/trailers", |request, mut respond| async move {
        let (_, mut recv) = request.into_parts();
        let _ = read(&mut recv).await?;
        let mut stream = respond.send_response(status(200), false)?;
        write(&mut stream, Bytes::from_static(b"data"), false).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        stream.send_trailers(trailers)
    });
    let proxy = proxy(&origin, "");
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.get("/trailers");
        assert_eq!((answer.text().as_str(), answer.trailers.len()), ("data", 0));
    }
}

/// Requests that wait at the backend until they are let go.
struct Held {
    gate: tokio::sync::watch::Sender<bool>,
    inside: Arc<AtomicUsize>,
}

impl Held {
    fn on(origin: &H2Origin, path: &str) -> Self {
        let (gate, open) = tokio::sync::watch::channel(false);
        let inside = Arc::new(AtomicUsize::new(0));
        let counted = inside.clone();
        origin.on(path, move |_, mut respond| {
            let (mut open, counted) = (open.clone(), counted.clone());
            async move {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = open.wait_for(|open| *open).await;
                respond.send_response(status(200), true).map(drop)
            }
        });
        Self { gate, inside }
    }

    fn waiting(&self, n: usize) {
        poll("requests at the backend", || (self.inside.load(Ordering::SeqCst) == n).then_some(()));
    }
}

fn get_held(proxy: &Proxy, n: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..n).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n"));
    clients
}

#[test]
fn a_connection_is_opened_when_the_others_have_no_stream_left() {
    let origin = H2Origin::start_with("a", Some(2));
    let held = Held::on(&origin, "/held");
    let proxy = proxy(&origin, "");
    let mut clients = get_held(&proxy, 5);
    held.waiting(5);
    assert_eq!(origin.accepted(), 3);
    assert_eq!(proxy.metric("shardgate_backend_connections", &[]), 3.0);
    held.gate.send(true).unwrap();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
}

#[test]
fn with_all_connections_open_a_stream_is_waited_for() {
    let origin = H2Origin::start_with("a", Some(1));
    let held = Held::on(&origin, "/held");
    let proxy = proxy(&origin, "limits = { max_connections = 1 }\ntimeouts = { connect = '20s' }");
    let mut clients = get_held(&proxy, 4);
    held.waiting(1);
    held.gate.send(true).unwrap();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(origin.accepted(), 1);
    // What has no connection for too long waits in the queue, as for HTTP/1.1.
    let proxy = Proxy::start(&config(
        &[origin.addr()],
        "limits = { max_connections = 1, queue_timeout = '200ms' }\ntimeouts = { connect = '100ms' }",
    ));
    let held = Held::on(&origin, "/held");
    let _first = get_held(&proxy, 1);
    held.waiting(1);
    assert_eq!(proxy.get("/v1/predict/BTC").reason(), "queue_timeout");
}

#[test]
fn idle_connections_are_closed() {
    let origin = H2Origin::start("a");
    let proxy = proxy(&origin, "timeouts = { keepalive = '100ms' }");
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    poll("its end", || (origin.open_connections() == 0).then_some(()));
    proxy.metric_until("shardgate_backend_connections", &[], |open| open == 0.0);
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    assert_eq!(origin.accepted(), 2);
}

#[test]
fn a_backend_that_shuts_down_loses_nothing() {
    let origin = H2Origin::start("a");
    let held = Held::on(&origin, "/held");
    let proxy = proxy(&origin, "");
    let mut clients = get_held(&proxy, 2);
    held.waiting(2);
    origin.shut_down();
    // It takes nothing new on that connection, and ends what it has begun.
    poll("a second connection", || {
        assert_eq!(proxy.client().post("/v1/predict/BTC", "x").status, 200);
        (origin.accepted() >= 2).then_some(())
    });
    held.gate.send(true).unwrap();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
}

/// It has read the request, and says that it has not begun with it. There is nobody else to ask.
#[test]
fn what_a_connection_that_closes_leaves_out_goes_over_another_one() {
    let origin = Frames::start(|number, wire| {
        wire.greet(&[])?;
        let stream = wire.request()?;
        if number < 3 {
            wire.go_away(0, 0)?;
            return wire.wait_end();
        }
        wire.hold_head(stream, &[(":status", "200")]);
        wire.last(stream, b"whole")
    });
    let proxy = Proxy::start(&config(&[origin.addr()], ""));
    let answer = proxy.client().post("/v1/predict/BTC", "order");
    assert_eq!((answer.status, answer.body.as_slice(), origin.accepted()), (200, &b"whole"[..], 4));
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[]), 1.0);
}

/// Servers that end a stream in a frame of its own do so for answers without a body, too.
#[test]
fn an_answer_of_no_bytes_is_whole_before_its_stream_ends() {
    let origin = Frames::start(|_, wire| {
        wire.greet(&[])?;
        loop {
            let stream = wire.request()?;
            match stream {
                1 => wire.hold_head(stream, &[(":status", "200"), ("content-length", "5")]),
                3 => wire.hold_head(stream, &[(":status", "204")]),
                _ => wire.hold_head(stream, &[(":status", "200"), ("content-length", "0")]),
            }
            wire.last(stream, b"")?;
        }
    });
    let proxy = Proxy::start(&config(&[origin.addr()], ""));
    let mut client = proxy.client();
    for (number, (method, status)) in [("HEAD", 200), ("GET", 204), ("GET", 200)].into_iter().enumerate() {
        assert_eq!(client.request(method, &format!("/v1/predict/BTC?{number}"), &[], b"").status, status);
        let line = proxy.access_where(|line| line["target"] == format!("/v1/predict/BTC?{number}"));
        assert_eq!((line["reason"].as_str(), line["bytes_out"].as_u64()), (None, Some(0)), "{line}");
    }
}

/// Its answer is refused, and with it ends the upload, which an answer that is one would have left to go on.
#[test]
fn an_early_answer_that_is_none_ends_its_stream() {
    let (told, tell) = std::sync::mpsc::sync_channel(1);
    let origin = Frames::start(move |_, wire| {
        wire.greet(&[])?;
        let stream = wire.head_of_request()?;
        wire.hold_head(stream, &[(":status", "200"), ("content-length", "5"), ("content-length", "6")]);
        wire.send(0x6, 0, 0, &[0; 8])?; // PING, which flushes it
        while wire.frame()?.kind != RST_STREAM {}
        told.send(()).unwrap();
        wire.wait_end()
    });
    let proxy = Proxy::start(&config(&[origin.addr()], ""));
    let mut client = frames::Frames::connect(proxy.address());
    let put = [(":method", "PUT"), (":scheme", "http"), (":authority", "a"), (":path", "/v1/predict/BTC")];
    client.send(frames::frame(HEADERS, END_HEADERS, 1, &frames::block(&put)));
    assert_eq!(client.head(1).status(), Some(502));
    tell.recv_timeout(DEADLINE).unwrap();
}

#[test]
fn a_client_that_leaves_resets_its_stream() {
    let origin = H2Origin::start("a");
    let (told, tell) = std::sync::mpsc::sync_channel(8);
    let told = std::sync::Mutex::new(told);
    origin.on("/held", move |_, mut respond| {
        let told = told.lock().unwrap().clone();
        async move {
            told.send(None).unwrap();
            let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await?;
            told.send(Some(reason)).unwrap();
            Ok(())
        }
    });
    let proxy = proxy(&origin, "");
    let clients = get_held(&proxy, 1);
    assert_eq!(tell.recv_timeout(DEADLINE).unwrap(), None);
    drop(clients);
    assert_eq!(tell.recv_timeout(DEADLINE).unwrap(), Some(h2::Reason::CANCEL));
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn interim_responses_are_passed_on() {
    let origin = Frames::start(|_, wire| {
        wire.greet(&[])?;
        let stream = wire.head_of_request()?;
        wire.hold_head(stream, &[(":status", "103"), ("link", "</a>")]);
        wire.hold_head(stream, &[(":status", "100")]);
        wire.send(0xbb, 0, 0, b"")?;
        // Without the 100 the client would not send it.
        while wire.frame()?.kind != DATA {}
        wire.head(stream, &[(":status", "200"), ("x-origin", "frames")])?;
        wire.wait_end()
    });
    let proxy = Proxy::start(&config(&[origin.addr()], ""));
    let mut client = proxy.client();
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let (code, fields) = client.head_only();
    assert_eq!((code, fields), (103, vec![("link".to_owned(), "</a>".to_owned())]));
    assert_eq!(client.head_only().0, 100);
    client.send("hi");
    let answer = client.response_to("POST");
    assert_eq!((answer.status, answer.origin(), answer.header("content-length")), (200, "frames", Some("0")));
}

#[test]
fn a_try_that_a_backend_refuses_is_free_for_any_method() {
    let (refusing, good) = (H2Origin::start("a"), H2Origin::start("b"));
    refusing.on("/x", |_, mut respond| async move {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        Ok(())
    });
    let proxy = Proxy::start(&config(&[refusing.addr(), good.addr()], "retry = false"));
    for _ in 0..4 {
        let answer = proxy.client().post("/x", "order");
        assert_eq!((answer.origin(), answer.json()["body"].as_str()), ("b", Some("order")));
    }
    assert_eq!(good.seen().len(), 4);
}

#[test]
fn trailers_go_both_ways_without_what_routes() {
    // With a length, too, they are behind the last byte.
    for says_length in [false, true] {
        trailers_go_both_ways(says_length);
    }
}

fn trailers_go_both_ways(says_length: bool) {
    let origin = H2Origin::start("a");
    origin.on("/trailers", move |request, mut respond| async move {
        let (body, trailers) = read(&mut request.into_parts().1).await?;
        let got: Vec<_> = trailers.unwrap_or_default().keys().map(|name| name.to_string()).collect();
        let mut head = status(200);
        if says_length {
            head.headers_mut().insert("content-length", body.len().into());
        }
        let mut stream = respond.send_response(head, false)?;
        write(&mut stream, Bytes::from(body), false).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-got", got.join(",").parse().unwrap());
        trailers.insert("set-cookie", "a=b".parse().unwrap());
        trailers.insert("content-length", "3".parse().unwrap());
        trailers.insert("endpoint-load-metrics", "TEXT cpu_utilization=0.5,rps_fractional=10".parse().unwrap());
        stream.send_trailers(trailers)
    });
    let proxy = proxy(&origin, "");
    let (body, trailers) = run(async move {
        let socket = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = http::Request::post("http://a.example/trailers").body(()).unwrap();
        let (answer, mut to) = client.send_request(request, false).unwrap();
        to.send_data(Bytes::from_static(b"data"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        trailers.insert("authorization", "me".parse().unwrap());
        trailers.insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
        to.send_trailers(trailers).unwrap();
        let mut recv = answer.await.unwrap().into_body();
        read(&mut recv).await.unwrap()
    });
    assert_eq!(body, b"data");
    let trailers = trailers.unwrap();
    assert_eq!((trailers.len(), trailers["x-got"].as_bytes()), (1, &b"x-sum"[..]));
}
