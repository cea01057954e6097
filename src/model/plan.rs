//! The whole of a configuration, checked.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Action, Bind, Pool, RegionId, Route, Tls};

/// The whole of a configuration, checked. Every name in it has been resolved, every number is in range.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of all that was read: the files' text and what the environment put into it. 16 hex digits, for `config_info`.
    pub hash: String,
    /// Every file that was read, the main one first; none: it was a text.
    pub files: Vec<PathBuf>,
    /// `[server]`
    pub server: Server,
    /// `[[listeners]]`; at least one; names are unique.
    pub listeners: Vec<Listener>,
    /// `[admin]`; `None`: `admin = false`.
    pub admin: Option<Admin>,
    /// `[regions.*]`, in the order of the file.
    pub regions: Vec<Region>,
    /// Every asset that stands in `[assets]` or has a pool; `*` is not one of them.
    pub assets: Vec<Asset>,
    /// `[pools.*.*]`, sorted by asset (`*` last) and region, so that an asset's pools are neighbours.
    pub pools: Vec<Pool>,
    /// `[[routes]]`, in the order of the files.
    pub routes: Vec<Route>,
    /// `[limits]`
    pub limits: Limits,
    /// `[log]`
    pub log: Log,
    /// `metrics.max_pools`: pools that get series of their own; the rest share `_other`.
    pub max_metric_pools: usize,
}

impl Plan {
    /// The same without anything to serve: what is in force until the first round of checks is over.
    pub fn of_nothing(&self) -> Self {
        Self {
            hash: self.hash.clone(),
            files: self.files.clone(),
            server: self.server.clone(),
            listeners: self.listeners.clone(),
            admin: self.admin.clone(),
            regions: self.regions.clone(),
            assets: Vec::new(),
            pools: Vec::new(),
            routes: Vec::new(),
            limits: self.limits,
            log: self.log.clone(),
            max_metric_pools: self.max_metric_pools,
        }
    }
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Threads of the data plane; `None`: one per core that this process may use.
    pub workers: Option<usize>,
    /// After SIGTERM, how long serving goes on as before while `/readyz` already fails.
    pub drain_delay: Duration,
    /// Then, how long requests in flight may take.
    pub drain_timeout: Duration,
    /// For requests that name none.
    pub default_region: RegionId,
}

/// `[[listeners]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its label; the bind address unless said otherwise.
    pub name: Arc<str>,
    /// Where.
    pub bind: Bind,
    /// What is spoken.
    pub protocols: Protocols,
    /// Whether each connection must begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whose word about clients is believed: X-Forwarded-*, Forwarded, the header of the PROXY protocol.
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections, over all workers.
    pub max_connections: Option<u32>,
    /// `None`: in clear.
    pub tls: Option<Tls>,
    /// Every request is answered with this redirect, whatever its route. `None`: requests are served.
    pub redirect: Option<Action>,
}

impl Listener {
    /// One with all defaults.
    pub fn new(name: &str, bind: Bind) -> Self {
        Self {
            name: name.into(),
            bind,
            protocols: Protocols::default(),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            max_connections: None,
            tls: None,
            redirect: None,
        }
    }
}

/// Which versions of HTTP a listener speaks; at least one. Over TLS the client chooses by ALPN, in clear by its preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    /// HTTP/1.1 and 1.0.
    pub h1: bool,
    /// HTTP/2.
    pub h2: bool,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { h1: true, h2: true }
    }
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where.
    pub bind: Bind,
    /// The secret itself, read from `token_file`; `Secret` hides it from logs.
    pub token: Option<Secret>,
    /// Where that was read.
    pub token_file: Option<PathBuf>,
    /// `None`: in clear. With `client_auth`, a certificate is worth what the token is.
    pub tls: Option<Tls>,
    /// Whether `/metrics` needs the token too, on a bind beyond loopback.
    pub protect_metrics: bool,
    /// Where the operator's states are kept over restarts; `None`: nowhere.
    pub state_file: Option<PathBuf>,
}

/// Something that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// `[regions.*]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// As the file spells it.
    pub name: Arc<str>,
    /// Addresses that are local to it.
    pub clients: Vec<IpNet>,
    /// Regions tried, in this order, when it can't serve.
    pub fallback: Vec<RegionId>,
}

/// `[assets.*]`, or named by a pool alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asset {
    /// As the file spells it.
    pub name: Arc<str>,
    /// Other names of it.
    pub aliases: Vec<String>,
}

/// `[limits]`: what clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open client connections, over all listeners and workers.
    pub max_connections: u32,
    /// The same for one client, which is an IPv4 address or a /64 of IPv6; 0: no limit.
    pub max_connections_per_client: u32,
    /// Bytes of a request head.
    pub max_header_bytes: u32,
    /// Header fields of a request.
    pub max_headers: u32,
    /// Bytes of a request target.
    pub max_target_bytes: u32,
    /// Bytes of a request body.
    pub max_body_bytes: u64,
    /// Bytes of heads that have begun and are not whole, over all connections.
    pub max_buffered_bytes: u64,
    /// For a whole request head, from its first byte (or from the accept, for the first).
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Bytes per second that a body must reach after a grace of 10 s, both directions; 0: no minimum.
    pub min_body_rate: u64,
    /// Streams that a connection of HTTP/2 may have open.
    pub h2_max_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 50_000,
            max_connections_per_client: 0,
            max_header_bytes: 16 * 1024,
            max_headers: 100,
            max_target_bytes: 8 * 1024,
            max_body_bytes: 16 * 1024 * 1024,
            max_buffered_bytes: 64 * 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            min_body_rate: 240,
            h2_max_streams: 100,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// The least severe that is written.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
    /// Where a line per request goes.
    pub access: LogSink,
}

/// See [`Log::level`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the words of every log")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// See [`Log::format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// See [`Log::access`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LogSink {
    /// None.
    Off,
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file; SIGUSR1 opens it anew.
    File(PathBuf),
}
