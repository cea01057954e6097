//! `[regions.*]`: names, the addresses of their clients, their fallbacks.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::prefix;
use super::context::Context;
use super::decode::{Fields, list, table, text};
use super::diagnostic::Fault;
use super::hint::suggest;
use super::source::Span;
use super::tree::{Kind, Value};
use crate::model::{Names, Region, RegionId};

pub(super) const KEYS: &[&str] = &["clients", "fallback"];

/// The regions, and a way to find one by its name.
#[derive(Default)]
pub(super) struct Regions {
    pub(super) list: Vec<Region>,
    pub(super) spans: Vec<Span>,
    names: Names,
}

impl Regions {
    /// The region of this name; a name that is none is noted.
    pub(super) fn find(&self, cx: &Context<'_>, span: Span, name: &str) -> Option<RegionId> {
        let found = self.get(name);
        if found.is_none() {
            let fault = Fault::error(span, format!("unknown region `{name}`")).absence();
            cx.note(match self.list.is_empty() {
                true => fault.help(format!("add [regions.{}]", quoted(name))),
                false => fault.help(suggest(name, self.list.iter().map(|region| region.name.as_ref()), "regions")),
            });
        }
        found
    }

    pub(super) fn get(&self, name: &str) -> Option<RegionId> {
        self.names.find(name).and_then(|number| u16::try_from(number).ok()).map(RegionId)
    }
}

/// A key as TOML takes it: bare if it can be.
pub(super) fn quoted(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if bare { key.to_owned() } else { format!("{key:?}") }
}

pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> Regions {
    let mut regions = Regions::default();
    let entries = value.and_then(|value| table(cx, value)).map(|table| &table.entries);
    if value.is_none() || entries.is_some_and(|entries| entries.is_empty()) {
        let span = value.map_or(Span::whole_file(0), |value| value.span);
        let fault = Fault::error(span, "there is no region").absence();
        cx.note(fault.help("name at least one: [regions.us-east]"));
    }
    let Some(entries) = entries else { return regions };
    // First the names, because a fallback may stand further down.
    let mut bodies = Vec::new();
    for entry in entries {
        let number = regions.list.len();
        if number >= usize::from(u16::MAX) {
            cx.note(Fault::error(entry.span, "more than 65,535 regions"));
            break;
        }
        if !good_name(cx, entry.span, &entry.key) {
            continue;
        }
        if let Err(first) = regions.names.insert(&entry.key, number as u32) {
            let mut fault = Fault::error(entry.span, format!("the region `{}` is there already", entry.key))
                .help("names of regions are compared without regard to case");
            if let Some(span) = regions.spans.get(first as usize) {
                fault = fault.also(*span, "first here");
            }
            cx.note(fault);
            continue;
        }
        regions.list.push(Region { name: Arc::from(entry.key.as_ref()), clients: Vec::new(), fallback: Vec::new() });
        regions.spans.push(entry.span);
        bodies.push(&entry.value);
    }
    let mut prefixes = HashMap::new();
    for (index, body) in bodies.into_iter().enumerate() {
        let Some((clients, fallback)) = body_of(cx, &regions, index, body, &mut prefixes) else { continue };
        if let Some(region) = regions.list.get_mut(index) {
            (region.clients, region.fallback) = (clients, fallback);
        }
    }
    warn_of_no_fallback(cx, &regions);
    regions
}

fn good_name(cx: &Context<'_>, span: Span, name: &str) -> bool {
    let good = (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'*');
    if !good {
        let fault = Fault::error(span, format!("`{name}` cannot be a region's name"));
        cx.note(fault.help("1 to 128 visible ASCII characters without `/` and `*`"));
    }
    good
}

fn body_of(
    cx: &Context<'_>,
    regions: &Regions,
    index: usize,
    body: &Value<'_>,
    prefixes: &mut HashMap<IpNet, Span>,
) -> Option<(Vec<IpNet>, Vec<RegionId>)> {
    let table = table(cx, body)?;
    // `[regions.eu.west]` opens a table `west` in the region `eu`.
    let name = regions.list.get(index).map_or("", |region| region.name.as_ref());
    for entry in &table.entries {
        if matches!(entry.value.kind, Kind::Table(_)) && !KEYS.contains(&entry.key.as_ref()) {
            let fault =
                Fault::error(entry.span, format!("unknown table `{}` in [regions.{}]", entry.key, quoted(name)));
            cx.note(fault.help(format!("a name with a dot is quoted: [regions.\"{name}.{}\"]", entry.key)));
            return None;
        }
    }
    let fields = Fields::new(cx, table, KEYS, "[regions.NAME]");
    let clients = |cx: &Context<'_>, item: &Value<'_>| {
        let net = prefix(cx, item)?;
        if let Some(first) = prefixes.insert(net, item.span) {
            let fault = Fault::error(item.span, format!("the clients {net} are there already"));
            cx.note(fault.also(first, "first here"));
        }
        Some(net)
    };
    let clients = fields.read("clients", |cx, value| list(cx, value, clients)).unwrap_or_default();
    let mut seen: Vec<(RegionId, Span)> = Vec::new();
    let fallback = |cx: &Context<'_>, item: &Value<'_>| {
        let region = regions.find(cx, item.span, text(cx, item)?)?;
        if region.index() == index {
            cx.note(Fault::error(item.span, "a region cannot be its own fallback"));
        } else if let Some((_, first)) = seen.iter().find(|(other, _)| *other == region) {
            cx.note(Fault::error(item.span, "this fallback is there already").also(*first, "first here"));
        } else {
            seen.push((region, item.span));
            return Some(region);
        }
        None
    };
    let fallback = fields.read("fallback", |cx, value| list(cx, value, fallback)).unwrap_or_default();
    Some((clients, fallback))
}

/// One warning, however many regions it is about.
fn warn_of_no_fallback(cx: &Context<'_>, regions: &Regions) {
    if regions.list.len() < 2 {
        return;
    }
    let alone = || regions.list.iter().zip(&regions.spans).filter(|(region, _)| region.fallback.is_empty());
    let Some((_, span)) = alone().next() else { return };
    let names: Vec<&str> = alone().map(|(region, _)| region.name.as_ref()).collect();
    let (subject, verb) = if names.len() == 1 { ("region", "has") } else { ("regions", "have") };
    let other = regions.list.iter().find(|region| names.first().is_none_or(|name| *name != region.name.as_ref()));
    let mut fault = Fault::warning(*span, format!("the {subject} {} {verb} no fallback", super::some_of(&names)));
    if let Some(other) = other {
        fault = fault.help(format!("such as `fallback = [\"{}\"]`", other.name));
    }
    cx.note(fault);
}
