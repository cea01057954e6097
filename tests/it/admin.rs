//! The admin address: probes, status, explain, reload, and who is let in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use crate::support::proxy::run;
use crate::support::{Client, DEADLINE, Origin, Proxy, poll};

fn config(origin: &Origin, admin: &str) -> String {
    format!(
        r#"
        [server]
        drain_delay = "60s"
        [[listeners]]
        bind = "127.0.0.1:0"
        [[routes]]
        name = "predict"
        path = "/v1/{{asset}}"
        [regions.east]
        [assets.BTC]
        aliases = ["XBT"]
        [pools.BTC.east]
        primaries = [{{ address = "{}", weight = 3 }}]
        [admin]
        {admin}
        "#,
        origin.addr()
    )
}

const LOOPBACK: &str = "bind = \"127.0.0.1:0\"\ntoken_file = \"token\"";

#[test]
fn readiness_ends_when_draining_begins_and_life_goes_on() {
    let origin = Origin::start("a");
    let mut proxy = Proxy::start(&config(&origin, LOOPBACK));
    assert_eq!(proxy.admin_request("GET", "/livez").status, 200);
    assert_eq!(proxy.admin_request("GET", "/readyz").status, 200);
    proxy.signal(Signal::TERM);
    let answer = poll("readiness to end", || Some(proxy.admin_request("GET", "/readyz")).filter(|a| a.status == 503));
    assert!(answer.text().contains("draining"), "{}", answer.text());
    assert_eq!(proxy.admin_request("GET", "/livez").status, 200);
    assert_eq!(proxy.metric("shardgate_draining", &[]), 1.0);
    assert_eq!(proxy.get("/v1/BTC").status, 200);
    proxy.signal(Signal::TERM);
    proxy.wait_exit(DEADLINE);
}

#[test]
fn status_shows_regions_assets_pools_and_backends() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, LOOPBACK));
    let answer = proxy.admin_request("GET", "/api/v1/status");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let status = answer.json();
    assert_eq!(status["regions"][0]["name"], "east");
    assert_eq!(status["assets"][0]["name"], "BTC");
    let pool = &status["pools"][0];
    assert_eq!((&pool["asset"], &pool["region"]), (&"BTC".into(), &"east".into()));
    let tier = &pool["tiers"][0];
    assert_eq!(tier["role"], "primary");
    let backend = &pool["backends"][0];
    assert_eq!(backend["address"], origin.addr().to_string());
    assert_eq!(backend["role"], "primary");
    assert_eq!(backend["weight"], 3);
    assert_eq!(backend["state"], "up");
    assert_eq!(backend["in_flight"], 0);

    origin.kill();
    let down = poll("the backend to be down", || {
        let status = proxy.admin_request("GET", "/api/v1/status").json();
        (status["pools"][0]["backends"][0]["state"] == "down").then_some(status)
    });
    assert!(down["pools"][0]["backends"][0]["cause"].is_string(), "{down}");
}

#[test]
fn explain_answers_for_a_request_that_was_not_made() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, LOOPBACK));
    let answer =
        proxy.admin_request("GET", "/api/v1/explain?method=GET&url=http%3A%2F%2Fx%2Fv1%2FXBT&client=192.0.2.7");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    for word in ["predict", "BTC", "east", &origin.addr().to_string()] {
        assert!(text.contains(word), "{word} not in {text}");
    }
    let refused = proxy.admin_request("GET", "/api/v1/explain?url=%2Fnowhere%2Fx");
    assert!(refused.text().contains("no_route"), "{}", refused.text());
    for bad in [
        "/api/v1/explain",
        "/api/v1/explain?url=/&client=x",
        "/api/v1/explain?url=/&header=x",
        "/api/v1/explain?url=/&method=%20",
    ] {
        assert_eq!(proxy.admin_request("GET", bad).reason(), "bad_request", "{bad}");
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn reload_answers_with_the_diagnostics() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, LOOPBACK));
    let hash = proxy.config_hash();
    fs::write(proxy.config_file(), config(&origin, LOOPBACK).replace("XBT", "bitcoin")).unwrap();
    let answer = proxy.admin_request("POST", "/api/v1/reload");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let taken = proxy.config_hash();
    assert_ne!(taken, hash);

    fs::write(proxy.config_file(), config(&origin, LOOPBACK).replace("[regions.east]", "[regoins.east]")).unwrap();
    let answer = proxy.admin_request("POST", "/api/v1/reload");
    assert_eq!(answer.status, 422);
    assert_eq!(answer.reason(), "configuration_refused");
    let errors = answer.json()["errors"].as_str().unwrap().to_owned();
    assert!(errors.contains("regoins") && errors.contains("shardgate.toml:9:"), "{errors}");
    assert_eq!(proxy.config_hash(), taken);
    assert_eq!(proxy.get("/v1/bitcoin").status, 200);
}

#[test]
fn errors_are_problem_documents() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, LOOPBACK));
    for (method, target, status, reason) in [
        ("GET", "/", 404, "not_found"),
        ("GET", "/api/v2/status", 404, "not_found"),
        ("GET", "/api/v1/reload", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
    ] {
        let answer = proxy.admin_request(method, target);
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{method} {target}");
    }
}

#[test]
fn names_that_are_not_of_this_machine_are_refused_on_loopback() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, LOOPBACK));
    for (host, status) in [("rebound.example", 403), ("localhost:1", 200), ("[::1]", 200)] {
        let answer = Client::connect(proxy.admin()).request("GET", "/api/v1/status", &[("Host", host)], b"");
        assert_eq!(answer.status, status, "{host}");
    }
    let page = [("Origin", "http://evil.example")];
    let answer = Client::connect(proxy.admin()).request("POST", "/api/v1/reload", &page, b"");
    assert_eq!(answer.reason(), "foreign_origin");
}

#[test]
fn nothing_writes_on_loopback_without_a_token() {
    let origin = Origin::start("a");
    let proxy = Proxy::start(&config(&origin, "bind = \"127.0.0.1:0\""));
    assert_eq!(proxy.admin_request("GET", "/api/v1/status").status, 200);
    assert_eq!(proxy.admin_request("GET", "/api/v1/config").status, 200);
    for (method, target) in [
        ("POST", "/api/v1/reload"),
        ("PUT", "/api/v1/regions/east/state"),
        ("PUT", "/api/v1/pools/BTC/east/backends/10.0.0.1:1/load"),
        ("DELETE", "/anything"),
    ] {
        let refused = proxy.admin_request(method, target);
        assert_eq!((refused.status, refused.reason().as_str()), (403, "no_token_configured"), "{method} {target}");
    }
    let (code, _, said) = run(&["drain", "east", "--admin", &proxy.admin().to_string()]);
    assert_eq!(code, 4, "{said}");
    for word in ["admin.token_file", "admin.tls", "a Unix socket"] {
        assert!(said.contains(word), "{said}");
    }
    // Reloads by signal need nobody's leave.
    assert!(proxy.reload(&config(&origin, LOOPBACK)));
    assert_eq!(proxy.admin_request("POST", "/api/v1/reload").status, 200);
}

#[test]
fn whoever_may_open_the_unix_socket_may_write() {
    let origin = Origin::start("a");
    let directory = tempfile::tempdir().unwrap();
    let bind = format!("unix:{}", directory.path().join("admin.sock").display());
    let proxy = Proxy::start(&config(&origin, &format!("bind = \"{bind}\"")));
    let (code, said, err) = run(&["drain", "east", "--admin", &bind]);
    assert!(code == 0 && said.contains("ready -> drain"), "{said}{err}");
    assert_eq!(run(&["reload", "--admin", &bind]).0, 0);
    drop(proxy);
}

#[test]
fn beyond_loopback_the_token_decides() {
    let origin = Origin::start("a");
    let without = Proxy::start(&config(&origin, "bind = \"0.0.0.0:0\""));
    assert_eq!(without.admin_request("GET", "/readyz").status, 200);
    assert_eq!(without.admin_request("GET", "/metrics").status, 200);
    assert_eq!(without.admin_request("GET", "/api/v1/status").reason(), "no_token_configured");
    assert_eq!(without.admin_request("POST", "/api/v1/reload").reason(), "no_token_configured");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "s3cret\n").unwrap();
    let admin = format!("bind = \"0.0.0.0:0\"\nprotect_metrics = true\ntoken_file = \"{}\"", file.display());
    let with = Proxy::start(&config(&origin, &admin));
    let ask = |method: &str, target: &str, token: &str| {
        let fields = [("Authorization", token)];
        Client::connect(with.admin()).request(method, target, &fields[..usize::from(!token.is_empty())], b"").status
    };
    for (method, target, token, status) in [
        ("GET", "/livez", "", 200),
        ("GET", "/metrics", "", 401),
        ("GET", "/metrics", "Bearer s3cret", 200),
        ("GET", "/api/v1/status", "", 401),
        ("GET", "/api/v1/status", "Bearer wrong", 401),
        ("GET", "/api/v1/status", "Bearer s3cret", 200),
        ("POST", "/api/v1/reload", "", 401),
        ("POST", "/api/v1/reload", "Bearer s3cret", 200),
    ] {
        assert_eq!(ask(method, target, token), status, "{method} {target} {token:?}");
    }
}

#[test]
fn a_unix_socket_serves_and_a_stale_one_is_taken_over() {
    let origin = Origin::start("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let proxy = Proxy::start(&config(&origin, &format!("bind = \"unix:{}\"", path.display())));
    let answer = Client::connect_unix(&path).get("/api/v1/status");
    assert_eq!(answer.json()["pools"][0]["asset"], "BTC");
    drop(proxy);
}

#[test]
fn a_unix_socket_is_for_its_owner_and_group_whatever_the_umask() {
    let origin = Origin::start("a");
    for (umask, mode) in [("0", 0o660), ("007", 0o660), ("022", 0o640), ("077", 0o600)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let proxy = Proxy::start_with(&config(&origin, &format!("bind = \"unix:{}\"", path.display())), |command| {
            let daemon = command.get_program().to_owned();
            let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            *command = std::process::Command::new("sh");
            command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]).arg(daemon).args(arguments);
        });
        let found = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(format!("{found:o}"), format!("{mode:o}"), "umask {umask}");
        assert_eq!(Client::connect_unix(&path).get("/livez").status, 200);
        drop(proxy);
    }
}
