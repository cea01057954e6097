//! TLS towards clients: which certificate, which version, tickets, client certificates, and what
//! happens to those who do not speak it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};

use crate::h2_floods::memory;
use crate::support::certs::{Authority, Pair, place};
use crate::support::proxy::run;
use crate::support::tls::{TlsClient, accept_all};
use crate::support::{After, Client, Origin, Proxy, poll};

const ROUTES: &str = "[[routes]]\npath = \"/v1/{asset}\"\n[regions.a]\n[defaults]\nhealth = false\n";

/// A directory of certificates, and a backend.
pub struct Rig {
    pub origin: Origin,
    directory: tempfile::TempDir,
    pub authority: Authority,
}

impl Rig {
    /// With certificates of these names, by the name of their file.
    pub fn new(certificates: &[(&str, &[&str])]) -> Self {
        let rig = Self {
            origin: Origin::start("one"),
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::new("authority"),
        };
        for (file, names) in certificates {
            rig.authority.sign(names).write(rig.path(), file);
        }
        place(&rig.path().join("ca.pem"), &rig.authority.pem());
        rig
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A listener with these certificates.
    pub fn listener(&self, name: &str, keys: &str, certificates: &[&str]) -> String {
        let path = self.path().display();
        let keys = keys.replace("DIR", &path.to_string());
        let mut text = format!("[[listeners]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\n[listeners.tls]\n{keys}\n");
        for file in certificates {
            text +=
                &format!("[[listeners.tls.certificates]]\ncert = \"{path}/{file}.pem\"\nkey = \"{path}/{file}.key\"\n");
        }
        text
    }

    pub fn config(&self, listeners: &str) -> String {
        format!("[server]\nworkers = 2\n{listeners}\n{ROUTES}[pools.BTC.a]\nprimaries = [\"{}\"]\n", self.origin.addr())
    }

    pub fn start(&self, keys: &str, certificates: &[&str]) -> Proxy {
        Proxy::start(&self.config(&self.listener("main", keys, certificates)))
    }

    pub fn client(&self) -> TlsClient {
        TlsClient::new(&self.authority)
    }
}

/// What a connection says of itself after a request; `None`: it came to none.
pub fn asked(client: &TlsClient, addr: SocketAddr, name: &str) -> Option<(u16, HandshakeKind)> {
    let mut client = client.try_connect(addr, name).ok()?;
    let request = client.format("GET", "/v1/BTC", &[("Connection", "close")], b"");
    client.try_send(&request).ok()?;
    let response = client.try_response_to("GET").ok()?;
    // To its end, so that tickets have come.
    client.expect_closed();
    Some((response.status, client.session().handshake_kind().unwrap()))
}

pub fn serial(client: &Client) -> Vec<u8> {
    client.session().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_request_over_tls_and_what_backend_and_log_hear_of_it() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("", &["site"]);
    let mut client = rig.client().connect(proxy.address(), "a.test");
    let forged = [("X-Forwarded-Client-Cert", "Subject=\"CN=root\""), ("X-Forwarded-Proto", "gopher")];
    assert_eq!(client.request("GET", "/v1/BTC", &forged, b"").status, 200);
    assert_eq!(client.post("/v1/BTC", vec![b'x'; 300_000]).status, 200);
    assert_eq!(client.session().alpn_protocol(), Some(&b"http/1.1"[..]));
    let requests = rig.origin.requests();
    assert_eq!(requests[0].header("x-forwarded-proto"), Some("https"));
    assert_eq!(requests[0].header("x-forwarded-client-cert"), None);
    assert_eq!(requests[1].body.len(), 300_000);
    let line = proxy.access_where(|line| line["target"] == "/v1/BTC");
    assert_eq!((&line["tls_version"], &line["sni"]), (&"1.3".into(), &"a.test".into()));
    proxy.metric_until("shardgate_tls_handshakes_total", &[("listener", "main"), ("result", "full")], |n| n == 1.0);
    assert!(proxy.metric("shardgate_tls_certificate_expiry_timestamp_seconds", &[("listener", "main")]) > 6e10);
}

#[test]
fn certificates_by_name() {
    let names: [(&str, &[&str]); 3] =
        [("first", &["first.test"]), ("wild", &["*.b.test"]), ("exact", &["x.b.test", "b.test"])];
    let rig = Rig::new(&names);
    let proxy = rig.start("", &["first", "wild", "exact"]);
    let der = |file: &str| std::fs::read_to_string(rig.path().join(format!("{file}.pem"))).unwrap();
    // Whoever gets a certificate that is not for the name breaks off; so all are accepted here.
    let lax = rig.client().edit(accept_all);
    for (name, file) in [
        ("first.test", "first"),
        ("y.b.test", "wild"),
        ("Y.B.Test", "wild"),
        ("x.b.test", "exact"),
        ("b.test", "exact"),
        ("z.y.b.test", "first"),
        ("nobody.test", "first"),
        ("127.0.0.1", "first"),
    ] {
        let client = lax.connect(proxy.address(), name);
        let got = rcgen_pem(&serial(&client));
        assert_eq!(got, der(file).replace("\r\n", "\n").trim(), "{name}");
    }
}

fn rcgen_pem(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", lines.join("\n"))
}

#[test]
fn versions_and_alpn() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let newest = rig.listener("newest", "min_version = \"1.3\"", &["site"]);
    let both = rig.listener("both", "", &["site"]);
    let proxy = Proxy::start(&rig.config(&format!("{newest}{both}")));
    let (old, new) = (TlsClient::with_version(&rig.authority, &TLS12), TlsClient::with_version(&rig.authority, &TLS13));
    assert!(asked(&old, proxy.addr("both"), "a.test").is_some());
    assert!(asked(&new, proxy.addr("both"), "a.test").is_some());
    assert!(asked(&old, proxy.addr("newest"), "a.test").is_none());
    assert!(asked(&new, proxy.addr("newest"), "a.test").is_some());
    // Lines of different workers are in no order.
    for version in ["1.2", "1.3"] {
        proxy.access_where(|line| line["listener"] == "both" && line["tls_version"] == version);
    }
    // No protocol in common, and none at all.
    assert!(
        asked(&rig.client().edit(|c| c.alpn_protocols = vec![b"spdy".to_vec()]), proxy.addr("both"), "a.test")
            .is_none()
    );
    assert!(asked(&rig.client().edit(|c| c.alpn_protocols.clear()), proxy.addr("both"), "a.test").is_some());
    // What rustls can't even offer: curl, with OpenSSL's defences down.
    let curl = |version: &str, listener: &str| {
        let port = proxy.addr(listener).port();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "/dev/null", "--ciphers", "DEFAULT@SECLEVEL=0"]).args(version.split(' '));
        curl.arg("--cacert").arg(rig.path().join("ca.pem"));
        curl.args(["--resolve", &format!("a.test:{port}:127.0.0.1"), &format!("https://a.test:{port}/v1/BTC")]);
        curl.output().expect("curl").status.success()
    };
    assert!(curl("--tlsv1.2", "both") && curl("--tlsv1.3", "newest"));
    assert!(!curl("--tlsv1.0 --tls-max 1.1", "both"));
}

#[test]
fn sessions_are_resumed_at_any_worker_and_over_reloads() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let config = rig.config(&rig.listener("main", "", &["site"]));
    let proxy = Proxy::start(&config);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::with_version(&rig.authority, version);
        assert_eq!(asked(&client, proxy.address(), "a.test"), Some((200, HandshakeKind::Full)));
        for _ in 0..16 {
            assert_eq!(asked(&client, proxy.address(), "a.test"), Some((200, HandshakeKind::Resumed)));
        }
        // New certificates, and more of them: sessions go on.
        rig.authority.sign(&["a.test"]).write(rig.path(), "site");
        assert!(proxy.reload(&format!("{config}\n# again\n")));
        assert_eq!(asked(&client, proxy.address(), "a.test"), Some((200, HandshakeKind::Resumed)));
        assert_eq!(asked(&client, proxy.address(), "other.test").map(|(_, kind)| kind), None, "not its name");
    }
    assert!(proxy.metric("shardgate_tls_handshakes_total", &[("result", "resumed")]) >= 34.0);
}

#[test]
fn clients_show_certificates() {
    let rig = Rig::new(&[("site", &["a.test", "b.test"])]);
    let listeners: String = [
        ("required", "client_ca = \"DIR/ca.pem\""),
        ("optional", "client_ca = \"DIR/ca.pem\"\nclient_auth = \"optional\""),
        ("none", ""),
    ]
    .map(|(name, keys)| rig.listener(name, keys, &["site"]))
    .concat();
    let proxy = Proxy::start(&rig.config(&listeners));
    let me = rig.authority.sign(&["me"]);
    let stranger = Authority::new("stranger").sign(&["me"]);
    let subject = |listener: &str, identity: Option<&Pair>, version| {
        let client = TlsClient::build(&rig.authority, &[version], identity);
        let before = rig.origin.requests().len();
        let (status, _) = asked(&client, proxy.addr(listener), "a.test")?;
        assert_eq!(status, 200);
        Some(rig.origin.requests()[before].header("x-forwarded-client-cert").map(str::to_owned))
    };
    let mine = Some(Some("Subject=\"CN=me\"".to_owned()));
    for version in [&TLS12, &TLS13] {
        assert_eq!(subject("required", Some(&me), version), mine);
        assert_eq!(subject("required", None, version), None);
        assert_eq!(subject("required", Some(&stranger), version), None);
        assert_eq!(subject("optional", Some(&me), version), mine);
        assert_eq!(subject("optional", None, version), Some(None));
        assert_eq!(subject("optional", Some(&stranger), version), None);
        assert_eq!(subject("none", Some(&me), version), Some(None));
    }
    // Who is resumed is still who they were.
    let client = TlsClient::with_identity(&rig.authority, &me);
    assert_eq!(asked(&client, proxy.addr("required"), "a.test"), Some((200, HandshakeKind::Full)));
    assert_eq!(asked(&client, proxy.addr("required"), "a.test"), Some((200, HandshakeKind::Resumed)));
    let last = rig.origin.requests().pop().unwrap();
    assert_eq!(last.header("x-forwarded-client-cert"), Some("Subject=\"CN=me\""));
}

/// In TLS 1.3 a client sends its first request before it can know that its certificate is not taken. What it has sent
/// must not make the kernel answer with a reset, which would overtake the alert.
#[test]
fn who_is_turned_away_in_the_middle_of_a_request_is_told_why() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("client_ca = \"DIR/ca.pem\"", &["site"]);
    let mut client = TlsClient::with_version(&rig.authority, &TLS13).connect(proxy.address(), "a.test");
    client.send(client.format("POST", "/v1/BTC", &[], &vec![b'x'; 300_000]));
    let error = client.try_response_to("POST").expect_err("an alert");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[test]
fn a_ticket_is_good_for_its_listener_and_its_name_only() {
    let rig = Rig::new(&[("site", &["a.test", "b.test"])]);
    let keys = "client_ca = \"DIR/ca.pem\"";
    let config = |keys: &str| {
        let listeners = [rig.listener("one", keys, &["site"]), rig.listener("two", "", &["site"])].concat();
        rig.config(&listeners)
    };
    let proxy = Proxy::start(&config(keys));
    let me = rig.authority.sign(&["me"]);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::build(&rig.authority, &[version], Some(&me));
        let kind = |listener: &str, name: &str| asked(&client, proxy.addr(listener), name).map(|(_, kind)| kind);
        // The client offers what it got for a name wherever it connects for that name.
        assert_eq!(kind("two", "a.test"), Some(HandshakeKind::Full));
        assert_eq!(kind("one", "a.test"), Some(HandshakeKind::Full), "of another listener");
        assert_eq!(kind("one", "a.test"), Some(HandshakeKind::Resumed));
        assert_eq!(kind("one", "b.test"), Some(HandshakeKind::Full), "of another name");
    }
    // Asked for by another authority: a ticket from before is none.
    let client = TlsClient::with_identity(&rig.authority, &me);
    assert_eq!(asked(&client, proxy.addr("one"), "a.test"), Some((200, HandshakeKind::Full)));
    let other = Authority::new("other");
    place(&rig.path().join("ca2.pem"), &(other.pem() + &rig.authority.pem()));
    assert!(proxy.reload(&config("client_ca = \"DIR/ca2.pem\"")));
    assert_eq!(asked(&client, proxy.addr("one"), "a.test"), Some((200, HandshakeKind::Full)));
    place(&rig.path().join("ca3.pem"), &other.pem());
    assert!(proxy.reload(&config("client_ca = \"DIR/ca3.pem\"")));
    assert_eq!(asked(&client, proxy.addr("one"), "a.test"), None, "a ticket lets nobody in");
}

#[test]
fn a_request_for_another_host_is_misdirected_where_clients_show_certificates() {
    let rig = Rig::new(&[("site", &["a.test", "b.test"])]);
    let optional = rig.listener("asks", "client_ca = \"DIR/ca.pem\"\nclient_auth = \"optional\"", &["site"]);
    let plain = rig.listener("asks-not", "", &["site"]);
    let proxy = Proxy::start(&rig.config(&format!("{optional}{plain}")));
    let mut client = rig.client().connect(proxy.addr("asks"), "a.test");
    assert_eq!(client.get("/v1/BTC").status, 200);
    assert_eq!(client.request("GET", "/v1/BTC", &[("Host", "A.test:443")], b"").status, 200);
    let refused = client.request("GET", "/v1/BTC", &[("Host", "b.test")], b"");
    assert_eq!((refused.status, refused.reason().as_str()), (421, "misdirected_request"));
    assert_eq!(client.get("/v1/BTC").status, 200, "the connection goes on");
    let mut client = rig.client().connect(proxy.addr("asks-not"), "a.test");
    assert_eq!(client.request("GET", "/v1/BTC", &[("Host", "b.test")], b"").status, 200);
}

/// The example as it stands, but for its ports and its backend.
#[test]
fn the_example_redirects_to_https_and_says_so_for_good() {
    let rig = Rig::new(&[]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/https.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let directory = rig.path().join("tls");
    std::fs::create_dir(&directory).unwrap();
    rig.authority.sign(&["api.example.com"]).write(&directory, "api.example.com");
    rig.authority.sign(&["*.example.org"]).write(&directory, "example.org");
    place(&directory.join("clients.pem"), &rig.authority.pem());
    let edited = example
        .replace(":80\"", ":0\"")
        .replace(":443\"", ":0\"")
        .replace(":8443\"", ":0\"")
        .replace("0.0.0.0", "127.0.0.1")
        .replace("\"tls/", &format!("\"{}/", directory.display()))
        .replace("10.1.0.11:8000", &rig.origin.addr().to_string())
        .replace("10.1.0.12:8000", &rig.origin.addr().to_string().replace("127.0.0.1", "127.0.0.2"));
    let proxy = Proxy::start(&(edited + "\n[defaults]\nhealth = false\nbalance = \"round-robin\"\n"));
    let mut clear = Client::connect(proxy.addr("clear"));
    for (method, status) in [("GET", 301), ("POST", 308)] {
        let answer = clear.request(method, "/v1/predict/BTC?a=1", &[("Host", "api.example.com")], b"");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("location"), Some("https://api.example.com/v1/predict/BTC?a=1"));
    }
    for name in ["api.example.com", "a.example.org"] {
        let answer = rig.client().connect(proxy.addr("public"), name).get("/v1/predict/BTC");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=63072000"));
    }
    assert!(asked(&rig.client(), proxy.addr("partners"), "api.example.com").is_none());
    let partner = TlsClient::with_identity(&rig.authority, &rig.authority.sign(&["partner"]));
    assert_eq!(partner.connect(proxy.addr("partners"), "api.example.com").get("/v1/predict/BTC").status, 200);
}

#[test]
fn check_says_what_is_doubtful_about_certificates() {
    let rig = Rig::new(&[("site", &["a.test", "b.test"]), ("other", &["b.test"])]);
    rig.authority.sign_until(&[], 12).write(rig.path(), "ending");
    let exposed = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(rig.path().join("other.key"), exposed).unwrap();
    let file = rig.path().join("shardgate.toml");
    std::fs::write(&file, rig.config(&rig.listener("main", "", &["site", "other", "ending"]))).unwrap();
    let (code, _, said) = run(&["check", "-c", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    for words in [
        "other.key can be read by others than its owner (mode 640)",
        "another certificate answers for b.test already",
        "ending.pem expires on 20",
        "ending.pem names no host, so nobody ever gets it",
    ] {
        assert_eq!(said.matches(words).count(), 1, "{words}:\n{said}");
    }
}

#[test]
fn what_is_not_tls_never_becomes_a_request() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let config = rig.config(&rig.listener("main", "", &["site"])) + "[limits]\nheader_timeout = \"1s\"\n";
    let proxy = Proxy::start(&config);
    let count = |result| proxy.metric("shardgate_tls_handshakes_total", &[("result", result)]);
    // HTTP in clear: told so, once, and nothing else of it is read.
    let mut plain = proxy.client();
    let twice = [plain.format("GET", "/v1/BTC", &[], b""), plain.format("GET", "/v1/BTC", &[], b"")].concat();
    plain.send(twice);
    let answer = plain.response();
    assert_eq!((answer.status, answer.reason().as_str()), (400, "bad_request"));
    assert!(answer.text().contains("https"), "{}", answer.text());
    plain.expect_closed();
    // Garbage, of one kind and the other.
    for garbage in [&b"\0\0\0\0\0\0"[..], b"\x16\x03\x01\x00\x05hello", b"\x16GET /v1/BTC HTTP/1.1\r\n\r\n"] {
        let mut client = proxy.client();
        client.send(garbage);
        client.rest();
    }
    // A request ahead of the handshake is no part of what comes after it, since nothing does.
    let mut client = proxy.client();
    client.send(b"GET /v1/BTC HTTP/1.1\r\nhost: a.test\r\n\r\n\x16\x03\x01\x02\x00\x01\x00");
    assert_eq!(client.response().status, 400);
    // Silence, from the start and in the middle, until header_timeout.
    let (mut silent, mut half) = (proxy.client(), proxy.client());
    half.send(b"\x16\x03\x01\x02\x00\x01");
    silent.expect_closed();
    half.expect_closed();
    drop(proxy.client());
    poll("every handshake to be counted", || {
        let counts = [count("plain_http"), count("failed"), count("timeout"), count("closed")];
        (counts == [2.0, 3.0, 2.0, 1.0]).then_some(())
    });
    assert!(rig.origin.requests().is_empty());
    assert_eq!(proxy.metric("shardgate_requests_total", &[]), 0.0);
}

#[test]
fn a_handshake_that_has_hardly_begun_holds_little() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("", &["site"]);
    assert!(asked(&rig.client(), proxy.address(), "a.test").is_some());
    let before = memory(&proxy);
    let begun = |bytes: &[u8]| {
        let mut client = proxy.client();
        client.send(bytes);
        client
    };
    let clients: Vec<_> = (0..1000).map(|n| begun(&b"\x16\x03\x01\x02\x00\x01\x00"[..1 + n % 7])).collect();
    // Connections are begun in the order in which they came.
    assert!(asked(&rig.client(), proxy.address(), "a.test").is_some());
    let each = memory(&proxy).saturating_sub(before) / 1000;
    assert!(each < 12 << 10, "{each} bytes each");
    drop(clients);
    // Nothing more comes: each is closed, and what was waited for is not looked for again and again.
    let count = |result| proxy.metric("shardgate_tls_handshakes_total", &[("result", result)]);
    poll("all to have failed", || (count("failed") == 1000.0).then_some(()));
}

#[test]
fn a_body_larger_than_all_buffers_arrives_whole() {
    const SIZE: usize = 4 << 20;
    let rig = Rig::new(&[("site", &["a.test"])]);
    rig.origin.on_custom("/v1/BTC", |_, exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{SIZE:x}\r\n"))?;
        exchange.send((0..SIZE).map(|at| at as u8).collect::<Vec<_>>())?;
        // Then it waits until the client has all there is.
        let rest = exchange.piece()?;
        exchange.send(format!("\r\n{:x}\r\n", rest.len()))?;
        exchange.send(rest)?;
        exchange.send("\r\n0\r\n\r\n")?;
        Ok(After::Close)
    });
    let proxy = rig.start("", &["site"]);
    let mut client = rig.client().connect(proxy.address(), "a.test");
    client.send("POST /v1/BTC HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.head_only().0, 200);
    let mut got = 0;
    while got < SIZE {
        let line = client.take(1);
        let mut size = String::from_utf8(line).unwrap();
        while !size.ends_with("\r\n") {
            size.push_str(&String::from_utf8(client.take(1)).unwrap());
        }
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let piece = client.take(size + 2);
        assert!(piece[..size].iter().enumerate().all(|(at, byte)| *byte == (got + at) as u8));
        got += size;
    }
    client.send("rest");
    let end = client.take(b"4\r\nrest\r\n0\r\n\r\n".len());
    assert_eq!(end, b"4\r\nrest\r\n0\r\n\r\n");
}

#[test]
fn what_is_cut_off_can_be_told_from_what_is_whole() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    rig.origin.on_custom("/v1/BTC", |request, exchange| {
        exchange.send("HTTP/1.0 200 OK\r\n\r\nhello")?;
        // In the middle of a body of no declared length that is whole, or in the middle of a chunk.
        Ok(if request.header("x-cut").is_some() { After::Reset } else { After::Close })
    });
    let proxy = rig.start("", &["site"]);
    let answer = |headers: &str| {
        let mut client = rig.client().connect(proxy.address(), "a.test");
        client.send(format!("GET /v1/BTC HTTP/1.0\r\nHost: a.test\r\n{headers}\r\n"));
        client.try_response_to("GET").map(|response| response.text())
    };
    // The end of a body without a length is the end of the connection: only close_notify says that it is whole.
    assert_eq!(answer("").expect("a whole body"), "hello");
    assert!(answer("X-Cut: 1\r\n").is_err());
}

#[test]
fn a_connection_over_a_limit_is_closed_without_a_word_in_clear() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let announced = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n[listeners.tls]";
    let behind = rig.listener("behind", "", &["site"]).replace("[listeners.tls]", announced);
    let limits = "[limits]\nmax_connections = 2\nmax_connections_per_client = 1\n";
    let proxy = Proxy::start(&(rig.config(&(rig.listener("main", "", &["site"]) + &behind)) + limits));
    let counted = |limit| proxy.metric("shardgate_limit_hits_total", &[("limit", limit)]);
    let mut held = rig.client().connect(proxy.addr("main"), "a.test");
    assert_eq!(held.get("/v1/BTC").status, 200);
    // Of one client that has its connection already: by its own address, and as a proxy announces it.
    for header in ["", "PROXY TCP4 127.0.0.1 198.51.100.1 1000 443\r\n"] {
        let mut one_too_many = Client::connect(proxy.addr(if header.is_empty() { "main" } else { "behind" }));
        let _ = one_too_many.try_send(header.as_bytes());
        assert_eq!(one_too_many.rest().escape_ascii().to_string(), "", "{header}");
    }
    assert_eq!(counted("max_connections_per_client"), 2.0);
    // Of all clients together.
    let mut other = Client::connect(proxy.addr("behind"));
    other.send("PROXY TCP4 192.0.2.7 198.51.100.1 1000 443\r\n");
    proxy.metric_until("shardgate_client_connections", &[("listener", "behind")], |open| open == 1.0);
    assert_eq!(Client::connect(proxy.addr("main")).rest().escape_ascii().to_string(), "");
    assert_eq!(counted("max_connections"), 1.0);
    assert_eq!(held.get("/v1/BTC").status, 200);
}
