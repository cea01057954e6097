//! Files of TLS to backends that have changed, on their way into force: that of a reload, for which nothing of the
//! configuration was read. So it is told apart from one, and what reloads are counted by stays as it is.

use std::future::ready;

use super::super::backend_files::Renewed;
use super::super::reload::{Job, Step};
use super::Daemon;
use crate::config::{Diagnostics, Loaded};
use crate::control::Summary;

impl Daemon {
    /// Sets it on its way.
    pub(super) fn renew(&mut self, renewed: Renewed) {
        let loaded = Loaded { plan: renewed.plan, warnings: Diagnostics::default() };
        let step = Box::pin(ready(Step::Loaded(Box::new(Ok((loaded, renewed.names))))));
        self.job = Some(Job { is_renewal: true, ..Job::new(step) });
    }

    /// It is in force.
    pub(super) fn renewed(&self, summary: Summary) {
        self.metrics.tls_reload(true);
        tracing::info!(changes = %summary, "TLS to backends: files that changed were read anew");
    }

    /// It could not be.
    pub(super) fn not_renewed(&self, error: &str) {
        self.metrics.tls_reload(false);
        tracing::error!(error, "TLS to backends: what changed can't be used, the old goes on");
    }
}
