//! `[assets.*]`: names and aliases. A pool names an asset, too; so the list grows while pools are read.

use std::sync::Arc;

use super::context::Context;
use super::decode::{Fields, list, table, text};
use super::diagnostic::Fault;
use super::regions::quoted;
use super::source::Span;
use super::tree::{Kind, Value};
use crate::model::{Asset, AssetId, Names};

pub(super) const KEYS: &[&str] = &["aliases"];

/// The assets, and a way to find one by any of its names.
#[derive(Default)]
pub(super) struct Assets {
    pub(super) list: Vec<Asset>,
    /// Numbers into `meanings`.
    names: Names,
    meanings: Vec<Meaning>,
}

/// What a name stands for.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    pub(super) asset: AssetId,
    pub(super) is_alias: bool,
    pub(super) span: Span,
}

impl Assets {
    pub(super) fn get(&self, name: &str) -> Option<Meaning> {
        self.names.find(name).and_then(|number| self.meanings.get(number as usize)).copied()
    }

    pub(super) fn name(&self, asset: AssetId) -> &str {
        self.list.get(asset.index()).map_or("", |asset| asset.name.as_ref())
    }

    /// An asset that no name stands for yet.
    pub(super) fn add(&mut self, cx: &Context<'_>, span: Span, name: &str) -> Option<AssetId> {
        if !good_name(cx, span, name) {
            return None;
        }
        let asset = AssetId(u32::try_from(self.list.len()).ok()?);
        self.add_name(cx, asset, false, span, name)?;
        self.list.push(Asset { name: Arc::from(name), aliases: Vec::new() });
        Some(asset)
    }

    fn add_name(&mut self, cx: &Context<'_>, asset: AssetId, is_alias: bool, span: Span, name: &str) -> Option<()> {
        match self.names.insert(name, u32::try_from(self.meanings.len()).ok()?) {
            Ok(()) => {
                self.meanings.push(Meaning { asset, is_alias, span });
                Some(())
            }
            Err(_) => {
                let first = self.get(name)?;
                let message = match first.is_alias {
                    true => format!("`{name}` is an alias of `{}` already", self.name(first.asset)),
                    false => format!("the asset `{name}` is there already"),
                };
                cx.note(
                    Fault::error(span, message)
                        .also(first.span, "first here")
                        .help("names and aliases of assets are compared without regard to case"),
                );
                None
            }
        }
    }
}

/// `*` is not an asset's name; `_unknown` and `_other` are labels of metrics.
fn good_name(cx: &Context<'_>, span: Span, name: &str) -> bool {
    let good = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control) && name.trim() == name;
    let fault = Fault::error(span, format!("`{name}` cannot be an asset's name"));
    if !good {
        cx.note(fault.help("1 to 128 bytes without control characters, and no space at either end"));
    } else if ["*", "_unknown", "_other"].contains(&name) {
        cx.note(fault.help("`*`, `_unknown` and `_other` have a meaning of their own"));
    } else {
        return true;
    }
    false
}

pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>) -> Assets {
    let mut assets = Assets::default();
    let Some(entries) = value.and_then(|value| table(cx, value)).map(|table| &table.entries) else { return assets };
    // First the names, so that an alias that is another's name is the alias's fault.
    let mut bodies = Vec::new();
    for entry in entries {
        if let Some(asset) = assets.add(cx, entry.span, &entry.key) {
            bodies.push((asset, &entry.value));
        }
    }
    for (asset, body) in bodies {
        let Some(body) = table(cx, body) else { continue };
        // `[assets.BRK.B]` opens a table `B` in the asset `BRK`.
        let dotted = body.entries.iter().find(|entry| matches!(entry.value.kind, Kind::Table(_)));
        if let Some(entry) = dotted.filter(|entry| !KEYS.contains(&entry.key.as_ref())) {
            let name = assets.name(asset);
            let fault = Fault::error(entry.span, format!("unknown table `{}` in [assets.{}]", entry.key, quoted(name)));
            cx.note(fault.help(format!("a name with a dot is quoted: [assets.\"{name}.{}\"]", entry.key)));
            continue;
        }
        let fields = Fields::new(cx, body, KEYS, "[assets.NAME]");
        let mut aliases = Vec::new();
        fields.read("aliases", |cx, value| {
            list(cx, value, |cx, item| {
                let name = text(cx, item)?;
                if good_name(cx, item.span, name) && assets.add_name(cx, asset, true, item.span, name).is_some() {
                    aliases.push(name.to_owned());
                }
                Some(())
            })
        });
        if let Some(asset) = assets.list.get_mut(asset.index()) {
            asset.aliases = aliases;
        }
    }
    assets
}
