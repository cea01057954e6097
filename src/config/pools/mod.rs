//! `[pools.ASSET.REGION]` and `[defaults]`.

pub(super) mod agent;
mod grpc;
mod hash;
pub(super) mod outlier;
pub(super) mod retry;
pub(super) mod settings;
pub(super) mod members;
mod shared;
pub(super) mod tls;
mod wire;

use std::cell::OnceCell;
use std::sync::Arc;

use self::settings::Overrides;
use self::shared::Shared;
use super::assets::Assets;
use super::context::Context;
use super::decode::{Fields, into_table, table};
use super::diagnostic::Fault;
use super::regions::{Regions, quoted};
use super::source::Span;
use super::tree::{Entry, Kind, Table, Value};
use crate::model::{Address, AssetId, Pool, PoolAsset, PoolSettings, RegionId, Role};

/// Of `[pools.ASSET.REGION]`: its members, and every key of `[defaults]`.
pub(super) const KEYS: &[&str] = &[
    "primaries",
    "replicas",
    "balance",
    "hash_on",
    "protocol",
    "proxy_protocol",
    "host",
    "via",
    "health",
    "outlier",
    "retry",
    "limits",
    "timeouts",
    "failover",
    "slow_start",
    "tls",
];

/// What every pool starts from.
pub(super) struct Defaults {
    settings: Arc<PoolSettings>,
    tls: Option<tls::Override>,
    /// Of a pool that says nothing of its own. Made when it is needed: TLS may lack what each pool says by itself.
    plain: OnceCell<Arc<PoolSettings>>,
}

/// `[defaults]`
pub(super) fn defaults(cx: &Context<'_>, value: Option<&Value<'_>>) -> Defaults {
    let mut settings = settings::built_in();
    let mut tls = None;
    if let Some(table) = value.and_then(|value| table(cx, value)) {
        let mut said = Overrides::decode(cx, Fields::new(cx, table, settings::KEYS, "[defaults]"));
        tls = tls::merge(said.take_tls(), None);
        settings = said.over(cx, &settings);
    }
    Defaults { settings: Arc::new(settings), tls, plain: OnceCell::new() }
}

impl Defaults {
    /// What a pool comes to.
    fn settings(&self, cx: &Context<'_>, mut own: Overrides, shared: &mut Shared) -> Arc<PoolSettings> {
        let said = own.take_tls();
        let mut make = |own: Overrides, said| {
            let tls = tls::merge(said, self.tls.as_ref()).and_then(|tls| tls::build(cx, &tls));
            shared.settings(PoolSettings { tls: tls.map(Arc::new), ..own.over(cx, &self.settings) })
        };
        match (own.is_empty(), said) {
            (true, None) => self.plain.get_or_init(|| make(own, None)).clone(),
            (_, said) => make(own, said),
        }
    }
}

/// A pool, and where it stands.
struct Found {
    pool: Pool,
    span: Span,
}

/// `[pools]`, sorted by asset (`*` last) and region. Adds the assets that only a pool names to `assets`.
pub(super) fn decode(
    cx: &Context<'_>,
    value: Option<Value<'_>>,
    defaults: &Defaults,
    regions: &Regions,
    assets: &mut Assets,
) -> Vec<Pool> {
    let mut shared = Shared::default();
    let mut found = Vec::new();
    let Some(pools) = value.and_then(|value| into_table(cx, value)) else { return Vec::new() };
    // Where each asset first stood among the pools, to see one that is spelled in two ways.
    let mut spellings: Vec<Option<Span>> = Vec::new();
    for entry in pools.entries {
        let Some(asset) = pool_asset(cx, &entry, assets, &mut spellings) else { continue };
        let Some(in_regions) = table(cx, &entry.value) else { continue };
        for pool in &in_regions.entries {
            let Some(region) = region(cx, &entry.key, pool, regions) else { continue };
            let Some(body) = table(cx, &pool.value) else { continue };
            if let Some(pool) = body_of(cx, asset, region, pool.span, body, defaults, &mut shared) {
                found.push(pool);
            }
        }
    }
    let order = |found: &Found| {
        let asset = match found.pool.asset {
            PoolAsset::Named(asset) => asset.0,
            PoolAsset::Any => u32::MAX,
        };
        (asset, found.pool.region)
    };
    found.sort_by_key(order);
    for (first, second) in found.iter().zip(found.iter().skip(1)) {
        if order(first) == order(second) {
            let fault = Fault::error(second.span, "this pool is there already");
            cx.note(fault.also(first.span, "first here").help("names are compared without regard to case"));
        }
    }
    warn_of_single_primaries(cx, &found, regions, assets);
    // Collected in place, it would keep the memory of the places, too.
    let mut pools = Vec::with_capacity(found.len());
    pools.extend(found.into_iter().map(|found| found.pool));
    pools
}

fn pool_asset(
    cx: &Context<'_>,
    entry: &Entry<'_>,
    assets: &mut Assets,
    spellings: &mut Vec<Option<Span>>,
) -> Option<PoolAsset> {
    if entry.key == "*" {
        return Some(PoolAsset::Any);
    }
    let asset = match assets.get(&entry.key) {
        Some(meaning) if meaning.is_alias => {
            let name = quoted(assets.name(meaning.asset));
            let fault = Fault::error(entry.span, format!("`{}` is an alias", entry.key)).also(meaning.span, "here");
            cx.note(fault.help(format!("a pool is named after the asset itself: [pools.{name}.REGION]")));
            return None;
        }
        Some(meaning) => meaning.asset,
        None => assets.add(cx, entry.span, &entry.key)?,
    };
    let index = asset.index();
    if spellings.len() <= index {
        spellings.resize(index + 1, None);
    }
    let slot = spellings.get_mut(index)?;
    if let Some(first) = slot.replace(entry.span) {
        let fault = Fault::error(entry.span, format!("the pools of `{}` are there already", entry.key));
        cx.note(
            fault
                .also(first, "first here")
                .help("names of assets are compared without regard to case: write one spelling"),
        );
        *slot = Some(first);
    }
    Some(PoolAsset::Named(asset))
}

/// The region that a pool stands under. A name that is none may be the rest of an asset's name with a dot in it.
fn region(cx: &Context<'_>, asset: &str, pool: &Entry<'_>, regions: &Regions) -> Option<RegionId> {
    if let Some(region) = regions.get(&pool.key) {
        return Some(region);
    }
    if let Some((name, region)) = split_name(asset, pool, regions) {
        let fault = Fault::error(pool.span, format!("unknown region `{}`", pool.key));
        cx.note(fault.help(format!("a name with a dot is quoted: [pools.{name:?}.{}]", quoted(region))));
        return None;
    }
    if KEYS.contains(&pool.key.as_ref()) {
        let fault = Fault::error(pool.span, format!("`{}` belongs to a pool, and a pool has a region", pool.key));
        let region = regions.list.first().map_or("REGION", |region| region.name.as_ref());
        cx.note(fault.help(format!("write [pools.{}.{}]", quoted(asset), quoted(region))));
        return None;
    }
    regions.find(cx, pool.span, &pool.key)
}

/// `[pools.BRK.B.us-east]` is read as the asset `BRK` with a "region" `B`: gives `("BRK.B", "us-east")`.
fn split_name<'a>(asset: &str, pool: &'a Entry<'_>, regions: &Regions) -> Option<(String, &'a str)> {
    let mut name = format!("{asset}.{}", pool.key);
    let mut at = &pool.value;
    loop {
        let Kind::Table(Table { entries }) = &at.kind else { return None };
        let inner = entries.iter().find(|entry| matches!(entry.value.kind, Kind::Table(_)))?;
        if regions.get(&inner.key).is_some() {
            return Some((name, &inner.key));
        }
        name = format!("{name}.{}", inner.key);
        at = &inner.value;
    }
}

fn body_of(
    cx: &Context<'_>,
    asset: PoolAsset,
    region: RegionId,
    span: Span,
    body: &Table<'_>,
    defaults: &Defaults,
    shared: &mut Shared,
) -> Option<Found> {
    let fields = Fields::new(cx, body, KEYS, "[pools.ASSET.REGION]");
    let members = members::decode(cx, fields, span, shared);
    // Most pools of a large file say nothing but who their members are.
    let plain = body.entries.iter().all(|entry| entry.key == "primaries" || entry.key == "replicas");
    let own = if plain { Overrides::default() } else { Overrides::decode(cx, fields) };
    let settings = defaults.settings(cx, own, shared);
    let members = members?;
    if let Some(tls) = &settings.tls {
        tls::check_names(cx, tls, &members, span);
    }
    Some(Found { pool: Pool { asset, region, members, settings }, span })
}

/// One warning, however many pools it is about. A name may have many addresses, so that it is not counted.
fn warn_of_single_primaries(cx: &Context<'_>, found: &[Found], regions: &Regions, assets: &Assets) {
    let alone = |found: &&Found| match &*found.pool.members {
        [member] => member.role == Role::Primary && !matches!(*member.address, Address::Name(..)),
        _ => false,
    };
    let count = found.iter().filter(alone).count();
    let Some(first) = found.iter().filter(alone).min_by_key(|found| (found.span.file, found.span.start)) else {
        return;
    };
    let name = |asset: AssetId| assets.name(asset);
    let region = regions.list.get(first.pool.region.index());
    let help = match region.is_some_and(|region| !region.fallback.is_empty()) {
        true => "when that backend is down, only a fallback region can serve",
        false => "when that backend is down, nothing can serve: its region has no fallback",
    };
    let region = region.map_or("", |region| region.name.as_ref());
    let asset = match first.pool.asset {
        PoolAsset::Named(asset) => name(asset),
        PoolAsset::Any => "*",
    };
    let message = match count {
        1 => format!("the pool {asset}/{region} has a single primary and no replica"),
        2 => format!("the pool {asset}/{region} and one more have a single primary and no replica"),
        _ => format!("the pool {asset}/{region} and {} more have a single primary and no replica", count - 1),
    };
    cx.note(Fault::warning(first.span, message).help(help));
}
