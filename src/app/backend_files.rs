//! The files of TLS to backends, and whether they are still those that were read.
//!
//! What changes is put into a copy of the Plan in force, which then goes the way of a reload: to settings that have
//! changed belong other backends (ADR 0024), whose checks come first, and requests in flight end where they are.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use super::certificates::{Identity, identity};
use super::reload::Names;
use crate::config::reread_backends;
use crate::control;
use crate::model::{Plan, PoolSettings};
use crate::telemetry::Metrics;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct BackendFiles {
    files: Vec<PathBuf>,
    /// What was read. `None`: nobody has looked yet.
    seen: Option<Vec<Identity>>,
}

/// The Plan in force with what the files hold now, and the names in it that have to be resolved.
pub(super) struct Renewed {
    pub(super) plan: Plan,
    pub(super) names: Names,
}

impl BackendFiles {
    /// Those that a Plan names.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut files = BTreeSet::new();
        let mut last: Option<&Arc<PoolSettings>> = None;
        for settings in plan.pools.iter().map(|pool| &pool.settings) {
            // Neighbours mostly share theirs.
            if last.is_none_or(|last| !Arc::ptr_eq(last, settings)) {
                files.extend(settings.tls.iter().flat_map(|tls| tls.files.all()));
            }
            last = Some(settings);
        }
        Self { files: files.into_iter().cloned().collect(), seen: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Reads them anew if one is not what was read; what is new, if anything.
    pub(super) fn look(&mut self, plan: &Plan, metrics: &Metrics) -> Option<Renewed> {
        // Before reading: what changes meanwhile is seen next time.
        let found: Vec<_> = self.files.iter().map(|file| identity(file)).collect();
        if self.seen.as_ref() == Some(&found) {
            return None;
        }
        self.seen = Some(found);
        let renewed = reread_backends(plan);
        for error in renewed.errors {
            metrics.tls_reload(false);
            tracing::error!(error, "TLS to backends: a file that changed can't be used, the old one goes on");
        }
        renewed.plan.map(|plan| Renewed { names: control::names(&plan), plan })
    }
}
