//! The daemon's status as a table that people read.

use std::fmt::Write;

use serde_json::Value;

/// A line per backend, grouped by pool.
pub(super) fn table(status: &Value) -> String {
    let mut rows = vec![["ASSET", "REGION", "ROLE", "BACKEND", "WEIGHT", "STATE", "IN FLIGHT"].map(str::to_owned)];
    for pool in list(status, "pools") {
        for backend in list(pool, "backends") {
            rows.push([
                text(&pool["asset"]),
                text(&pool["region"]),
                text(&backend["role"]),
                text(&backend["address"]),
                text(&backend["weight"]),
                text(&backend["state"]),
                text(&backend["in_flight"]),
            ]);
        }
    }
    aligned(&rows)
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
