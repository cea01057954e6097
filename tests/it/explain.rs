//! Explanations: what is said of a request is what happens to it.

use serde_json::Value;

use crate::support::proxy::run;
use crate::support::{Origin, Proxy, poll};

fn config(primaries: [&Origin; 2], far: &Origin) -> String {
    format!(
        r#"
[server]
workers = 1
default_region = "near"
[[listeners]]
bind = "127.0.0.1:0"
[admin]
bind = "127.0.0.1:0"
[regions.near]
clients = ["10.0.0.0/8"]
fallback = ["far"]
[regions.far]
clients = ["10.2.0.0/16"]
[assets.A]
aliases = ["alpha"]
[[routes]]
name = "predict"
hosts = ["*.test"]
methods = ["GET"]
path = "/v1/{{asset}}"
region = ["header?:x-region", "client-address"]
[[routes]]
name = "moved"
path = "/old"
redirect = "https://{{host}}/new"
[defaults]
balance = "round-robin"
[defaults.health]
path = "/healthz"
interval = "100ms"
fast_interval = "20ms"
rise = 1
fall = 1
[pools.A.near]
primaries = ["{}", "{}"]
[pools.A.far]
primaries = ["{}"]
"#,
        primaries[0].addr(),
        primaries[1].addr(),
        far.addr()
    )
}

fn ask(proxy: &Proxy, parameters: &str) -> Value {
    let got = proxy.admin_request("GET", &format!("/api/v1/explain?{parameters}"));
    assert_eq!(got.status, 200, "{}", got.text());
    got.json()
}

#[test]
fn the_live_state_decides_and_is_told() {
    let (one, two, far) = (Origin::start("one"), Origin::start("two"), Origin::start("far"));
    let proxy = Proxy::start(&config([&one, &two], &far));
    let question = "url=http://x.test/v1/alpha&header=x-region:moon&client=10.2.0.1";
    let told = ask(&proxy, question);
    assert_eq!(told["route"]["name"], "predict");
    assert_eq!((&told["asset"], &told["region"]), (&"A".into(), &"far".into()));
    let results: Vec<_> = told["sources"].as_array().unwrap().iter().map(|read| read["result"].clone()).collect();
    assert_eq!(results, ["decides", "falls-through", "decides"]);
    assert_eq!(told["pick"]["backend"], far.addr().to_string());

    // Half of a tier down: 70 % stay, and the explanation says which server is left.
    let question = "url=http://x.test/v1/A";
    assert_eq!(ask(&proxy, question)["tiers"][0]["load"], 100);
    two.set_health(500);
    let told =
        poll("one primary to be down", || Some(ask(&proxy, question)).filter(|told| told["tiers"][0]["load"] == 70));
    assert_eq!(told["tiers"][1]["load"], 30);
    assert_eq!(told["tiers"][0]["servers"][1]["state"], "down: status 500");
    assert_eq!(told["pick"]["backend"], one.addr().to_string());
    one.kill();
    let told = poll("the tier to be down", || Some(ask(&proxy, question)).filter(|told| told["tiers"][0]["load"] == 0));
    assert_eq!(told["pick"]["region"], "far");
    let got = proxy.client().request("GET", "/v1/A", &[("host", "x.test")], b"");
    assert_eq!(got.origin(), "far");
}

#[test]
fn refusals_are_told_with_the_reason_of_the_answer() {
    let (one, two, far) = (Origin::start("one"), Origin::start("two"), Origin::start("far"));
    let proxy = Proxy::start(&config([&one, &two], &far));
    let mut client = proxy.client();
    for (method, host, target) in [
        ("GET", "x.test", "/v1/NOPE"),
        ("POST", "x.test", "/v1/A"),
        ("GET", "x.test", "/nowhere"),
        ("GET", "other", "/v1/A"),
    ] {
        let told = ask(&proxy, &format!("method={method}&url=http://{host}{target}"));
        let got = client.request(method, target, &[("host", host)], b"");
        assert_eq!(told["refusal"]["reason"], got.reason(), "{method} {host}{target}");
        assert_eq!(told["refusal"]["allow"].as_str(), got.header("allow"));
    }
    let told = ask(&proxy, "url=http://other/old");
    assert_eq!((&told["route"]["action"], &told["refusal"]), (&"redirect".into(), &Value::Null));
}

#[test]
fn from_a_file_alone_every_backend_counts() {
    let (one, two, far) = (Origin::start("one"), Origin::start("two"), Origin::start("far"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shardgate.toml");
    std::fs::write(&file, config([&one, &two], &far)).unwrap();
    let file = file.to_str().unwrap();
    let (code, out, err) = run(&["explain", "-c", file, "-H", "x-region: far", "http://x.test/v1/alpha"]);
    assert_eq!(code, 0, "{err}");
    for wanted in ["predict (host *.test", "path:asset says alpha", "A in far", &far.addr().to_string()] {
        assert!(out.contains(wanted), "no {wanted} in:\n{out}");
    }
    assert!(!out.contains(&one.addr().to_string()), "far has no fallback:\n{out}");
    let (code, out, err) = run(&["explain", "-c", file, "--client", "10.2.3.4", "PUT", "http://x.test/v1/A"]);
    assert_eq!(code, 1);
    assert!((out + &err).contains("method_not_allowed: the route does not take PUT; it takes GET, HEAD"));
}
