//! The rules that span sections: merging, sharing, defaults, names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{
    Action, Address, Bind, Failover, HashSource, HealthCheck, HostHeader, Limits, Log, Policy, Pool, Retry, Role,
    SourceKind, Via,
};

const BASE: &str = r#"
[[listeners]]
bind = "0.0.0.0:8080"
[[routes]]
path = "/v1/predict/{asset}"
[regions.us-east]
"#;

fn plan(text: &str) -> Plan {
    match load_str(&format!("{BASE}{text}")) {
        Ok(loaded) => loaded.plan,
        Err(errors) => panic!("{errors}"),
    }
}

fn pool(text: &str) -> Pool {
    plan(text).pools.remove(0)
}

const POOL: &str = "[pools.BTC.us-east]\nprimaries = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\n";

#[test]
fn the_smallest_file_has_every_default() {
    let plan = plan(POOL);
    assert_eq!(plan.server.workers, None);
    assert_eq!(plan.server.drain_delay, Duration::ZERO);
    assert_eq!(plan.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(plan.server.default_region.index(), 0);
    assert_eq!(plan.listeners[0].name.as_ref(), "0.0.0.0:8080");
    let admin = plan.admin.expect("an admin address");
    assert_eq!(admin.bind, Bind::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9600))));
    assert_eq!(plan.limits, Limits::default());
    assert_eq!(plan.log, Log::default());
    assert_eq!(plan.max_metric_pools, 10_000);
    assert_eq!(plan.hash.len(), 16);
    let route = &plan.routes[0];
    assert_eq!(route.name, "/v1/predict/{asset}");
    assert_eq!(route.action, Action::Forward);
    assert_eq!(route.timeout, Duration::from_secs(15));
    assert_eq!(route.asset[0].kind, SourceKind::Path("asset".into()));
    let region: Vec<_> = route.region.iter().map(|source| source.kind.clone()).collect();
    assert_eq!(region, [SourceKind::Header(http::HeaderName::from_static("x-region")), SourceKind::ClientAddress]);
    let settings = &plan.pools[0].settings;
    assert_eq!(settings.health, Some(HealthCheck::default()), "a TCP connect");
    assert_eq!(settings.retry, Some(Retry::default()));
    assert_eq!(settings.failover, Failover::default());
    assert_eq!(
        (settings.balance, settings.via, &settings.host),
        (Policy::LeastRequest, Via(true), &HostHeader::Preserve)
    );
}

#[test]
fn what_is_hashed_goes_with_maglev() {
    let defaults = "[defaults]\nbalance = \"maglev\"\nhash_on = [\"path:asset\", \"uri\"]\n";
    let inherited = [HashSource::Part(SourceKind::Path("asset".into())), HashSource::Uri];
    assert_eq!(pool(&format!("{defaults}{POOL}")).settings.hash_on, inherited);
    assert_eq!(pool(&format!("{defaults}{POOL}balance = \"maglev\"")).settings.hash_on, inherited);
    let own = pool(&format!("{defaults}{POOL}hash_on = [\"client-address\"]")).settings;
    assert_eq!(own.hash_on, [HashSource::Part(SourceKind::ClientAddress)]);
    let other = pool(&format!("{defaults}{POOL}balance = \"peak-ewma\"")).settings;
    assert_eq!((other.balance, other.hash_on.len()), (Policy::PeakEwma, 0));
}

#[test]
fn a_pools_tables_merge_key_by_key_over_the_defaults() {
    let settings = pool(&format!(
        "[defaults.health]\npath = \"/healthz\"\nrise = 5\n[defaults.timeouts]\nidle = \"9s\"\n{POOL}
         health = {{ fall = 7 }}\ntimeouts = {{ connect = \"2s\" }}\nretry = {{ max = 0 }}"
    ))
    .settings;
    let health = settings.health.as_ref().expect("checks");
    assert_eq!((health.rise, health.fall), (5, 7));
    assert_eq!(health.http.as_ref().map(|http| http.path.as_str()), Some("/healthz"));
    assert_eq!(settings.timeouts.idle, Duration::from_secs(9));
    assert_eq!(settings.timeouts.connect, Duration::from_secs(2));
    assert_eq!(settings.timeouts.response, Duration::from_secs(10));
    assert_eq!(settings.retry.map(|retry| (retry.max, retry.budget_min)), Some((0, 3)));
}

#[test]
fn false_turns_off_and_a_table_turns_on() {
    let off = pool(&format!("[defaults]\nhealth = false\nretry = false\noutlier = false\n{POOL}")).settings;
    assert_eq!((&off.health, off.retry), (&None, None));
    let on =
        pool(&format!("[defaults]\nhealth = false\nretry = false\n{POOL}health = {{}}\nretry = {{ budget_min = 9 }}"))
            .settings;
    assert_eq!(on.health, Some(HealthCheck::default()));
    assert_eq!(on.retry, Some(Retry { budget_min: 9, ..Retry::default() }));
}

#[test]
fn a_short_interval_takes_the_fast_one_with_it() {
    let health = pool(&format!("[defaults.health]\ninterval = \"200ms\"\n{POOL}")).settings.health.clone();
    assert_eq!(health.map(|health| health.fast_interval), Some(Duration::from_millis(200)));
}

#[test]
fn what_is_equal_is_shared() {
    let plan = plan(
        r#"
[regions.eu-west]
fallback = ["us-east"]
[server]
default_region = "us-east"
[pools.A.us-east]
primaries = ["h.internal:80", "[2001:db8::1]:80"]
[pools.B.us-east]
primaries = ["H.internal:80", "[2001:DB8:0::1]:80"]
[pools.C.us-east]
primaries = ["10.0.0.1:80"]
health = { rise = 9 }
[pools.C.eu-west]
primaries = ["10.0.0.1:80"]
health = { rise = 9, fall = 3 }
[pools.D.us-east]
primaries = ["10.0.0.1:80"]
health = { rise = 2 }
"#,
    );
    let [a, b, c, c2, d] = plan.pools.as_slice() else { panic!("five pools") };
    assert!(Arc::ptr_eq(&a.settings, &b.settings), "the defaults");
    assert!(Arc::ptr_eq(&c.settings, &c2.settings), "equal, though said differently");
    assert!(Arc::ptr_eq(&a.settings, &d.settings), "a default that is said is still the default");
    assert!(!Arc::ptr_eq(&a.settings, &c.settings));
    for (x, y) in a.members.iter().zip(&b.members) {
        assert!(Arc::ptr_eq(&x.address, &y.address), "{}", x.address);
    }
    assert!(Arc::ptr_eq(&c.members[0].address, &d.members[0].address));
}

#[test]
fn pools_are_sorted_with_the_star_last() {
    let plan = plan(
        r#"
[regions.eu-west]
[server]
default_region = "EU-west"
[assets.ETH]
aliases = ["ether"]
[assets.BTC]
[pools."*".us-east]
primaries = ["10.0.0.1:80"]
[pools.SOL.eu-west]
primaries = ["10.0.0.1:80"]
[pools.btc.US-EAST]
primaries = ["10.0.0.1:80"]
[pools.ETH.eu-west]
primaries = ["10.0.0.1:80"]
[pools.ETH.us-east]
primaries = ["10.0.0.1:80"]
"#,
    );
    let name = |pool: &Pool| match pool.asset {
        PoolAsset::Named(asset) => {
            format!("{}/{}", plan.assets[asset.index()].name, plan.regions[pool.region.index()].name)
        }
        PoolAsset::Any => format!("*/{}", plan.regions[pool.region.index()].name),
    };
    let names: Vec<String> = plan.pools.iter().map(name).collect();
    assert_eq!(names, ["ETH/us-east", "ETH/eu-west", "BTC/us-east", "SOL/eu-west", "*/us-east"]);
    assert_eq!(plan.server.default_region.index(), 1);
    assert_eq!(plan.assets[0].aliases, ["ether"]);
}

#[test]
fn members_stand_in_the_order_of_the_file() {
    let pool = pool(
        "[pools.BTC.us-east]\nreplicas = [\"10.0.0.9:80\"]\nprimaries = [\"10.0.0.2:80\", { address = \"unix:/run/b.sock\", weight = 3 }]",
    );
    let members: Vec<_> = pool.members.iter().map(|m| (m.address.to_string(), m.weight, m.role)).collect();
    assert_eq!(
        members,
        [
            ("10.0.0.2:80".to_owned(), 1, Role::Primary),
            ("unix:/run/b.sock".to_owned(), 3, Role::Primary),
            ("10.0.0.9:80".to_owned(), 1, Role::Replica)
        ]
    );
}

#[test]
fn the_environment_stands_in_strings() {
    let text = format!(
        "{BASE}{POOL}replicas = [\"${{HOST_A}}:${{PORT}}\"]\n[[routes]]\nname = \"x\"\npath = \"/x\"
         respond = {{ status = 200, body = \"$${{X}} $ ${{EMPTY}}.\" }}"
    );
    let environment = |name: &str| match name {
        "HOST_A" => Some(OsString::from("10.9.9.9")),
        "PORT" => Some(OsString::from("81")),
        "EMPTY" => Some(OsString::new()),
        _ => None,
    };
    let load = |environment| load_with(Path::new("x.toml"), Some(text.clone()), environment);
    let loaded = load(&environment).expect("a good file");
    let address = Address::Ip(SocketAddr::new(IpAddr::from([10, 9, 9, 9]), 81));
    assert_eq!(*loaded.plan.pools[0].members[2].address, address);
    let body = Action::Respond { status: http::StatusCode::OK, body: "${X} $ .".to_owned() };
    assert_eq!(loaded.plan.routes[1].action, body);
    let other = |name: &str| environment(name).map(|value| if name == "PORT" { "82".into() } else { value });
    assert_ne!(load(&other).expect("a good file").plan.hash, loaded.plan.hash, "the hash sees the environment");
    assert_eq!(load(&|_| None).expect_err("unset").len(), 3);
}

#[test]
fn no_finding_shows_what_a_variable_brought() {
    let text = format!(
        "{BASE}{POOL}health = {{ path = \"/h?k=${{KEY}}\" }}\n[[routes]]\npath = \"/${{KEY}}\"\nredirect = \"ftp://u:${{KEY}}@h\""
    );
    let environment = |name: &str| (name == "KEY").then(|| OsString::from("s3cret word"));
    let found = load_with(Path::new("x.toml"), Some(text), &environment).expect_err("a space in a target").to_string();
    assert!(found.contains("/h?k=${KEY}") && !found.contains("s3cret"), "{found}");
    // Nor a part of it, in whatever form.
    let text = format!(
        "{BASE}[pools.BTC.us-east]\nprimaries = [\"${{KEY}}\"]\n[[routes]]\npath = \"/x\"\nhosts = [\"${{KEY}}\"]"
    );
    let environment = |name: &str| (name == "KEY").then(|| OsString::from("http://svc:Hunter2SECRET@10.0.0.1:80/x"));
    let found = load_with(Path::new("x.toml"), Some(text), &environment).expect_err("a scheme").to_string();
    assert!(!found.to_lowercase().contains("hunter"), "{found}");
    // A word that may as well be meant is left where it was not brought.
    let text = format!(
        "{BASE}{POOL}replicas = []\n[server]\ndefault_region = \"${{R}}\"\nworkers = \"${{N}}\"\n[regions.b]\nfallback = [\"us-eest\"]"
    );
    let environment = |name: &str| ["R", "N"].contains(&name).then(|| if name == "R" { "us-east" } else { "4" }.into());
    let found = load_with(Path::new("x.toml"), Some(text), &environment).expect_err("two faults").to_string();
    assert!(found.contains("did you mean `us-east`?") && found.contains("write the number"), "{found}");
}

#[test]
fn routes_without_a_name_get_one_each() {
    let plan = plan(&format!(
        "{POOL}[[routes]]\npath = \"/v1/predict/{{asset}}\"\nmethods = [\"POST\"]\n
         [[routes]]\npath = \"/v1/predict/{{asset}}\"\nhosts = [\"a.b\"]\n
         [[routes]]\nname = \"/v1/predict/{{asset}}#2\"\npath = \"/x\"\nasset = \"const:btc\""
    ));
    let names: Vec<&str> = plan.routes.iter().map(|route| route.name.as_str()).collect();
    let base = "/v1/predict/{asset}";
    assert_eq!(names, [base, &format!("{base}#3"), &format!("{base}#4"), &format!("{base}#2")]);
}

#[test]
fn syntax_errors_hide_what_may_follow_from_them() {
    let errors =
        load_str("[[listeners]]\nbind = \"0.0.0.0:80\"\n[regions.us-east\n[log]\nlevel = \"verbose\"\nformat = text\n")
            .expect_err("a bad file");
    let lines: Vec<_> = errors.iter().map(|error| error.line()).collect();
    assert_eq!(lines, [Some(3), Some(5), Some(6)], "{errors}");
}

#[test]
fn colours_are_only_where_they_are_asked_for() {
    let errors = load_str("").expect_err("nothing at all");
    assert!(!errors.to_string().contains('\u{1b}') && errors.render(true).contains('\u{1b}'));
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    const REFERENCE: &str = include_str!("../../config/shardgate.toml");

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn on_any_text(text in "\\PC*") {
            let _ = load_str(&text).map_err(|errors| errors.to_string());
        }

        #[test]
        fn on_text_made_of_its_own_words(words in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\"", "'", "\n", " ", "#", "*", "0", "1s", "${", "pools", "routes",
            "regions", "a", "b", "us-east", "listeners", "bind", "path", "\"/{asset}\"", "asset", "\"path:x\"", "primaries",
            "\"a:1\"", "weight", "true", "false", "include", "defaults", "health", "\u{e9}", "\r\n", "\t", "\\", "9999999999",
        ]), 0..60)) {
            let _ = load_str(&words.concat()).map_err(|errors| errors.to_string());
        }

        #[test]
        fn on_the_reference_with_a_part_changed(at in 0..REFERENCE.len(), cut in 0..40_usize, put in "[\\[\\]{}=\".,a-z0\n*é]{0,6}") {
            let mut text = REFERENCE.as_bytes().to_vec();
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.into_bytes());
            let _ = load_str(&String::from_utf8_lossy(&text)).map_err(|errors| errors.to_string());
        }
    }
}

/// What is longer than a piece is read in pieces, and whoever looks for a mistake in it must not notice.
#[test]
fn a_large_file_says_what_a_small_one_says() {
    let many = |n: usize| {
        let pools = (0..n).map(|i| format!("[pools.A{i}.us-east]\nprimaries = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\n"));
        format!("{BASE}{}", pools.collect::<String>())
    };
    let (small, large) = (many(10), many(20_000));
    assert!(large.len() > pieces::SIZE && small.len() < pieces::SIZE);
    let loaded = load_str(&large).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((loaded.plan.pools.len(), loaded.plan.assets.len()), (20_000, 20_000));
    assert!(loaded.plan.pools.iter().all(|pool| Arc::ptr_eq(&pool.settings, &loaded.plan.pools[0].settings)));

    let said = |text: &str, more: &str| {
        let errors = load_str(&format!("{text}{more}")).expect_err(more);
        let lines = text.lines().count();
        let of_more = |line: Option<usize>| line.and_then(|line| line.checked_sub(lines));
        errors.iter().map(|e| (of_more(e.line()), e.message().to_owned())).collect::<Vec<_>>()
    };
    for more in [
        "[pools.B.us-east]\nprimarys = []\n[pools.C.nowhere]\nprimaries = [\"x\"]\n",
        "[pools.A3.us-east]\nprimaries = [\"10.0.0.1:80\"]\n",
        "[pools.a3.us-east]\nprimaries = [\"10.0.0.1:80\"]\n",
        "[regions.us-east]\n[limits]\nmax_headers = [\n[server]\n",
        "[pools.B.us-east]\nprimaries = [\"${X:-1}:80\"]\nprimaries = 1\n",
    ] {
        assert_eq!(said(&large, more), said(&small, more), "{more}");
    }
}
