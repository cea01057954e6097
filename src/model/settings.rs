//! What a pool can be told: policy, checks, retries, limits, timeouts, failover. The defaults of each stand here and
//! nowhere else; the reference, the schema and `config` all take them from `Default`.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{Address, BackendTls, Outlier, ProxyProtocol, SlowStart, SourceKind, TlsTo};

/// Everything about a pool but its members. `[defaults]`, with the pool's own table merged over it key by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PoolSettings {
    /// How one backend is picked within a tier.
    pub balance: Policy,
    /// What a request is spread by, in order: the first source that yields decides. Empty but for [`Policy::Maglev`].
    pub hash_on: Vec<HashSource>,
    /// What is spoken to the backend.
    pub protocol: Protocol,
    /// What each connection begins with.
    pub proxy_protocol: ProxyProtocol,
    /// `None`: in clear.
    pub tls: Option<Arc<BackendTls>>,
    /// The Host that the backend sees.
    pub host: HostHeader,
    /// Whether `Via` is sent to the backend. Off helps nginx backends, which stop compressing when they see it.
    pub via: Via,
    /// `None`: no checks, every backend counts as up.
    pub health: Option<HealthCheck>,
    /// `None`: no agent is asked.
    pub agent: Option<AgentCheck>,
    /// `None`: a try that a backend may have seen is never repeated.
    pub retry: Option<Retry>,
    /// Per backend, over all workers.
    pub limits: Limit,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When and how load moves on to the next tier.
    pub failover: Failover,
    /// `None`: errors of requests take no backend out.
    pub outlier: Option<Outlier>,
    /// How long a backend that was added or has come back takes to its full weight.
    pub slow_start: SlowStart,
}

impl PoolSettings {
    /// Whom a backend of this address, as the file has it, has to be inside TLS.
    pub fn tls_to(&self, address: &Address) -> Option<Arc<TlsTo>> {
        let settings = Arc::clone(self.tls.as_ref()?);
        let name = settings.name_of(address)?;
        Some(Arc::new(TlsTo { settings, name }))
    }
}

/// How one backend is picked within a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// The less loaded of two drawn at random, load being requests in flight over weight.
    #[default]
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// The same one for the same key, as long as it is there and not much busier than the others.
    Maglev,
    /// Of two drawn at random, the one that is expected to answer sooner.
    PeakEwma,
}

impl Policy {
    /// The word in the file, the API and `explain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastRequest => "least-request",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::Maglev => "maglev",
            Self::PeakEwma => "peak-ewma",
        }
    }
}

/// One thing that a request can be spread by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashSource {
    /// What a key can be read from, too. Captures are those of the route that matched: one that has none of this name
    /// says nothing.
    Part(SourceKind),
    /// The whole target, as it was sent.
    Uri,
}

/// What is spoken to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2, without asking first (RFC 9113, 3.3).
    H2,
}

/// The Host that a backend sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HostHeader {
    /// As the client sent it.
    #[default]
    Preserve,
    /// The backend's own address.
    Backend,
    /// A fixed name.
    Name(HeaderValue),
}

/// Whether `Via` is sent to a backend; on unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Via(pub bool);

impl Default for Via {
    fn default() -> Self {
        Self(true)
    }
}

/// An active health check. Equal checks of one backend are done once, whatever number of pools it is in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// `None`: a TCP connect that succeeds is a pass.
    pub http: Option<HttpCheck>,
    /// What each connection begins with: as those for requests, but for nobody.
    pub proxy_protocol: ProxyProtocol,
    /// Instead: the health protocol of gRPC, asked for this service; empty: for the server as a whole.
    pub grpc: Option<String>,
    /// Host to send; `None`: the backend's address.
    pub host: Option<String>,
    /// Instead of a check: the port at which an agent is asked what it says of the backend.
    pub agent: Option<NonZeroU16>,
    /// Between two checks of one backend.
    pub interval: Duration,
    /// The same while its state is about to change, or is not known yet.
    pub fast_interval: Duration,
    /// For one check, from connect to the response head.
    pub timeout: Duration,
    /// Passes in a row that bring a backend up. The very first check needs only one.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

impl HealthCheck {
    /// Whether the other one asks the same in the same way, at whatever times.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let Self { interval, fast_interval, timeout, rise, fall, .. } = *other;
        Self { interval, fast_interval, timeout, rise, fall, ..self.clone() } == *other
    }
}

/// The HTTP part of a check: a GET of a path, and the status that passes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// The request target.
    pub path: String,
    /// Which status passes.
    pub expect: StatusRange,
}

/// An inclusive range of status codes, `"200"` or `"200-299"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// The lowest that passes.
    pub low: u16,
    /// The highest that passes.
    pub high: u16,
}

impl StatusRange {
    /// Whether a status passes.
    pub fn contains(self, status: u16) -> bool {
        (self.low..=self.high).contains(&status)
    }
}

impl Default for StatusRange {
    fn default() -> Self {
        Self { low: 200, high: 299 }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            http: None,
            proxy_protocol: ProxyProtocol::Off,
            grpc: None,
            host: None,
            agent: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
        }
    }
}

/// An agent beside each backend: what listens at its host on another port, and says in a line how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AgentCheck {
    /// Where.
    pub port: NonZeroU16,
    /// Between two questions.
    pub interval: Duration,
    /// For one answer, from connect to the end of the line.
    pub timeout: Duration,
}

impl AgentCheck {
    /// Between two questions, unless said otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// For one answer, unless said otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(1);

    /// The check that asks it. One word is enough.
    pub fn as_check(&self) -> HealthCheck {
        let Self { port, interval, timeout } = *self;
        let agent = Some(port);
        HealthCheck { agent, interval, fast_interval: interval, timeout, rise: 1, fall: 1, ..HealthCheck::default() }
    }
}

/// When a try that a backend may have seen is repeated. Tries that failed before any byte was written are free and are
/// not ruled by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Further tries after the first that a backend may have seen.
    pub max: u32,
    /// After which failures.
    pub on: RetryOn,
    /// How long one try may take until its response head; `None`: `timeouts.response` alone rules.
    pub per_try_timeout: Option<Duration>,
    /// Retries at once, in percent of the requests in flight.
    pub budget_percent: u32,
    /// Retries at once that are always allowed.
    pub budget_min: u32,
    /// Bytes of a request body kept for replay; a larger body is not replayed.
    pub body_limit: u64,
}

/// After which failures a retry is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryOn {
    /// The connection could not be made (tries beyond the free ones).
    pub connect_failure: bool,
    /// The connection broke, or the answer was garbage, before the response head was complete; a time-out, too.
    pub reset: bool,
    /// The backend answered 502, 503 or 504.
    pub gateway_error: bool,
    /// The backend ended a call of gRPC at once with UNAVAILABLE. To say so is to say that calls may be repeated.
    pub grpc_unavailable: bool,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self { connect_failure: true, reset: true, gateway_error: true, grpc_unavailable: false }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max: 2,
            on: RetryOn::default(),
            per_try_timeout: None,
            budget_percent: 20,
            budget_min: 3,
            body_limit: 64 * 1024,
        }
    }
}

/// What a route says about retries, over what its pool says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOverride {
    /// `retry = false`.
    pub off: bool,
    /// See [`Retry::max`].
    pub max: Option<u32>,
    /// See [`Retry::on`].
    pub on: Option<RetryOn>,
    /// See [`Retry::per_try_timeout`]; `Some(None)` is "off".
    pub per_try_timeout: Option<Option<Duration>>,
    /// See [`Retry::budget_percent`].
    pub budget_percent: Option<u32>,
    /// See [`Retry::budget_min`].
    pub budget_min: Option<u32>,
    /// See [`Retry::body_limit`].
    pub body_limit: Option<u64>,
}

impl RetryOverride {
    /// The route's word over the pool's. A table turns on what the pool turned off.
    pub fn over(&self, pool: Option<Retry>) -> Option<Retry> {
        if self.off {
            return None;
        }
        if *self == Self::default() {
            return pool;
        }
        let base = pool.unwrap_or_default();
        Some(Retry {
            max: self.max.unwrap_or(base.max),
            on: self.on.unwrap_or(base.on),
            per_try_timeout: self.per_try_timeout.unwrap_or(base.per_try_timeout),
            budget_percent: self.budget_percent.unwrap_or(base.budget_percent),
            budget_min: self.budget_min.unwrap_or(base.budget_min),
            body_limit: self.body_limit.unwrap_or(base.body_limit),
        })
    }
}

/// What one backend may be given, over all workers together, and how requests wait when all have that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Open connections, idle ones included.
    pub max_connections: u32,
    /// Requests in flight.
    pub max_requests: u32,
    /// Whether fewer are let in when more would only wait in the backend.
    pub adaptive: bool,
    /// Requests of the pool that wait, over all workers; 0: none does.
    pub max_queue: u32,
    /// How long one request waits at most, all in all.
    pub queue_timeout: Duration,
    /// Who is next.
    pub queue_order: QueueOrder,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_requests: 1024,
            adaptive: false,
            max_queue: 1024,
            queue_timeout: Duration::from_secs(1),
            queue_order: QueueOrder::default(),
        }
    }
}

/// Which of the requests that wait is served next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QueueOrder {
    /// The one that came first.
    #[default]
    Fifo,
    /// The one that came last: its client is the likeliest to be there still.
    Lifo,
}

/// How long an exchange with a backend may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Per try, until the response head.
    pub response: Duration,
    /// Between two reads or writes of a body.
    pub idle: Duration,
    /// From the request's head to the end of the answer, bodies included; `None`: as long as it takes.
    pub exchange: Option<Duration>,
    /// How long a tunnel may be idle both ways; `None`: for ever.
    pub tunnel: Option<Duration>,
    /// How long an idle connection is kept for reuse.
    pub keepalive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            exchange: None,
            tunnel: Some(Duration::from_secs(3600)),
            keepalive: Duration::from_secs(4),
        }
    }
}

/// What a route says about timeouts, over what its pool says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeoutsOverride {
    /// See [`Timeouts::connect`].
    pub connect: Option<Duration>,
    /// See [`Timeouts::response`].
    pub response: Option<Duration>,
    /// See [`Timeouts::idle`].
    pub idle: Option<Duration>,
    /// See [`Timeouts::exchange`].
    pub exchange: Option<Option<Duration>>,
    /// See [`Timeouts::tunnel`].
    pub tunnel: Option<Option<Duration>>,
    /// See [`Timeouts::keepalive`].
    pub keepalive: Option<Duration>,
}

impl TimeoutsOverride {
    /// The route's word over the pool's.
    pub fn over(&self, pool: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(pool.connect),
            response: self.response.unwrap_or(pool.response),
            idle: self.idle.unwrap_or(pool.idle),
            exchange: self.exchange.unwrap_or(pool.exchange),
            tunnel: self.tunnel.unwrap_or(pool.tunnel),
            keepalive: self.keepalive.unwrap_or(pool.keepalive),
        }
    }
}

/// When load moves on to the next tier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Failover {
    /// A tier's usable share is multiplied by this before the next one gets any load. At least 1.
    pub overprovisioning: f64,
    /// Below this usable share of a tier, and with no room elsewhere, unusable backends are used again; 0: never.
    pub panic_percent: u8,
    /// Requests in flight per unit of weight that the pool is sized for: beyond that it takes no requests that other
    /// regions fail over to it. `None`: it takes them as long as its limits allow.
    pub capacity: Option<u32>,
}

impl Default for Failover {
    fn default() -> Self {
        Self { overprovisioning: 1.4, panic_percent: 50, capacity: None }
    }
}
