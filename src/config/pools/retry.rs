//! `retry`: of `[defaults]`, of a pool, of a route.

use crate::config::context::Context;
use crate::config::decode::{Fields, integer, list, table, word};
use crate::config::tree::Value;
use crate::config::units::{duration_or_off, size};
use crate::model::{RetryOn, RetryOverride};

pub(in crate::config) const KEYS: &[&str] =
    &["max", "on", "per_try_timeout", "budget_percent", "budget_min", "body_limit"];

/// What a `retry` table says.
pub(in crate::config) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<RetryOverride> {
    let f = Fields::new(cx, table(cx, value)?, KEYS, "a `retry` table");
    Some(RetryOverride {
        off: false,
        max: f.read("max", integer(0..=100)),
        on: f.read("on", on),
        per_try_timeout: f.read("per_try_timeout", duration_or_off),
        budget_percent: f.read("budget_percent", integer(0..=100)),
        budget_min: f.read("budget_min", integer(0..=1_000_000)),
        body_limit: f.read("body_limit", |cx, value| size(cx, value, 0..=1 << 30)),
    })
}

fn on(cx: &Context<'_>, value: &Value<'_>) -> Option<RetryOn> {
    type Set = fn(&mut RetryOn);
    let words: [(&'static str, Set); 4] = [
        ("connect-failure", |on| on.connect_failure = true),
        ("reset", |on| on.reset = true),
        ("gateway-error", |on| on.gateway_error = true),
        ("grpc-unavailable", |on| on.grpc_unavailable = true),
    ];
    let mut on = RetryOn { connect_failure: false, reset: false, gateway_error: false, grpc_unavailable: false };
    list(cx, value, |cx, item| {
        word(cx, item, &words)?(&mut on);
        Some(())
    })?;
    Some(on)
}
