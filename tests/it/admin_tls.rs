//! The admin address inside TLS: a client certificate is worth what the token is, and files are followed as listeners' are.

use serde_json::json;

use crate::support::certs::{Authority, Pair, place};
use crate::support::proxy::run;
use crate::support::tls::TlsClient;
use crate::support::{Client, Proxy, Response, poll};
use crate::tls::{Rig, serial};

/// `[admin]` with these keys and TLS that asks for certificates of `ca.pem`.
fn config(rig: &Rig, keys: &str, tls: &str) -> String {
    let path = rig.path().display();
    format!(
        "[[listeners]]\nbind = \"127.0.0.1:0\"\n[[routes]]\npath = \"/v1/{{asset}}\"\n[regions.a]\n[defaults]\nhealth = false\n\
         [pools.BTC.a]\nprimaries = [\"{}\"]\n[admin]\n{keys}\n[admin.tls]\n{}\n[[admin.tls.certificates]]\n\
         cert = \"{path}/admin.pem\"\nkey = \"{path}/admin.key\"\n",
        rig.origin.addr(),
        tls.replace("DIR", &path.to_string()),
    )
}

const LOCAL: &str = "bind = \"127.0.0.1:0\"";
const ASKS: &str = "client_ca = \"DIR/ca.pem\"\nclient_auth = \"optional\"";

fn rig() -> Rig {
    Rig::new(&[("admin", &["localhost", "127.0.0.1"])])
}

fn ask(rig: &Rig, proxy: &Proxy, me: Option<&Pair>, request: (&str, &str), fields: &[(&str, &str)]) -> Response {
    let client = TlsClient::build(&rig.authority, rustls::DEFAULT_VERSIONS, me);
    client.connect(proxy.admin(), "localhost").request(request.0, request.1, fields, b"{\"state\":\"drain\"}")
}

const WRITE: (&str, &str) = ("PUT", "/api/v1/regions/a/state");

#[test]
fn a_certificate_lets_write_and_is_in_the_audit() {
    let rig = rig();
    let (me, stranger) = (rig.authority.sign(&["ann"]), Authority::new("stranger").sign(&["ann"]));
    let proxy = Proxy::start(&config(&rig, LOCAL, ASKS));
    assert_eq!(ask(&rig, &proxy, None, ("GET", "/api/v1/status"), &[]).status, 200, "as in clear");
    let refused = ask(&rig, &proxy, None, WRITE, &[]);
    assert_eq!((refused.status, refused.reason().as_str()), (403, "certificate_needed"));
    assert_eq!(ask(&rig, &proxy, Some(&me), WRITE, &[]).status, 200);
    let line = proxy.log_line("state changed");
    assert!(line["from"].as_str().is_some_and(|from| from.ends_with(" CN=ann")), "{line}");
    // Who shows what nobody here has signed is turned away, and so is who speaks in clear.
    let client = TlsClient::with_version(&rig.authority, &rustls::version::TLS12);
    drop(client.connect(proxy.admin(), "localhost"));
    let client = TlsClient::build(&rig.authority, &[&rustls::version::TLS12], Some(&stranger));
    assert!(client.try_connect(proxy.admin(), "localhost").is_err());
    let mut clear = Client::connect(proxy.admin());
    clear.send(clear.format("GET", "/livez", &[], b""));
    assert!(clear.try_response_to("GET").is_err());
    // Pages of other sites have their reader's certificate, too.
    let evil = [("Origin", "http://evil.example")];
    assert_eq!(ask(&rig, &proxy, Some(&me), WRITE, &evil).reason(), "foreign_origin");
}

#[test]
fn either_of_token_and_certificate_is_enough_and_beyond_loopback_for_reading_too() {
    let rig = rig();
    place(&rig.path().join("token"), "s3cret");
    let token =
        format!("bind = \"0.0.0.0:0\"\nprotect_metrics = true\ntoken_file = \"{}/token\"", rig.path().display());
    let only_certificates = "bind = \"0.0.0.0:0\"\nprotect_metrics = true";
    let me = rig.authority.sign(&["ann"]);
    let good = [("Authorization", "Bearer s3cret")];
    let bad = [("Authorization", "Bearer guess")];
    for (keys, without) in [(token.as_str(), "token_needed"), (only_certificates, "certificate_needed")] {
        let proxy = Proxy::start(&config(&rig, keys, ASKS));
        for request in [("GET", "/api/v1/status"), ("GET", "/metrics"), ("GET", "/api/v1/config"), WRITE] {
            assert_eq!(ask(&rig, &proxy, None, request, &[]).reason(), without, "{request:?}");
            assert_eq!(ask(&rig, &proxy, Some(&me), request, &[]).status, 200, "{request:?}");
            assert_eq!(ask(&rig, &proxy, None, request, &good).status == 200, keys == token, "{request:?}");
            assert_ne!(ask(&rig, &proxy, None, request, &bad).status, 200, "{request:?}");
        }
        assert_eq!(ask(&rig, &proxy, None, ("GET", "/livez"), &[]).status, 200);
    }
    // TLS alone lets nobody do anything.
    let proxy = Proxy::start(&config(&rig, "bind = \"0.0.0.0:0\"", ""));
    assert_eq!(ask(&rig, &proxy, Some(&me), WRITE, &[]).reason(), "no_token_configured");
    proxy.log_says("this admin address can be reached from elsewhere, and there is no token");
}

#[test]
fn commands_speak_tls() {
    let rig = rig();
    rig.authority.sign(&["ann"]).write(rig.path(), "ann");
    let proxy = Proxy::start(&config(&rig, LOCAL, "client_ca = \"DIR/ca.pem\""));
    let admin = format!("https://{}", proxy.admin());
    let [ca, cert, key] = ["ca.pem", "ann.pem", "ann.key"].map(|file| rig.path().join(file).display().to_string());
    let shown = ["--admin", &admin, "--ca", &ca, "--cert", &cert, "--key", &key];
    let (code, out, err) = run(&[&["drain", "a"][..], &shown].concat());
    assert_eq!((code, out.as_str()), (0, "a: ready -> drain (1 backend in 1 pool)\n"), "{err}");
    let (code, out, err) = run(&[&["status", "--json"][..], &shown].concat());
    assert!(code == 0 && out.contains("\"config_hash\""), "{err}");
    // None shown, nobody believed, and half of a pair.
    assert_eq!(run(&[&["status"][..], &shown[..4]].concat()).0, 4);
    assert_eq!(run(&["status", "--admin", &admin, "--cert", &cert, "--key", &key]).0, 4);
    assert_eq!(run(&["status", "--admin", &admin, "--cert", &cert]).0, 2);
    let (code, _, err) = run(&["status", "--admin", &admin, "--ca", &ca, "--cert", &cert, "--key", &ca]);
    assert!(code == 4 && err.contains("no key in"), "{err}");
}

#[test]
fn its_files_are_followed_and_a_reload_changes_all_but_whether_there_is_tls() {
    let rig = rig();
    let first = config(&rig, LOCAL, ASKS);
    let proxy = Proxy::start(&first);
    let me = rig.authority.sign(&["ann"]);
    let next = rig.authority.sign(&["localhost"]);
    next.write(rig.path(), "admin");
    let line = proxy.log_line("certificate read anew");
    assert_eq!(line["listener"], "[admin]");
    assert_eq!(serial(&rig.client().connect(proxy.admin(), "localhost")), next.der.to_vec());
    assert_eq!(ask(&rig, &proxy, Some(&me), WRITE, &[]).status, 200);
    // Other authorities, by a file that changes.
    let other = Authority::new("other");
    place(&rig.path().join("ca.pem"), &other.pem());
    proxy
        .log_where("certificate read anew", |line| line["certificate"].as_str().is_some_and(|c| c.ends_with("ca.pem")));
    assert_eq!(ask(&rig, &proxy, Some(&other.sign(&["eve"])), WRITE, &[]).status, 200);
    let expiry = ask(&rig, &proxy, None, ("GET", "/metrics"), &[]).text();
    assert!(expiry.contains("certificate_expiry_timestamp_seconds{listener=\"[admin]\""), "{expiry}");
    let told = ask(&rig, &proxy, None, ("GET", "/api/v1/config"), &[]).json();
    assert_eq!(told["config"]["admin"]["tls"]["client_auth"], json!("optional"));
    // By a reload: nobody is asked any more, and so nobody may.
    let reload = |toml: &str| {
        std::fs::write(proxy.config_file(), toml).unwrap();
        proxy.signal(rustix::process::Signal::HUP);
    };
    reload(&config(&rig, LOCAL, ""));
    proxy.log_line("reloaded");
    assert_eq!(ask(&rig, &proxy, Some(&me), WRITE, &[]).reason(), "no_token_configured");
    let clear = first.split("[admin.tls]").next().unwrap();
    reload(clear);
    poll("a refusal", || proxy.log().contains("a reload can't change `admin.tls`").then_some(()));
}
