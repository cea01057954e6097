//! Drain, maintenance, ready: what an operator takes out gets nothing new and loses nothing, over reloads and restarts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::proxy::{AUTHORIZED, WITH_TOKEN, binary, run};
use crate::support::{Client, DEADLINE, Origin, Proxy, Response, poll};

/// Two regions, each the other's fallback, and a pool of one asset in each; `admin` and `more` are added.
fn config(north: &[&Origin], south: &[&Origin], admin: &str, more: &str) -> String {
    let token = if admin.contains("token_file") { "" } else { WITH_TOKEN };
    let list = |origins: &[&Origin]| origins.iter().map(|o| format!("'{}'", o.addr())).collect::<Vec<_>>().join(", ");
    format!(
        "[[listeners]]\nbind = '127.0.0.1:0'\n[[routes]]\npath = '/v1/{{asset}}'\n[server]\ndefault_region = 'north'\n\
         [regions.north]\nfallback = ['south']\n[regions.south]\nfallback = ['north']\n[assets.gold]\naliases = ['au']\n\
         [defaults]\nbalance = 'round-robin'\n[pools.gold.north]\nprimaries = [{}]\n[pools.gold.south]\n\
         primaries = [{}]\n{more}\n[admin]\nbind = '127.0.0.1:0'\n{token}{admin}\n",
        list(north),
        list(south)
    )
}

fn put(proxy: &Proxy, target: &str, body: &str) -> Response {
    let fields = [("Connection", "close"), AUTHORIZED];
    Client::connect(proxy.admin()).request("PUT", &format!("/api/v1/{target}/state"), &fields, body.as_bytes())
}

/// Says something that is taken; the answer.
fn say(proxy: &Proxy, target: &str, state: &str) -> Value {
    let answer = put(proxy, target, &format!("{{\"state\":\"{state}\",\"who\":\"ann\"}}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn backend(origin: &Origin) -> String {
    format!("pools/gold/north/backends/{}", origin.addr().to_string().replace(':', "%3A"))
}

fn status(proxy: &Proxy) -> Value {
    proxy.admin_request("GET", "/api/v1/status").json()
}

fn status_of(proxy: &Proxy, origin: &Origin) -> Value {
    let address = origin.addr().to_string();
    let pools = status(proxy)["pools"].as_array().expect("pools").clone();
    let mut backends = pools.iter().flat_map(|pool| pool["backends"].as_array().expect("backends").clone());
    backends.find(|backend| backend["address"] == *address).expect("it is in a pool")
}

/// Requests on four connections for as long as it lives.
struct Load {
    stop: std::sync::Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(u16, String)>>>,
}

impl Load {
    fn start(proxy: &Proxy) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let address = proxy.address();
        let client = |n: usize| {
            let stop = std::sync::Arc::clone(&stop);
            spawn(move || {
                let mut client = Client::connect(address);
                let mut seen = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let method = if n.is_multiple_of(2) { "GET" } else { "POST" };
                    let answer = client.request(method, "/v1/gold", &[], if n.is_multiple_of(2) { b"" } else { b"x" });
                    let origin = answer.header("x-origin").unwrap_or("none").to_owned();
                    seen.push((answer.status, origin));
                }
                seen
            })
        };
        let threads = (0..4).map(client).collect();
        Self { stop, threads }
    }

    /// Every answer; they must all be good.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let seen: Vec<_> = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
        let bad: Vec<_> = seen.iter().filter(|(status, _)| *status != 200).collect();
        assert!(bad.is_empty(), "lost: {bad:?} of {}", seen.len());
        seen.len()
    }
}

/// What is taken out gets nothing new: requests that had begun are over, and the next ones all go elsewhere.
fn gets_nothing(proxy: &Proxy, out: &[&Origin], in_flight: u32) {
    for origin in out {
        poll("what had begun to be over", || (status_of(proxy, origin)["in_flight"] == in_flight).then_some(()));
    }
    let before: Vec<_> = out.iter().map(|origin| origin.count()).collect();
    for _ in 0..40 {
        assert_eq!(proxy.get("/v1/gold").status, 200);
    }
    assert_eq!(out.iter().map(|origin| origin.count()).collect::<Vec<_>>(), before);
}

#[test]
fn a_backend_a_pool_and_a_region_are_drained_under_load_without_a_lost_request() {
    let [one, two, far] = ["one", "two", "far"].map(Origin::start);
    let proxy = Proxy::start(&config(&[&one, &two], &[&far], "", ""));
    let gate = one.hold("/v1/au");
    let held = loop {
        let mut client = proxy.client();
        let asked = spawn(move || client.get("/v1/au"));
        poll("a request to be held or answered", || (one.count() > 0 || asked.is_finished()).then_some(()));
        if one.count() > 0 {
            break asked;
        }
    };
    let load = Load::start(&proxy);

    let answer = say(&proxy, &backend(&one), "drain");
    let wanted = json!({ "target": format!("gold/north/{}", one.addr()), "level": "backend", "before": "ready",
        "after": "drain", "pools": 1, "backends": 1, "held": 0, "saved": false,
        "not_saved": "no admin.state_file is configured" });
    assert_eq!(answer, wanted);
    gets_nothing(&proxy, &[&one], 1);
    gate.open();
    let answer = held.join().expect("a client");
    assert_eq!((answer.status, answer.origin()), (200, "one"), "what it had it finishes");

    say(&proxy, "pools/GOLD/North", "maintenance");
    gets_nothing(&proxy, &[&one, &two], 0);
    let shown = status_of(&proxy, &two);
    let operator = &shown["operator"];
    assert_eq!(
        (&shown["state"], &operator["level"], &operator["who"]),
        (&json!("maintenance"), &json!("pool"), &json!("ann"))
    );
    assert!(operator["since"].is_string() && operator["seconds"].as_f64().is_some());

    let back = say(&proxy, "pools/au/north", "ready");
    assert_eq!((&back["before"], &back["held"]), (&json!("maintenance"), &json!(1)));
    say(&proxy, &backend(&one), "ready");
    say(&proxy, "regions/south", "drain");
    poll("one and two to serve again", || {
        let before = [one.count(), two.count()];
        (0..8).for_each(|_| assert_eq!(proxy.get("/v1/gold").status, 200));
        (one.count() > before[0] && two.count() > before[1]).then_some(())
    });
    gets_nothing(&proxy, &[&far], 0);
    say(&proxy, "regions/south", "ready");
    say(&proxy, "regions/NORTH", "drain");
    gets_nothing(&proxy, &[&one, &two], 0);
    assert_eq!(status(&proxy)["regions"][0]["operator"]["state"], "drain");
    assert!(load.end() > 0);
    let admin = [("cause", "admin"), ("to", "down")];
    assert_eq!(proxy.metric("shardgate_backend_transitions_total", &admin), 5.0);
}

#[test]
fn what_is_taken_out_is_not_used_in_panic_either() {
    let [one, far] = ["one", "far"].map(Origin::start);
    let proxy = Proxy::start(&config(&[&one], &[&far], "", ""));
    say(&proxy, "regions/north", "drain");
    say(&proxy, "regions/south", "maintenance");
    assert_eq!(proxy.get("/v1/gold").reason(), "no_healthy_backend");
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/gold").json();
    let server = &told["tiers"][1]["servers"][0];
    assert_eq!((&server["state"], &server["operator"]["level"]), (&json!("maintenance"), &json!("region")));
    assert_eq!((one.count(), far.count()), (0, 0));
}

#[test]
fn states_survive_reloads_and_restarts() {
    let [one, two, far] = ["one", "two", "far"].map(Origin::start);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("states.json");
    let admin = format!("state_file = '{}'", file.display());
    let text = config(&[&one, &two], &[&far], &admin, "");
    let proxy = Proxy::start(&text);
    assert_eq!(say(&proxy, &backend(&one), "drain")["saved"], true);
    say(&proxy, "regions/south", "maintenance");
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&kept["version"], kept["states"].as_array().map(Vec::len)), (&json!(1), Some(2)));

    assert!(proxy.reload(&text.replace("round-robin", "random")));
    gets_nothing(&proxy, &[&one, &far], 0);
    // A pool that goes and comes back is as it was.
    let without = text.replace("[pools.gold.north]", "[pools.tin.north]");
    assert!(proxy.reload(&without));
    let states = proxy.admin_request("GET", "/api/v1/states").json();
    let of =
        |target: &str| states["states"].as_array().expect("states").iter().find(|s| s["target"] == *target).cloned();
    let absent = of(&format!("gold/north/{}", one.addr())).expect("it is kept");
    assert_eq!((&absent["configured"], &absent["operator"]["state"]), (&json!(false), &json!("drain")));
    assert_eq!(of("south").expect("it is there")["configured"], true);
    assert!(proxy.reload(&text));
    gets_nothing(&proxy, &[&one, &far], 0);
    let refused = text.replace("states.json", "others.json");
    assert!(!proxy.reload(&refused), "where states are kept can't change");
    drop(proxy); // killed

    let before = [one.count(), far.count()];
    let proxy = Proxy::start(&text);
    (0..20).for_each(|_| assert_eq!(proxy.get("/v1/gold").origin(), "two"));
    assert_eq!([one.count(), far.count()], before, "not even the first requests went there");
    assert_eq!(status_of(&proxy, &one)["operator"]["who"], "ann");
    say(&proxy, &backend(&one), "ready");
    drop(proxy);
    let proxy = Proxy::start(&text);
    assert_eq!(status_of(&proxy, &one)["state"], "up");
    assert_eq!(status_of(&proxy, &far)["state"], "maintenance");
}

#[test]
fn systemd_says_where_states_are_kept() {
    let one = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let start = |admin: &str| {
        Proxy::start_with(&config(&[&one], &[&one], admin, ""), |command| {
            command.env("STATE_DIRECTORY", directory.path());
        })
    };
    assert_eq!(say(&start(""), "regions/south", "drain")["saved"], true);
    assert!(directory.path().join("states.json").exists());
    assert_eq!(say(&start("state_file = 'off'"), "regions/south", "drain")["before"], "ready");
    assert_eq!(say(&start(""), "regions/south", "drain")["before"], "drain");
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn a_damaged_file_is_a_warning_and_is_moved_away() {
    let one = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("states.json");
    let admin = format!("state_file = '{}'", file.display());
    std::fs::write(&file, "{\"version\": 1, \"states\": [").unwrap();
    let proxy = Proxy::start(&config(&[&one], &[&one], &admin, ""));
    let line = proxy.log_line("the state file is damaged and was moved away");
    assert_eq!((line["file"].as_str(), &line["level"]), (file.to_str(), &json!("WARN")));
    assert!(line["cause"].as_str().is_some_and(|cause| cause.contains("EOF")), "{line}");
    let left = files(directory.path());
    assert!(left.len() == 1 && left[0].starts_with("states.json.damaged-"), "{left:?}");
    assert_eq!(say(&proxy, "regions/south", "drain")["saved"], true);
    assert_eq!(files(directory.path()).len(), 2);

    // One that can't be written is said with each answer, and the state holds all the same.
    drop(proxy);
    let nowhere = format!("state_file = '{}'", directory.path().join("no/such/states.json").display());
    let proxy = Proxy::start(&config(&[&one], &[&one], &nowhere, ""));
    let answer = say(&proxy, "regions/south", "drain");
    assert!(answer["saved"] == false && answer["not_saved"].as_str().is_some_and(|why| why.contains("No such file")));
    proxy.log_line("the state file can't be written: states will not survive a restart");
    assert_eq!(say(&proxy, "regions/south", "ready")["before"], "drain");
}

#[test]
fn wrong_bodies_and_unknown_names_change_nothing() {
    let one = Origin::start("one");
    let socket = "[pools.'*'.south]\nprimaries = ['unix:/run/none/x.sock', '[::1]:9']\nhealth = false";
    let proxy = Proxy::start(&config(&[&one], &[&one], "", socket));
    let long = format!("{{\"state\":\"drain\",\"reason\":\"{}\"}}", "x".repeat(5000));
    let good = "{\"state\":\"drain\"}";
    for (target, body, status, reason, words) in [
        ("regions/nroth", good, 404, "unknown_region", "did you mean north?"),
        ("pools/gold/nroth", good, 404, "unknown_region", "did you mean north?"),
        ("pools/goldd/north", good, 404, "unknown_pool", "did you mean gold?"),
        ("pools/*/north", good, 404, "unknown_pool", "there is gold"),
        ("pools/gold/north/backends/127.0.0.1", good, 404, "unknown_backend", "127.0.0.1:"),
        ("regions/%FF", good, 400, "bad_request", "UTF-8"),
        ("regions/north", "", 400, "bad_request", "{\"state\":\"drain\"}"),
        ("regions/north", "{\"state\":\"drain\",\"why\":1}", 400, "bad_request", "why"),
        ("regions/north", "{\"state\":\"drained\"}", 422, "unknown_state", "ready, drain, maintenance"),
        ("regions/north", "{\"state\":\"drain\",\"who\":\"a\\tb\"}", 422, "bad_text", "control"),
        ("regions/north", &long, 413, "bad_request", "limit"),
    ] {
        let answer = put(&proxy, target, body);
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{target} {body}: {}", answer.text());
        assert!(answer.text().contains(&words.replace('"', "\\\"")), "{target}: no {words} in {}", answer.text());
    }
    assert_eq!(proxy.admin_request("GET", "/api/v1/regions/north/state").status, 405);
    assert_eq!(proxy.admin_request("GET", "/api/v1/states").json(), json!({ "states": [] }));
    for target in ["pools/%2A/south/backends/unix%3A%2Frun%2Fnone%2Fx.sock", "pools/*/SOUTH/backends/%5B0:0::1%5D:9"] {
        assert_eq!(say(&proxy, target, "drain")["backends"], 1, "{target}");
    }
    assert_eq!(say(&proxy, "pools/%2a/south", "drain")["backends"], 2);
}

#[test]
fn writing_needs_the_token_and_every_change_is_in_the_audit() {
    let one = Origin::start("one");
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "s3cret").unwrap();
    let admin = format!("token_file = '{}'", token.display());
    // The audit is written whatever the level is.
    let proxy = Proxy::start(&config(&[&one], &[&one], &admin, ""));
    let ask = |fields: &[(&str, &str)]| {
        let body = b"{\"state\":\"drain\",\"who\":\"ann\",\"reason\":\"new disks\"}";
        Client::connect(proxy.admin()).request("PUT", "/api/v1/pools/gold/north/state", fields, body)
    };
    assert_eq!(ask(&[]).reason(), "token_needed");
    assert_eq!(ask(&[("Authorization", "Bearer guess")]).reason(), "wrong_token");
    let denied = proxy.log_where("a write was denied", |line| line["reason"] == "wrong_token");
    assert_eq!((&denied["target"], &denied["path"]), (&json!("audit"), &json!("/api/v1/pools/gold/north/state")));
    assert!(denied["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{denied}");
    assert_eq!(proxy.admin_request("GET", "/api/v1/states").json(), json!({ "states": [] }));

    assert!(proxy.reload(&(config(&[&one], &[&one], &admin, "") + "[log]\nlevel = 'error'\n")));
    assert_eq!(ask(&[("Authorization", "Bearer s3cret")]).status, 200);
    let line = proxy.log_line("state changed");
    for (name, wanted) in [
        ("target", "audit"),
        ("subject", "gold/north"),
        ("before", "ready"),
        ("after", "drain"),
        ("who", "ann"),
        ("reason", "new disks"),
    ] {
        assert_eq!(line[name], wanted, "{name} in {line}");
    }
    assert!(line["backends"] == 1 && line["from"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")));
    assert_eq!(ask(&[("Authorization", "Bearer s3cret")]).json()["before"], "drain");
    let changes = proxy.log().matches("\"state changed\"").count();
    assert_eq!(changes, 1, "what changes nothing is none");
}

/// A reader of server-sent events.
struct Events {
    stream: BufReader<TcpStream>,
    text: String,
}

impl Events {
    fn follow(proxy: &Proxy, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(proxy.admin()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let last = last.map_or_else(String::new, |last| format!("Last-Event-ID: {last}\r\n"));
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{last}\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
        Self { stream, text: String::new() }
    }

    /// The next of this name that passes: its id and its data.
    fn next(&mut self, name: &str, pass: impl Fn(&Value) -> bool) -> (String, Value) {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
                let (id, kind, data) =
                    (field("id: ").to_owned(), field("event: ").to_owned(), field("data: ").to_owned());
                self.text = rest.to_owned();
                if kind == name {
                    let data: Value = serde_json::from_str(&data).unwrap();
                    if pass(&data) {
                        return (id, data);
                    }
                }
            }
            let mut size = String::new();
            self.stream.read_line(&mut size).unwrap();
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).expect("a chunk") + 2];
            self.stream.read_exact(&mut chunk).unwrap();
            self.text += std::str::from_utf8(&chunk[..chunk.len() - 2]).unwrap();
        }
    }
}

#[test]
fn events_tell_what_happens() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let quick = "[defaults.health]\ninterval = '50ms'\nfast_interval = '20ms'\ntimeout = '10s'";
    let text = config(&[&one, &two], &[&two], "", quick);
    let mut proxy = Proxy::start(&text.replace("[server]", "[server]\ndrain_delay = '60s'"));
    let mut events = Events::follow(&proxy, None);
    say(&proxy, "pools/gold/south", "drain");
    let (first, data) = events.next("operator", |_| true);
    let fields = ["asset", "region", "before", "after", "who"].map(|name| data[name].as_str().unwrap_or_default());
    assert_eq!(fields, ["gold", "south", "ready", "drain", "ann"]);
    assert!(data["time"].is_string() && data["backends"] == 1 && data["backend"].is_null(), "{data}");

    one.kill();
    let (_, data) = events.next("health", |data| data["to"] == "down");
    assert_eq!((data["backend"].as_str(), &data["cause"]), (Some(&*one.addr().to_string()), &json!("refused")));
    assert_eq!((&data["region"], &data["assets"]), (&json!("north"), &json!(["gold"])));
    one.revive();
    events.next("health", |data| data["to"] == "up");

    assert!(!proxy.reload("[[listeners]]\nbound = 1\n"));
    let (_, data) = events.next("reload", |_| true);
    assert!(data["result"] == "refused" && data["errors"].as_str().is_some_and(|e| e.contains("bound")), "{data}");

    // Whoever comes back gets what came behind the last one they saw.
    let mut again = Events::follow(&proxy, Some(&first));
    again.next("health", |data| data["to"] == "down");
    again.next("reload", |_| true);
    proxy.signal(Signal::TERM);
    for events in [&mut events, &mut again] {
        assert_eq!(events.next("drain", |_| true).1["delay"], 60.0);
    }
    proxy.signal(Signal::TERM);
    proxy.wait_exit(DEADLINE);
}

#[test]
fn events_tell_of_ejections() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let rules = "balance = 'round-robin'\nretry = false\nhealth = false\noutlier = { base_ejection = '1s' }";
    let proxy = Proxy::start(&config(&[&one, &two], &[&two], "", "").replace("balance = 'round-robin'", rules));
    let mut events = Events::follow(&proxy, None);
    let bad = crate::support::Behaviour::Answer(503, vec![], vec![]);
    one.on("/v1/gold", bad);
    poll("an ejection", || {
        proxy.get("/v1/gold");
        (status_of(&proxy, &one)["state"] == "ejected").then_some(())
    });
    one.forget("/v1/gold");
    assert_eq!(events.next("ejected", |_| true).1["cause"], "consecutive_errors");
    events.next("half-open", |_| true);
    poll("it to be trusted", || {
        proxy.get("/v1/gold");
        (status_of(&proxy, &one)["state"] == "not-checked").then_some(())
    });
    events.next("closed", |_| true);
}

#[test]
fn commands_drain_and_bring_back() {
    let [one, two] = ["one", "two"].map(Origin::start);
    let proxy = Proxy::start(&config(&[&one], &[&two], "", ""));
    let (admin, token) = (proxy.admin().to_string(), proxy.token_file());
    let shardgate = |arguments: &[&str]| run(&[arguments, &["--admin", &admin, "--token-file", &token]].concat());

    let (code, out, err) = shardgate(&["drain", "gold/north", "--reason", "new disks"]);
    assert_eq!((code, out.as_str()), (0, "gold/north: ready -> drain (1 backend)\n"), "{err}");
    assert!(err.contains("will not survive a restart: no admin.state_file is configured"), "{err}");
    gets_nothing(&proxy, &[&one], 0);
    let (_, table, _) = shardgate(&["status"]);
    assert!(table.contains("drain 0s") && table.contains("(pool)"), "{table}");

    let (code, out, _) = shardgate(&["drain", "--maintenance", "north", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["after"], "maintenance");
    let (_, out, err) = shardgate(&["ready", "gold/north"]);
    assert_eq!(out, "gold/north: drain -> ready (1 backend)\n");
    assert!(err.contains("another level still keeps 1 backend of it out"), "{err}");
    assert_eq!(shardgate(&["ready", "NORTH"]).1, "north: maintenance -> ready (1 backend in 1 pool)\n");
    assert_eq!(shardgate(&["ready", "north"]).1, "north: is ready already (1 backend in 1 pool)\n");
    let (code, _, _) = shardgate(&["drain", &format!("au/north/{}", one.addr())]);
    assert_eq!((code, status_of(&proxy, &one)["operator"]["level"].as_str()), (0, Some("backend")));

    let mut nameless = std::process::Command::new(binary());
    nameless.args(["drain", "south", "--admin", &admin, "--token-file", &token]).env_clear();
    assert!(nameless.output().unwrap().status.success());
    assert!(status_of(&proxy, &two)["operator"]["who"].as_str().unwrap().starts_with("uid "));

    for (target, code, words) in [
        ("nroth", 1, "there is no region nroth; did you mean north?"),
        ("tin/north", 1, "tin has no pool in north"),
        ("gold/north/127.0.0.1:1", 1, "has no backend 127.0.0.1:1"),
        ("", 2, "ASSET/REGION/ADDRESS"),
        ("gold//x", 2, "ASSET/REGION/ADDRESS"),
    ] {
        let (got, out, err) = shardgate(&["drain", target]);
        assert_eq!((got, out.as_str()), (code, ""), "{target}: {err}");
        assert!(err.starts_with("error: ") && err.contains(words), "{target}: {err}");
    }
    assert_eq!(run(&["drain"]).0, 2);
    assert_eq!(run(&["ready", "north", "--admin", "127.0.0.1:1"]).0, 4);
}
