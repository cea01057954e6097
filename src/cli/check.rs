//! `shardgate check`: a summary and warnings, or every error.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::path::Path;

use super::fault::Fault;
use super::print;
use crate::config::{self, Diagnostics};
use crate::model::Plan;

/// Reads a configuration as `run` would, and serves nothing.
pub(super) fn check(path: &Path) -> Result<(), Fault> {
    let loaded = load(path)?;
    if !loaded.warnings.is_empty() {
        let color = std::io::stderr().is_terminal();
        std::io::stderr().lock().write_all(loaded.warnings.render(color).as_bytes())?;
    }
    print(format!("{}: {}\n", path.display(), summary(&loaded.plan)))
}

/// A configuration, or every error of it.
pub(super) fn load(path: &Path) -> Result<config::Loaded, Fault> {
    config::load(path).map_err(|errors: Diagnostics| Fault::Wrong(errors.render(std::io::stderr().is_terminal())))
}

fn summary(plan: &Plan) -> String {
    let members = plan.pools.iter().flat_map(|pool| pool.members.iter().map(move |m| (pool.region, &m.address)));
    let backends = members.collect::<HashSet<_>>().len();
    let counts = [
        (plan.listeners.len(), "listener"),
        (plan.routes.len(), "route"),
        (plan.regions.len(), "region"),
        (plan.assets.len(), "asset"),
        (plan.pools.len(), "pool"),
        (backends, "backend"),
    ];
    let counts = counts.map(|(n, what)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
    format!("good: {}; hash {}", counts.join(", "), plan.hash)
}
