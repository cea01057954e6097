//! `[limits]`: what clients may do.

use super::context::Context;
use super::decode::{Fields, integer, table};
use super::tree::Value;
use super::units::{duration, rate, size};
use crate::model::Limits;

pub(super) const KEYS: &[&str] = &[
    "max_connections",
    "max_connections_per_client",
    "max_header_bytes",
    "max_headers",
    "max_target_bytes",
    "max_body_bytes",
    "max_buffered_bytes",
    "header_timeout",
    "idle_timeout",
    "min_body_rate",
    "h2_max_streams",
];

/// What `max_body_bytes` may be, here and in a route.
pub(super) const BODY_BYTES: std::ops::RangeInclusive<u64> = 0..=1 << 50;

pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> Limits {
    let mut limits = Limits::default();
    let Some(table) = value.and_then(|value| table(cx, value)) else { return limits };
    let f = Fields::new(cx, table, KEYS, "[limits]");
    let bytes = |key: &str, default: u32| {
        let size = f.read(key, |cx, value| size(cx, value, 256..=1 << 20));
        size.and_then(|size| u32::try_from(size).ok()).unwrap_or(default)
    };
    limits.max_header_bytes = bytes("max_header_bytes", limits.max_header_bytes);
    limits.max_target_bytes = bytes("max_target_bytes", limits.max_target_bytes);
    let count = |key: &str, low: u64, high: u64, default: u32| f.read(key, integer(low..=high)).unwrap_or(default);
    limits.max_connections = count("max_connections", 1, 10_000_000, limits.max_connections);
    limits.max_connections_per_client =
        count("max_connections_per_client", 0, 10_000_000, limits.max_connections_per_client);
    limits.max_headers = count("max_headers", 1, 10_000, limits.max_headers);
    let body = f.read("max_body_bytes", |cx, value| size(cx, value, BODY_BYTES));
    limits.max_body_bytes = body.unwrap_or(limits.max_body_bytes);
    let buffered = f.read("max_buffered_bytes", |cx, value| size(cx, value, 1 << 16..=1 << 40));
    limits.max_buffered_bytes = buffered.unwrap_or(limits.max_buffered_bytes);
    limits.header_timeout = f.read("header_timeout", duration).unwrap_or(limits.header_timeout);
    limits.idle_timeout = f.read("idle_timeout", duration).unwrap_or(limits.idle_timeout);
    limits.min_body_rate = f.read("min_body_rate", rate).unwrap_or(limits.min_body_rate);
    limits.h2_max_streams = count("h2_max_streams", 1, 10_000, limits.h2_max_streams);
    limits
}
