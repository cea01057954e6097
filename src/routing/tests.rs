//! Hosts, paths and methods to routes; sources to keys; keys to pools. By tables.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::*;

use super::testing::{lenient, plan, pool, route, servers, strict};
use super::*;
use crate::message::RequestHead;
use crate::model::{Action, AssetId, Key, Plan, PoolId, Reason, RegionId, Route, Source, SourceKind};

fn index(plan: Plan) -> Index {
    Index::new(Arc::new(plan))
}

fn request(method: &str, host: &str, target: &str) -> RequestHead {
    RequestHead::new(method.parse().unwrap(), target, [("host", host.as_bytes())])
}

/// Name of the route, or the reason.
fn routed(index: &Index, method: &str, host: &str, target: &str) -> String {
    match index.resolve(&request(method, host, target), None) {
        Ok(resolved) => index.route_name(resolved.route).to_string(),
        Err(refusal) => match refusal.allow {
            Some(allow) => format!("{}: {}", refusal.reason, allow.to_str().unwrap()),
            None => refusal.reason.to_string(),
        },
    }
}

type Line<'a> = (&'a str, &'a [&'a str], &'a [Method], Option<&'a str>);

/// An index of routes that answer by themselves, so that only the route matters.
fn answering(routes: &[Line<'_>]) -> Index {
    let mut plan = plan(&["r"], &[]);
    plan.routes = routes
        .iter()
        .map(|(name, hosts, methods, path)| Route {
            action: Action::Redirect(String::new()),
            ..route(name, hosts, methods, *path)
        })
        .collect();
    index(plan)
}

#[test]
fn exact_host_then_longest_wildcard_then_any() {
    let index = answering(&[
        ("exact", &["api.example.com"], &[], Some("/a")),
        ("com", &["*.example.com"], &[], None),
        ("deep", &["*.api.example.com"], &[], None),
        ("capture", &["{asset}.api.example.com", "{asset}.only.org"], &[], None),
        ("any", &[], &[], Some("/a")),
    ]);
    for (host, path, expected) in [
        ("api.example.com", "/a", "exact"),
        ("API.Example.Com:8080", "/a", "exact"),
        ("api.example.com.", "/a", "exact"),
        // No falling through, neither to the wildcard nor to any.
        ("api.example.com", "/b", "no_route"),
        ("www.example.com", "/b", "com"),
        ("a.b.example.com", "/b", "com"),
        ("btc.api.example.com", "/b", "capture"),
        ("x.btc.api.example.com", "/b", "deep"),
        ("btc.only.org", "/", "capture"),
        // A capture is exactly one label.
        ("x.btc.only.org", "/a", "any"),
        (".only.org", "/a", "any"),
        ("example.com", "/a", "any"),
        (".example.com", "/a", "any"),
        ("", "/a", "any"),
        ("[::1]:80", "/a", "any"),
        ("", "/b", "no_route"),
    ] {
        assert_eq!(routed(&index, "GET", host, path), expected, "{host}{path}");
    }
    let dots = format!("{}example.com", "a.".repeat(4000));
    assert_eq!(routed(&index, "GET", &dots, "/a"), "any", "longer than a name can be");
}

#[test]
fn paths_are_matched_raw() {
    let index = answering(&[
        ("one", &[], &[], Some("/v1/{asset}")),
        ("static", &[], &[], Some("/v1/health")),
        ("tree", &[], &[], Some("/files/{*rest}")),
        ("root", &[], &[], Some("/")),
    ]);
    for (target, expected) in [
        ("/v1/BTC", "one"),
        ("/v1/BTC?x=/y", "one"),
        ("/v1/health", "static"),
        ("/v1/healthy", "one"),
        ("/v1/a%2Fb", "one"),
        ("/v1/..", "one"),
        ("/v1/a/", "no_route"),
        ("/v1//BTC", "no_route"),
        ("//v1/BTC", "no_route"),
        ("/V1/BTC", "no_route"),
        ("/files/a/../b", "tree"),
        ("/", "root"),
        ("http://any.example", "root"),
        ("http://any.example/v1/x", "one"),
    ] {
        assert_eq!(routed(&index, "GET", "h", target), expected, "{target}");
    }
    assert_eq!(routed(&index, "OPTIONS", "h", "*"), "no_route");
}

#[test]
fn a_route_without_a_path_takes_every_target() {
    let index = answering(&[("rest", &[], &[], None), ("a", &[], &[Method::GET], Some("/a"))]);
    assert_eq!(routed(&index, "OPTIONS", "h", "*"), "rest");
    assert_eq!(routed(&index, "GET", "h", "/x/y"), "rest");
    assert_eq!(routed(&index, "GET", "h", "/a"), "a");
    assert_eq!(routed(&index, "PUT", "h", "/a"), "method_not_allowed: GET, HEAD");
}

#[test]
fn methods() {
    let index = answering(&[
        ("read", &[], &[Method::GET], Some("/x/{a}")),
        ("write", &[], &[Method::POST, Method::PUT], Some("/x/{b}")),
        ("only-get", &[], &[Method::GET], Some("/y")),
        ("else", &[], &[], Some("/y")),
    ]);
    for (method, target, expected) in [
        ("GET", "/x/1", "read"),
        ("HEAD", "/x/1", "read"),
        ("PUT", "/x/1", "write"),
        ("DELETE", "/x/1", "method_not_allowed: GET, HEAD, POST, PUT"),
        ("get", "/x/1", "method_not_allowed: GET, HEAD, POST, PUT"),
        ("HEAD", "/y", "only-get"),
        ("DELETE", "/y", "else"),
        ("BREW", "/y", "else"),
    ] {
        assert_eq!(routed(&index, method, "h", target), expected, "{method} {target}");
    }
}

#[test]
fn of_two_ambiguous_paths_the_first_in_the_file() {
    let index = answering(&[("tree", &[], &[], Some("/a/{*rest}")), ("suffix", &[], &[], Some("/a/{x}.json"))]);
    assert_eq!(routed(&index, "GET", "h", "/a/1.json"), "tree");
    let index = answering(&[("suffix", &[], &[], Some("/a/{x}.json")), ("tree", &[], &[], Some("/a/{*rest}"))]);
    assert_eq!(routed(&index, "GET", "h", "/a/1.json"), "suffix");
    assert_eq!(routed(&index, "GET", "h", "/a/1.xml"), "tree");
}

/// BTC and ETH with pools in us and eu, SOL in eu alone, DOGE nowhere; asia has a `*` pool and nothing else.
fn three_regions() -> Plan {
    let mut plan = plan(&["us", "eu", "asia"], &["BTC", "ETH", "SOL", "DOGE"]);
    plan.assets[0].aliases = vec!["bitcoin".into()];
    let settings = Arc::default();
    let places = [(Some(0), 0), (Some(0), 1), (Some(1), 0), (Some(1), 1), (Some(2), 1), (None, 2)];
    plan.pools = places.map(|(asset, region)| pool(asset, region, &settings)).to_vec();
    plan.regions[0].fallback = vec![RegionId(1)];
    plan.regions[1].fallback = vec![RegionId(0), RegionId(2)];
    plan.regions[2].fallback = vec![];
    plan
}

#[test]
fn chains() {
    let index = index(three_regions());
    let chain = |asset: Option<u32>, region| {
        let chain = index.chain(Key { asset: asset.map(AssetId), region: RegionId(region) });
        chain.iter().map(|pool| pool.0).collect::<Vec<_>>()
    };
    assert_eq!(chain(Some(0), 0), [0, 1]);
    assert_eq!(chain(Some(0), 1), [1, 0, 5]);
    assert_eq!(chain(Some(1), 1), [3, 2, 5]);
    assert_eq!(chain(Some(2), 0), [4]);
    assert_eq!(chain(Some(2), 2), [5]);
    assert!(chain(Some(3), 0).is_empty());
    assert_eq!(chain(Some(3), 1), [5]);
    assert_eq!(chain(None, 1), [5]);
    assert!(chain(None, 0).is_empty());
}

#[test]
fn a_chain_is_bounded() {
    let names: Vec<_> = (0..40).map(|i| format!("r{i}")).collect();
    let mut plan = plan(&names.iter().map(String::as_str).collect::<Vec<_>>(), &["A"]);
    let settings = Arc::default();
    plan.pools = (0..40).map(|region| pool(Some(0), region, &settings)).collect();
    let index = index(plan);
    let chain = index.chain(Key { asset: Some(AssetId(0)), region: RegionId(39) });
    assert_eq!(chain.len(), Chain::MAX);
    assert_eq!(chain.iter().next(), Some(PoolId(39)));
}

#[test]
fn labels() {
    let index = index(three_regions());
    let label = |asset: Option<u32>, region| {
        index.asset_label(Key { asset: asset.map(AssetId), region: RegionId(region) }).to_string()
    };
    assert_eq!(label(Some(0), 0), "BTC");
    assert_eq!(label(Some(3), 1), "DOGE", "stands in [assets], though only `*` serves it");
    assert_eq!(label(None, 1), "*");
    assert_eq!(label(None, 0), "_unknown");
    assert_eq!(index.pool_labels(PoolId(5)), ("*".into(), "asia".into()));
    assert_eq!(index.pool_labels(PoolId(4)), ("SOL".into(), "eu".into()));
}

#[test]
fn clients_by_longest_prefix() {
    let mut plan = plan(&["wide", "narrow", "six", "mapped"], &[]);
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    plan.regions[0].clients = nets(&["10.0.0.0/8", "2001:db8::/32"]);
    plan.regions[1].clients = nets(&["10.1.0.0/16", "10.9.9.9/32"]);
    plan.regions[2].clients = nets(&["2001:db8:1::/48", "::1/128"]);
    plan.regions[3].clients = nets(&["::ffff:192.168.0.0/112"]);
    let index = index(plan);
    for (address, expected) in [
        ("10.2.3.4", Some(0)),
        ("10.1.3.4", Some(1)),
        ("::ffff:10.1.3.4", Some(1)),
        ("10.9.9.9", Some(1)),
        ("10.9.9.8", Some(0)),
        ("2001:db8:1::5", Some(2)),
        ("2001:db8:2::5", Some(0)),
        ("192.169.0.1", None),
        ("192.168.1.1", Some(3)),
        ("127.0.0.1", None),
        ("::1", Some(2)),
    ] {
        let region = index.region_of(address.parse::<IpAddr>().unwrap());
        assert_eq!(region.map(|region| region.0), expected, "{address}");
    }
}

/// One route with these sources, over [`three_regions`].
fn reading(asset: Vec<Source>, region: Vec<Source>) -> Index {
    let mut plan = three_regions();
    plan.regions[1].clients = vec!["10.2.0.0/16".parse().unwrap()];
    let mut route = route("r", &["{h}.example.com", "example.org"], &[], Some("/{a}/{b}"));
    (route.asset, route.region) = (asset, region);
    plan.routes = vec![route];
    index(plan)
}

fn key(index: &Index, head: &RequestHead, client: Option<&str>) -> Result<(Option<u32>, u16), Reason> {
    let resolved = index.resolve(head, client.map(|client| client.parse().unwrap())).map_err(|refusal| {
        assert_eq!(refusal.route, Some(0));
        refusal.reason
    })?;
    let key = resolved.target.expect("the route forwards").key;
    Ok((key.asset.map(|asset| asset.0), key.region.0))
}

fn header(name: &'static str) -> SourceKind {
    SourceKind::Header(HeaderName::from_static(name))
}

#[test]
fn the_first_source_that_yields_decides() {
    let path = |name: &str| strict(SourceKind::Path(name.into()));
    let index = reading(
        vec![strict(SourceKind::Query("a".into())), path("b"), path("a")],
        vec![strict(header("x-region")), strict(SourceKind::Host("h".into())), strict(SourceKind::ClientAddress)],
    );
    let ask = |host: &str, target: &str, region: &str, client| {
        let mut head = request("GET", host, target);
        head.fields.push(b"x-region", region.as_bytes());
        key(&index, &head, client)
    };
    let us = "us.example.com";
    assert_eq!(ask(us, "/btc/eth", "", None), Ok((Some(1), 0)));
    assert_eq!(ask(us, "/btc/eth?a=", "", None), Ok((Some(1), 0)));
    assert_eq!(ask(us, "/btc/eth?a=bitCOIN", "", None), Ok((Some(0), 0)));
    assert_eq!(ask(us, "/btc/%65th", "", None), Ok((Some(1), 0)));
    assert_eq!(ask(us, "/btc/eth", "EU", None), Ok((Some(1), 1)));
    assert_eq!(ask("EU.example.com", "/btc/eth", "", Some("10.1.0.1")), Ok((Some(1), 1)));
    // No source yields a region: the default. The client's address yields only on a match.
    assert_eq!(ask("example.org", "/btc/eth", "", Some("10.1.0.1")), Ok((Some(1), 0)));
    assert_eq!(ask("example.org", "/btc/eth", "", Some("10.2.0.1")), Ok((Some(1), 1)));
    // A name that does not exist does not fall through.
    assert_eq!(ask(us, "/btc/eth", "mars", None), Err(Reason::UnknownRegion));
    assert_eq!(ask("mars.example.com", "/btc/eth", "", None), Err(Reason::UnknownRegion));
    assert_eq!(ask(us, "/btc/eth?a=XRP", "", None), Err(Reason::UnknownAsset));
    // Not UTF-8 is not a known name; a `*` pool serves it all the same.
    assert_eq!(ask(us, "/btc/%ff", "", None), Err(Reason::UnknownAsset));
    assert_eq!(ask(us, "/btc/%ff", "eu", None), Ok((None, 1)));
    assert_eq!(ask(us, "/btc/XRP", "eu", None), Ok((None, 1)));
    assert_eq!(ask(us, "/btc/doge", "us", None), Err(Reason::UnknownAsset));
}

#[test]
fn a_lenient_source_lets_the_next_one_speak() {
    let index = reading(
        vec![lenient(header("x-asset")), strict(SourceKind::Cookie("asset".into()))],
        vec![lenient(header("x-region")), lenient(SourceKind::Path("b".into()))],
    );
    let ask = |asset: &str, cookie: &str, region: &str, target: &str| {
        let mut head = request("GET", "example.org", target);
        head.fields.push(b"x-asset", asset.as_bytes());
        head.fields.push(b"x-region", region.as_bytes());
        head.fields.push(b"cookie", cookie.as_bytes());
        key(&index, &head, None)
    };
    assert_eq!(ask("btc", "asset=eth", "eu", "/x/us"), Ok((Some(0), 1)));
    assert_eq!(ask("XRP", "asset=eth", "mars", "/x/eu"), Ok((Some(1), 1)));
    assert_eq!(ask("XRP", "asset=eth", "mars", "/x/moon"), Ok((Some(1), 0)), "the default region");
    assert_eq!(ask("XRP", "", "", "/x/eu"), Err(Reason::NoAsset));
    assert_eq!(ask("", "asset=XRP", "", "/x/us"), Err(Reason::UnknownAsset));
}

#[test]
fn captures_go_by_the_routes_own_names() {
    let mut plan = three_regions();
    let mut get = route("get", &[], &[Method::GET], Some("/{x}/{asset}"));
    let mut put = route("put", &[], &[Method::PUT], Some("/{asset}/{y}"));
    get.region = vec![strict(SourceKind::Path("x".into()))];
    put.region = vec![strict(SourceKind::Path("y".into()))];
    plan.routes = vec![get, put];
    let index = index(plan);
    let asked = |method, target| {
        let target = index.resolve(&request(method, "h", target), None).unwrap().target.unwrap();
        (target.key.asset, target.key.region)
    };
    assert_eq!(asked("GET", "/eu/ETH"), (Some(AssetId(1)), RegionId(1)));
    assert_eq!(asked("PUT", "/ETH/eu"), (Some(AssetId(1)), RegionId(1)));
}

#[test]
fn refusals_carry_what_is_known() {
    let index = reading(vec![strict(SourceKind::Path("a".into()))], vec![]);
    let refusal = index.resolve(&request("GET", "example.org", "/XRP/x"), None).unwrap_err();
    assert_eq!(refusal.key, Some(Key { asset: None, region: RegionId(0) }));
    let refusal = index.resolve(&request("GET", "other.org", "/XRP/x"), None).unwrap_err();
    assert_eq!((refusal.reason, refusal.route, refusal.key), (Reason::NoRoute, None, None));
}

#[test]
fn tiers_are_judged_at_build_and_anew() {
    use crate::backend::{Cause, Status};
    let up = Some(Status::Up);
    let down = Some(Status::Down(Cause::Timeout));
    let gone = Some(Status::Down(Cause::Refused));
    let index = Arc::new(index(three_regions()));
    let states = [up, down, gone, None, Some(Status::Unchecked)];
    let snapshot = build(index, 1, std::time::Instant::now(), |_| [servers("us", 1, &states), vec![]]);
    let tier = &snapshot.pool(PoolId(0)).tiers[0];
    assert_eq!((&*tier.usable, &*tier.usable_in_panic), (&[0, 3][..], &[0, 1, 3][..]));
    assert_eq!((tier.usable_percent, tier.usable_weight, tier.health), (40, 2, 56));
    assert_eq!(snapshot.pool(PoolId(0)).tiers[1].health, 0);

    tier.servers[1].check.as_ref().unwrap().set(Status::Up, std::time::Instant::now());
    assert_eq!(tier.usable.len(), 2, "a Snapshot does not change");
    let anew = snapshot.pool(PoolId(0)).refreshed(std::time::Instant::now());
    assert_eq!((&*anew.tiers[0].usable, anew.tiers[0].health), (&[0, 1, 3][..], 84));
    assert!(Arc::ptr_eq(&anew.tiers[0].servers, &tier.servers));
}

#[test]
fn loads_follow_the_chain() {
    use crate::backend::{Cause, Status};
    let (up, down) = (Some(Status::Up), Some(Status::Down(Cause::Timeout)));
    let index = Arc::new(index(three_regions()));
    let half = [up, down];
    let snapshot = build(index, 1, std::time::Instant::now(), |id| match id.0 {
        0 => [servers("us", 1, &half), servers("us", 3, &half)],
        1 => [servers("eu", 5, &[up]), vec![]],
        _ => [servers("eu", 7, &[down, down]), vec![]],
    });
    let chain = snapshot.index.chain(Key { asset: Some(AssetId(0)), region: RegionId(0) });
    let loads = Loads::new(&snapshot, &chain);
    assert_eq!(loads.shares(), [70, 30, 0, 0]);
    assert!(snapshot.tiers(&chain).all(|(pool, _, tier)| !loads.room.is_panic(pool, tier)));
    let chain = snapshot.index.chain(Key { asset: Some(AssetId(2)), region: RegionId(0) });
    let loads = Loads::new(&snapshot, &chain);
    assert_eq!(loads.shares(), [0, 0]);
    let panic: Vec<_> = snapshot.tiers(&chain).map(|(pool, _, tier)| loads.room.is_panic(pool, tier)).collect();
    assert_eq!(panic, [true, false], "a tier without servers has nobody to panic with");
}

#[test]
fn routing_allocates_nothing() {
    let mut plan = three_regions();
    plan.regions[1].clients = vec!["10.2.0.0/16".parse().unwrap()];
    let mut by_path = route("path", &["{h}.example.com", "*.example.org"], &[Method::GET], Some("/v1/{a}/{b}/{asset}"));
    by_path.region = vec![strict(header("x-region")), strict(SourceKind::ClientAddress)];
    let mut by_query = route("query", &[], &[], None);
    let cookie = strict(SourceKind::Cookie("none".into()));
    by_query.asset = vec![cookie, strict(SourceKind::Query("symbol".into()))];
    by_query.region = vec![lenient(SourceKind::Host("h".into())), strict(SourceKind::ClientAddress)];
    plan.routes = vec![by_path, by_query];
    let snapshot = build(Arc::new(index(plan)), 1, std::time::Instant::now(), |id| {
        [servers("us", id.0 as u16, &[None, None]), vec![]]
    });
    let table = Table::new(snapshot);
    let mut reader = table.reader();
    let client = "::ffff:10.2.0.1".parse().unwrap();
    let mut requests = vec![
        request("GET", "BTC.Example.COM:80", "/v1/x/y/btc?z"),
        request("HEAD", "a.b.example.org", "/v1/x/y/bitcoin"),
        request("POST", "other", "/anything?z=1&symbol=ETH"),
        request("OPTIONS", "other", "http://abs.example/?symbol=SOL"),
        request("GET", "other", "/?symbol=XRP"),
    ];
    for head in &mut requests {
        head.fields.push(b"cookie", "a=b; c=d".as_bytes());
    }
    let mut served = 0;
    let allocated = allocation_counter::measure(|| {
        for head in &requests {
            let snapshot = reader.current();
            let Some(target) = snapshot.index.resolve(head, Some(client)).ok().and_then(|resolved| resolved.target)
            else {
                continue;
            };
            let tiers = target.chain.iter().map(|pool| snapshot.pool(pool).tiers[0].usable.len());
            served +=
                usize::from(tiers.sum::<usize>() > 0 && !Loads::new(&snapshot, &target.chain).shares().is_empty());
        }
    });
    assert_eq!(served, 5);
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
    // The counter counts.
    assert_eq!(allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1)))).count_total, 1);
}

proptest! {
    /// The index against a search through the Plan.
    #[test]
    fn chains_equal_a_plain_search(
        pools in prop::collection::btree_set((prop::option::weighted(0.8, 0..6u32), 0..5u16), 0..25),
        fallbacks in prop::collection::vec(prop::sample::subsequence(vec![0u16, 1, 2, 3, 4], 0..=4), 5),
        everywhere: bool,
        asset in prop::option::of(0..7u32),
        region in 0..5u16,
    ) {
        let mut plan = plan(&["a", "b", "c", "d", "e"], &["0", "1", "2", "3", "4", "5"]);
        let settings = Arc::default();
        let named = (0..6u32).flat_map(|asset| (0..5u16).map(move |region| (Some(asset), region)));
        let mut places = pools;
        places.extend(named.filter(|_| everywhere));
        let mut places: Vec<_> = places.into_iter().collect();
        places.sort_by_key(|(asset, region)| (asset.is_none(), *asset, *region));
        plan.pools = places.iter().map(|(asset, region)| pool(*asset, *region, &settings)).collect();
        for (region, fallback) in plan.regions.iter_mut().zip(&fallbacks) {
            region.fallback = fallback.iter().map(|&id| RegionId(id)).collect();
        }
        let find = |asset, region| places.iter().position(|place| *place == (asset, region));
        let regions = std::iter::once(region).chain(fallbacks[usize::from(region)].iter().copied());
        let own = |region| asset.and_then(|asset| find(Some(asset), region)).or_else(|| find(None, region));
        let expected: Vec<_> = regions.filter_map(own).collect();
        let got = index(plan).chain(Key { asset: asset.map(AssetId), region: RegionId(region) });
        prop_assert_eq!(got.iter().map(PoolId::index).collect::<Vec<_>>(), expected);
    }

    /// No host, target or header makes the index panic.
    #[test]
    fn hostile_requests(host in "[ -~]{0,40}", path in "/[!-~]{0,40}", value in "[ -~]{0,20}") {
        let index = reading(
            vec![lenient(SourceKind::Host("h".into())), lenient(SourceKind::Query("a".into())), strict(header("x"))],
            vec![lenient(SourceKind::Cookie("r".into()))],
        );
        let fields = [("host", host.as_bytes()), ("x", value.as_bytes()), ("cookie", value.as_bytes())];
        let _ = index.resolve(&RequestHead::new(Method::GET, &path, fields), None);
    }
}
