//! Files of TLS to backends that change while the daemon runs: followed without a signal, and nobody notices.

use crate::support::certs::place;
use crate::support::tls_origin::{Authority, Front};
use crate::support::{Origin, Proxy};

fn config(front: &Front, tls: &str) -> String {
    format!(
        "[[listeners]]
         bind = '127.0.0.1:0'
         [server]
         workers = 1
         [[routes]]
         path = '/v1/{{asset}}'
         [regions.a]
         [defaults]
         health = false
         [pools.BTC.a]
         primaries = ['{}']
         tls = {{ {tls} }}
         [pools.gold.a]
         primaries = ['{}']
        ",
        front.addr(),
        front.addr()
    )
}

const ANEW: &str = "TLS to backends: files that changed were read anew";
const NOT: &str = "TLS to backends: a file that changed can't be used, the old one goes on";

fn tls_reloads(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric("shardgate_tls_reloads_total", &[("result", result)])
}

#[test]
fn authorities() {
    let (directory, old, new) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca = old.write(directory.path(), "ca.pem");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), old.certify(&["127.0.0.1"]).server());
    let toml = config(&front, &format!("ca = '{}'", ca.display()));
    let proxy = Proxy::start(&toml);
    let hash = proxy.config_hash();
    let mut client = proxy.client();
    assert_eq!(client.get("/v1/BTC").status, 200);

    // A file that can't be used changes nothing.
    place(&ca, "nothing");
    proxy.log_line(NOT);
    assert_eq!((tls_reloads(&proxy, "failure"), tls_reloads(&proxy, "success")), (1.0, 0.0));
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(front.handshakes().len(), 1, "not even a connection");

    // A request that is under way is not touched by a change, and what is read meanwhile is refused: it says nothing
    // about the configuration, whose last reload was.
    std::fs::write(proxy.config_file(), "[[").unwrap();
    assert_eq!(proxy.admin_request("POST", "/api/v1/reload").status, 422);
    let gate = origin.hold("/v1/BTC");
    let mut held = proxy.client();
    held.send(held.format("GET", "/v1/BTC", &[], b""));
    gate.waiting(1);
    place(&ca, &new.pem());
    front.set(new.certify(&["127.0.0.1"]).server());
    proxy.log_line(ANEW);
    gate.open();
    assert_eq!(held.response().status, 200);
    assert_eq!(client.get("/v1/BTC").status, 200);
    let handshakes = front.handshakes();
    assert_eq!(handshakes.len(), 2, "what was changed has connections of its own");
    assert!(!handshakes[1].is_resumed, "and sessions");
    assert_eq!((tls_reloads(&proxy, "failure"), tls_reloads(&proxy, "success")), (1.0, 1.0));
    assert_eq!(proxy.metric("shardgate_config_reloads_total", &[("result", "success")]), 0.0);
    assert_eq!(proxy.metric("shardgate_config_last_reload_successful", &[]), 0.0);
    assert_eq!(proxy.config_hash(), hash);

    // And again, so that whoever has read once goes on to look.
    let third = Authority::new();
    place(&ca, &third.pem());
    front.set(third.certify(&["127.0.0.1"]).server());
    proxy.metric_until("shardgate_tls_reloads_total", &[("result", "success")], |count| count == 2.0);
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(front.handshakes().len(), 3);
}

#[test]
fn a_certificate_that_is_shown() {
    let (directory, theirs, old, new) =
        (tempfile::tempdir().unwrap(), Authority::new(), Authority::new(), Authority::new());
    let ca = theirs.write(directory.path(), "ca.pem");
    let (cert, key) = old.certify_client("gate").write(directory.path(), "client");
    let origin = Origin::start("a");
    let asking = |clients| theirs.certify(&["127.0.0.1"]).server_with(rustls::ALL_VERSIONS, Some(clients));
    let front = Front::start(origin.addr(), asking(&old));
    let tls = format!("ca = '{}', cert = '{}', key = '{}'", ca.display(), cert.display(), key.display());
    let proxy = Proxy::start(&config(&front, &tls));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    // The certificate first, as some do it: without its key it is none.
    let renewed = new.certify_client("gate");
    place(&cert, &renewed.cert);
    proxy.log_line(NOT);
    front.set(asking(&new));
    place(&key, &renewed.key);
    proxy.log_line(ANEW);
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    assert!(front.handshakes().iter().all(|handshake| handshake.has_certificate));
    assert_eq!(front.handshakes().len(), 2);
    assert_eq!((tls_reloads(&proxy, "failure"), tls_reloads(&proxy, "success")), (1.0, 1.0));
}

/// One that has ended is only warned of at the start, as it may do; looking at it is no failure. It takes no other's place.
#[test]
fn a_certificate_that_has_ended() {
    let (directory, theirs) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca = theirs.write(directory.path(), "ca.pem");
    let ended = theirs.certify_expired(&["gate"]);
    let (cert, key) = ended.write(directory.path(), "client");
    let origin = Origin::start("a");
    let front = Front::start(origin.addr(), theirs.certify(&["127.0.0.1"]).server());
    let tls = format!("ca = '{}', cert = '{}', key = '{}'", ca.display(), cert.display(), key.display());
    let proxy = Proxy::start(&config(&front, &tls));
    let good = theirs.certify_client("gate");
    place(&cert, &good.cert);
    place(&key, &good.key);
    proxy.metric_until("shardgate_tls_reloads_total", &[("result", "success")], |count| count == 1.0);
    let failures = tls_reloads(&proxy, "failure");
    assert!(failures <= 1.0, "only between the two files");
    place(&key, &ended.key);
    place(&cert, &ended.cert);
    proxy.metric_until("shardgate_tls_reloads_total", &[("result", "failure")], |count| count > failures);
    proxy.log_where(NOT, |line| line["error"].as_str().is_some_and(|error| error.contains("expired on 2001-01-02")));
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    assert_eq!(tls_reloads(&proxy, "success"), 1.0);
}

/// What a listener has in the meantime is not lost when backends' files make a new Plan.
#[test]
fn listeners_keep_what_they_have_read_anew() {
    use crate::tls::{Rig, serial};
    let rig = Rig::new(&[("site", &["a.test"])]);
    let authority = Authority::new();
    let ca = authority.write(rig.path(), "backends.pem");
    let config = rig.config(&rig.listener("main", "", &["site"]));
    let proxy = Proxy::start(&format!("{config}replicas = ['127.0.0.1:1']\ntls = {{ ca = '{}' }}\n", ca.display()));
    let next = rig.authority.sign(&["a.test"]);
    next.write(rig.path(), "site");
    proxy.log_line("certificate read anew");
    // Now a certificate that can't be used is there, so that only the one in memory is left.
    place(&rig.path().join("site.pem"), "nothing");
    proxy.log_line("a certificate that changed can't be used, the old one goes on");
    place(&ca, &Authority::new().pem());
    proxy.log_line(ANEW);
    assert_eq!(serial(&rig.client().connect(proxy.address(), "a.test")), next.der.to_vec());
}
