//! `[server]`: threads, draining, the default region.

use std::time::Duration;

use super::context::Context;
use super::decode::{Fields, expected_help, integer, table, text};
use super::diagnostic::Fault;
use super::regions::Regions;
use super::source::Span;
use super::tree::{Kind, Value};
use super::units::{duration, duration_or_zero};
use crate::model::{RegionId, Server};

pub(super) const KEYS: &[&str] = &["workers", "drain_delay", "drain_timeout", "default_region"];

/// Regions have been read already, for the default one.
pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>, regions: &Regions) -> Server {
    let mut server = Server {
        workers: None,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(30),
        default_region: RegionId(0),
    };
    let empty = super::tree::Table::default();
    let table = value.and_then(|value| table(cx, value)).unwrap_or(&empty);
    let fields = Fields::new(cx, table, KEYS, "[server]");
    server.workers = fields.read("workers", workers).flatten();
    server.drain_delay = fields.read("drain_delay", duration_or_zero).unwrap_or(server.drain_delay);
    server.drain_timeout = fields.read("drain_timeout", duration).unwrap_or(server.drain_timeout);
    match fields.get("default_region") {
        Some(value) => {
            if let Some(region) = text(cx, value).and_then(|name| regions.find(cx, value.span, name)) {
                server.default_region = region;
            }
        }
        None => missing_default(cx, value.map(|value| value.span), regions),
    }
    server
}

/// `"auto"` is `Some(None)`.
fn workers(cx: &Context<'_>, value: &Value<'_>) -> Option<Option<usize>> {
    match &value.kind {
        Kind::String(text) if text == "auto" => Some(None),
        Kind::String(text) if text.parse::<u64>().is_err() => {
            let fault = Fault::error(value.span, format!("`{text}` is not a number of workers"));
            cx.note(fault.help("\"auto\", or a whole number from 1 to 1024"));
            None
        }
        Kind::Integer(_) | Kind::String(_) => integer(1..=1024)(cx, value).map(Some),
        _ => {
            expected_help(cx, value, "an integer", Some("\"auto\", or a whole number from 1 to 1024".to_owned()));
            None
        }
    }
}

/// With one region there is no question; with several, a request that names none must go somewhere.
fn missing_default(cx: &Context<'_>, header: Option<Span>, regions: &Regions) {
    let names: Vec<&str> = regions.list.iter().map(|region| region.name.as_ref()).collect();
    let [first, _, ..] = names.as_slice() else { return };
    let span = header.unwrap_or(Span::whole_file(0));
    let message = format!("there are {} regions, and no default_region for requests that name none", names.len());
    let help = format!("add `default_region = \"{first}\"` to [server]");
    cx.note(Fault::error(span, message).help(help).absence());
}
