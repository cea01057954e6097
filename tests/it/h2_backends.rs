//! Backends that speak HTTP/2, behind clients that speak HTTP/1.1.

use std::net::SocketAddr;

use bytes::Bytes;
use http::HeaderMap;

use crate::support::h2_origin::{read, status, write};
use crate::support::{Client, H2Origin, Proxy, poll};

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
    let (gate, open) = tokio::sync::watch::channel(false);
    let inside = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = inside.clone();
    origin.on("/held", move |_, mut respond| {
        let (mut open, counted) = (open.clone(), counted.clone());
        async move {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = open.wait_for(|open| *open).await;
            respond.send_response(status(200), true).map(drop)
        }
    });
    let proxy = proxy(&origin, "");
    let mut clients: Vec<Client> = (0..20).map(|_| proxy.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n"));
    poll("all of them at the backend", || {
        (inside.load(std::sync::atomic::Ordering::SeqCst) == clients.len()).then_some(())
    });
    assert_eq!(origin.accepted(), 1);
    gate.send(true).unwrap();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    // A client that leaves ends its stream alone.
    assert_eq!(proxy.get("/v1/predict/BTC").status, 200);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_slow_client_stops_its_own_stream_only() {
    const ALL: usize = 32 << 20;
    let origin = H2Origin::start("a");
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    origin.on("/big", move |_, mut respond| {
        let counted = counted.clone();
        async move {
            let mut stream = respond.send_response(status(200), false)?;
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            for _ in 0..ALL / piece.len() {
                write(&mut stream, piece.clone(), false).await?;
                counted.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
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
        let now = sent.load(std::sync::atomic::Ordering::SeqCst);
        (std::mem::replace(&mut before, now) == now && now > 0).then_some(())
    });
    assert!(sent.load(std::sync::atomic::Ordering::SeqCst) < ALL, "the window did not hold it back");
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
