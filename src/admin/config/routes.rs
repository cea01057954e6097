//! A route as the file would have it. What it says over its pools' settings is told as it was said: what that comes to
//! differs from pool to pool.

use serde_json::{Map, Value, json};

use super::pools::{HIDDEN, retry_on, source_kind};
use super::words::{duration, duration_or_off, size};
use crate::model::{Action, HeaderEdits, HostPattern, RetryOverride, Rewrite, Route, Source, TimeoutsOverride};

/// One of `[[routes]]`.
pub(super) fn route(route: &Route) -> Value {
    // Taken apart, so that what is added later can't be forgotten here.
    let Route {
        name,
        hosts,
        methods,
        path,
        asset,
        region,
        timeout,
        retry,
        idempotency_key,
        hedge,
        timeouts,
        max_body_bytes,
        upgrade,
        action,
        rewrite,
        request_headers,
        response_headers,
    } = route;
    let mut table = Map::new();
    let mut set = |key: &str, value: Value| {
        table.insert(key.to_owned(), value);
    };
    set("name", name.as_str().into());
    if !hosts.is_empty() {
        set("hosts", hosts.iter().map(host).collect());
    }
    if !methods.is_empty() {
        set("methods", methods.iter().map(|method| method.as_str()).collect());
    }
    if let Some(path) = path {
        set("path", path.as_str().into());
    }
    set("idempotency_key", (*idempotency_key).into());
    if let Some(bytes) = max_body_bytes {
        set("max_body_bytes", size(*bytes));
    }
    set("headers", json!({ "request": edits(request_headers), "response": edits(response_headers) }));
    match action {
        Action::Redirect(to) => set("redirect", redirect(to)),
        Action::Respond { status, body } => {
            set("respond", json!({ "status": status.as_u16(), "body": body }));
        }
        Action::Forward => {
            set("asset", asset.iter().map(source).collect());
            set("region", region.iter().map(source).collect());
            set("timeout", duration(*timeout));
            set("hedge", (*hedge).into());
            set("upgrade", upgrade.iter().map(|name| &**name).collect());
            if let Some(retry) = retry_override(retry) {
                set("retry", retry);
            }
            if let Some(timeouts) = timeouts_override(timeouts) {
                set("timeouts", timeouts);
            }
            if let Some(Rewrite { strip_prefix, add_prefix }) = rewrite {
                set("rewrite", said([("strip_prefix", strip_prefix), ("add_prefix", add_prefix)], Value::from));
            }
        }
    }
    table.into()
}

/// Where a redirect leads to, without a user's name and password.
pub(super) fn redirect(to: &str) -> Value {
    // With a scheme, or with that of the request (RFC 3986, 4.2).
    let parts = to.split_once("//").filter(|(scheme, _)| scheme.is_empty() || scheme.ends_with(':'));
    let hidden = parts.and_then(|(scheme, rest)| {
        let authority = rest.split(['/', '?', '#', '{']).next().unwrap_or(rest);
        let (user, _) = authority.rsplit_once('@')?;
        Some(format!("{scheme}//{HIDDEN}{}", rest.get(user.len()..)?))
    });
    hidden.unwrap_or_else(|| to.to_owned()).into()
}

fn host(pattern: &HostPattern) -> Value {
    match pattern {
        HostPattern::Exact(host) => host.as_str().into(),
        HostPattern::Wildcard(suffix) => format!("*{suffix}").into(),
        HostPattern::Capture { name, suffix } => format!("{{{name}}}{suffix}").into(),
    }
}

fn source(source: &Source) -> Value {
    source_kind(&source.kind, if source.lenient { "?" } else { "" }).into()
}

fn retry_override(retry: &RetryOverride) -> Option<Value> {
    let RetryOverride { off, max, on, per_try_timeout, budget_percent, budget_min, body_limit } = retry;
    if *off {
        return Some(false.into());
    }
    let mut table = Map::new();
    let parts = [
        ("max", max.map(Value::from)),
        ("on", on.map(|on| retry_on(on).into())),
        ("per_try_timeout", per_try_timeout.map(duration_or_off)),
        ("budget_percent", budget_percent.map(Value::from)),
        ("budget_min", budget_min.map(Value::from)),
        ("body_limit", body_limit.map(size)),
    ];
    table.extend(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    (!table.is_empty()).then(|| table.into())
}

fn timeouts_override(timeouts: &TimeoutsOverride) -> Option<Value> {
    let TimeoutsOverride { connect, response, idle, exchange, tunnel, keepalive } = timeouts;
    let mut table = Map::new();
    let parts = [
        ("connect", connect.map(duration)),
        ("response", response.map(duration)),
        ("idle", idle.map(duration)),
        ("exchange", exchange.map(duration_or_off)),
        ("tunnel", tunnel.map(duration_or_off)),
        ("keepalive", keepalive.map(duration)),
    ];
    table.extend(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    (!table.is_empty()).then(|| table.into())
}

fn said<const N: usize>(parts: [(&str, &Option<String>); N], make: impl Fn(String) -> Value) -> Value {
    let there = parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), make(value.clone()?))));
    Value::Object(there.collect())
}

/// Values that `config` found to be secret are marked in the value itself.
fn edits(edits: &HeaderEdits) -> Value {
    let set = edits.set.iter().map(|(name, value)| {
        let shown = match value.is_sensitive() {
            true => HIDDEN.into(),
            false => String::from_utf8_lossy(value.as_bytes()),
        };
        (name.as_str().to_owned(), Value::from(shown))
    });
    let remove: Vec<&str> = edits.remove.iter().map(http::HeaderName::as_str).collect();
    json!({ "set": Value::Object(set.collect()), "remove": remove })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_a_redirect() {
        for (to, shown) in [
            ("https://{host}{target}", "https://{host}{target}"),
            ("{target}", "{target}"),
            ("/a@b", "/a@b"),
            ("https://me:s3cret@example.com/x@y", "https://[hidden]@example.com/x@y"),
            ("https://me@s3cret@{host}{target}", "https://[hidden]@{host}{target}"),
            ("//me:s3cret@example.com/x", "//[hidden]@example.com/x"),
            ("/x//a@b", "/x//a@b"),
            ("http://example.com{target}?u=a@b", "http://example.com{target}?u=a@b"),
        ] {
            assert_eq!(redirect(to), shown);
        }
    }
}
