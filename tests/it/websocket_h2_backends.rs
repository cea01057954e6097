//! Tunnels to backends that speak HTTP/2: an extended CONNECT (RFC 8441), whatever the client speaks; and what is said where
//! the backend takes none.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response};

use crate::support::frames::{DATA, END_STREAM, Frames, RST_STREAM, frame};
use crate::support::h2_origin::write;
use crate::support::{H2Origin, Proxy, h2_script};
use crate::websocket::{ASK, Raw, config, noise};
use crate::websocket_h2::connect;

/// A server of HTTP/2 that agrees to tunnels on `/ws`, in which it sends back what it gets, and declines on other paths.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request<()>>>>,
    /// How streams ended that did not end well.
    resets: Arc<Mutex<Vec<Option<Reason>>>>,
}

impl Server {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, seen: Arc::default(), resets: Arc::default() };
        let (seen, resets) = (Arc::clone(&server.seen), Arc::clone(&server.resets));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (seen, resets) = (Arc::clone(&seen), Arc::clone(&resets));
                    tokio::spawn(async move {
                        let mut builder = h2::server::Builder::new();
                        let mut connection = builder.enable_connect_protocol().handshake(stream).await?;
                        while let Some(next) = connection.accept().await {
                            let (request, respond) = next?;
                            let (parts, recv) = request.into_parts();
                            let path = parts.uri.path().to_owned();
                            seen.lock().unwrap().push(Request::from_parts(parts, ()));
                            let resets = Arc::clone(&resets);
                            tokio::spawn(async move {
                                if let Err(error) = answer(&path, recv, respond).await {
                                    resets.lock().unwrap().push(error.reason());
                                }
                            });
                        }
                        Ok::<_, h2::Error>(())
                    });
                }
            });
        });
        server
    }
}

async fn answer(
    path: &str,
    mut recv: RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let answer = |status| Response::builder().status(status).header("sec-websocket-protocol", "chat").body(()).unwrap();
    match path {
        "/ws" => echo(recv, respond.send_response(answer(200), false)?).await,
        "/reset" => {
            let mut to = respond.send_response(answer(200), false)?;
            recv.data().await;
            to.send_reset(Reason::CANCEL);
            Ok(())
        }
        _ => respond.send_response(answer(403), false)?.send_data(Bytes::from_static(b"no"), true),
    }
}

async fn echo(mut recv: RecvStream, mut to: SendStream<Bytes>) -> Result<(), h2::Error> {
    while let Some(data) = recv.data().await {
        let data = data?;
        recv.flow_control().release_capacity(data.len())?;
        write(&mut to, data, false).await?;
    }
    to.send_data(Bytes::new(), true)
}

fn start(backends: &[SocketAddr], retry: &str) -> Proxy {
    let all: Vec<_> = backends.iter().map(|address| format!("'{address}'")).collect();
    let text = config(backends[0], "", "upgrade = ['websocket']");
    let text = text.replace("retry = false", &format!("protocol = 'h2'\nretry = {retry}"));
    Proxy::start(&text.replace(&format!("'{}'", backends[0]), &all.join(", ")))
}

#[test]
fn a_client_of_http_1_gets_its_switch_and_its_proof() {
    let server = Server::start();
    let proxy = start(&[server.address], "false");
    let mut client = Raw::to(&proxy);
    client.say([ASK, "early"].concat());
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for line in ["connection: upgrade", "upgrade: websocket", "sec-websocket-protocol: chat"] {
        assert_eq!(head.to_lowercase().lines().filter(|found| *found == line).count(), 1, "{line} in {head}");
    }
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    client.hear("early");
    client.say("more");
    client.hear("more");
    client.finish();
    client.expect_end();
    let seen = server.seen.lock().unwrap();
    let [asked] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(asked.method(), Method::CONNECT);
    assert_eq!(asked.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(asked.uri(), "http://a.example/ws");
    assert_eq!(asked.headers()["sec-websocket-version"], "13");
    assert_eq!(asked.headers()["sec-websocket-extensions"], "permessage-deflate");
    for gone in ["sec-websocket-key", "connection", "upgrade", "content-length"] {
        assert!(!asked.headers().contains_key(gone), "{gone}");
    }
    let line = proxy.access_where(|line| line["status"] == 101);
    assert_eq!((&line["bytes_in"], &line["bytes_out"], &line["reason"]), (&9.into(), &9.into(), &().into()), "{line}");
    assert_eq!(proxy.metric("shardgate_tunnels_total", &[]), 1.0);
    assert_eq!(proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0), 0.0);
    assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "ok")]), 1.0);
}

#[test]
fn a_client_of_http_2_speaks_to_a_backend_of_http_2() {
    let server = Server::start();
    let proxy = start(&[server.address], "false");
    let mut client = Frames::connect(proxy.address());
    client.send(connect(1, "websocket", &[]));
    client.send(frame(DATA, 0, 1, b"early"));
    let head = client.head(1);
    assert_eq!((head.status(), head.flags & END_STREAM), (Some(200), 0));
    client.until("an echo", |frame| frame.kind == DATA && frame.payload == b"early");
    client.send(frame(DATA, END_STREAM, 1, b"bye"));
    client.until("the last echo", |frame| frame.kind == DATA && frame.payload == b"bye");
    client.until("the end", |frame| frame.kind == DATA && frame.flags & END_STREAM != 0);
    assert!(!server.seen.lock().unwrap()[0].headers().contains_key("sec-websocket-key"));
    proxy.access_where(|line| line["status"] == 101 && line["reason"].is_null());
}

#[test]
fn much_goes_both_ways_and_comes_back_as_it_was() {
    const LARGE: usize = 4 * 1024 * 1024;
    let server = Server::start();
    let proxy = start(&[server.address], "false");
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    client.head();
    let mut reads = Raw::new(client.0.try_clone().unwrap());
    let sender = std::thread::spawn(move || {
        client.say(noise(7, LARGE));
        client.finish();
    });
    assert!(reads.rest() == noise(7, LARGE));
    sender.join().unwrap();
}

#[test]
fn what_is_declined_is_passed_on() {
    let server = Server::start();
    let proxy = start(&[server.address], "false");
    let mut client = Raw::to(&proxy);
    client.say(ASK.replace("/ws", "/other"));
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("connection: close\r\n"), "{head}");
    client.finish();
    assert!(String::from_utf8(client.rest()).unwrap().contains("no"));
    assert_eq!(*server.resets.lock().unwrap(), []);
    assert_eq!(proxy.metric("shardgate_tunnels_total", &[]), 0.0);
}

#[test]
fn what_breaks_ends_the_other_side() {
    let server = Server::start();
    let proxy = start(&[server.address], "false");
    // The backend's reset.
    let mut client = Raw::to(&proxy);
    client.say(ASK.replace("/ws", "/reset"));
    client.head();
    client.say("what for");
    assert_eq!(client.rest(), b"");
    proxy.access_where(|line| line["status"] == 101 && line["reason"] == "upstream_reset");
    // The client's, over HTTP/1.1 and HTTP/2.
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    client.head();
    socket2::SockRef::from(&client.0).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let resets = || server.resets.lock().unwrap().clone();
    crate::support::poll("a reset", || (resets() == [Some(Reason::CANCEL)]).then_some(()));
    let mut client = Frames::connect(proxy.address());
    client.send(connect(1, "websocket", &[]));
    assert_eq!(client.head(1).status(), Some(200));
    client.send(frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()));
    crate::support::poll("another reset", || (resets() == [Some(Reason::CANCEL); 2]).then_some(()));
    assert_eq!(proxy.metric_until("shardgate_tunnels_open", &[], |open| open == 0.0), 0.0);
}

/// A server that has not said that it takes extended CONNECTs gets neither one nor a GET that means another thing.
#[test]
fn a_backend_that_takes_no_tunnels_is_asked_for_none() {
    let origin = H2Origin::start("one");
    let proxy = start(&[origin.addr()], "{ max = 1 }");
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 501 ") && head.contains("connection: close\r\n"), "{head}");
    let body = String::from_utf8(client.rest()).unwrap();
    assert!(body.contains("tunnel_unsupported"), "{body}");
    let mut client = Frames::connect(proxy.address());
    client.send(connect(1, "websocket", &[]));
    assert_eq!(client.head(1).status(), Some(501));
    assert_eq!(origin.seen().len(), 0);
    proxy.access_where(|line| line["status"] == 501 && line["reason"] == "tunnel_unsupported");
    // That says nothing against it.
    for outcome in ["protocol_error", "connect_failed", "reset"] {
        assert_eq!(proxy.metric("shardgate_upstream_attempts_total", &[("outcome", outcome)]), 0.0, "{outcome}");
    }
    assert_eq!(proxy.get("/plain").status, 200);
    // The setting can be there and say no (RFC 8441, 3).
    let script = h2_script::Frames::start(|_, wire| {
        wire.greet(&[(8, 0)])?;
        wire.wait_end()
    });
    let proxy = start(&[script.addr()], "false");
    let mut client = Raw::to(&proxy);
    client.say(ASK);
    assert!(client.head().starts_with("HTTP/1.1 501 "));
    assert_eq!(script.requests(), 0);
}

#[test]
fn another_backend_may_take_it() {
    let (origin, server) = (H2Origin::start("one"), Server::start());
    let proxy = start(&[origin.addr(), server.address], "{ max = 1 }");
    for _ in 0..4 {
        let mut client = Raw::to(&proxy);
        client.say([ASK, "echo"].concat());
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        client.hear("echo");
    }
    assert_eq!(origin.seen().len(), 0);
}
