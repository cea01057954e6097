//! Files of certificates that change while the daemon runs: read anew by themselves or with a reload, or not at all.

use rustls::HandshakeKind;
use rustls::version::TLS12;

use crate::support::Proxy;
use crate::support::certs::place;
use crate::support::tls::TlsClient;
use crate::tls::{Rig, asked, serial};

#[test]
fn files_that_change_are_read_anew_without_a_signal() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("", &["site"]);
    // A client that resumed a session would see the certificate of then.
    let now = || serial(&rig.client().connect(proxy.address(), "a.test"));
    let mut open = rig.client().connect(proxy.address(), "a.test");
    let first = serial(&open);
    assert_eq!(open.get("/v1/BTC").status, 200);
    // A new certificate whose key is not there yet changes nothing.
    let next = rig.authority.sign(&["a.test"]);
    place(&rig.path().join("site.pem"), &next.cert);
    proxy.log_line("a certificate that changed can't be used, the old one goes on");
    assert_eq!(now(), first);
    place(&rig.path().join("site.key"), &next.key);
    proxy.log_line("certificate read anew");
    assert_eq!(now(), next.der.to_vec());
    // Nobody who was there notices.
    assert_eq!(open.get("/v1/BTC").status, 200);
    assert_eq!(proxy.metric("shardgate_config_reloads_total", &[]), 0.0);
    // One that ends soon: behind a symbolic link, as certbot has them.
    let ending = rig.authority.sign_until(&["a.test"], 5);
    ending.write(rig.path(), "archive");
    for kind in ["key", "pem"] {
        std::fs::remove_file(rig.path().join(format!("site.{kind}"))).unwrap();
        std::os::unix::fs::symlink(format!("archive.{kind}"), rig.path().join(format!("site.{kind}"))).unwrap();
    }
    proxy.log_line("the certificate expires soon");
    assert_eq!(now(), ending.der.to_vec());
    let soon = jiff::Timestamp::now().as_second() as f64 + 6.0 * 86_400.0;
    proxy.metric_until("shardgate_tls_certificate_expiry_timestamp_seconds", &[], |end| end < soon);
}

#[test]
fn a_reload_with_a_bad_pair_is_refused_and_connections_stay() {
    let rig = Rig::new(&[("site", &["a.test"]), ("other", &["a.test"])]);
    let config = rig.config(&rig.listener("main", "", &["site"]));
    let proxy = Proxy::start(&config);
    let mut open = rig.client().connect(proxy.address(), "a.test");
    let bad = config.replace("site.key", "other.key");
    assert!(!proxy.reload(&bad));
    assert_eq!(asked(&rig.client(), proxy.address(), "a.test"), Some((200, HandshakeKind::Full)));
    assert!(proxy.reload(
        &config.replace("/site.", "/other.").replace("[listeners.tls]", "[listeners.tls]\nmin_version = \"1.3\"")
    ));
    let old = TlsClient::with_version(&rig.authority, &TLS12);
    assert_eq!(asked(&old, proxy.address(), "a.test"), None);
    assert_eq!(open.get("/v1/BTC").status, 200, "one that was open goes on");
}
