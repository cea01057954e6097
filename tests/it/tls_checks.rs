//! TLS to backends beside requests: checks, agents, and what a reload changes.

use std::io::Write as _;
use std::net::TcpListener;

use serde_json::Value;

use crate::support::agent::Agent;
use crate::support::tls_origin::{Authority, Front};
use crate::support::{Origin, Proxy, poll};

fn config(front: &Front, defaults: &str) -> String {
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [server]
         workers = 1
         [[routes]]
         path = '/v1/{{asset}}'
         [regions.a]
         [defaults]
         {defaults}
         [pools.BTC.a]
         primaries = ['{}']
        ",
        front.addr()
    )
}

fn backend(proxy: &Proxy) -> Value {
    proxy.admin_request("GET", "/api/v1/status").json()["pools"][0]["backends"][0].clone()
}

#[test]
fn a_check_says_what_is_wrong_with_a_certificate() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    for path in ["", "path = '/healthz',"] {
        let origin = Origin::start("a");
        let front = Front::start(origin.addr(), authority.certify_expired(&["127.0.0.1"]).server());
        let check = format!("{{ {path} interval = '50ms', fast_interval = '20ms', timeout = '20s' }}");
        let proxy = Proxy::start(&config(&front, &format!("tls = {{ ca = '{}' }}\nhealth = {check}", ca.display())));
        let seen = backend(&proxy);
        assert_eq!((seen["state"].as_str(), seen["cause"].as_str()), (Some("down"), Some("certificate")));
        let line = proxy.log_line("backend is down");
        assert!(line["why"].as_str().unwrap().contains("expired"), "{line}");
        assert_eq!(line["cause"], "certificate");
        // Nor is it used for want of a better one.
        assert_eq!(proxy.get("/v1/BTC").reason(), "no_healthy_backend");

        front.set(authority.certify(&["127.0.0.1"]).server());
        poll("the backend to be up", || (backend(&proxy)["state"] == "up").then_some(()));
        poll("requests to be served", || (proxy.get("/v1/BTC").status == 200).then_some(()));
        if !path.is_empty() {
            let checks = origin.checks();
            poll("checks", || (origin.checks() >= checks + 10).then_some(()));
            assert_eq!(front.handshakes().len(), 2, "one connection for checks and one for requests");
        }
    }
}

#[test]
fn a_backend_that_does_not_agree_to_http_2_is_down() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let mut server = authority.certify(&["127.0.0.1"]).server();
    server.alpn_protocols.clear();
    let front = Front::start(origin.addr(), server);
    let defaults = format!("protocol = 'h2'\ntls = {{ ca = '{}' }}", ca.display());
    let proxy = Proxy::start(&config(&front, &defaults));
    let seen = backend(&proxy);
    assert_eq!((seen["state"].as_str(), seen["cause"].as_str()), (Some("down"), Some("tls")), "{seen}");
    let line = proxy.log_line("backend is down");
    assert!(line["why"].as_str().unwrap().contains("did not agree to HTTP/2"), "{line}");
}

#[test]
fn a_check_of_who_speaks_no_tls_or_wants_a_certificate() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let config_of = |front: &Front| {
        let check = "{ path = '/healthz', interval = '50ms', timeout = '20s' }";
        config(front, &format!("tls = {{ ca = '{}' }}\nhealth = {check}", ca.display()))
    };
    let strict = authority.certify(&["127.0.0.1"]).server_with(rustls::ALL_VERSIONS, Some(&authority));
    let front = Front::start(origin.addr(), strict);
    let proxy = Proxy::start(&config_of(&front));
    assert_eq!(backend(&proxy)["cause"], "tls");
    let line = proxy.log_line("backend is down");
    assert!(line["why"].as_str().unwrap().contains("CertificateRequired"), "{line}");

    // It reads and answers in clear.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let proxy = Proxy::start(&config_of(&front).replace(&front.addr().to_string(), &plain));
    assert_eq!(backend(&proxy)["cause"], "tls");
}

#[test]
fn an_agent_speaks_inside_tls() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = authority.write(directory.path(), "ca.pem");
    let certificate = authority.certify(&["127.0.0.1"]);
    let (origin, agent) = (Origin::start("a"), Agent::start("127.0.0.1", "drain\n"));
    let front = Front::start(origin.addr(), certificate.server());
    let beside = Front::start(([127, 0, 0, 1], agent.port()).into(), certificate.server());
    let asked = format!("health = {{ agent = {{ port = {}, interval = '30ms' }} }}", beside.addr().port());
    let proxy = Proxy::start(&config(&front, &format!("tls = {{ ca = '{}' }}\n{asked}", ca.display())));
    poll("the agent to be heard", || (backend(&proxy)["state"] == "announced-drain").then_some(()));
    assert_eq!(beside.handshakes()[0].alpn, None);
    agent.say("ready\n");
    poll("the agent to be heard", || (backend(&proxy)["state"] == "up").then_some(()));
}

#[test]
fn a_reload_reads_the_files_again() {
    let (directory, old, new) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca = old.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), old.certify(&["127.0.0.1"]).server());
    let toml = config(&front, &format!("health = false\ntls = {{ ca = '{}' }}", ca.display()));
    let proxy = Proxy::start(&toml);
    let mut client = proxy.client();
    assert_eq!(client.get("/v1/BTC").status, 200);

    // Nothing has changed: the connection is kept.
    assert!(proxy.reload(&toml));
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(front.handshakes().len(), 1);

    // A request that is under way is not touched by a change.
    let gate = origin.hold("/v1/BTC");
    let mut held = proxy.client();
    held.send(held.format("GET", "/v1/BTC", &[], b""));
    gate.waiting(1);
    new.write(directory.path(), "ca.pem");
    front.set(new.certify(&["127.0.0.1"]).server());
    assert!(proxy.reload(&toml));
    gate.open();
    assert_eq!(held.response().status, 200);
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    let handshakes = front.handshakes();
    assert_eq!(handshakes.len(), 2, "what was changed has connections of its own");
    assert!(!handshakes[1].is_resumed, "and sessions");

    // A file that can't be used changes nothing.
    std::fs::write(&ca, "nothing").unwrap();
    assert!(!proxy.reload(&toml));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
}
