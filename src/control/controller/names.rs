//! Names whose addresses change.
//!
//! What a name has just led to is not known to work until its first check has ended. So a pool keeps those of its servers
//! that work until then, though the name does not lead to them any more: a record that changes as a whole (a move, a
//! redeploy, one address that rotates) must not leave the pool without a server for as long as a check takes. Envoy keeps
//! hosts that discovery has removed for a similar reason (`ignore_health_on_host_removal`, off by default).
//!
//! Answers are gathered like all facts, because each change has the prober and the metrics look at all there is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Controller;
use crate::control::staging::Finder;

impl Controller {
    /// A name has other addresses now. In force with the next [`flush`](Controller::flush).
    pub fn resolved(&mut self, name: Arc<str>, addresses: Vec<IpAddr>) {
        self.news.insert(name, addresses);
    }

    /// Takes up what names lead to now, and lets go of what was kept until that had been checked.
    pub(super) fn take_up_names(&mut self) {
        // What a name leads to is for the registry to say, and that may be away.
        let Some(known) = &mut self.known else { return };
        let snapshot = self.table.load();
        let mut pools: BTreeSet<_> = self.world.checked_by_now(&snapshot).collect();
        for (name, addresses) in std::mem::take(&mut self.news) {
            pools.extend(self.world.pools_of_name(&name));
            known.answers.insert(name, addresses);
        }
        if pools.is_empty() {
            return;
        }
        let index = Arc::clone(&self.world.index);
        let mut finder = Finder::new(known, &index);
        let now = Instant::now();
        let found: Vec<_> = pools.into_iter().map(|id| (id, finder.servers(id))).collect();
        known.added.drain(..).for_each(|backend| backend.warm_up(now));
        let mut changes = Vec::with_capacity(found.len());
        for (id, mut servers) in found {
            self.world.keep_what_works(snapshot.pool(id), &mut servers);
            self.orders.mark(id, &mut servers);
            changes.push((id, self.world.replace(snapshot.pool(id), servers, now)));
        }
        self.swap(snapshot.with_changes(changes));
        self.watch();
        self.end_series();
    }
}
