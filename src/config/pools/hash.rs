//! `hash_on`: what `balance = "maglev"` spreads requests by.
//!
//! The sources are those of routes, and `uri`. A pool does not know which routes lead to it, so a capture only has to be
//! one of some route's; a request of another route goes by the next source.

use crate::config::context::Context;
use crate::config::decode::{list, text};
use crate::config::diagnostic::Fault;
use crate::config::hint::{nearest, suggest};
use crate::config::routes::sources::named;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::model::{HashSource, Policy, PoolSettings, SourceKind};

const KINDS: [&str; 8] = ["path", "query", "header", "cookie", "host", "const", "client-address", "uri"];

/// A list of sources. What is faulty has been noted and is left out.
pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Vec<HashSource>> {
    if matches!(&value.kind, Kind::Array(items) if items.is_empty()) {
        cx.note(Fault::error(value.span, "nothing to hash on").help("such as [\"header:x-user\", \"client-address\"]"));
        return None;
    }
    let found = list(cx, value, |cx, item| Some((source(cx, item)?, item.span)))?;
    for (i, (source, span)) in found.iter().enumerate() {
        let always = matches!(source, HashSource::Uri | HashSource::Part(SourceKind::Const(_)));
        if always && i + 1 < found.len() {
            cx.note(Fault::warning(*span, "the sources after this one are never asked: this one always decides"));
        } else if let Some((_, first)) = found.iter().take(i).find(|(other, _)| other == source) {
            cx.note(Fault::error(*span, "this source is there already").also(*first, "first here"));
        }
    }
    Some(found.into_iter().map(|(source, _)| source).collect())
}

fn source(cx: &Context<'_>, item: &Value<'_>) -> Option<HashSource> {
    let text = text(cx, item)?;
    let (word, name) = match text.split_once(':') {
        Some((word, name)) => (word, Some(name)),
        None => (text, None),
    };
    if let Some(word) = word.strip_suffix('?').filter(|word| KINDS.contains(word)) {
        let fault = Fault::error(item.span, "a hash takes any value, so there is nothing for a `?` to let through");
        let colon = name.map_or_else(String::new, |name| format!(":{name}"));
        cx.note(fault.help(format!("write \"{word}{colon}\"")));
        return None;
    }
    let kind = match (word, name) {
        ("uri", None) => return Some(HashSource::Uri),
        ("client-address", None) => SourceKind::ClientAddress,
        ("uri" | "client-address", Some(_)) => {
            cx.note(Fault::error(item.span, format!("`{word}` takes no name")).help(format!("write \"{word}\"")));
            return None;
        }
        ("path", Some(name)) if !name.is_empty() => {
            cx.want_capture("path", name, item.span);
            SourceKind::Path(name.to_owned())
        }
        ("host", Some(name)) if !name.is_empty() => {
            cx.want_capture("host", name, item.span);
            SourceKind::Host(name.to_owned())
        }
        ("const", Some(name)) if !name.is_empty() => SourceKind::Const(name.to_owned()),
        ("query" | "header" | "cookie", Some(name)) if !name.is_empty() => named(cx, item.span, word, name)?,
        (word, _) if KINDS.contains(&word) => {
            let fault = Fault::error(item.span, format!("the source `{text}` lacks a name"));
            cx.note(fault.help(format!("such as \"{word}:user\"")));
            return None;
        }
        (word, name) => {
            let fault = Fault::error(item.span, format!("unknown source `{text}`"));
            cx.note(match (nearest(word, KINDS), name) {
                (Some(near), Some(name)) => fault.help(format!("did you mean `{near}:{name}`?")),
                _ => fault.help(suggest(word, KINDS, "sources are")),
            });
            return None;
        }
    };
    Some(HashSource::Part(kind))
}

/// What a table says over `base`: sources go with maglev, and maglev with sources. `own`: of this table, with its place.
pub(super) fn merge(
    cx: &Context<'_>,
    balance: Policy,
    said: Option<Span>,
    own: Option<(Vec<HashSource>, Span)>,
    base: &PoolSettings,
) -> Vec<HashSource> {
    match (balance, own) {
        (Policy::Maglev, Some((sources, _))) => sources,
        (Policy::Maglev, None) => {
            if base.hash_on.is_empty()
                && let Some(span) = said
            {
                let fault = Fault::error(span, "maglev needs to know what to hash on").absence();
                cx.note(fault.help("such as `hash_on = [\"header:x-user\", \"client-address\"]`"));
            }
            base.hash_on.clone()
        }
        (other, Some((sources, span))) => {
            let fault = Fault::error(span, format!("`hash_on` is for maglev, and this is `{}`", other.as_str()));
            cx.note(fault.help("`balance = \"maglev\"` beside it"));
            sources
        }
        (_, None) => Vec::new(),
    }
}
