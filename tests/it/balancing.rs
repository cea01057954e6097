//! Balancing: how requests spread over the backends of a tier, and over tiers as health goes.

use crate::support::{Behaviour, Origin, Proxy, poll};

fn config(balance: &str, primaries: &[(&Origin, u16)], replicas: &[&Origin]) -> String {
    let primaries: Vec<_> =
        primaries.iter().map(|(o, weight)| format!("{{ address = \"{}\", weight = {weight} }}", o.addr())).collect();
    let replicas: Vec<_> = replicas.iter().map(|origin| format!("\"{}\"", origin.addr())).collect();
    format!(
        r#"
[server]
workers = 1
[[listeners]]
bind = "127.0.0.1:0"
[[routes]]
path = "/v1/{{asset}}"
[regions.a]
[defaults.health]
path = "/healthz"
interval = "100ms"
fast_interval = "20ms"
timeout = "20s" # a busy machine is not a sick backend
rise = 1
fall = 1
[pools.BTC.a]
balance = "{balance}"
primaries = [{}]
replicas = [{}]
"#,
        primaries.join(", "),
        replicas.join(", ")
    )
}

fn counts(proxy: &Proxy, origins: &[&Origin], requests: usize) -> Vec<usize> {
    for origin in origins {
        origin.take_requests();
    }
    let mut client = proxy.client();
    for _ in 0..requests {
        assert_eq!(client.get("/v1/BTC").status, 200);
    }
    origins.iter().map(|origin| origin.count()).collect()
}

#[test]
fn round_robin_is_exact_by_weight() {
    let (one, two, three) = (Origin::start("one"), Origin::start("two"), Origin::start("three"));
    let proxy = Proxy::start(&config("round-robin", &[(&one, 5), (&two, 1), (&three, 1)], &[]));
    assert_eq!(counts(&proxy, &[&one, &two, &three], 70), [50, 10, 10]);
}

#[test]
fn random_and_least_request_go_by_weight() {
    for balance in ["random", "least-request"] {
        let (one, two) = (Origin::start("one"), Origin::start("two"));
        let proxy = Proxy::start(&config(balance, &[(&one, 3), (&two, 1)], &[]));
        let counts = counts(&proxy, &[&one, &two], 400);
        // 300 expected of a binomial with a deviation of 8.7; the bounds are 6 of those away.
        assert!((248..=352).contains(&counts[0]), "{balance}: {counts:?}");
    }
}

#[test]
fn least_request_avoids_the_busy() {
    let (one, two) = (Origin::start("one"), Origin::start("two"));
    let proxy = Proxy::start(&config("least-request", &[(&one, 1), (&two, 1)], &[]));
    let gate = one.hold("/v1/BTC");
    let mut waiting = Vec::new();
    poll("a request to be held", || {
        let mut client = proxy.client();
        let request = client.format("GET", "/v1/BTC", &[], b"");
        client.send(request);
        waiting.push(client);
        (one.count() > 0).then_some(())
    });
    gate.waiting(1);
    proxy.metric_until("shardgate_requests_in_flight", &[], |n| n == 1.0);
    assert_eq!(counts(&proxy, &[&two], 50), [50]);
    gate.open();
}

#[test]
fn load_spills_as_primaries_go_and_comes_back() {
    let primaries = [Origin::start("p1"), Origin::start("p2")];
    let replica = Origin::start("r");
    let weighted: Vec<_> = primaries.iter().map(|origin| (origin, 1)).collect();
    let proxy = Proxy::start(&config("round-robin", &weighted, &[&replica]));
    assert_eq!(counts(&proxy, &[&replica], 50), [0]);

    let up = |origin: &Origin, n: f64| {
        let address = origin.addr().to_string();
        proxy.metric_until("shardgate_backend_up", &[("backend", &address)], |up| up == n);
    };
    primaries[0].set_health(503);
    up(&primaries[0], 0.0);
    // Half of the weight, times 1.4: the primaries keep 70 %.
    let ratio = |role, ratio| proxy.metric_until("shardgate_tier_load_ratio", &[("role", role)], |got| got == ratio);
    ratio("primary", 0.7);
    ratio("replica", 0.3);
    let spilled = counts(&proxy, &[&replica], 400)[0];
    assert!((65..=175).contains(&spilled), "of 400 requests, 30 % were to spill: {spilled}");

    primaries[1].set_health(503);
    up(&primaries[1], 0.0);
    ratio("replica", 1.0);
    assert_eq!(counts(&proxy, &[&replica], 20), [20]);

    for primary in &primaries {
        primary.set_health(200);
        up(primary, 1.0);
    }
    ratio("replica", 0.0);
    assert_eq!(counts(&proxy, &[&replica], 20), [0]);
}

fn explained(proxy: &Proxy, user: &str) -> serde_json::Value {
    let target = format!("/api/v1/explain?url=/v1/BTC&header=x-user:{user}");
    proxy.admin_request("GET", &target).json()
}

/// Who serves each of so many users.
fn homes(proxy: &Proxy, users: usize) -> Vec<String> {
    let mut client = proxy.client();
    let get = |i: usize| client.request("GET", "/v1/BTC", &[("x-user", &format!("u{i}"))], b"").origin().to_owned();
    (0..users).map(get).collect()
}

#[test]
fn maglev_keeps_a_key_at_its_backend() {
    let names = ["o0", "o1", "o2", "o3", "o4", "o5", "o6", "o7"];
    let origins = names.map(Origin::start);
    let hashed = |order: &[usize]| {
        let primaries: Vec<_> = order.iter().map(|&i| (&origins[i], 1)).collect();
        config("maglev", &primaries, &[]) + "hash_on = [\"header:x-user\"]\n"
    };
    let proxy = Proxy::start(&hashed(&[0, 1, 2, 3, 4, 5, 6, 7]));
    let before = homes(&proxy, 200);
    assert_eq!(homes(&proxy, 200), before);
    assert!(names.iter().all(|name| before.iter().any(|home| home == name)), "{before:?}");
    for (user, home) in before.iter().enumerate().take(10) {
        let told = explained(&proxy, &format!("u{user}"));
        let address = origins[names.iter().position(|name| name == home).unwrap()].addr().to_string();
        assert_eq!(told["pick"]["backend"], address, "{told}");
        assert_eq!(told["pick"]["why"], "its tier takes all load; maglev by header:x-user among 8 of 8");
    }
    assert_eq!(proxy.admin_request("GET", "/api/v1/status").json()["pools"][0]["balance"], "maglev");

    // Other lines, the same backends: a restart or another instance would say the same.
    assert!(proxy.reload(&hashed(&[5, 3, 7, 0, 2, 1, 6, 4])));
    assert_eq!(homes(&proxy, 200), before);

    // One goes: only its keys move. It comes back: so do they. (One of eight is too few for load to spill.)
    let is_usable = |wanted: bool| {
        let address = origins[3].addr().to_string();
        poll("its state to be in force", || {
            let told = explained(&proxy, "u0");
            let servers = told["tiers"][0]["servers"].as_array().unwrap();
            servers.iter().any(|server| server["backend"] == address && server["usable"] == wanted).then_some(())
        });
    };
    origins[3].set_health(503);
    is_usable(false);
    for (was, is) in before.iter().zip(homes(&proxy, 200)) {
        assert!(if was == "o3" { is != "o3" } else { is == *was }, "from {was} to {is}");
    }
    origins[3].set_health(200);
    is_usable(true);
    assert_eq!(homes(&proxy, 200), before);

    // Without the field there is nothing to hash.
    let spread: std::collections::BTreeSet<_> = (0..200).map(|_| proxy.get("/v1/BTC").origin().to_owned()).collect();
    assert!(spread.len() > 4, "{spread:?}");
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert!(told["pick"]["why"].as_str().unwrap().contains("maglev, but no source yields: random"), "{told}");
}

#[test]
fn maglev_hashes_what_the_route_captured_or_else_the_next_source() {
    let origins = ["o0", "o1", "o2", "o3"].map(Origin::start);
    let primaries: Vec<_> = origins.iter().map(|origin| (origin, 1)).collect();
    let text = config("maglev", &primaries, &[]) + "hash_on = [\"path:user\", \"uri\"]\n";
    let proxy = Proxy::start(&text.replace("[[routes]]", "[[routes]]\npath = \"/v1/{asset}/{user}\"\n[[routes]]"));
    let mut client = proxy.client();
    let mut home = |target: String| client.get(&target).origin().to_owned();
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..30 {
        let by_user = home(format!("/v1/BTC/{user}"));
        assert_eq!(home(format!("/v1/BTC/{user}?page=2")), by_user, "its query does not count");
        seen.insert(home(format!("/v1/BTC?user={user}")));
        assert_eq!(home(format!("/v1/BTC?user={user}")), home(format!("/v1/BTC?user={user}")));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn maglev_keeps_a_key_in_its_tier() {
    let (origins, replica) = (["o0", "o1"].map(Origin::start), Origin::start("r"));
    let primaries: Vec<_> = origins.iter().map(|origin| (origin, 1)).collect();
    let proxy = Proxy::start(&(config("maglev", &primaries, &[&replica]) + "hash_on = [\"header:x-user\"]\n"));
    origins[1].set_health(503);
    let ratio = |role, ratio| proxy.metric_until("shardgate_tier_load_ratio", &[("role", role)], |got| got == ratio);
    ratio("replica", 0.3);
    let spilled = homes(&proxy, 300);
    assert_eq!(homes(&proxy, 300), spilled);
    let count = spilled.iter().filter(|home| *home == "r").count();
    assert!((42..=138).contains(&count), "of 300 keys, 30 % were to spill: {count}");
    for (user, home) in spilled.iter().enumerate().take(10) {
        let backend = if home == "r" { replica.addr() } else { origins[0].addr() };
        assert_eq!(explained(&proxy, &format!("u{user}"))["pick"]["backend"], backend.to_string());
    }
}

#[test]
fn a_popular_key_is_shared_when_its_backend_is_busy() {
    let origins = ["o0", "o1", "o2"].map(Origin::start);
    let primaries: Vec<_> = origins.iter().map(|origin| (origin, 1)).collect();
    let proxy = Proxy::start(&(config("maglev", &primaries, &[]) + "hash_on = [\"header:x-user\"]\n"));
    let gates = origins.each_ref().map(|origin| origin.hold("/v1/BTC"));
    let mut waiting = Vec::new();
    let mut counts = Vec::new();
    for n in 1..=7 {
        let mut client = proxy.client();
        let request = client.format("GET", "/v1/BTC", &[("x-user", "popular")], b"");
        client.send(request);
        waiting.push(client);
        poll("a request to be held", || (origins.iter().map(Origin::count).sum::<usize>() == n).then_some(()));
        counts.push(origins.each_ref().map(Origin::count));
    }
    // At most 1.25 times a third of all, rounded up: of seven that is 3.
    let own = counts[0].iter().position(|n| *n == 1).unwrap();
    assert_eq!(counts[2][own], 2);
    assert_eq!((counts[6][own], counts[6].iter().max(), counts[6].iter().min()), (3, Some(&3), Some(&1)));
    gates.iter().for_each(|gate| gate.open());
}

#[test]
fn peak_ewma_leaves_a_backend_that_fails_fast_alone() {
    let (bad, good) = (Origin::start("bad"), Origin::start("good"));
    bad.on("/v1/BTC", Behaviour::Answer(500, vec![], b"no".to_vec()));
    let text = config("peak-ewma", &[(&bad, 1), (&good, 1)], &[]);
    let proxy = Proxy::start(&text);
    let latency = |proxy: &Proxy, origin: &Origin| {
        let status = proxy.admin_request("GET", "/api/v1/status").json();
        let backends = status["pools"][0]["backends"].as_array().unwrap().clone();
        backends.iter().find(|backend| backend["address"] == origin.addr().to_string()).unwrap()["latency"].as_f64()
    };
    assert_eq!((latency(&proxy, &bad), latency(&proxy, &good)), (None, None), "nobody was asked");
    let failed = |proxy: &Proxy, requests: usize| {
        let mut client = proxy.client();
        (0..requests).filter(|_| client.get("/v1/BTC").status == 500).count()
    };
    // Both are asked once, and from then on the penalty of 5 s stands against an answer in no time.
    assert_eq!(failed(&proxy, 60), 1);
    assert_eq!((bad.count(), good.count()), (1, 59));
    let (of_bad, of_good) = (latency(&proxy, &bad).unwrap(), latency(&proxy, &good).unwrap());
    assert!(of_bad > of_good && of_bad <= 5.0, "{of_bad} {of_good}");
    let told = proxy.admin_request("GET", "/api/v1/explain?url=/v1/BTC").json();
    assert_eq!(told["pick"]["backend"], good.addr().to_string());
    assert_eq!(told["tiers"][0]["policy"], "peak-ewma");
    assert!(told["tiers"][0]["servers"][0]["latency"].as_f64().unwrap() > of_good);

    // What is known of a backend outlives a reload, and other policies have nothing measured.
    assert!(proxy.reload(&(text.clone() + "timeouts = { response = \"9s\" }\n")));
    assert_eq!(failed(&proxy, 30), 0);
    assert!(proxy.reload(&text.replace("peak-ewma", "random")));
    assert_eq!(latency(&proxy, &good), None);
}

#[test]
fn peak_ewma_takes_a_backends_word_for_when_to_come_back() {
    let (bad, good) = (Origin::start("bad"), Origin::start("good"));
    let later = vec![("retry-after", "40".to_owned())];
    bad.on("/v1/BTC", Behaviour::Answer(429, later, vec![]));
    let proxy = Proxy::start(&config("peak-ewma", &[(&bad, 1), (&good, 1)], &[]));
    let mut client = proxy.client();
    poll("the bad one to be asked", || (client.get("/v1/BTC").status == 429).then_some(()));
    let status = proxy.admin_request("GET", "/api/v1/status").json();
    let latency = status["pools"][0]["backends"][0]["latency"].as_f64().unwrap();
    assert!((5.1..=40.0).contains(&latency), "{latency}");
}
