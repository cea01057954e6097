//! What is good as it stands and serves nobody: a file without pools, an asset that no pool serves. Both are what a misspelt
//! name, or an `include` that finds nothing, looks like.

use super::assets::Assets;
use super::context::Context;
use super::diagnostic::Fault;
use super::source::Span;
use crate::model::{Action, Pool, PoolAsset, Route};

/// `any_pool`: whether there is a `*` pool, which serves every asset.
pub(super) fn note(cx: &Context<'_>, pools: &[Pool], any_pool: bool, routes: &[Route], assets: &Assets) {
    if pools.is_empty() {
        if routes.iter().any(|route| matches!(route.action, Action::Forward)) {
            let fault = Fault::warning(Span::whole_file(0), "there is no pool: nothing can be forwarded");
            let help = "add one: [pools.ASSET.REGION] with `primaries = [\"10.0.0.1:8000\"]`";
            cx.note(fault.help(help).absence());
        }
        return;
    }
    if any_pool {
        return;
    }
    let mut served = vec![false; assets.list.len()];
    for pool in pools {
        if let PoolAsset::Named(asset) = pool.asset
            && let Some(served) = served.get_mut(asset.index())
        {
            *served = true;
        }
    }
    let unserved: Vec<&str> =
        assets.list.iter().zip(&served).filter(|(_, served)| !**served).map(|(asset, _)| &*asset.name).collect();
    if let Some(first) = unserved.first().and_then(|name| assets.get(name)) {
        let (subject, verb) = if unserved.len() == 1 { ("asset", "has") } else { ("assets", "have") };
        let message = format!("the {subject} {} {verb} no pool", super::some_of(&unserved));
        cx.note(
            Fault::warning(first.span, message).help("requests for it are answered with 404 `unknown_asset`").absence(),
        );
    }
}
