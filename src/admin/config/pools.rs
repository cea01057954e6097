//! A pool as the file would have it, with everything in it that it starts from.

use serde_json::{Map, Value, json};

use super::words::{duration, duration_or_off, path, size};
use crate::model::{
    AgentCheck, BackendTls, HashSource, HealthCheck, HostHeader, Limit, Outlier, Pool, PoolSettings, Protocol,
    ProxyProtocol, QueueOrder, Retry, RetryOn, Role, SourceKind,
};

/// What stands for something that must not be told.
pub(super) const HIDDEN: &str = "[hidden]";

/// `[pools.ASSET.REGION]`
pub(super) fn pool(pool: &Pool) -> Value {
    let members = |role: Role| -> Vec<Value> {
        let of_role = pool.members.iter().filter(|member| member.role == role);
        of_role.map(|member| json!({ "address": member.address.to_string(), "weight": member.weight })).collect()
    };
    let mut table = settings(&pool.settings);
    table.insert("primaries".into(), members(Role::Primary).into());
    table.insert("replicas".into(), members(Role::Replica).into());
    table.into()
}

fn settings(settings: &PoolSettings) -> Map<String, Value> {
    // Taken apart, so that a setting that is added later can't be forgotten here.
    let PoolSettings {
        balance,
        hash_on,
        protocol,
        proxy_protocol,
        tls,
        host,
        via,
        health,
        agent,
        retry,
        limits,
        timeouts,
        failover,
        outlier,
        slow_start,
    } = settings;
    let mut table = Map::new();
    let mut set = |key: &str, value: Value| {
        table.insert(key.to_owned(), value);
    };
    set("balance", balance.as_str().into());
    if !hash_on.is_empty() {
        set("hash_on", hash_on.iter().map(hash_source).collect());
    }
    set(
        "protocol",
        match protocol {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
        }
        .into(),
    );
    set(
        "proxy_protocol",
        match proxy_protocol {
            ProxyProtocol::Off => "off",
            ProxyProtocol::V1 => "v1",
            ProxyProtocol::V2 => "v2",
        }
        .into(),
    );
    set("tls", tls.as_deref().map_or(Value::Bool(false), backend_tls));
    set(
        "host",
        match host {
            HostHeader::Preserve => "preserve".into(),
            HostHeader::Backend => "backend".into(),
            HostHeader::Name(name) => String::from_utf8_lossy(name.as_bytes()).into(),
        },
    );
    set("via", via.0.into());
    set("health", health.as_ref().map_or(Value::Bool(false), |check| self::health(check, agent.as_ref())));
    set("retry", retry.as_ref().map_or(Value::Bool(false), self::retry));
    set("limits", self::limits(limits));
    set(
        "timeouts",
        json!({
            "connect": duration(timeouts.connect),
            "response": duration(timeouts.response),
            "idle": duration(timeouts.idle),
            "exchange": duration_or_off(timeouts.exchange),
            "tunnel": duration_or_off(timeouts.tunnel),
            "keepalive": duration(timeouts.keepalive),
        }),
    );
    set(
        "failover",
        json!({
            "overprovisioning": failover.overprovisioning,
            "panic_percent": failover.panic_percent,
            "capacity": failover.capacity.map_or_else(|| "off".into(), Value::from),
        }),
    );
    set("outlier", outlier.as_ref().map_or(Value::Bool(false), self::outlier));
    set("slow_start", json!({ "window": duration(slow_start.window) }));
    table
}

fn hash_source(source: &HashSource) -> Value {
    match source {
        HashSource::Uri => "uri".into(),
        HashSource::Part(kind) => source_kind(kind, "").into(),
    }
}

/// A place that something of a request is read from. `mark`: `?`, or nothing.
pub(super) fn source_kind(kind: &SourceKind, mark: &str) -> String {
    match kind {
        SourceKind::Path(name) => format!("path{mark}:{name}"),
        SourceKind::Query(name) => format!("query{mark}:{name}"),
        SourceKind::Header(name) => format!("header{mark}:{name}"),
        SourceKind::Cookie(name) => format!("cookie{mark}:{name}"),
        SourceKind::Host(name) => format!("host{mark}:{name}"),
        SourceKind::ClientAddress => format!("client-address{mark}"),
        SourceKind::Const(value) => format!("const{mark}:{value}"),
    }
}

/// Where its parts came from; never what is in a key.
fn backend_tls(tls: &BackendTls) -> Value {
    let mut table = Map::new();
    table.insert("insecure".into(), (!tls.verifies).into());
    let files = &tls.files;
    for (key, file) in [("ca", &files.ca), ("cert", &files.cert), ("key", &files.key)] {
        if let Some(file) = file {
            table.insert(key.into(), path(file));
        }
    }
    if let Some(name) = &tls.server_name {
        table.insert("server_name".into(), name.to_str().into());
    }
    table.into()
}

fn health(check: &HealthCheck, agent: Option<&AgentCheck>) -> Value {
    let mut table = Map::new();
    if let Some(http) = &check.http {
        table.insert("path".into(), without_query(&http.path).into());
        let (low, high) = (http.expect.low, http.expect.high);
        table.insert("expect".into(), if low == high { low.to_string() } else { format!("{low}-{high}") }.into());
    }
    match check.grpc.as_deref() {
        None => {}
        Some("") => {
            table.insert("grpc".into(), true.into());
        }
        Some(service) => {
            table.insert("grpc_service".into(), service.into());
        }
    }
    if let Some(host) = &check.host {
        table.insert("host".into(), host.as_str().into());
    }
    table.insert("interval".into(), duration(check.interval));
    table.insert("fast_interval".into(), duration(check.fast_interval));
    table.insert("timeout".into(), duration(check.timeout));
    table.insert("rise".into(), check.rise.into());
    table.insert("fall".into(), check.fall.into());
    let agent = agent.map(|agent| {
        json!({
            "port": agent.port.get(),
            "interval": duration(agent.interval),
            "timeout": duration(agent.timeout),
        })
    });
    table.insert("agent".into(), agent.unwrap_or(Value::Bool(false)));
    table.into()
}

/// A query may hold the key that lets the check in.
fn without_query(target: &str) -> String {
    match target.split_once('?') {
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => target.to_owned(),
    }
}

fn retry(retry: &Retry) -> Value {
    json!({
        "max": retry.max,
        "on": retry_on(retry.on),
        "per_try_timeout": duration_or_off(retry.per_try_timeout),
        "budget_percent": retry.budget_percent,
        "budget_min": retry.budget_min,
        "body_limit": size(retry.body_limit),
    })
}

/// The failures after which a try is repeated, by their words.
pub(super) fn retry_on(on: RetryOn) -> Vec<&'static str> {
    let words = [
        (on.connect_failure, "connect-failure"),
        (on.reset, "reset"),
        (on.gateway_error, "gateway-error"),
        (on.grpc_unavailable, "grpc-unavailable"),
    ];
    words.into_iter().filter_map(|(is_on, word)| is_on.then_some(word)).collect()
}

fn limits(limits: &Limit) -> Value {
    json!({
        "max_connections": limits.max_connections,
        "max_requests": limits.max_requests,
        "adaptive": limits.adaptive,
        "max_queue": limits.max_queue,
        "queue_timeout": duration(limits.queue_timeout),
        "queue_order": match limits.queue_order {
            QueueOrder::Fifo => "fifo",
            QueueOrder::Lifo => "lifo",
        },
    })
}

fn outlier(outlier: &Outlier) -> Value {
    json!({
        "consecutive_errors": outlier.consecutive_errors,
        "base_ejection": duration(outlier.base_ejection),
        "max_ejection": duration(outlier.max_ejection),
        "max_ejected_percent": outlier.max_ejected_percent,
        "enforce": outlier.enforce,
    })
}
