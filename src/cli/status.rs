//! The daemon's status as a table that people read.

use std::fmt::Write;

use serde_json::Value;

/// A line about the daemon, then one per backend, pool by pool.
pub(super) fn table(status: &Value) -> String {
    let mut rows =
        vec![["ASSET", "REGION", "ROLE", "TIER LOAD", "BACKEND", "WEIGHT", "IN FLIGHT", "STATE"].map(str::to_owned)];
    for pool in list(status, "pools") {
        if list(pool, "backends").is_empty() {
            // All its backends are names, and none has an address: it must not look as if there were no such pool.
            let [asset, region] = ["asset", "region"].map(|name| text(&pool[name]));
            let none = || "-".to_owned();
            rows.push([asset, region, none(), none(), none(), none(), none(), "unresolved".to_owned()]);
        }
        for backend in list(pool, "backends") {
            rows.push([
                text(&pool["asset"]),
                text(&pool["region"]),
                text(&backend["role"]),
                load(pool, &backend["role"]),
                address(backend),
                weight(backend),
                text(&backend["in_flight"]),
                state(backend),
            ]);
        }
    }
    let [version, readiness, hash] = ["version", "readiness", "config_hash"].map(|name| text(&status[name]));
    format!("shardgate {version}: {readiness}; configuration {hash}\n\n{}", aligned(&rows))
}

/// The share of the pool's requests that its tier of this role takes.
fn load(pool: &Value, role: &Value) -> String {
    let own = |tier: &&Value| tier["role"] == *role && tier["region"] == pool["region"];
    let Some(tier) = list(pool, "tiers").iter().find(own) else { return "-".into() };
    let panic = if tier["panic"] == true { " panic" } else { "" };
    format!("{}%{panic}", text(&tier["load"]))
}

/// `10.0.0.1:80`, `10.0.0.1:80 (TLS)`.
fn address(backend: &Value) -> String {
    let tls = match backend["tls"]["verified"].as_bool() {
        None => "",
        Some(true) => " (TLS)",
        Some(false) => " (TLS, not verified)",
    };
    text(&backend["address"]) + tls
}

/// `2`, or `2 x 0.75` where the backend's own word moves it.
fn weight(backend: &Value) -> String {
    let weight = text(&backend["weight"]);
    backend["load_weight"].as_f64().map_or_else(|| weight.clone(), |load| format!("{weight} x {load:.2}"))
}

/// `up 5m`, `down: timeout 12s`, `drain 5m by ann (region): new disk`.
fn state(backend: &Value) -> String {
    let mut state = text(&backend["state"]);
    if let Some(seconds) = backend["operator"]["seconds"].as_f64() {
        let by = backend["operator"]["who"].as_str().map_or_else(String::new, |who| format!(" by {who}"));
        let reason = backend["operator"]["reason"].as_str().map_or_else(String::new, |reason| format!(": {reason}"));
        let _ = write!(state, " {}{by} ({}){reason}", age(seconds), text(&backend["operator"]["level"]));
        return state;
    }
    if let Some(cause) = backend["cause"].as_str() {
        let _ = write!(state, ": {cause}");
    }
    // Since when its checks say so is another matter than how long it will be out.
    if let Some(left) = backend["ejected_for"].as_f64() {
        let _ = write!(state, ", {} left", age(left));
    } else if let Some(since) = backend["since"].as_f64() {
        let _ = write!(state, " {}", age(since));
    }
    if let Some(share) = backend["slow_start"].as_f64() {
        let _ = write!(state, ", slow start {:.0} %", share * 100.0);
    }
    state
}

/// In the largest unit that fits.
fn age(seconds: f64) -> String {
    let units = [(86_400.0, 'd'), (3_600.0, 'h'), (60.0, 'm')];
    let (unit, letter) = units.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1.0, 's'));
    format!("{:.0}{letter}", (seconds / unit).floor())
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_for_each_backend() {
        let status = json!({
            "version": "1.2.3", "readiness": "ready", "config_hash": "0a",
            "pools": [{
                "asset": "gold", "region": "west",
                "tiers": [
                    { "region": "west", "role": "primary", "load": 70, "panic": false },
                    { "region": "west", "role": "replica", "load": 30, "panic": true },
                ],
                "backends": [
                    { "role": "primary", "address": "10.0.0.1:80", "weight": 2, "load_weight": 0.754, "in_flight": 7,
                      "state": "up", "cause": null, "since": 7300.0 },
                    { "role": "replica", "address": "10.0.0.2:80", "tls": { "verified": true }, "weight": 1, "in_flight": 0, "state": "down",
                      "cause": "timeout", "since": 3.9 },
                    { "role": "replica", "address": "10.0.0.3:80", "weight": 1, "in_flight": 0, "state": "drain",
                      "since": 9.0, "operator": { "seconds": 61.0, "who": "ann", "reason": "new disk", "level": "pool" } },
                    { "role": "replica", "address": "10.0.0.4:80", "weight": 1, "in_flight": 0, "state": "drain",
                      "since": 9.0, "operator": { "seconds": 1.0, "who": null, "level": "region" } },
                ],
            }, { "asset": "tin", "region": "west", "tiers": [], "backends": [] }],
        });
        let wanted = "\
shardgate 1.2.3: ready; configuration 0a

ASSET  REGION  ROLE     TIER LOAD  BACKEND            WEIGHT    IN FLIGHT  STATE
gold   west    primary  70%        10.0.0.1:80        2 x 0.75  7          up 2h
gold   west    replica  30% panic  10.0.0.2:80 (TLS)  1         0          down: timeout 3s
gold   west    replica  30% panic  10.0.0.3:80        1         0          drain 1m by ann (pool): new disk
gold   west    replica  30% panic  10.0.0.4:80        1         0          drain 1s (region)
tin    west    -        -          -                  -         -          unresolved
";
        assert_eq!(table(&status), wanted);
    }
}
