//! The shape of the file as JSON Schema, for editors.
//!
//! A mirror of what the sections decode, in serde's and schemars' words. A test holds the two together: every table here
//! has exactly the keys that its section knows.

#![expect(dead_code, reason = "the fields are there for what is derived from them")]

mod pool;
mod route;
mod tls;

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};
use serde::Deserialize;

use self::pool::{Pool, Settings};
use self::route::Route;
use self::tls::ListenerTls;

/// JSON Schema (2020-12) of the configuration file.
pub fn schema() -> serde_json::Value {
    schema_for!(File).into()
}

/// A whole number and a unit: ms, s, m or h, such as "250ms" or "1m30s".
#[derive(Debug, Deserialize, JsonSchema)]
struct Duration(#[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))] String);

/// A whole number and a unit: B, KiB, MiB or GiB, such as "16KiB".
#[derive(Debug, Deserialize, JsonSchema)]
struct Size(#[schemars(regex(pattern = r"^[0-9]+(B|KiB|MiB|GiB)$"))] String);

/// Bytes per second, such as "240B/s", or "off".
#[derive(Debug, Deserialize, JsonSchema)]
struct Rate(#[schemars(regex(pattern = r"^([0-9]+(B|KiB|MiB|GiB)/s|off)$"))] String);

/// A duration, or "off".
#[derive(Debug, Deserialize, JsonSchema)]
struct DurationOrOff(#[schemars(regex(pattern = r"^(([0-9]+(ms|s|m|h))+|off)$"))] String);

/// The only word that means anything here: false.
#[derive(Debug, Deserialize, JsonSchema)]
struct Off(#[schemars(extend("const" = false))] bool);

/// A table, or `false` to turn it off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Switch<T> {
    Off(Off),
    On(T),
}

/// A table, or a word whether there is one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum OnOff<T> {
    Word(bool),
    On(T),
}

/// The configuration of shardgate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "shardgate")]
struct File {
    /// Other files of the same configuration: paths and globs, relative to this file.
    include: Option<Vec<String>>,
    /// Threads, draining, the default region.
    server: Option<Server>,
    /// Where clients connect.
    listeners: Option<Vec<Listener>>,
    /// The address for operators; false: none.
    admin: Option<Switch<Admin>>,
    /// The regions by name.
    regions: Option<BTreeMap<String, Region>>,
    /// Assets that have other names, too.
    assets: Option<BTreeMap<String, Asset>>,
    /// Which requests are served, and how their key is read.
    routes: Option<Vec<Route>>,
    /// What every pool starts from.
    defaults: Option<Settings>,
    /// The backends: pools.ASSET.REGION. The asset `*` stands for every asset without a pool of its own.
    pools: Option<BTreeMap<String, BTreeMap<String, Pool>>>,
    /// What clients may do.
    limits: Option<Limits>,
    /// What is logged, how, and where.
    log: Option<Log>,
    /// How many series there may be.
    metrics: Option<Metrics>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Workers {
    Auto(Auto),
    Count(#[schemars(range(min = 1, max = 1024))] u32),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Auto {
    Auto,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Server {
    /// Threads of the data plane. Default: "auto", one per core that this process may use.
    workers: Option<Workers>,
    /// After SIGTERM: serve on for so long while /readyz already fails. Default: "0s".
    drain_delay: Option<Duration>,
    /// Then: how long requests in flight may take. Default: "30s".
    drain_timeout: Option<Duration>,
    /// For requests that name none. Default: the only region; with several, required.
    default_region: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listener {
    /// Its label. Default: the bind address.
    name: Option<String>,
    /// IP:port, unix:PATH, or systemd:NAME.
    bind: String,
    /// What is spoken: "h1" (HTTP/1.1 and 1.0), "h2" (HTTP/2). Default: both.
    protocols: Option<Vec<ListenerProtocol>>,
    /// Whether each connection must begin with a header of the PROXY protocol, from one of trusted_proxies. Default: false.
    proxy_protocol: Option<bool>,
    /// Prefixes whose X-Forwarded-*, Forwarded and PROXY header are believed. Default: none.
    trusted_proxies: Option<Vec<String>>,
    /// Open connections of this listener. Default: no limit of its own.
    #[schemars(range(min = 1))]
    max_connections: Option<u32>,
    /// TLS towards clients. Default: none, in clear.
    tls: Option<ListenerTls>,
    /// Answers every request with a redirect to here, such as "https://{host}{target}". Default: requests are served.
    redirect: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ListenerProtocol {
    H1,
    H2,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Admin {
    /// Where. Default: "127.0.0.1:9600".
    bind: Option<String>,
    /// A file that holds the token for whatever writes.
    token_file: Option<String>,
    /// TLS of this address, with the keys of a listener's. A client certificate is worth what the token is. Default: none.
    tls: Option<ListenerTls>,
    /// Whether /metrics needs the token, too. Default: false.
    protect_metrics: Option<bool>,
    /// Where the operator's states are kept over restarts: a path or "off". Default: states.json in $STATE_DIRECTORY
    /// (systemd sets it), else "off".
    state_file: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Region {
    /// Prefixes of addresses that are local to this region; the longest one wins.
    clients: Option<Vec<String>>,
    /// Regions tried, in this order, when this one cannot serve.
    fallback: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Asset {
    /// Other names of it.
    aliases: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Open client connections. Default: 50000.
    #[schemars(range(min = 1))]
    max_connections: Option<u32>,
    /// Open connections of one client, an IPv4 address or a /64 of IPv6; 0: no limit. Default: 0.
    max_connections_per_client: Option<u32>,
    /// Bytes of a request head. Default: "16KiB".
    max_header_bytes: Option<Size>,
    /// Header fields of a request. Default: 100.
    #[schemars(range(min = 1))]
    max_headers: Option<u32>,
    /// Bytes of a request target. Default: "8KiB".
    max_target_bytes: Option<Size>,
    /// Bytes of a request body. Default: "16MiB".
    max_body_bytes: Option<Size>,
    /// Bytes of request heads that are not whole yet, over all connections. Default: "64MiB".
    max_buffered_bytes: Option<Size>,
    /// For a whole request head. Default: "10s".
    header_timeout: Option<Duration>,
    /// Between two requests of a connection. Default: "75s".
    idle_timeout: Option<Duration>,
    /// The least that a body must reach after a grace of 10 s. Default: "240B/s".
    min_body_rate: Option<Rate>,
    /// Streams that a connection of HTTP/2 may have open. Default: 100.
    #[schemars(range(min = 1, max = 10000))]
    h2_max_streams: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Log {
    /// The least severe that is written. Default: "info".
    level: Option<Level>,
    /// Default: "auto", text on a terminal, else JSON.
    format: Option<Format>,
    /// Where a line per request goes: "off", "stdout" or a path. Default: "stdout".
    access: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Auto,
    Text,
    Json,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Metrics {
    /// Pools that have series of their own; the rest are counted as `_other`. Default: 10000.
    max_pools: Option<u32>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use schemars::generate::SchemaSettings;

    use super::*;
    use crate::config::{pools, routes};

    fn keys<T: JsonSchema>() -> BTreeSet<String> {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
        let properties = schema.get("properties").and_then(|properties| properties.as_object()).expect("a table");
        properties.keys().cloned().collect()
    }

    fn same<T: JsonSchema>(known: &[&str]) {
        assert_eq!(keys::<T>(), known.iter().map(|key| (*key).to_owned()).collect(), "{}", T::schema_name());
    }

    #[test]
    fn the_mirror_has_the_keys_that_are_decoded() {
        same::<File>(super::super::KEYS);
        same::<Server>(super::super::server::KEYS);
        same::<Listener>(super::super::listeners::KEYS);
        same::<ListenerTls>(super::super::tls::KEYS);
        same::<tls::BackendTls>(pools::tls::KEYS);
        same::<tls::Certificate>(super::super::tls::CERTIFICATE_KEYS);
        same::<Admin>(super::super::admin::KEYS);
        same::<Region>(super::super::regions::KEYS);
        same::<Asset>(super::super::assets::KEYS);
        same::<Limits>(super::super::limits::KEYS);
        same::<Log>(super::super::log::KEYS);
        same::<Metrics>(super::super::metrics::KEYS);
        same::<Route>(routes::KEYS);
        same::<route::Rewrite>(routes::edits::REWRITE_KEYS);
        same::<route::Headers>(routes::edits::HEADERS_KEYS);
        same::<route::Edits>(routes::edits::EDITS_KEYS);
        same::<route::Respond>(routes::edits::RESPOND_KEYS);
        same::<Settings>(pools::settings::KEYS);
        same::<Pool>(pools::KEYS);
        same::<pool::Member>(pools::members::KEYS);
        same::<pool::Health>(pools::settings::HEALTH_KEYS);
        same::<pool::Agent>(pools::agent::KEYS);
        same::<pool::Retry>(pools::retry::KEYS);
        same::<pool::PoolLimits>(pools::settings::LIMITS_KEYS);
        same::<pool::Timeouts>(pools::settings::TIMEOUTS_KEYS);
        same::<pool::Failover>(pools::settings::FAILOVER_KEYS);
        same::<pool::Outlier>(pools::outlier::KEYS);
        same::<pool::SlowStart>(pools::outlier::SLOW_START_KEYS);
    }

    #[test]
    fn a_pool_knows_what_the_defaults_know() {
        let own = ["primaries", "replicas"];
        let settings: Vec<&str> = pools::KEYS.iter().copied().filter(|key| !own.contains(key)).collect();
        assert_eq!(settings, pools::settings::KEYS);
    }

    #[test]
    fn the_examples_fit_the_mirror() {
        let mut count = 0;
        for directory in ["config", "tests/config/good"] {
            for entry in std::fs::read_dir(directory).expect(directory) {
                let path = entry.expect("an entry").path();
                if path.extension().is_some_and(|extension| extension == "toml") {
                    let text = std::fs::read_to_string(&path).expect("text");
                    if let Err(error) = toml::from_str::<File>(&text) {
                        panic!("{}: {error}", path.display());
                    }
                    count += 1;
                }
            }
        }
        assert!(count > 3);
    }

    #[test]
    fn it_is_a_schema() {
        let schema = schema();
        assert_eq!(schema["title"], "shardgate");
        assert_eq!(schema["additionalProperties"], false);
        assert!(schema["properties"]["pools"]["description"].as_str().is_some_and(|text| text.contains('*')));
    }
}
