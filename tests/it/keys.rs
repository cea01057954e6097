//! Keys: asset and region out of a request, and the pool that they lead to, seen by which backend answers.

use crate::support::{Origin, Proxy};

/// BTC in us and eu, ETH in us alone, everything else in eu.
struct World {
    _origins: [Origin; 4],
    proxy: Proxy,
}

fn start() -> World {
    let origins = ["btc-us", "btc-eu", "eth-us", "rest-eu"].map(Origin::start);
    let [btc_us, btc_eu, eth_us, rest_eu] = origins.each_ref().map(Origin::addr);
    let proxy = Proxy::start(&format!(
        r#"
[server]
default_region = "us"
[[listeners]]
bind = "127.0.0.1:0"
trusted_proxies = ["127.0.0.1"]
[regions.us]
clients = ["10.0.0.0/8"]
fallback = []
[regions.eu]
clients = ["10.2.0.0/16", "2001:db8::/32"]
fallback = ["us"]
[assets.BTC]
aliases = ["bitcoin", "XBT"]
[assets."BRK.B"]
[[routes]]
name = "path"
path = "/path/{{asset}}"
[[routes]]
name = "template"
path = "/in/{{where}}/of/{{what}}"
asset = "path:what"
region = ["path:where"]
[[routes]]
name = "query"
path = "/query"
asset = ["query:the symbol", "cookie:asset", "header:x-asset"]
region = ["header?:x-region", "query:region", "client-address"]
[[routes]]
name = "const"
path = "/const"
asset = "const:ETH"
[[routes]]
name = "host"
hosts = ["{{asset}}.api.test"]
[defaults]
health = false
[pools.BTC.us]
primaries = ["{btc_us}"]
[pools.BTC.eu]
primaries = ["{btc_eu}"]
[pools.ETH.us]
primaries = ["{eth_us}"]
[pools."*".eu]
primaries = ["{rest_eu}"]
"#
    ));
    World { _origins: origins, proxy }
}

/// Target, fields, and the name of the backend or the reason of a refusal.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// Asks for each target with these fields; what comes back is a backend's name or the reason of a refusal.
fn check(world: &World, table: &[Row<'_>]) {
    let mut client = world.proxy.client();
    for (target, fields, expected) in table {
        let got = client.request("GET", target, fields, b"");
        let seen = if got.status == 200 { got.origin().to_owned() } else { format!("{} {}", got.status, got.reason()) };
        assert_eq!(seen, *expected, "{target} {fields:?}");
    }
}

#[test]
fn names_aliases_and_case() {
    check(
        &start(),
        &[
            ("/path/BTC", &[], "btc-us"),
            ("/path/btc", &[], "btc-us"),
            ("/path/Bitcoin", &[], "btc-us"),
            ("/path/xbt?symbol=ETH", &[], "btc-us"),
            ("/path/eth", &[], "eth-us"),
            ("/const", &[], "eth-us"),
            ("/path/BTC2", &[], "404 unknown_asset"),
            ("/in/EU/of/Btc", &[], "btc-eu"),
            ("/in/moon/of/BTC", &[], "404 unknown_region"),
        ],
    );
}

#[test]
fn a_client_is_told_what_was_wrong_with_its_key() {
    let world = start();
    let long = format!("/path/{}", "X".repeat(70));
    let shown = format!("path:asset says {}…, which is not configured", "X".repeat(64));
    for (target, fields, detail) in [
        ("/path/XRP", &[][..], "path:asset says XRP, which is not configured"),
        ("/path/%22%ff", &[], "path:asset says \"\u{fffd}, which is not configured"),
        ("/in/us/of/brk.b", &[], "no pool serves brk.b in us or where that falls back to"),
        ("/in/moon/of/BTC", &[], "path:where says moon, which is not configured"),
        ("/path/BTC", &[("x-region", "moon")], "header:x-region says something, which is not configured"),
        ("/query", &[], "no configured asset in query:the symbol, cookie:asset, header:x-asset"),
        (
            "/query?the+symbol=BTC&region=moon",
            &[("x-region", "eu1")],
            "query:region says moon, which is not configured",
        ),
        (
            "/query?region=us",
            &[("cookie", "asset=BRK.B")],
            "no pool serves this asset in us or where that falls back to",
        ),
        ("/path/BRK.B", &[("x-region", "us")], "no pool serves BRK.B in this region or where that falls back to"),
        ("/query", &[("cookie", "asset=secret")], "cookie:asset says something, which is not configured"),
        (&long, &[], &shown),
        ("/path/%e2%82%ac", &[], "path:asset says €, which is not configured"),
    ] {
        assert_eq!(world.proxy.client().request("GET", target, fields, b"").json()["detail"], detail, "{target}");
    }
}

#[test]
fn decoded_once_and_only_for_the_key() {
    check(
        &start(),
        &[
            ("/path/%42TC", &[], "btc-us"),
            ("/path/%2542TC", &[], "404 unknown_asset"),
            ("/path/%ff", &[], "404 unknown_asset"),
            ("/in/eu/of/%ff", &[], "rest-eu"),
            ("/in/%65u/of/BRK%2EB", &[], "rest-eu"),
            ("/query?the+symbol=%62%74%63", &[], "btc-us"),
            ("/query?the%20symbol=eth", &[], "eth-us"),
            ("/query?the+symbol=e+th&region=eu", &[], "rest-eu"),
        ],
    );
}

#[test]
fn the_first_source_that_yields() {
    check(
        &start(),
        &[
            ("/query?the+symbol=BTC", &[("x-asset", "ETH")], "btc-us"),
            ("/query?the+symbol=", &[("x-asset", "ETH")], "eth-us"),
            ("/query", &[("cookie", "a=b; asset=btc; asset=eth"), ("x-asset", "ETH")], "btc-us"),
            ("/query", &[("cookie", "asset="), ("x-asset", "ETH")], "eth-us"),
            ("/query", &[("x-asset", "")], "400 no_asset"),
            ("/query?thesymbol=BTC", &[], "400 no_asset"),
            // What is named and does not exist does not fall through, unless the source is lenient.
            ("/query?the+symbol=XRP", &[("x-asset", "ETH")], "404 unknown_asset"),
            ("/query?the+symbol=BTC&region=moon", &[], "404 unknown_region"),
            ("/query?the+symbol=BTC&region=eu", &[("x-region", "moon")], "btc-eu"),
            ("/query?the+symbol=BTC&region=eu", &[("x-region", "US")], "btc-us"),
            ("/path/BTC", &[("x-region", "moon")], "404 unknown_region"),
            ("/path/BTC", &[("x-region", "eu")], "btc-eu"),
        ],
    );
}

#[test]
fn a_capture_of_the_host() {
    check(
        &start(),
        &[
            ("/any", &[("host", "btc.api.test")], "btc-us"),
            ("/any", &[("host", "ETH.API.test:8080")], "eth-us"),
            ("/any", &[("host", "xrp.api.test"), ("x-region", "eu")], "rest-eu"),
            ("/any", &[("host", "a.btc.api.test")], "404 no_route"),
            ("http://btc.api.test/any", &[("host", "eth.api.test")], "btc-us"),
        ],
    );
}

#[test]
fn regions_of_clients_by_the_longest_prefix() {
    check(
        &start(),
        &[
            ("/path/BTC", &[("x-forwarded-for", "10.1.2.3")], "btc-us"),
            ("/path/BTC", &[("x-forwarded-for", "10.2.2.3")], "btc-eu"),
            ("/path/BTC", &[("x-forwarded-for", "::ffff:10.2.2.3")], "btc-eu"),
            ("/path/BTC", &[("x-forwarded-for", "2001:db8::7")], "btc-eu"),
            ("/path/BTC", &[("x-forwarded-for", "192.0.2.1")], "btc-us"),
            ("/path/BTC", &[("x-forwarded-for", "10.2.2.3"), ("x-region", "us")], "btc-us"),
        ],
    );
}

#[test]
fn own_pool_then_star_then_the_fallback_regions() {
    let world = start();
    check(
        &world,
        &[
            ("/in/eu/of/ETH", &[], "rest-eu"),
            ("/in/eu/of/XRP", &[], "rest-eu"),
            ("/in/us/of/XRP", &[], "404 unknown_asset"),
            ("/in/us/of/BRK.B", &[], "404 unknown_asset"),
            ("/in/eu/of/BRK.B", &[], "rest-eu"),
        ],
    );
    // Labels come from the configuration only.
    let count = |asset, region| world.proxy.metric("shardgate_requests_total", &[("asset", asset), ("region", region)]);
    assert_eq!(count("ETH", "eu"), 1.0);
    assert_eq!(count("*", "eu"), 1.0);
    assert_eq!(count("_unknown", "us"), 1.0);
    assert_eq!(count("BRK.B", "us"), 1.0);
    assert_eq!(count("BRK.B", "eu"), 1.0);
    assert!(world.proxy.series("shardgate_requests_total", &[("asset", "XRP")]).is_empty());
}
