//! Which backends and checks there are: what lets a reload forget nothing.
//!
//! Held by the control plane alone. A Plan asks for what it names and gets what was there before, or something new;
//! what no Plan holds any longer goes with the next [`Registry::sweep`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Backend, Check, Identity};
use crate::model::HealthCheck;

/// All backends by identity, each with its checks.
#[derive(Debug, Default)]
pub struct Registry {
    entries: HashMap<Identity, Entry>,
}

#[derive(Debug)]
struct Entry {
    backend: Arc<Backend>,
    /// Nearly always none or one: pools that share a backend mostly share its check settings.
    checks: Vec<Arc<Check>>,
}

impl Registry {
    /// The backend of this identity: the one that is there, or a new one.
    pub fn backend(&mut self, identity: Identity) -> Arc<Backend> {
        self.entry(identity).backend.clone()
    }

    /// The check of this backend by these settings: the one that is there with all it has found, or a new one, which goes
    /// on from where one that asks the same is.
    pub fn check(&mut self, backend: &Arc<Backend>, settings: &HealthCheck, now: Instant) -> Arc<Check> {
        let entry = self.entry(backend.identity.clone());
        if let Some(check) = entry.checks.iter().find(|c| c.settings == *settings) {
            return check.clone();
        }
        let check = Arc::new(Check::new(entry.backend.clone(), settings.clone(), now));
        // At other times, but the same question: its answers so far hold until there are others.
        if let Some(before) = entry.checks.iter().rev().find(|before| before.settings.asks_the_same(settings)) {
            check.set(before.status(), now);
        }
        entry.checks.push(check.clone());
        check
    }

    /// Lets go of what nobody else holds. A backend goes only after its checks, its last connection and its last request.
    pub fn sweep(&mut self) {
        self.entries.retain(|_, entry| {
            entry.checks.retain(|check| Arc::strong_count(check) > 1);
            !entry.checks.is_empty() || Arc::strong_count(&entry.backend) > 1
        });
    }

    /// How many backends there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&mut self, identity: Identity) -> &mut Entry {
        self.entries
            .entry(identity)
            .or_insert_with_key(|id| Entry { backend: Backend::new(id.clone()), checks: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Status;
    use crate::model::{Address, Protocol};

    fn identity(region: &str, address: &str) -> Identity {
        Identity {
            region: region.into(),
            address: Address::Ip(address.parse().unwrap()),
            protocol: Protocol::H1,
            tls: None,
        }
    }

    #[test]
    fn equals_are_shared_and_state_stays() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let a = registry.backend(identity("north", "10.0.0.1:80"));
        assert!(Arc::ptr_eq(&a, &registry.backend(identity("north", "10.0.0.1:80"))));
        assert!(!Arc::ptr_eq(&a, &registry.backend(identity("south", "10.0.0.1:80"))));
        assert!(!Arc::ptr_eq(&a, &registry.backend(identity("north", "10.0.0.1:81"))));

        let settings = HealthCheck::default();
        let check = registry.check(&a, &settings, now);
        check.set(Status::Up, now);
        assert_eq!(registry.check(&a, &settings, now).status(), Status::Up);
        let slower = HealthCheck { fall: 9, interval: settings.interval * 2, ..settings.clone() };
        assert_eq!(registry.check(&a, &slower, now).status(), Status::Up, "it is the same question");
        let other = HealthCheck { host: Some("a".into()), ..settings };
        assert_eq!(registry.check(&a, &other, now).status(), Status::Unchecked);
    }

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let a = registry.backend(identity("north", "10.0.0.1:80"));
        let check = registry.check(&a, &HealthCheck::default(), now);
        drop(a);
        registry.sweep();
        assert_eq!(registry.len(), 1, "its check is held");
        drop(check);
        registry.sweep();
        assert!(registry.is_empty());

        let a = registry.backend(identity("north", "10.0.0.1:80"));
        let connection = a.try_connection(1).unwrap();
        drop(a);
        registry.sweep();
        assert_eq!(registry.len(), 1, "a connection is open");
        let request = connection.backend().try_request(1);
        drop(connection);
        registry.sweep();
        assert_eq!(registry.len(), 1, "a request is in flight");
        drop(request);
        registry.sweep();
        assert!(registry.is_empty());
    }
}
