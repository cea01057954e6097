//! `[[routes]]`: which requests, how their key is read, what happens to them.

mod conflicts;
pub(super) mod edits;
mod patterns;
pub(super) mod sources;
mod upgrade;

use std::collections::HashMap;
use std::time::Duration;

use http::Method;

use super::assets::Assets;
use super::context::Context;
use super::decode::{Fields, boolean, list, table, text};
use super::diagnostic::Fault;
use super::pools::{retry, settings};
use super::regions::Regions;
use super::source::Span;
use super::tree::{Kind, Value};
use super::units::{duration, size};
use crate::model::{Action, HostPattern, Route};

pub(super) const KEYS: &[&str] = &[
    "name",
    "hosts",
    "methods",
    "path",
    "asset",
    "region",
    "timeout",
    "retry",
    "timeouts",
    "max_body_bytes",
    "upgrade",
    "idempotency_key",
    "hedge",
    "rewrite",
    "headers",
    "redirect",
    "respond",
];

/// Keys that say how a request is forwarded, and mean nothing where it is not.
const FORWARD_KEYS: &[&str] = &["asset", "region", "timeout", "retry", "timeouts", "upgrade", "hedge", "rewrite"];

/// A route, and the places that later checks speak of.
struct Read {
    route: Route,
    named: bool,
    /// Whether what it matches could be read in full, so that it can be compared with others.
    whole: bool,
    at: Span,
    path_at: Span,
    hosts_at: Span,
}

/// `[[routes]]`. Pools have been read already: `any_pool` says whether there is a `*` pool, which serves every asset.
pub(super) fn decode(
    cx: &Context<'_>,
    value: Option<&Value<'_>>,
    regions: &Regions,
    assets: &Assets,
    any_pool: bool,
) -> Vec<Route> {
    let names = sources::Known { regions, assets, any_pool };
    let mut routes = value.and_then(|value| list(cx, value, |cx, item| route(cx, item, &names))).unwrap_or_default();
    if value.is_none_or(|value| matches!(&value.kind, Kind::Array(items) if items.is_empty())) {
        let span = value.map_or(Span::whole_file(0), |value| value.span);
        let fault = Fault::warning(span, "there is no route: every request will be answered with 404");
        cx.note(fault.help("add one: [[routes]] with `path = \"/v1/predict/{asset}\"`").absence());
    }
    conflicts::note(cx, &routes);
    let all = value.is_none_or(|value| matches!(&value.kind, Kind::Array(items) if items.len() == routes.len()));
    if all && routes.iter().all(|read| read.whole) {
        sources::note_captures(cx, routes.iter().map(|read| &read.route));
    }
    name(cx, &mut routes);
    routes.into_iter().map(|read| read.route).collect()
}

fn route(cx: &Context<'_>, item: &Value<'_>, known: &sources::Known<'_>) -> Option<Read> {
    let f = Fields::new(cx, table(cx, item)?, KEYS, "[[routes]]");
    let name = f.read("name", |cx, value| text(cx, value).map(str::to_owned));
    let hosts = f.read("hosts", hosts).unwrap_or_default();
    let methods = f.read("methods", methods).unwrap_or_default();
    // A path that is faulty is not the same as none: whatever reads its captures must not be blamed.
    let path = f.get("path").map(|value| (patterns::path(cx, value), value.span));
    let broken_path = matches!(path, Some((None, _)));
    let path_at = path.as_ref().map_or(item.span, |(_, span)| *span);
    let path = path.and_then(|(path, _)| path);
    let action = edits::action(cx, f);
    let hosts_at = f.get("hosts").map(|value| value.span);
    let place = sources::Place { path: path.as_deref(), path_at, hosts: &hosts, hosts_at, route_at: item.span };
    let (asset, region) = match action {
        Some(Action::Forward) if !broken_path => sources::decode(cx, f, &place, known),
        Some(Action::Forward) | None => (Vec::new(), Vec::new()),
        Some(Action::Redirect(_) | Action::Respond { .. }) => {
            let other = if f.get("redirect").is_some() { "redirect" } else { "respond" };
            for key in FORWARD_KEYS {
                if let Some(span) = f.span(key) {
                    cx.note(Fault::error(span, format!("`{key}` has no meaning beside `{other}`")));
                }
            }
            (Vec::new(), Vec::new())
        }
    };
    let (request_headers, response_headers) = f.read("headers", edits::headers).unwrap_or_default();
    let all_read = |key: &str, count: usize| match f.get(key).map(|value| &value.kind) {
        Some(Kind::Array(items)) => items.len() == count && count > 0,
        Some(_) => false,
        None => true,
    };
    let whole = !broken_path && all_read("hosts", hosts.len()) && all_read("methods", methods.len());
    let named = name.is_some();
    let route = Route {
        name: name.unwrap_or_else(|| path.clone().unwrap_or_else(|| "*".to_owned())),
        hosts,
        methods,
        rewrite: f.read("rewrite", |cx, value| edits::rewrite(cx, value, path.as_deref())),
        path,
        asset,
        region,
        timeout: f.read("timeout", duration).unwrap_or(Duration::from_secs(15)),
        retry: f.read("retry", retry_override).unwrap_or_default(),
        idempotency_key: f.read("idempotency_key", boolean).unwrap_or(false),
        hedge: f.read("hedge", boolean).unwrap_or(false),
        timeouts: f.read("timeouts", settings::timeouts).unwrap_or_default(),
        max_body_bytes: f.read("max_body_bytes", |cx, value| size(cx, value, super::limits::BODY_BYTES)),
        upgrade: f.read("upgrade", upgrade::decode).unwrap_or_default(),
        action: action?,
        request_headers,
        response_headers,
    };
    Some(Read {
        route,
        named,
        whole,
        at: f.span("name").unwrap_or(item.span),
        path_at,
        hosts_at: hosts_at.unwrap_or(path_at),
    })
}

fn hosts(cx: &Context<'_>, value: &Value<'_>) -> Option<Vec<HostPattern>> {
    if matches!(&value.kind, Kind::Array(items) if items.is_empty()) {
        cx.note(Fault::error(value.span, "no host at all").help("leave `hosts` out for any host"));
    }
    list(cx, value, patterns::host)
}

fn methods(cx: &Context<'_>, value: &Value<'_>) -> Option<Vec<Method>> {
    if let Kind::Array(items) = &value.kind
        && items.is_empty()
    {
        cx.note(Fault::error(value.span, "no method at all").help("leave `methods` out for any method"));
    }
    let mut seen = HashMap::new();
    list(cx, value, |cx, item| {
        let name = text(cx, item)?;
        let upper = name.to_ascii_uppercase();
        let Ok(method) = Method::from_bytes(upper.as_bytes()) else {
            cx.note(Fault::error(item.span, format!("`{name}` is not a method")));
            return None;
        };
        if name != upper {
            let fault = Fault::error(item.span, format!("`{name}` is not a method: their case counts"));
            cx.note(fault.help(format!("write \"{upper}\"")));
        } else if method == Method::CONNECT {
            cx.note(Fault::error(item.span, "CONNECT asks for a tunnel, which a reverse proxy does not give"));
        } else if let Some(first) = seen.insert(method.clone(), item.span) {
            cx.note(Fault::error(item.span, format!("{method} is there already")).also(first, "first here"));
        } else {
            return Some(method);
        }
        None
    })
}

/// A route's: `false`, or a table that says something. An empty one could mean on as well as unchanged.
fn retry_override(cx: &Context<'_>, value: &Value<'_>) -> Option<crate::model::RetryOverride> {
    match &value.kind {
        Kind::Boolean(false) => Some(crate::model::RetryOverride { off: true, ..Default::default() }),
        Kind::Table(table) if table.entries.is_empty() => {
            cx.note(Fault::error(value.span, "this says nothing").help("such as { max = 1 }, or false"));
            None
        }
        Kind::Table(_) => retry::decode(cx, value),
        _ => {
            let help = "`retry = false`, or such as `retry = { max = 1 }`".to_owned();
            super::decode::expected_help(cx, value, "a table or false", Some(help));
            None
        }
    }
}

/// Names are unique. One that was not given is the path, with a number where several routes have that path.
fn name(cx: &Context<'_>, routes: &mut [Read]) {
    let mut taken: HashMap<String, Span> = HashMap::new();
    for read in routes.iter().filter(|read| read.named) {
        if let Some(first) = taken.insert(read.route.name.clone(), read.at) {
            let fault = Fault::error(read.at, format!("the route `{}` is there already", read.route.name));
            cx.note(fault.also(first, "first here"));
        }
    }
    // How often a name was wanted, so that the next number is not searched for from the start.
    let mut wanted: HashMap<String, usize> = HashMap::new();
    for read in routes.iter_mut().filter(|read| !read.named) {
        let base = read.route.name.clone();
        let count = wanted.entry(base.clone()).or_insert(0);
        loop {
            *count += 1;
            let name = if *count == 1 { base.clone() } else { format!("{base}#{count}") };
            if let std::collections::hash_map::Entry::Vacant(entry) = taken.entry(name) {
                read.route.name = entry.key().clone();
                entry.insert(read.at);
                break;
            }
        }
    }
}
