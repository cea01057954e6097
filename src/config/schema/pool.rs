//! `[defaults]` and `[pools.ASSET.REGION]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::tls::BackendTls;
use super::{Duration, DurationOrOff, OnOff, Size, Switch};

/// What a pool's members share.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// How one backend is picked within a tier. Default: "least-request".
    balance: Option<Balance>,
    /// What "maglev" spreads requests by: the sources of routes, without `?`, and uri. Required with it, refused without.
    #[schemars(length(min = 1))]
    hash_on: Option<Vec<String>>,
    /// What is spoken to backends: HTTP/1.1, or HTTP/2 in clear text. Default: "h1".
    protocol: Option<Protocol>,
    /// What each connection to a backend begins with. Default: "off".
    proxy_protocol: Option<ProxyProtocol>,
    /// TLS to backends; true: with the system's authorities and the backends' own names. Default: false.
    tls: Option<OnOff<BackendTls>>,
    /// The Host that a backend sees: "preserve", "backend" or a name. Default: "preserve".
    host: Option<String>,
    /// Whether Via is sent to backends. Default: true.
    via: Option<bool>,
    /// Active checks; false: none. Default: a TCP connect.
    health: Option<Switch<Health>>,
    /// When the errors of requests take a backend out; false: never.
    outlier: Option<Switch<Outlier>>,
    /// When a try is repeated that a backend may have seen; false: never.
    retry: Option<Switch<Retry>>,
    /// What one backend may be given, and how requests wait for it.
    limits: Option<PoolLimits>,
    /// How long an exchange with a backend may take.
    timeouts: Option<Timeouts>,
    /// When load moves on to the next tier.
    failover: Option<Failover>,
    /// How a backend that was added or has come back is loaded.
    slow_start: Option<SlowStart>,
}

/// The backends for one asset in one region. What is not said here is as in [defaults].
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    /// Backends that serve while they can.
    primaries: Option<Vec<MemberOrAddress>>,
    /// Backends that serve what the primaries cannot.
    replicas: Option<Vec<MemberOrAddress>>,
    /// How one backend is picked within a tier.
    balance: Option<Balance>,
    /// What "maglev" spreads requests by: the sources of routes, without `?`, and uri. Required with it, refused without.
    #[schemars(length(min = 1))]
    hash_on: Option<Vec<String>>,
    /// What is spoken to backends: HTTP/1.1, or HTTP/2 in clear text. Default: "h1".
    protocol: Option<Protocol>,
    /// What each connection to a backend begins with.
    proxy_protocol: Option<ProxyProtocol>,
    /// TLS to backends; true: with the system's authorities and the backends' own names. Default: false.
    tls: Option<OnOff<BackendTls>>,
    /// The Host that a backend sees: "preserve", "backend" or a name.
    host: Option<String>,
    /// Whether Via is sent to backends.
    via: Option<bool>,
    /// Active checks; false: none.
    health: Option<Switch<Health>>,
    /// When the errors of requests take a backend out; false: never.
    outlier: Option<Switch<Outlier>>,
    /// When a try is repeated that a backend may have seen; false: never.
    retry: Option<Switch<Retry>>,
    /// What one backend may be given, and how requests wait for it.
    limits: Option<PoolLimits>,
    /// How long an exchange with a backend may take.
    timeouts: Option<Timeouts>,
    /// When load moves on to the next tier.
    failover: Option<Failover>,
    /// How a backend that was added or has come back is loaded.
    slow_start: Option<SlowStart>,
}

/// host:port, [IPv6]:port or unix:PATH, alone or with a weight.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum MemberOrAddress {
    Address(String),
    Member(Member),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    /// host:port, [IPv6]:port or unix:PATH.
    address: String,
    /// Relative capacity. Default: 1.
    #[schemars(range(min = 1))]
    weight: Option<u16>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Balance {
    LeastRequest,
    RoundRobin,
    Random,
    Maglev,
    PeakEwma,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    H1,
    H2,
}

/// Whether the client's address goes first, and in which version of the PROXY protocol.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ProxyProtocol {
    Off,
    V1,
    V2,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    /// The target of a GET; without one a check is a TCP connect.
    path: Option<String>,
    /// Instead: the health protocol of gRPC, asked for the server as a whole; needs protocol = "h2". Default: false.
    grpc: Option<bool>,
    /// The same, asked for this service.
    #[schemars(length(max = 127))]
    grpc_service: Option<String>,
    /// The Host of a check. Default: the backend's address.
    host: Option<String>,
    /// The status that passes, "200" or "200-299". Default: "200-299".
    #[schemars(regex(pattern = r"^[1-5][0-9]{2}(-[1-5][0-9]{2})?$"))]
    expect: Option<String>,
    /// Between two checks of a backend. Default: "2s".
    interval: Option<Duration>,
    /// The same while a backend is in transition. Default: "500ms", or `interval` if that is shorter.
    fast_interval: Option<Duration>,
    /// For one check. Default: "1s".
    timeout: Option<Duration>,
    /// Passes in a row that bring a backend up. Default: 2.
    #[schemars(range(min = 1, max = 1000))]
    rise: Option<u32>,
    /// Failures in a row that take it down. Default: 3.
    #[schemars(range(min = 1, max = 1000))]
    fall: Option<u32>,
    /// An agent beside each backend that says how it is; false: none. Default: none.
    agent: Option<Switch<Agent>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    /// The port at the backend's host on which it answers with a line.
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// Between two questions. Default: "2s".
    interval: Option<Duration>,
    /// For one answer. Default: "1s".
    timeout: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Retry {
    /// Further tries after one that a backend may have seen. Default: 2.
    #[schemars(range(max = 100))]
    max: Option<u32>,
    /// After which failures. Default: all three.
    on: Option<Vec<RetryOn>>,
    /// How long one try may take until its response head. Default: "off".
    per_try_timeout: Option<DurationOrOff>,
    /// Retries at once, in percent of the requests in flight. Default: 20.
    #[schemars(range(max = 100))]
    budget_percent: Option<u32>,
    /// Retries at once that are always allowed. Default: 3.
    budget_min: Option<u32>,
    /// A larger request body is not replayed. Default: "64KiB".
    body_limit: Option<Size>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum RetryOn {
    ConnectFailure,
    Reset,
    GatewayError,
    GrpcUnavailable,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolLimits {
    /// Open connections to one backend, over all workers. Default: 1024.
    #[schemars(range(min = 1))]
    max_connections: Option<u32>,
    /// Requests in flight at one backend. Default: 1024.
    #[schemars(range(min = 1))]
    max_requests: Option<u32>,
    /// Whether fewer are let in when more would only wait in the backend. Default: false.
    adaptive: Option<bool>,
    /// Requests of the pool that wait while all its backends are full; 0: none does. Default: 1024.
    #[schemars(range(max = 1000000))]
    max_queue: Option<u32>,
    /// How long one waits at most. Default: "1s".
    queue_timeout: Option<Duration>,
    /// Who is next: "fifo", or "lifo" for the newest first. Default: "fifo".
    queue_order: Option<QueueOrder>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum QueueOrder {
    Fifo,
    Lifo,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Timeouts {
    /// Until a connection stands. Default: "1s".
    connect: Option<Duration>,
    /// Per try, until the response head. Default: "10s".
    response: Option<Duration>,
    /// Between two reads or writes of a body. Default: "60s".
    idle: Option<Duration>,
    /// From the request's head to the end of the answer, bodies included. Default: "off".
    exchange: Option<DurationOrOff>,
    /// How long a tunnel, such as a WebSocket, may be idle both ways. Default: "1h".
    tunnel: Option<DurationOrOff>,
    /// How long an idle connection is kept. Default: "4s".
    keepalive: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Failover {
    /// A tier's usable share is multiplied by this before the next one gets any load. Default: 1.4.
    #[schemars(range(min = 1.0, max = 100.0))]
    overprovisioning: Option<f64>,
    /// Below this usable share, and with no room elsewhere, unusable backends are used again; 0: never. Default: 50.
    #[schemars(range(max = 100))]
    panic_percent: Option<u8>,
    /// Requests in flight per unit of usable weight, beyond which other regions' requests are not taken; "off": no such
    /// bound. Default: "off".
    capacity: Option<CapacityOrOff>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Outlier {
    /// Errors in a row that eject a backend. Default: 5.
    #[schemars(range(min = 1, max = 1_000_000))]
    consecutive_errors: Option<u32>,
    /// How long the first ejection lasts. Default: "30s".
    base_ejection: Option<Duration>,
    /// No ejection lasts longer. Default: "300s".
    max_ejection: Option<Duration>,
    /// How many of a pool's backends may be ejected at once. Default: 50.
    #[schemars(range(max = 100))]
    max_ejected_percent: Option<u8>,
    /// false: ejections are counted only. Default: true.
    enforce: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SlowStart {
    /// From a tenth of its weight to all of it; "0s": at once. Default: "0s".
    window: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum CapacityOrOff {
    Capacity(#[schemars(range(min = 1))] u32),
    Off(Word),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    Off,
}
