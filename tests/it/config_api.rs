//! `GET /api/v1/config`: the configuration in force, in the file's words and with every default.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::certs::{Authority, place};
use crate::support::{Client, Origin, Proxy, ocsp};

/// JSON as TOML: one line for each of the outermost keys.
fn toml(config: &Value) -> String {
    let mut text = String::new();
    for (key, value) in config.as_object().expect("a table") {
        writeln!(text, "{key} = {}", inline(value)).unwrap();
    }
    text
}

fn inline(value: &Value) -> String {
    let list = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Null => panic!("TOML has no null"),
        Value::Array(items) => format!("[{}]", list(items.iter().map(inline).collect())),
        Value::Object(table) => {
            let entry = |(key, value): (&String, &Value)| format!("{} = {}", Value::from(key.as_str()), inline(value));
            format!("{{ {} }}", list(table.iter().map(entry).collect()))
        }
        other => other.to_string(),
    }
}

/// What `Debug` says of what a file comes to, without what speaks of the file itself.
fn plan(file: &std::path::Path) -> String {
    let loaded = shardgate::config::load(file).unwrap_or_else(|errors| panic!("{errors}"));
    let mut plan = loaded.plan;
    plan.hash.clear();
    plan.files.clear();
    format!("{plan:#?}")
}

fn get(proxy: &Proxy, query: &str) -> Value {
    let answer = proxy.admin_request("GET", &format!("/api/v1/config{query}"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{}", answer.text());
    answer.json()
}

const SMALL: &str = "[[listeners]]\nbind = '127.0.0.1:0'\n[[routes]]\npath = '/v1/{asset}'\n[regions.a]\n[regions.b]\n\
                     [server]\ndefault_region = 'a'\n[admin]\nbind = '127.0.0.1:0'\n";

#[test]
fn what_is_told_is_a_configuration_that_comes_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = Authority::new("ours");
    let (site, client) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    site.write(path, "site");
    client.write(path, "client");
    place(&path.join("ca.pem"), &authority.pem());
    place(&path.join("token"), "s3cret");
    std::fs::write(path.join("site.ocsp"), ocsp::response(&site.der, "20400101000000Z")).unwrap();
    let config = r#"
        [server]
        workers = 2
        drain_delay = "1500ms"
        default_region = "East"
        [[listeners]]
        bind = "127.0.0.1:0"
        trusted_proxies = ["10.0.0.0/8", "2001:db8::1"]
        max_connections = 77
        protocols = ["h1"]
        [[listeners]]
        name = "inside"
        bind = "unix:DIR/inside.sock"
        proxy_protocol = true
        redirect = "https://{host}{target}"
        [[listeners]]
        name = "tls"
        bind = "127.0.0.1:0"
        tls = { client_ca = "DIR/ca.pem", client_auth = "optional", min_version = "1.3", certificates = [
            { cert = "DIR/site.pem", key = "DIR/site.key", ocsp = "DIR/site.ocsp" } ] }
        [admin]
        bind = "127.0.0.1:0"
        token_file = "DIR/token"
        protect_metrics = true
        state_file = "DIR/states.json"
        [regions.East]
        clients = ["10.1.0.0/16"]
        fallback = ["west"]
        [regions.west]
        [assets.alone]
        [assets.gold]
        aliases = ["au", "AU-1"]
        [[routes]]
        name = "all of it"
        hosts = ["a.test", "*.b.test", "{asset}.c.test"]
        methods = ["GET", "POST"]
        path = "/v1/{asset}/{*rest}"
        asset = ["path:asset", "host:asset", "query?:q", "header:x-a", "cookie:c"]
        region = ["header?:x-region", "client-address", "const:west"]
        timeout = "1m"
        retry = { max = 1, on = ["reset", "grpc-unavailable"], per_try_timeout = "off", body_limit = "1KiB", budget_min = 0 }
        timeouts = { response = "5s", exchange = "off", tunnel = "2h" }
        max_body_bytes = "1MiB"
        upgrade = ["websocket"]
        idempotency_key = true
        hedge = true
        rewrite = { strip_prefix = "/v1", add_prefix = "/api" }
        headers = { request = { set = { x-tier = "go\"ld" }, remove = ["user-agent"] }, response = { remove = ["server"] } }
        [[routes]]
        path = "/plain/{asset}"
        retry = false
        [[routes]]
        path = "/moved"
        redirect = "https://example.com{target}"
        [[routes]]
        path = "/hello"
        respond = { status = 200, body = "hello\n" }
        [defaults]
        health = { path = "/healthz", expect = "200", host = "h.test", interval = "30s" }
        outlier = { consecutive_errors = 7, enforce = false }
        [defaults.timeouts]
        exchange = "90s"
        tunnel = "off"
        [pools.gold.East]
        primaries = ["127.0.0.1:1", { address = "[::1]:1", weight = 3 }]
        replicas = ["unix:/nowhere.sock"]
        balance = "maglev"
        hash_on = ["header:x-user", "path:asset", "uri"]
        health = { agent = { port = 1, interval = "30s" }, expect = "200-204" }
        retry = false
        outlier = false
        via = false
        proxy_protocol = "v2"
        host = "backend"
        [pools.gold.west]
        primaries = ["127.0.0.1:1", "127.0.0.1:2"]
        protocol = "h2"
        health = { grpc_service = "a.B" }
        host = "inner.test"
        tls = { ca = "DIR/ca.pem", server_name = "b.test", cert = "DIR/client.pem", key = "DIR/client.key" }
        limits = { adaptive = true, max_queue = 0, queue_order = "lifo" }
        slow_start = { window = "30s" }
        failover = { capacity = 10, overprovisioning = 1.0, panic_percent = 0 }
        [pools."z.2".East]
        primaries = ["127.0.0.1:1"]
        protocol = "h2"
        health = { grpc = true }
        tls = { insecure = true }
        [pools."*".East]
        primaries = ["127.0.0.1:1"]
        health = false
        [limits]
        min_body_rate = "off"
        header_timeout = "9s"
        h2_max_streams = 7
        [log]
        level = "debug"
        format = "json"
        access = "DIR/access.log"
        [metrics]
        max_pools = 12
    "#
    .replace("DIR", &path.display().to_string());
    let proxy = Proxy::start(&config);
    let told = proxy.admin_request("GET", "/api/v1/config").json();
    assert_eq!(told["hash"], proxy.config_hash().as_str());
    assert!(told["generation"].as_u64() > Some(0));
    assert_eq!(told["files"], json!([proxy.config_file()]));
    let again = path.join("again.toml");
    std::fs::write(&again, toml(&told["config"])).unwrap();
    let (then, now) = (plan(&again), plan(&proxy.config_file()));
    for (number, (then, now)) in then.lines().zip(now.lines()).enumerate() {
        assert_eq!(then, now, "line {number}");
    }
    assert_eq!(then.lines().count(), now.lines().count());
}

#[test]
fn every_default_is_in_it_and_so_is_what_a_reload_changes() {
    let origin = Origin::start("one");
    let pools = format!("[pools.BTC.a]\nprimaries = ['{}']\n", origin.addr());
    let proxy = Proxy::start(&format!("{SMALL}{pools}"));
    let told = get(&proxy, "");
    let pool = &told["config"]["pools"]["BTC"]["a"];
    assert_eq!(pool["primaries"], json!([{ "address": origin.addr().to_string(), "weight": 1 }]));
    assert_eq!((&pool["balance"], &pool["timeouts"]["response"]), (&"least-request".into(), &"10s".into()));
    assert_eq!(told["config"]["limits"]["max_body_bytes"], "16MiB");
    assert_eq!(told["config"]["routes"][0]["region"], json!(["header:x-region", "client-address"]));
    // With a file that is included, and that is in the list then.
    std::fs::write(proxy.directory().join("more.toml"), "[defaults.timeouts]\nresponse = '7s'\n").unwrap();
    assert!(proxy.reload(&format!("include = ['more.toml']\n{SMALL}{pools}")));
    let then = get(&proxy, "");
    assert_eq!(then["config"]["pools"]["BTC"]["a"]["timeouts"]["response"], "7s");
    assert_eq!(then["files"], json!([proxy.config_file(), proxy.directory().join("more.toml")]));
    assert!(then["hash"] != told["hash"] && then["hash"] == proxy.config_hash().as_str());
    // What was refused is not in force.
    assert!(!proxy.reload("[[listeners]]"));
    assert_eq!(get(&proxy, ""), then);
}

#[test]
fn pools_by_asset_and_region() {
    let pools = "[defaults]\nhealth = false\n[pools.BTC.a]\nprimaries = ['127.0.0.1:1']\n[pools.BTC.b]\n\
                 primaries = ['127.0.0.1:1']\n[pools.gold.b]\nprimaries = ['127.0.0.1:1']\n[pools.'*'.a]\n\
                 primaries = ['127.0.0.1:1']\n";
    let proxy = Proxy::start(&format!("{SMALL}{pools}"));
    for (query, expected) in [
        ("", "*.a BTC.a BTC.b gold.b"),
        ("?asset=btc", "BTC.a BTC.b"),
        ("?region=A", "*.a BTC.a"),
        ("?asset=BTC&region=b", "BTC.b"),
        ("?asset=*", "*.a"),
        ("?asset=gold&region=a", ""),
    ] {
        let told = get(&proxy, query);
        let mut found = Vec::new();
        for (asset, in_regions) in told["config"]["pools"].as_object().unwrap() {
            found.extend(in_regions.as_object().unwrap().keys().map(|region| format!("{asset}.{region}")));
        }
        assert_eq!(found.join(" "), expected, "{query}");
        assert!(told["config"]["server"].is_object());
    }
    for (query, status, reason) in [
        ("?asset=silver", 404, "unknown_asset"),
        ("?region=c", 404, "unknown_region"),
        ("?pool=BTC", 400, "bad_request"),
    ] {
        let answer = proxy.admin_request("GET", &format!("/api/v1/config{query}"));
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{query}");
    }
    assert_eq!(proxy.admin_request("HEAD", "/api/v1/config").status, 200);
}

#[test]
fn many_pools_come_piece_by_piece_and_slow_readers_keep_nobody_out_but_readers() {
    let mut pools = "[defaults]\nhealth = false\n".to_owned();
    for n in 0..4000 {
        writeln!(pools, "[pools.A{n}.a]\nprimaries = ['127.0.0.1:1', '127.0.0.1:2']").unwrap();
    }
    let proxy = Proxy::start(&format!("{SMALL}{pools}"));
    let told = get(&proxy, "");
    assert_eq!(told["config"]["pools"].as_object().unwrap().len(), 4000);
    let one = get(&proxy, "?asset=A3999");
    assert_eq!(told["config"]["pools"]["A3999"], one["config"]["pools"]["A3999"]);
    // More than all buffers on the way hold; nobody reads it.
    let mut slow: Vec<Client> = (0..2).map(|_| Client::connect(proxy.admin())).collect();
    for client in &mut slow {
        client.send(client.format("GET", "/api/v1/config", &[], b""));
        client.head_only();
    }
    let refused = proxy.admin_request("GET", "/api/v1/config");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "overloaded"));
    assert_eq!(proxy.admin_request("GET", "/api/v1/explain?url=/v1/A1").status, 200);
    drop(slow);
    crate::support::poll("a place for another reader", || {
        (proxy.admin_request("GET", "/api/v1/config?asset=A1").status == 200).then_some(())
    });
}
