//! Everything about a pool but its members: `[defaults]`, and a pool's own tables merged over it key by key.
//!
//! Both are read by the same code into [`Overrides`], what a table says and nothing more. `[defaults]` over the built-in
//! defaults makes the settings that every pool starts from; a pool's own over those makes the pool's.

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::{agent, grpc, hash, outlier, retry, tls, wire};
use crate::config::context::Context;
use crate::config::decode::{Fields, boolean, expected_help, float, integer, table, text, word};
use crate::config::diagnostic::Fault;
use crate::config::hint::suggest;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::config::units::{duration, duration_or_off};
use crate::model::{
    Failover, HashSource, HealthCheck, HostHeader, HttpCheck, Limit, Outlier, Policy, PoolSettings, Protocol,
    ProxyProtocol, QueueOrder, Retry, RetryOverride, SlowStart, StatusRange, TimeoutsOverride, Via,
};

/// Of `[defaults]`; a pool has these and its members.
pub(in crate::config) const KEYS: &[&str] = &[
    "balance",
    "hash_on",
    "protocol",
    "proxy_protocol",
    "host",
    "via",
    "health",
    "outlier",
    "retry",
    "limits",
    "timeouts",
    "failover",
    "slow_start",
    "tls",
];
pub(in crate::config) const HEALTH_KEYS: &[&str] = &[
    "path",
    "grpc",
    "grpc_service",
    "host",
    "expect",
    "interval",
    "fast_interval",
    "timeout",
    "rise",
    "fall",
    "agent",
];
pub(in crate::config) const LIMITS_KEYS: &[&str] =
    &["max_connections", "max_requests", "adaptive", "max_queue", "queue_timeout", "queue_order"];
pub(in crate::config) const TIMEOUTS_KEYS: &[&str] =
    &["connect", "response", "idle", "exchange", "tunnel", "keepalive"];
pub(in crate::config) const FAILOVER_KEYS: &[&str] = &["overprovisioning", "panic_percent", "capacity"];

/// A request that waits holds its connection and what it has sent; more of them than that is no queue any more.
const MOST_QUEUED: u64 = 1_000_000;

/// What one table says.
#[derive(Debug, Default, PartialEq)]
pub(in crate::config) struct Overrides {
    balance: Option<(Policy, Span)>,
    hash_on: Option<(Vec<HashSource>, Span)>,
    protocol: Option<(Protocol, Span)>,
    proxy_protocol: Option<(ProxyProtocol, Span)>,
    host: Option<HostHeader>,
    via: Option<bool>,
    health: Option<Switch<HealthOverride>>,
    retry: Option<Switch<RetryOverride>>,
    limits: LimitOverride,
    timeouts: TimeoutsOverride,
    overprovisioning: Option<f64>,
    panic_percent: Option<u8>,
    /// `Some(None)`: off.
    capacity: Option<Option<u32>>,
    outlier: Option<Switch<outlier::Override>>,
    slow_start: Option<SlowStart>,
    tls: Option<Switch<tls::Override>>,
}

#[derive(Debug, Default, PartialEq)]
struct LimitOverride {
    max_connections: Option<u32>,
    max_requests: Option<u32>,
    adaptive: Option<bool>,
    max_queue: Option<u32>,
    queue_timeout: Option<std::time::Duration>,
    queue_order: Option<QueueOrder>,
}

/// `false` turns a thing off, a table turns it on.
#[derive(Debug, PartialEq)]
pub(in crate::config) enum Switch<T> {
    Off,
    On(T),
}

#[derive(Debug, Default, PartialEq)]
struct HealthOverride {
    path: Option<String>,
    /// `Some(None)`: not any more.
    grpc: Option<Option<String>>,
    host: Option<String>,
    expect: Option<StatusRange>,
    interval: Option<std::time::Duration>,
    fast_interval: Option<std::time::Duration>,
    timeout: Option<std::time::Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    agent: Option<Switch<agent::Override>>,
    /// Where the table stands, for what shows only after merging.
    spans: Spans,
}

/// Not part of what is said.
#[derive(Debug, Default, Clone, Copy)]
struct Spans {
    http_only: Option<Span>,
    host: Option<Span>,
    grpc: Option<Span>,
    fast_interval: Option<Span>,
}

impl PartialEq for Spans {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What holds where the file says nothing: checks by TCP connect, retries, and ejection.
pub(in crate::config) fn built_in() -> PoolSettings {
    PoolSettings {
        health: Some(HealthCheck::default()),
        retry: Some(Retry::default()),
        outlier: Some(Outlier::default()),
        ..PoolSettings::default()
    }
}

impl Overrides {
    /// Reads the keys of a table that [`KEYS`] names.
    pub(in crate::config) fn decode(cx: &Context<'_>, f: Fields<'_, '_, '_>) -> Self {
        let balance = f.get("balance").and_then(|value| Some((balance(cx, value)?, value.span)));
        let hash_on = f.get("hash_on").map(|value| (hash::decode(cx, value).unwrap_or_default(), value.span));
        // Of a policy that could not be read, nobody knows whether it would take them.
        let hash_on = hash_on.filter(|_| balance.is_some() || f.get("balance").is_none());
        let (overprovisioning, panic_percent, capacity) = failover(cx, f);
        Self {
            balance,
            hash_on,
            protocol: f.get("protocol").and_then(|value| Some((wire::protocol(cx, value)?, value.span))),
            proxy_protocol: f
                .get("proxy_protocol")
                .and_then(|value| Some((wire::proxy_protocol(cx, value)?, value.span))),
            host: f.read("host", host),
            via: f.read("via", boolean),
            health: f.read("health", |cx, value| switch(cx, value, "{ path = \"/healthz\" }", health)),
            retry: f.read("retry", |cx, value| switch(cx, value, "{ max = 1 }", retry::decode)),
            limits: f.read("limits", limits).unwrap_or_default(),
            timeouts: f.read("timeouts", timeouts).unwrap_or_default(),
            overprovisioning,
            panic_percent,
            capacity,
            outlier: f.read("outlier", |cx, value| switch(cx, value, "{ consecutive_errors = 5 }", outlier::decode)),
            slow_start: f.read("slow_start", outlier::slow_start),
            tls: f.read("tls", tls::decode),
        }
    }

    /// What it says of TLS, apart: that is more than what it comes to.
    pub(in crate::config) fn take_tls(&mut self) -> Option<Switch<tls::Override>> {
        self.tls.take()
    }

    /// Whether the table says nothing, so that what it would be merged over stands as it is.
    pub(in crate::config) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What this says, over `base`. TLS is for who has taken it to add.
    pub(in crate::config) fn over(self, cx: &Context<'_>, base: &PoolSettings) -> PoolSettings {
        let agent = match &self.health {
            None => base.agent,
            Some(Switch::Off) => None,
            Some(Switch::On(health)) => agent::merge(cx, health.agent.as_ref(), base.agent),
        };
        let proxy_protocol = self.proxy_protocol.map_or(base.proxy_protocol, |(version, _)| version);
        let said = self.balance.map(|(_, span)| span);
        let balance = self.balance.map_or(base.balance, |(balance, _)| balance);
        let protocol = self.protocol.map_or(base.protocol, |(protocol, _)| protocol);
        let grpc_span = match &self.health {
            Some(Switch::On(health)) => health.spans.grpc,
            _ => None,
        };
        let health = match self.health {
            None => base.health.clone(),
            Some(Switch::Off) => None,
            Some(Switch::On(health)) => Some(health.over(cx, base.health.clone().unwrap_or_default())),
        };
        if protocol != Protocol::H2
            && health.as_ref().is_some_and(|health| health.grpc.is_some())
            && let Some(span) = grpc_span.or(self.protocol.map(|(_, span)| span))
        {
            let fault = Fault::error(span, "the health protocol of gRPC needs HTTP/2");
            cx.note(fault.help("`protocol = \"h2\"`"));
        }
        if protocol == Protocol::H2 && proxy_protocol != ProxyProtocol::Off {
            wire::refuse_shared(cx, self.proxy_protocol.map(|(_, span)| span).or(self.protocol.map(|(_, span)| span)));
        }
        PoolSettings {
            balance,
            hash_on: hash::merge(cx, balance, said, self.hash_on, base),
            protocol,
            proxy_protocol,
            host: self.host.unwrap_or_else(|| base.host.clone()),
            tls: None,
            via: self.via.map_or(base.via, Via),
            health: health.map(|health| HealthCheck { proxy_protocol, ..health }),
            agent,
            retry: match self.retry {
                None => base.retry,
                Some(Switch::Off) => None,
                Some(Switch::On(retry)) => retry.over(Some(base.retry.unwrap_or_default())),
            },
            limits: self.limits.over(base.limits),
            timeouts: self.timeouts.over(base.timeouts),
            failover: Failover {
                overprovisioning: self.overprovisioning.unwrap_or(base.failover.overprovisioning),
                panic_percent: self.panic_percent.unwrap_or(base.failover.panic_percent),
                capacity: self.capacity.unwrap_or(base.failover.capacity),
            },
            outlier: match self.outlier {
                None => base.outlier,
                Some(Switch::Off) => None,
                Some(Switch::On(outlier)) => Some(outlier.over(cx, base.outlier.unwrap_or_default())),
            },
            slow_start: self.slow_start.unwrap_or(base.slow_start),
        }
    }
}

impl LimitOverride {
    fn over(self, base: Limit) -> Limit {
        Limit {
            max_connections: self.max_connections.unwrap_or(base.max_connections),
            max_requests: self.max_requests.unwrap_or(base.max_requests),
            adaptive: self.adaptive.unwrap_or(base.adaptive),
            max_queue: self.max_queue.unwrap_or(base.max_queue),
            queue_timeout: self.queue_timeout.unwrap_or(base.queue_timeout),
            queue_order: self.queue_order.unwrap_or(base.queue_order),
        }
    }
}

impl HealthOverride {
    fn over(self, cx: &Context<'_>, base: HealthCheck) -> HealthCheck {
        let (base_path, base_expect) = match base.http {
            Some(http) => (Some(http.path), http.expect),
            None => (None, StatusRange::default()),
        };
        // Of the two kinds the one that is said here.
        let base_grpc = base.grpc.filter(|_| self.path.is_none());
        let grpc = self.grpc.unwrap_or(base_grpc);
        let path = self.path.or(base_path.filter(|_| grpc.is_none()));
        let http = path.map(|path| HttpCheck { path, expect: self.expect.unwrap_or(base_expect) });
        let host = self.host.or(base.host).filter(|_| http.is_some() || grpc.is_some());
        let http_only = self.spans.http_only.or(self.spans.host.filter(|_| grpc.is_none()));
        if let (None, Some(span)) = (&http, http_only) {
            let fault = Fault::error(span, "this is for HTTP checks, and there is no `path`");
            cx.note(
                fault.help("add a path, such as `path = \"/healthz\"`; without one a check is a TCP connect").absence(),
            );
        }
        let interval = self.interval.unwrap_or(base.interval);
        let fast_interval = match (self.fast_interval, self.spans.fast_interval) {
            (Some(fast), Some(span)) if fast > interval => {
                cx.note(Fault::error(span, "`fast_interval` is longer than `interval`"));
                fast
            }
            (fast, _) => fast.unwrap_or(base.fast_interval.min(interval)),
        };
        HealthCheck {
            http,
            proxy_protocol: base.proxy_protocol,
            grpc,
            host,
            agent: None,
            interval,
            fast_interval,
            timeout: self.timeout.unwrap_or(base.timeout),
            rise: self.rise.unwrap_or(base.rise),
            fall: self.fall.unwrap_or(base.fall),
        }
    }
}

fn switch<T>(
    cx: &Context<'_>,
    value: &Value<'_>,
    example: &str,
    on: impl FnOnce(&Context<'_>, &Value<'_>) -> Option<T>,
) -> Option<Switch<T>> {
    match value.kind {
        Kind::Boolean(false) => Some(Switch::Off),
        Kind::Table(_) => on(cx, value).map(Switch::On),
        _ => {
            let help = format!("false turns it off, a table turns it on, such as {example}");
            expected_help(cx, value, "a table or false", Some(help));
            None
        }
    }
}

fn balance(cx: &Context<'_>, value: &Value<'_>) -> Option<Policy> {
    const KNOWN: [&str; 5] = ["least-request", "round-robin", "random", "maglev", "peak-ewma"];
    match text(cx, value)? {
        "least-request" => return Some(Policy::LeastRequest),
        "round-robin" => return Some(Policy::RoundRobin),
        "random" => return Some(Policy::Random),
        "maglev" => return Some(Policy::Maglev),
        "peak-ewma" => return Some(Policy::PeakEwma),
        other => {
            cx.note(Fault::error(value.span, format!("unknown policy `{other}`")).help(suggest(other, KNOWN, "one of")))
        }
    }
    None
}

fn host(cx: &Context<'_>, value: &Value<'_>) -> Option<HostHeader> {
    match text(cx, value)? {
        "preserve" => Some(HostHeader::Preserve),
        "backend" => Some(HostHeader::Backend),
        name => {
            let authority = authority(name).and_then(|name| HeaderValue::from_str(name).ok());
            if authority.is_none() {
                let fault = Fault::error(value.span, format!("`{name}` cannot be a Host"));
                cx.note(fault.help("\"preserve\", \"backend\", or a name such as \"btc.internal\""));
            }
            authority.map(HostHeader::Name)
        }
    }
}

/// A host name or address with or without a port.
fn authority(text: &str) -> Option<&str> {
    let parsed = text.parse::<http::uri::Authority>().ok()?;
    (!text.contains('@') && !parsed.host().is_empty()).then_some(text)
}

fn health(cx: &Context<'_>, value: &Value<'_>) -> Option<HealthOverride> {
    let f = Fields::new(cx, table(cx, value)?, HEALTH_KEYS, "a `health` table");
    let grpc_span = f.span("grpc_service").or(f.span("grpc"));
    if let (Some(grpc), Some(path)) = (grpc_span, f.span("path")) {
        let fault = Fault::error(grpc, "a check is either a GET or a call of gRPC");
        cx.note(fault.also(path, "the other is here"));
    }
    Some(HealthOverride {
        path: f.read("path", check_path),
        grpc: grpc::decode(cx, &f),
        host: f.read("host", |cx, value| {
            let name = text(cx, value)?;
            if authority(name).is_none() {
                cx.note(Fault::error(value.span, format!("`{name}` cannot be a Host")));
            }
            Some(name.to_owned())
        }),
        expect: f.read("expect", status_range),
        interval: f.read("interval", duration),
        fast_interval: f.read("fast_interval", duration),
        timeout: f.read("timeout", duration),
        rise: f.read("rise", integer(1..=1000)),
        fall: f.read("fall", integer(1..=1000)),
        agent: f.read("agent", |cx, value| switch(cx, value, "{ port = 9101 }", agent::decode)),
        spans: Spans {
            // A path that is faulty is not a path that is missing.
            http_only: f.span("expect").filter(|_| f.get("path").is_none()),
            host: f.span("host").filter(|_| f.get("path").is_none()),
            grpc: grpc_span,
            fast_interval: f.get("fast_interval").map(|value| value.span),
        },
    })
}

fn check_path(cx: &Context<'_>, value: &Value<'_>) -> Option<String> {
    let path = text(cx, value)?;
    let fault = Fault::error(value.span, format!("`{path}` cannot be the target of a check"));
    if !path.starts_with('/') {
        cx.note(fault.help(format!("a target starts with a slash: \"/{path}\"")));
    } else if !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') || PathAndQuery::try_from(path).is_err() {
        cx.note(fault.help("visible ASCII characters without `#`, `<` and the like; encode others as %XX"));
    } else {
        return Some(path.to_owned());
    }
    None
}

/// `"200"` or `"200-299"`.
fn status_range(cx: &Context<'_>, value: &Value<'_>) -> Option<StatusRange> {
    let text = text(cx, value)?;
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code) && text.len() == 3);
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Some(StatusRange { low, high }),
        _ => {
            let fault = Fault::error(value.span, format!("`{text}` is not a range of status codes"));
            cx.note(fault.help("\"200\", or the first and the last that pass: \"200-299\""));
            None
        }
    }
}

fn limits(cx: &Context<'_>, value: &Value<'_>) -> Option<LimitOverride> {
    let f = Fields::new(cx, table(cx, value)?, LIMITS_KEYS, "a pool's `limits` table");
    let count = |key: &str| f.read(key, integer(1..=u64::from(u32::MAX)));
    Some(LimitOverride {
        max_connections: count("max_connections"),
        max_requests: count("max_requests"),
        adaptive: f.read("adaptive", boolean),
        max_queue: f.read("max_queue", integer(0..=MOST_QUEUED)),
        queue_timeout: f.read("queue_timeout", duration),
        queue_order: f.read("queue_order", queue_order),
    })
}

fn queue_order(cx: &Context<'_>, value: &Value<'_>) -> Option<QueueOrder> {
    word(cx, value, &[("fifo", QueueOrder::Fifo), ("lifo", QueueOrder::Lifo)])
}

/// Of a pool, and of a route.
pub(in crate::config) fn timeouts(cx: &Context<'_>, value: &Value<'_>) -> Option<TimeoutsOverride> {
    let f = Fields::new(cx, table(cx, value)?, TIMEOUTS_KEYS, "a `timeouts` table");
    Some(TimeoutsOverride {
        connect: f.read("connect", duration),
        response: f.read("response", duration),
        idle: f.read("idle", duration),
        exchange: f.read("exchange", duration_or_off),
        tunnel: f.read("tunnel", duration_or_off),
        keepalive: f.read("keepalive", duration),
    })
}

fn failover(cx: &Context<'_>, f: Fields<'_, '_, '_>) -> (Option<f64>, Option<u8>, Option<Option<u32>>) {
    let Some(failover) = f.read("failover", |cx, value| table(cx, value)) else { return (None, None, None) };
    let f = Fields::new(cx, failover, FAILOVER_KEYS, "a `failover` table");
    let overprovisioning = f.read("overprovisioning", |cx, value| match value.kind {
        Kind::Integer(percent @ 101..) => {
            let fault = Fault::error(value.span, "expected a number from 1 to 100");
            cx.note(fault.help(format!("a factor, not a percentage: {}", percent as f64 / 100.0)));
            None
        }
        _ => float(cx, value, 1.0..=100.0),
    });
    let capacity = f.read("capacity", |cx, value| match &value.kind {
        Kind::String(text) if text == "off" => Some(None),
        Kind::Integer(_) => integer(1..=u64::from(u32::MAX))(cx, value).map(Some),
        _ => {
            expected_help(cx, value, "a whole number or \"off\"", Some("requests in flight per unit of weight".into()));
            None
        }
    });
    (overprovisioning, f.read("panic_percent", integer(0..=100)), capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_turns_on_what_is_off() {
        let off = PoolSettings { health: None, retry: None, ..built_in() };
        let environment = |_: &str| None;
        let cx = Context::new(&environment);
        let on = Overrides {
            health: Some(Switch::On(HealthOverride::default())),
            retry: Some(Switch::On(RetryOverride::default())),
            ..Overrides::default()
        };
        assert!(!on.is_empty());
        assert_eq!(on.over(&cx, &off), built_in());
        let none = Overrides { health: Some(Switch::Off), retry: Some(Switch::Off), ..Overrides::default() };
        assert_eq!(none.over(&cx, &built_in()), off);
    }

    #[test]
    fn hosts() {
        assert_eq!(authority("btc.internal:80"), Some("btc.internal:80"));
        assert_eq!(authority("u@h"), None);
        assert_eq!(authority("a b"), None);
    }
}
