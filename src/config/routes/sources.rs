//! `asset` and `region` of a route: the places a key is read from, in order.

use http::HeaderName;

use super::patterns::captures;
use crate::config::assets::Assets;
use crate::config::context::Context;
use crate::config::decode::{Fields, list, not_supported, text};
use crate::config::diagnostic::Fault;
use crate::config::hint::{nearest, suggest};
use crate::config::regions::Regions;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::model::{HostPattern, Route, Source, SourceKind};

/// The names that a constant may be.
pub(super) struct Known<'a> {
    pub(super) regions: &'a Regions,
    pub(super) assets: &'a Assets,
    pub(super) any_pool: bool,
}

/// The route whose sources are read.
pub(super) struct Place<'a> {
    pub(super) path: Option<&'a str>,
    pub(super) path_at: Span,
    pub(super) hosts: &'a [HostPattern],
    pub(super) hosts_at: Option<Span>,
    pub(super) route_at: Span,
}

impl Place<'_> {
    fn path_captures(&self) -> Vec<&str> {
        self.path.map(captures).unwrap_or_default()
    }

    fn host_captures(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for host in self.hosts {
            if let HostPattern::Capture { name, .. } = host {
                names.push(name.as_str());
            }
        }
        names
    }
}

/// Which half of the key a source is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Asset,
    Region,
}

impl Half {
    fn as_str(self) -> &'static str {
        match self {
            Self::Asset => "asset",
            Self::Region => "region",
        }
    }
}

/// (asset, region) of a route that forwards.
pub(super) fn decode(
    cx: &Context<'_>,
    f: Fields<'_, '_, '_>,
    place: &Place<'_>,
    known: &Known<'_>,
) -> (Vec<Source>, Vec<Source>) {
    let asset = match f.get("asset") {
        Some(value) => sources(cx, value, Half::Asset, place, known),
        None => default_asset(cx, place),
    };
    let region = match f.get("region") {
        Some(value) => sources(cx, value, Half::Region, place, known),
        None => [SourceKind::Header(HeaderName::from_static("x-region")), SourceKind::ClientAddress]
            .map(|kind| Source { kind, lenient: false })
            .to_vec(),
    };
    note_unread(cx, Half::Asset, &asset, f.get("asset"), place);
    note_unread(cx, Half::Region, &region, f.get("region"), place);
    (asset, region)
}

/// `path:asset`, then `host:asset`, whichever the route has.
fn default_asset(cx: &Context<'_>, place: &Place<'_>) -> Vec<Source> {
    let mut sources = Vec::new();
    if place.path_captures().contains(&"asset") {
        sources.push(SourceKind::Path("asset".to_owned()));
    }
    if place.host_captures().contains(&"asset") {
        sources.push(SourceKind::Host("asset".to_owned()));
    }
    if sources.is_empty() {
        let fault = Fault::error(place.route_at, "this route does not say where the asset is read from");
        let near = nearest("asset", place.path_captures());
        cx.note(fault.help(match near.or(place.path_captures().first().copied()) {
            Some(name) => format!("such as `asset = \"path:{name}\"`, or `{{asset}}` in the path"),
            None => {
                "`{asset}` in the path, or such as `asset = \"header:x-asset\"` or `asset = \"const:NAME\"`".to_owned()
            }
        }));
    }
    sources.into_iter().map(|kind| Source { kind, lenient: false }).collect()
}

/// A list of sources, or a single one.
fn sources(cx: &Context<'_>, value: &Value<'_>, half: Half, place: &Place<'_>, known: &Known<'_>) -> Vec<Source> {
    let one = |cx: &Context<'_>, item: &Value<'_>| source(cx, item, half, place, known);
    let (sources, spans): (Vec<Source>, Vec<Span>) = match &value.kind {
        Kind::String(_) => one(cx, value).map(|source| (source, value.span)).into_iter().unzip(),
        Kind::Array(items) if items.is_empty() && half == Half::Asset => {
            let fault = Fault::error(value.span, "this route does not say where the asset is read from");
            cx.note(fault.help("such as \"path:asset\" or \"const:NAME\""));
            return Vec::new();
        }
        _ => list(cx, value, |cx, item| Some((one(cx, item)?, item.span))).unwrap_or_default().into_iter().unzip(),
    };
    for (i, (source, span)) in sources.iter().zip(&spans).enumerate() {
        if matches!(source.kind, SourceKind::Const(_)) && i + 1 < sources.len() {
            cx.note(Fault::warning(*span, "the sources after this one are never asked: a constant always decides"));
        } else if let Some(first) = sources.iter().take(i).position(|other| other.kind == source.kind) {
            let mut fault = Fault::error(*span, "this source is there already");
            if let Some(first) = spans.get(first) {
                fault = fault.also(*first, "first here");
            }
            cx.note(fault);
        }
    }
    sources
}

fn source(cx: &Context<'_>, item: &Value<'_>, half: Half, place: &Place<'_>, known: &Known<'_>) -> Option<Source> {
    const KINDS: [&str; 7] = ["path", "query", "header", "cookie", "host", "const", "client-address"];
    let text = text(cx, item)?;
    let (word, name) = match text.split_once(':') {
        Some((word, name)) => (word, Some(name)),
        None => (text, None),
    };
    let (word, lenient) = word.strip_suffix('?').map_or((word, false), |word| (word, true));
    let kind = match (word, name) {
        ("client-address", None) if half == Half::Region => SourceKind::ClientAddress,
        ("geoip", None) if half == Half::Region => {
            not_supported(cx, item.span, "the source `geoip`");
            return None;
        }
        ("client-address" | "geoip", None) => {
            let fault = Fault::error(item.span, format!("`{word}` tells a region, not an asset"));
            cx.note(fault);
            return None;
        }
        ("client-address" | "geoip", Some(_)) => {
            cx.note(Fault::error(item.span, format!("`{word}` takes no name")).help(format!("write \"{word}\"")));
            return None;
        }
        ("path", Some(name)) => {
            let has = place.path_captures();
            capture(cx, item.span, name, &has, "path", "path", place)?;
            SourceKind::Path(name.to_owned())
        }
        ("host", Some(name)) => {
            let has = place.host_captures();
            capture(cx, item.span, name, &has, "host", "hosts", place)?;
            SourceKind::Host(name.to_owned())
        }
        ("query" | "header" | "cookie", Some(name)) if !name.is_empty() => named(cx, item.span, word, name)?,
        ("const", Some(name)) if !name.is_empty() => constant(cx, item.span, name, half, known)?,
        (word, _) if KINDS.contains(&word) => {
            let fault = Fault::error(item.span, format!("the source `{text}` lacks a name"));
            cx.note(fault.help(format!("such as \"{word}:{}\"", half.as_str())));
            return None;
        }
        (word, name) => {
            let mut fault = Fault::error(item.span, format!("unknown source `{text}`"));
            fault = match (nearest(word, KINDS), name) {
                (Some(near), Some(name)) => fault.help(format!("did you mean `{near}:{name}`?")),
                (None, None) => fault.help(format!("such as \"header:{word}\" or \"const:{word}\"")),
                _ => fault.help(suggest(word, KINDS, "sources are")),
            };
            cx.note(fault);
            return None;
        }
    };
    Some(Source { kind, lenient })
}

/// A parameter, a field or a cookie, by its name.
pub(in crate::config) fn named(cx: &Context<'_>, span: Span, word: &str, name: &str) -> Option<SourceKind> {
    // A cookie's name is a token, as a header's is (RFC 6265, 4.1.1), but its case counts.
    let (kind, what) = match (word, HeaderName::from_bytes(name.as_bytes())) {
        ("header", Ok(header)) => (Some(SourceKind::Header(header)), "header"),
        ("header", Err(_)) => (None, "header"),
        ("cookie", Ok(_)) => (Some(SourceKind::Cookie(name.to_owned())), "cookie"),
        ("cookie", Err(_)) => (None, "cookie"),
        _ => (Some(SourceKind::Query(name.to_owned())), "query"),
    };
    if kind.is_none() {
        cx.note(Fault::error(span, format!("`{name}` cannot be a {what}'s name")));
    }
    kind
}

/// That some route has each capture that a pool hashes on.
pub(super) fn note_captures<'a>(cx: &Context<'_>, routes: impl Iterator<Item = &'a Route> + Clone) {
    for ((of, name), span) in &*cx.captures.borrow() {
        let mut known = Vec::new();
        for route in routes.clone() {
            match *of {
                "path" => known.extend(route.path.as_deref().map(captures).unwrap_or_default()),
                _ => known.extend(route.hosts.iter().filter_map(|host| match host {
                    HostPattern::Capture { name, .. } => Some(name.as_str()),
                    _ => None,
                })),
            }
        }
        if !known.contains(&name.as_str()) {
            known.sort_unstable();
            known.dedup();
            let fault = Fault::error(*span, format!("the {of} of no route has a capture `{name}`")).absence();
            cx.note(match known.is_empty() {
                true => fault,
                false => fault.help(suggest(name, known, "captures")),
            });
        }
    }
}

/// That a template has the capture that a source names.
fn capture(
    cx: &Context<'_>,
    span: Span,
    name: &str,
    has: &[&str],
    what: &str,
    key: &str,
    place: &Place<'_>,
) -> Option<()> {
    if has.contains(&name) {
        return Some(());
    }
    let mut fault = Fault::error(span, format!("the {what} of this route has no capture `{name}`"));
    let at = if key == "path" { place.path.map(|_| place.path_at) } else { place.hosts_at };
    if let Some(at) = at {
        fault = fault.also(at, format!("no `{{{name}}}` in here"));
    }
    fault = match (nearest(name, has.iter().copied()), has) {
        (Some(near), _) => fault.help(format!("did you mean `{what}:{near}`?")),
        (None, []) => fault.help(format!("write `{{{name}}}` where the {} stands in `{key}`", name)),
        (None, has) => fault.help(format!("captures: {}", has.join(", "))),
    };
    cx.note(fault);
    None
}

fn constant(cx: &Context<'_>, span: Span, name: &str, half: Half, known: &Known<'_>) -> Option<SourceKind> {
    match half {
        Half::Region => {
            known.regions.find(cx, span, name)?;
        }
        Half::Asset if !known.any_pool && known.assets.get(name).is_none() => {
            let fault = Fault::error(span, format!("unknown asset `{name}`")).absence();
            let names = known.assets.list.iter().map(|asset| asset.name.as_ref());
            cx.note(match known.assets.list.is_empty() {
                true => fault.help("no asset has a pool"),
                false => fault.help(suggest(name, names, "assets")),
            });
            return None;
        }
        Half::Asset => {}
    }
    Some(SourceKind::Const(name.to_owned()))
}

/// `{asset}` stands there to be read. For `{region}` the same is likely.
fn note_unread(cx: &Context<'_>, half: Half, sources: &[Source], value: Option<&Value<'_>>, place: &Place<'_>) {
    let name = half.as_str();
    if sources.is_empty() && half == Half::Asset {
        return;
    }
    let in_path = place.path_captures().contains(&name);
    let in_host = place.host_captures().contains(&name);
    let reads_path = sources.iter().any(|source| matches!(&source.kind, SourceKind::Path(read) if read == name));
    let reads_host = sources.iter().any(|source| matches!(&source.kind, SourceKind::Host(read) if read == name));
    for (unread, at, what) in
        [(in_path && !reads_path, Some(place.path_at), "path"), (in_host && !reads_host, place.hosts_at, "host")]
    {
        let (true, Some(at)) = (unread, at) else { continue };
        let message = format!("`{{{name}}}` is captured here, but no source reads it");
        let mut fault = if half == Half::Asset { Fault::error(at, message) } else { Fault::warning(at, message) };
        if let Some(value) = value {
            fault = fault.also(value.span, format!("these are the sources of the {name}"));
        }
        cx.note(fault.help(format!("add \"{what}:{name}\" to `{name}`, or give the capture another name")));
    }
}
