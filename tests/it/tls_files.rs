//! Files of certificates that change while the daemon runs: read anew by themselves or with a reload, or not at all.

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::version::TLS12;

use crate::support::certs::{Authority, place};
use crate::support::proxy::run;
use crate::support::tls::{AcceptAll, TlsClient};
use crate::support::{Proxy, ocsp};
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

fn tls_reloads(proxy: &Proxy, result: &str, least: f64) {
    proxy.metric_until("shardgate_tls_reloads_total", &[("result", result)], |count| count >= least);
}

#[test]
fn authorities_of_clients_that_change_are_read_anew_without_a_signal() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("client_ca = \"DIR/ca.pem\"", &["site"]);
    let other = Authority::new("other");
    let client = |authority: &Authority| TlsClient::with_identity(&rig.authority, &authority.sign(&["me"]));
    let (ours, theirs) = (client(&rig.authority), client(&other));
    let status = |client: &TlsClient| asked(client, proxy.address(), "a.test").map(|(status, _)| status);
    let mut open = ours.connect(proxy.address(), "a.test");
    assert_eq!(open.get("/v1/BTC").status, 200);
    assert_eq!((status(&ours), status(&theirs)), (Some(200), None));
    // What can't be used changes nothing.
    place(&rig.path().join("ca.pem"), "no certificate");
    proxy.log_line("a certificate that changed can't be used, the old one goes on");
    tls_reloads(&proxy, "failure", 1.0);
    assert_eq!((status(&ours), status(&theirs)), (Some(200), None));
    place(&rig.path().join("ca.pem"), &other.pem());
    proxy.log_line("certificate read anew");
    tls_reloads(&proxy, "success", 1.0);
    assert_eq!((status(&ours), status(&theirs)), (None, Some(200)), "with a ticket from before, too");
    assert_eq!(open.get("/v1/BTC").status, 200, "one that was open goes on");
    assert_eq!(proxy.metric("shardgate_config_reloads_total", &[]), 0.0);
}

#[test]
fn a_response_of_ocsp_is_stapled_while_it_is_good_and_read_anew_without_a_signal() {
    let rig = Rig::new(&[]);
    let site = rig.authority.sign(&["a.test"]);
    site.write(rig.path(), "site");
    let file = rig.path().join("site.ocsp");
    let put = |staple: &[u8]| {
        std::fs::write(rig.path().join("new"), staple).unwrap();
        std::fs::rename(rig.path().join("new"), &file).unwrap();
    };
    let first = ocsp::response(&site.der, "20400101000000Z");
    put(&first);
    let config = rig.config(&(rig.listener("main", "", &["site"]) + &format!("ocsp = \"{}\"\n", file.display())));
    let proxy = Proxy::start(&config);
    let stapled = || {
        let seen = Arc::new(AcceptAll::default());
        let client = rig.client().edit(|config| config.dangerous().set_certificate_verifier(seen.clone()));
        assert_eq!(client.connect(proxy.address(), "a.test").get("/v1/BTC").status, 200);
        let staple = seen.staple.lock().unwrap();
        staple.clone()
    };
    assert_eq!(stapled(), first);
    let second = ocsp::response(&site.der, "20410101000000Z");
    put(&second);
    tls_reloads(&proxy, "success", 1.0);
    assert_eq!(stapled(), second);
    // Of no use: the one before is sent.
    let other = rig.authority.sign(&["a.test"]);
    let bad: [&[u8]; 3] = [b"garbage", b"\x30\x03\x0a\x01\x03", &ocsp::response(&other.der, "20400101000000Z")];
    for (done, bad) in bad.iter().enumerate() {
        put(bad);
        tls_reloads(&proxy, "failure", done as f64 + 1.0);
        assert_eq!(stapled(), second);
    }
    // With one that is over a client turns a good certificate away.
    put(&ocsp::response(&site.der, "20210101000000Z"));
    proxy.log_line("the OCSP response has expired and is not sent any more");
    tls_reloads(&proxy, "success", 2.0);
    assert_eq!(stapled(), b"");
    let (code, _, said) = run(&["check", "-c", proxy.config_file().to_str().unwrap()]);
    assert!(code == 0 && said.contains("site.ocsp expired on 2021-01-01 and is not sent"), "{said}");
    for (bad, words) in
        bad.iter().zip(["is not an OCSP response in DER", "it says tryLater", "is for another certificate"])
    {
        put(bad);
        let (code, _, said) = run(&["check", "-c", proxy.config_file().to_str().unwrap()]);
        assert!(code == 1 && said.contains(words), "{said}");
    }
}

/// The longest that a response can be used is told by itself: nobody has to replace it for it to be dropped.
#[test]
fn a_response_of_ocsp_that_ends_while_it_is_in_use_is_dropped() {
    let rig = Rig::new(&[]);
    let site = rig.authority.sign(&["a.test"]);
    site.write(rig.path(), "site");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let until = soon.strftime("%Y%m%d%H%M%SZ").to_string();
    std::fs::write(rig.path().join("site.ocsp"), ocsp::response(&site.der, &until)).unwrap();
    let listener = rig.listener("main", "", &["site"]) + &format!("ocsp = \"{}/site.ocsp\"\n", rig.path().display());
    let proxy = Proxy::start(&rig.config(&listener));
    proxy.log_line("the OCSP response has expired and is not sent any more");
    assert_eq!(asked(&rig.client(), proxy.address(), "a.test"), Some((200, HandshakeKind::Full)));
}
