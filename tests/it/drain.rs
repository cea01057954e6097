//! Drain: SIGTERM lets what is under way end, takes nothing new, and leaves with 0.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;

use crate::support::proxy::AUTHORIZED;
use crate::support::{After, Client, DEADLINE, Origin, Proxy, poll};

fn config(origin: &Origin, server: &str) -> String {
    format!(
        r#"
[server]
{server}
[[listeners]]
name = "main"
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults]
health = false
[pools.BTC.a]
primaries = ["{}"]
"#,
        origin.addr()
    )
}

#[test]
fn requests_in_flight_end_and_idle_connections_close() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::start(&config(&origin, "drain_timeout = \"10s\""));
    let gate = origin.hold("/v1/BTC");
    let mut busy = proxy.client();
    let request = busy.format("GET", "/v1/BTC", &[], b"");
    busy.send(request);
    gate.waiting(1);
    let mut idle = proxy.client();
    assert_eq!(idle.get("/nowhere").status, 404);
    let address = proxy.address();
    proxy.signal(Signal::TERM);
    poll("the listener to close", || Client::try_connect(address).is_err().then_some(()));
    assert!(proxy.is_running());
    gate.open();
    let got = busy.response();
    assert_eq!((got.status, got.header("connection")), (200, Some("close")));
    busy.expect_closed();
    idle.expect_closed();
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// It must not look whole, which without a length it would if the connection just ended.
#[test]
fn an_answer_that_is_cut_off_ends_with_a_reset() {
    let origin = Origin::start("one");
    origin.on_custom("/v1/BTC", |_, exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")?;
        exchange.wait_end();
        Ok(After::Close)
    });
    let mut proxy = Proxy::start(&config(&origin, "drain_timeout = \"60s\""));
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    client.write_all(b"GET /v1/BTC HTTP/1.0\r\n\r\n").unwrap();
    let (mut came, mut part) = (Vec::new(), [0; 1024]);
    while !came.ends_with(b"begun") {
        let n = client.read(&mut part).unwrap();
        came.extend_from_slice(&part[..n]);
    }
    proxy.signal(Signal::TERM);
    poll("the drain", || Client::try_connect(proxy.address()).is_err().then_some(()));
    proxy.signal(Signal::TERM);
    let end = client.read(&mut part);
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    proxy.wait_exit(DEADLINE);
}

#[test]
fn readyz_fails_first_and_serving_goes_on_for_the_delay() {
    let origin = Origin::start("one");
    let proxy = Proxy::start(&config(&origin, "drain_delay = \"60s\""));
    assert_eq!(proxy.admin_request("GET", "/readyz").status, 200);
    proxy.signal(Signal::TERM);
    poll("readyz to fail", || (proxy.admin_request("GET", "/readyz").status == 503).then_some(()));
    assert_eq!(proxy.admin_request("GET", "/livez").status, 200);
    let got = proxy.get("/v1/BTC");
    assert_eq!((got.status, got.header("connection")), (200, None));
    assert_eq!(proxy.metric("shardgate_draining", &[]), 1.0);
    let got = proxy.admin_request("POST", "/api/v1/reload");
    assert!(got.status == 422 && got.text().contains("draining"), "{}: {}", got.status, got.text());
}

#[test]
fn what_does_not_end_is_cut_at_the_timeout() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::start(&config(&origin, "drain_timeout = \"300ms\""));
    let gate = origin.hold("/v1/BTC");
    let mut busy = proxy.client();
    let request = busy.format("GET", "/v1/BTC", &[], b"");
    busy.send(request);
    gate.waiting(1);
    let url = format!("http://{}/v1/BTC", proxy.address());
    let mut over_h2 =
        Command::new("curl").args(["-s", "--max-time", "60", "--http2-prior-knowledge", &url]).spawn().unwrap();
    gate.waiting(2);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
    gate.open();
    assert!(!over_h2.wait().unwrap().success());
    let cut = || proxy.access_lines().iter().filter(|line| line["reason"] == "draining").count();
    poll("both in the log, by whose doing they ended", || (cut() == 2).then_some(()));
    assert!(proxy.access_lines().iter().all(|line| line["status"] == 503), "{:?}", proxy.access_lines());
}

#[test]
fn a_second_signal_ends_at_once() {
    let origin = Origin::start("one");
    let mut proxy = Proxy::start(&config(&origin, "drain_delay = \"600s\""));
    proxy.signal(Signal::TERM);
    poll("draining", || (proxy.admin_request("GET", "/readyz").status == 503).then_some(()));
    proxy.signal(Signal::INT);
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

#[test]
fn a_reload_under_way_is_given_up() {
    let origin = Origin::start("one");
    let text = config(&origin, "drain_timeout = \"10s\"") + "[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\"\n";
    let mut proxy = Proxy::start(&text);
    // The first round of checks waits for a backend that takes connections and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = "health = { path = \"/\", timeout = \"10m\", interval = \"10m\" }";
    let next = text
        .replace("health = false", health)
        .replace(&origin.addr().to_string(), &mute.local_addr().unwrap().to_string());
    std::fs::write(proxy.config_file(), next + "[[listeners]]\nname = \"new\"\nbind = \"127.0.0.1:0\"\n").unwrap();
    let mut admin = Client::connect(proxy.admin());
    let reload = admin.format("POST", "/api/v1/reload", &[AUTHORIZED], b"");
    admin.send(reload);
    mute.set_nonblocking(true).unwrap();
    let _check = poll("the first check", || mute.accept().ok());
    proxy.signal(Signal::TERM);
    let got = admin.response();
    assert!(got.status == 422 && got.text().contains("draining"), "{}: {}", got.status, got.text());
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
    assert!(!proxy.log().contains("\"listener\":\"new\""), "it was still opened");
}
