//! TLS to backends: who is believed, what is shown, and what becomes of requests where it fails. Checks, agents and
//! reloads are in `tls_checks`.

use std::net::TcpListener;
use std::path::Path;

use rustls::ProtocolVersion;
use rustls::version::{TLS12, TLS13};

use crate::support::peer::Peer;
use crate::support::proxy::run;
use crate::support::tls_origin::{Authority, Certified, Front};
use crate::support::{After, Behaviour, Gate, Origin, Proxy, poll};

/// A pool with these members, without checks, and what `[defaults]` says.
fn config(members: &[impl ToString], defaults: &str) -> String {
    let members = members.iter().map(|member| format!("'{}'", member.to_string())).collect::<Vec<_>>().join(", ");
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [server]
         workers = 1
         [[routes]]
         path = '/v1/{{asset}}'
         [[routes]]
         path = '/v1/{{asset}}/{{*rest}}'
         [regions.a]
         [defaults]
         balance = 'round-robin'
         health = false
         {defaults}
         [pools.BTC.a]
         primaries = [{members}]
        "
    )
}

fn believing(ca: &Path) -> String {
    format!("tls = {{ ca = '{}' }}", ca.display())
}

/// A certificate to show, and whom to believe.
fn showing(ca: &Path, shown: &Certified, directory: &Path) -> String {
    let (cert, key) = shown.write(directory, "client");
    format!("tls = {{ ca = '{}', cert = '{}', key = '{}' }}", ca.display(), cert.display(), key.display())
}

fn failures(proxy: &Proxy) -> f64 {
    proxy.metric("shardgate_upstream_attempts_total", &[("outcome", "connect_failed")])
}

#[test]
fn a_request_over_tls() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let proxy = Proxy::start(&config(&[front.addr()], &believing(&ca)));
    let answer = proxy.get("/v1/BTC");
    assert_eq!((answer.status, answer.origin()), (200, "a"));
    assert_eq!(origin.requests()[0].target, "/v1/BTC");
    let handshake = front.handshakes().pop().unwrap();
    assert_eq!(handshake.alpn.as_deref(), Some("http/1.1"));
    assert_eq!((handshake.sni, handshake.version), (None, Some(ProtocolVersion::TLSv1_3)));
    let status = proxy.admin_request("GET", "/api/v1/status").json();
    let shown = serde_json::json!({ "name": "127.0.0.1", "verified": true });
    assert_eq!(status["pools"][0]["backends"][0]["tls"], shown);
    let explained = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert_eq!(explained["tiers"][0]["servers"][0]["tls"], shown);
}

#[test]
fn names_of_backends() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["localhost", "btc.internal"]).server());
    // By the name that the file has, and that is resolved; by another name, which the address has not.
    let by_name = format!("localhost:{}", front.addr().port());
    let named = format!("tls = {{ ca = '{}', server_name = 'btc.internal' }}", ca.display());
    for (address, tls, sni) in
        [(by_name, believing(&ca), "localhost"), (front.addr().to_string(), named, "btc.internal")]
    {
        let proxy = Proxy::start(&config(&[address], &tls));
        assert_eq!(proxy.get("/v1/BTC").status, 200);
        assert_eq!(front.handshakes().pop().unwrap().sni.as_deref(), Some(sni));
    }
}

/// Certificates that are not good enough, and what the log says of them.
fn bad_certificates(authority: &Authority) -> [(Certified, &'static str); 4] {
    [
        (Authority::new().certify(&["127.0.0.1"]), "UnknownIssuer"),
        (authority.certify(&["127.0.0.2"]), "not valid for name"),
        (authority.certify(&["localhost"]), "not valid for name"),
        (authority.certify_expired(&["127.0.0.1"]), "expired"),
    ]
}

#[test]
fn a_bad_certificate_costs_no_request() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("good");
    let good = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    for (certificate, words) in bad_certificates(&authority) {
        let never = Origin::start("bad");
        let bad = Front::start(never.addr(), certificate.server());
        // Neither retries nor outliers: the tries are free, and for a POST too.
        let more = format!("{}\nretry = false\noutlier = false", believing(&ca));
        let proxy = Proxy::start(&config(&[bad.addr(), good.addr()], &more));
        let mut client = proxy.client();
        for number in 0..4 {
            let body = format!("{number}");
            let answer = client.request("POST", "/v1/BTC", &[], body.as_bytes());
            assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some(body.as_str())), "{words}");
        }
        let line = proxy.log_line("a try failed");
        let error = line["error"].as_str().unwrap();
        assert!(error.contains("TLS handshake failed") && error.contains(words), "{error}");
        assert_eq!(line["wrote"], false);
        assert!(failures(&proxy) >= 1.0, "{words}");
        assert!(bad.handshakes().is_empty() && never.accepted() == 0, "{words}");

        let proxy = Proxy::start(&config(&[bad.addr()], &more));
        let answer = proxy.get("/v1/BTC");
        assert_eq!((answer.status, answer.reason().as_str()), (502, "connect_failed"), "{words}");
    }
}

#[test]
fn insecure_believes_anyone_and_says_so() {
    let authority = Authority::new();
    let origin = Origin::start("a");
    for (certificate, _) in bad_certificates(&authority) {
        let front = Front::start(origin.addr(), certificate.server());
        let proxy = Proxy::start(&config(&[front.addr()], "tls = { insecure = true }"));
        assert_eq!(proxy.get("/v1/BTC").status, 200);
        proxy.log_says("backends are not asked who they are");
        let file = proxy.config_file();
        let (code, _, warnings) = run(&["check", "-c", file.to_str().unwrap()]);
        assert!(code == 0 && warnings.contains("backends are not asked who they are"), "{warnings}");
        let status = proxy.admin_request("GET", "/api/v1/status").json();
        assert_eq!(status["pools"][0]["backends"][0]["tls"]["verified"], false);
    }
}

#[test]
fn the_system_s_authorities() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let toml = config(&[front.addr()], "tls = true");
    let proxy = Proxy::start_with(&toml, |command| {
        command.env("SSL_CERT_FILE", &ca).env_remove("SSL_CERT_DIR");
    });
    assert_eq!(proxy.get("/v1/BTC").status, 200);
}

#[test]
fn a_certificate_is_shown_to_who_asks_for_it() {
    let (directory, authority, clients) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let certificate = authority.certify(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let (origin, other) = (Origin::start("a"), Origin::start("b"));
        let strict = Front::start(origin.addr(), certificate.server_with(&[version], Some(&clients)));
        let lax = Front::start(other.addr(), certificate.server());
        let more = format!("{}\noutlier = false", showing(&ca, &clients.certify_client("me"), directory.path()));
        let proxy = Proxy::start(&config(&[strict.addr()], &more));
        assert_eq!(proxy.get("/v1/BTC").status, 200);
        assert!(strict.handshakes()[0].has_certificate);

        // None to show, or one that is not believed. In TLS 1.3 that comes to light when the request may have been sent,
        // but the backend can't have read it: the try is free all the same.
        let wrong = showing(&ca, &authority.certify_client("me"), directory.path());
        for tls in [believing(&ca), wrong] {
            let more = format!("{tls}\nretry = false\noutlier = false");
            let proxy = Proxy::start(&config(&[strict.addr(), lax.addr()], &more));
            for number in 0..4 {
                let body = number.to_string().repeat(20_000);
                let answer = proxy.client().request("POST", "/v1/BTC", &[], body.as_bytes());
                assert_eq!((answer.status, answer.origin()), (200, "b"));
                assert_eq!(answer.json()["body"].as_str(), Some(body.as_str()));
            }
            let line = proxy.log_line("a try failed");
            assert!(line["error"].as_str().unwrap().contains("the backend says"), "{line}");
            assert!(failures(&proxy) >= 1.0);
        }
        assert_eq!(origin.count(), 1);
    }
}

#[test]
fn a_backend_that_speaks_1_2() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server_with(&[&TLS12], None));
    let proxy = Proxy::start(&config(&[front.addr()], &believing(&ca)));
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
    let handshakes = front.handshakes();
    assert_eq!((handshakes.len(), handshakes[0].version), (1, Some(ProtocolVersion::TLSv1_2)));
}

#[test]
fn connections_are_kept_and_sessions_are_resumed() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    for version in [&TLS12, &TLS13] {
        let origin = Origin::start("a");
        let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server_with(&[version], None));
        let proxy = Proxy::start(&config(&[front.addr()], &believing(&ca)));
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(client.get("/v1/BTC").status, 200);
        }
        assert_eq!(front.handshakes().len(), 1, "one connection for all, whatever tickets came");
        let closing = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        origin.on("/v1/BTC/once", Behaviour::Raw(closing.to_vec(), After::Close));
        for _ in 0..4 {
            assert_eq!(client.get("/v1/BTC/once").text(), "ok");
        }
        let resumed: Vec<bool> = front.handshakes().iter().map(|handshake| handshake.is_resumed).collect();
        assert_eq!(resumed, [false, true, true, true], "{version:?}");
    }
}

#[test]
fn large_bodies_go_both_ways() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let proxy = Proxy::start(&config(&[front.addr()], &believing(&ca)));
    let mut client = proxy.client();
    let body = "0123456789".repeat(400_000);
    let answer = client.request("POST", "/v1/BTC", &[], body.as_bytes());
    assert!(answer.json()["body"] == body.as_str());
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let answer = client.request("POST", "/v1/BTC", &[("Transfer-Encoding", "chunked")], chunks.as_bytes());
    assert!(answer.json()["body"] == body.as_str());
    origin.on("/v1/BTC/chunks", Behaviour::Chunked(vec![body.clone().into_bytes(); 3]));
    assert!(client.get("/v1/BTC/chunks").text() == body.repeat(3));
    assert_eq!(front.handshakes().len(), 1);
}

#[test]
fn the_end_of_a_body_must_be_said() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    for says_end in [true, false] {
        let origin = Origin::start("a");
        let front = Front::start_with(origin.addr(), authority.certify(&["127.0.0.1"]).server(), says_end);
        let proxy = Proxy::start(&config(&[front.addr()], &believing(&ca)));
        let gate = Gate::new();
        let passed = gate.clone();
        origin.on_custom("/v1/BTC", move |_, exchange| {
            exchange.send("HTTP/1.1 200 OK\r\n\r\nuntil the end")?;
            passed.pass();
            Ok(After::Close)
        });
        // One whose length is known is whole, however the connection ends.
        let known = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nknown";
        origin.on("/v1/BTC/known", Behaviour::Raw(known.to_vec(), After::Close));
        assert_eq!(proxy.get("/v1/BTC/known").text(), "known");
        let mut client = proxy.client();
        client.send(client.format("GET", "/v1/BTC", &[], b""));
        if says_end {
            gate.open();
            assert_eq!(client.response().text(), "until the end");
            continue;
        }
        assert_eq!(client.head_only().0, 200);
        gate.open();
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(rest.contains("until the end") && !rest.ends_with("0\r\n\r\n"), "{rest:?}");
        proxy.access_where(|line| line["reason"] == "upstream_truncated");
    }
}

#[test]
fn retries_go_by_what_a_backend_may_have_seen() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let second = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let proxy = Proxy::start(&config(&[front.addr(), second.addr()], &believing(&ca)));
    // Read whole, and then the connection ends without a word.
    origin.on("/v1/BTC", Behaviour::Raw(Vec::new(), After::Close));
    for (method, tries) in [("GET", 2), ("POST", 1)] {
        let answer = proxy.client().request(method, "/v1/BTC", &[], b"");
        assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream_reset"), "{method}");
        assert_eq!(origin.take_requests().len(), tries, "{method}");
    }
}

#[test]
fn one_side_speaks_tls_and_the_other_does_not() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("plain");
    // What the scriptable backend takes for no HTTP it closes; one that answers says something that is no TLS.
    let proxy = Proxy::start(&config(&[origin.addr()], &believing(&ca)));
    assert_eq!(proxy.get("/v1/BTC").reason(), "connect_failed");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(&config(&[listener.local_addr().unwrap()], &believing(&ca)));
    let asked = std::thread::spawn({
        let address = proxy.address();
        move || crate::support::Client::connect(address).get("/v1/BTC")
    });
    let (mut stream, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(asked.join().unwrap().reason(), "connect_failed");
    assert!(proxy.log_line("a try failed")["error"].as_str().unwrap().contains("is not TLS"));

    let front = Front::start(origin.addr(), authority.certify(&["127.0.0.1"]).server());
    let proxy = Proxy::start(&config(&[front.addr()], ""));
    assert_eq!(proxy.get("/v1/BTC").status, 502);
    assert_eq!(origin.count(), 0);
}

#[test]
fn the_handshake_is_part_of_connecting() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    // The kernel takes the connection, and nobody ever says anything.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("{}\ntimeouts = {{ connect = '50ms' }}", believing(&ca));
    let proxy = Proxy::start(&config(&[silent.local_addr().unwrap()], &more));
    assert_eq!(proxy.get("/v1/BTC").reason(), "connect_failed");
    assert_eq!(proxy.log_line("a try failed")["error"], "connect timed out");
}

#[test]
fn nginx_over_tls() {
    let (directory, authority, clients) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let client_ca = clients.write(directory.path(), "clients.pem");
    let (cert, key) = authority.certify(&["btc.internal"]).write(directory.path(), "site");
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let (_nginx, address) = Peer::nginx_tls("n", protocol, (&cert, &key), &client_ca);
        let shown = showing(&ca, &clients.certify_client("me"), directory.path());
        let shown = shown.replace(" }", ", server_name = 'btc.internal' }");
        let proxy = Proxy::start(&config(&[address], &shown));
        let mut client = proxy.client();
        for number in 1..10 {
            assert_eq!(client.get("/v1/BTC").text(), format!("{protocol} . btc.internal SUCCESS {number}"));
        }
        // It closes; the connections after it resume a session. nginx gives the name on with the session.
        assert!(client.get("/v1/BTC/once").text().ends_with("SUCCESS"));
        poll("a resumed session", || client.get("/v1/BTC").text().starts_with(&format!("{protocol} r ")).then_some(()));
    }
}
