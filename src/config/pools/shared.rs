//! One allocation for what is equal: settings and addresses.
//!
//! A file of a million pools has a handful of different settings, and often the same backend in many pools. Whoever
//! compares two of them later can begin with the pointers.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

use crate::model::{Address, PoolSettings};

/// What has been seen so far.
#[derive(Default)]
pub(super) struct Shared {
    addresses: HashTable<Arc<Address>>,
    settings: HashTable<Arc<PoolSettings>>,
}

impl Shared {
    pub(super) fn address(&mut self, address: Address) -> Arc<Address> {
        let hash = |address: &Address| FxBuildHasher.hash_one(address);
        match self.addresses.entry(hash(&address), |other| **other == address, |other| hash(other)) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(Arc::new(address)).get().clone(),
        }
    }

    pub(super) fn settings(&mut self, settings: PoolSettings) -> Arc<PoolSettings> {
        match self.settings.entry(hash_of(&settings), |other| **other == settings, |other| hash_of(other)) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(Arc::new(settings)).get().clone(),
        }
    }
}

fn hash_of(settings: &PoolSettings) -> u64 {
    // Taken apart, so that a field that is added later can't be forgotten here.
    let PoolSettings {
        balance,
        hash_on,
        protocol,
        proxy_protocol,
        tls,
        host,
        via,
        health,
        agent,
        retry,
        limits,
        timeouts,
        failover,
        outlier,
        slow_start,
    } = settings;
    let mut hasher = FxBuildHasher.build_hasher();
    (balance, hash_on, protocol, tls, host, via, health, agent, retry, limits, timeouts, outlier).hash(&mut hasher);
    (slow_start, proxy_protocol).hash(&mut hasher);
    (failover.overprovisioning.to_bits(), failover.panic_percent, failover.capacity).hash(&mut hasher);
    hasher.finish()
}
