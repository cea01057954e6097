//! From what servers say of themselves to the Snapshot.

use std::sync::Arc;
use std::time::Instant;

use super::Controller;
use crate::backend::{Backend, Observation};
use crate::model::{Announcement, Policy};
use crate::telemetry::Cause;

impl Controller {
    /// A server said something in an answer. Gives back what is about something else.
    pub(super) fn hear(&mut self, observation: Observation, now: Instant) -> Option<Observation> {
        match observation {
            Observation::Reports(backend) => self.heard.watch(backend, now),
            Observation::Announced(backend, Announcement::Drain) => self.begin_drain(&backend, now),
            Observation::Announced(backend, Announcement::Ready) => self.end_drain(&backend, "ready", now),
            other => return Some(other),
        }
        None
    }

    /// Looks at what has been reported, and at the time.
    pub(super) fn listen(&mut self, now: Instant) {
        for backend in self.heard.expired(now) {
            self.end_drain(&backend, "expired", now);
        }
        // What is in no pool says nothing more, and may be another server when it comes back.
        self.heard.forget(|backend| self.world.has(backend));
        let changed = self.heard.look(now);
        if changed.is_empty() {
            return;
        }
        let snapshot = self.table.load();
        for backend in changed {
            let asks = |id| matches!(snapshot.pool(id).settings.balance, Policy::LeastRequest | Policy::PeakEwma);
            self.dirty.extend(self.world.pools_of(&backend).iter().copied().filter(|id| asks(*id)));
            self.note_overtaking(&backend);
        }
    }

    fn begin_drain(&mut self, backend: &Arc<Backend>, now: Instant) {
        if !self.heard.drain(backend, now) {
            return;
        }
        let (name, region) = (&*backend.label, &*backend.identity.region);
        tracing::info!(backend = name, region, by = "response", "backend announces drain");
        self.tell_announcement(backend, true, "response");
        self.count_announcement(backend, false);
        self.touch(backend);
    }

    /// An announced drain is over, if there is one, and this is why.
    pub(super) fn end_drain(&mut self, backend: &Arc<Backend>, cause: &'static str, now: Instant) {
        if !self.heard.end_drain(backend) {
            return;
        }
        let (name, region) = (&*backend.label, &*backend.identity.region);
        tracing::info!(backend = name, region, cause, "backend no longer drains");
        self.tell_announcement(backend, false, cause);
        // It may have been started anew meanwhile.
        backend.warm_up(now);
        self.count_announcement(backend, true);
        let pools = self.world.pools_of(backend).to_vec();
        self.world.warming.extend(pools);
        self.touch(backend);
    }

    fn count_announcement(&self, backend: &Arc<Backend>, to_up: bool) {
        for &id in self.world.pools_of(backend) {
            let (asset, region) = self.world.index.pool_labels(id);
            self.metrics.transition(&asset, &region, &backend.label, to_up, Cause::Announced);
        }
    }
}
