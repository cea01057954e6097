//! A pool's policy with all that it asks for: the table of its servers, the request's hash, the time.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::{Index, PoolState};
use crate::balance::{self, Rule, Table};
use crate::message::RequestHead;
use crate::message::key::{self, View};
use crate::model::{HashSource, Policy, PoolSettings, Role, SourceKind};

/// The Maglev tables of a pool's tiers, each made when a request first asks for it: of a million pools few are in use at
/// once. All states of a pool with the same servers have the same ones.
pub(super) type Tables = Option<Arc<[OnceLock<Table>; 2]>>;

/// None yet, where there will be some.
pub(super) fn tables(settings: &PoolSettings) -> Tables {
    (settings.balance == Policy::Maglev).then(Arc::default)
}

impl PoolState {
    /// How a server is picked in one of its tiers. Policies that need neither hash nor time don't ask for them. A request
    /// of which there is nothing to hash is spread at random.
    pub fn rule(
        &self,
        role: Role,
        hash: impl FnOnce(&[HashSource]) -> Option<u64>,
        now: impl FnOnce() -> Instant,
    ) -> Rule<'_> {
        match self.settings.balance {
            Policy::LeastRequest => Rule::LeastRequest,
            Policy::RoundRobin => Rule::RoundRobin,
            Policy::Random => Rule::Random,
            Policy::PeakEwma => Rule::PeakEwma { now: now() },
            Policy::Maglev => match hash(&self.settings.hash_on) {
                Some(hash) => self.table(role).map_or(Rule::Random, |table| Rule::Maglev { table, hash }),
                None => Rule::Random,
            },
        }
    }

    fn table(&self, role: Role) -> Option<&Table> {
        let place = self.tables.as_ref()?.get(role as usize)?;
        if place.get().is_none() {
            // Made before the place is taken: workers that want it at the same time make it twice, but nobody waits.
            let servers = self.tiers.get(role as usize)?.servers.iter();
            let _ = place.set(Table::new(servers.map(|server| (&*server.backend.label, server.weight))));
        }
        place.get()
    }
}

impl Index {
    /// What a request is spread by: the first source that yields, and the hash of what it says. Captures are those of the
    /// route that matches. `client`: its address, as far as it is believed.
    pub fn hash<'s>(
        &self,
        head: &RequestHead,
        client: impl FnOnce() -> Option<IpAddr>,
        sources: &'s [HashSource],
    ) -> Option<(&'s HashSource, u64)> {
        let view = View::from(head);
        let matched = std::cell::LazyCell::new(|| self.hosts.find(&view, &self.plan.routes).ok());
        let client = std::cell::LazyCell::new(client);
        sources.iter().find_map(|source| {
            let hash = match source {
                HashSource::Uri => balance::hash(head.target()),
                // In one form: a listener for both kinds sees IPv4 addresses as mapped ones.
                HashSource::Part(SourceKind::ClientAddress) => match (*client)?.to_canonical() {
                    IpAddr::V4(address) => balance::hash(&address.octets()),
                    IpAddr::V6(address) => balance::hash(&address.octets()),
                },
                HashSource::Part(kind) => {
                    let path = |name: &str| matched.as_ref()?.path(name);
                    let host = |name: &str| {
                        let matched = matched.as_ref()?;
                        matched.host(self.plan.routes.get(matched.route)?, name)
                    };
                    balance::hash(&key::read(kind, &view, path, host)?)
                }
            };
            Some((source, hash))
        })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::testing::{self, plan, pool, route};
    use super::super::{Snapshot, build};
    use super::*;
    use crate::backend::{Cause, Status};
    use crate::model::PoolId;

    fn snapshot() -> Snapshot {
        let mut plan = plan(&["r"], &["A"]);
        let settings = Arc::new(PoolSettings {
            balance: Policy::Maglev,
            hash_on: vec![HashSource::Part(SourceKind::Path("user".into())), HashSource::Uri],
            ..PoolSettings::default()
        });
        plan.pools = vec![pool(Some(0), 0, &settings)];
        plan.routes = vec![
            route("user", &["{tenant}.example.com"], &[], Some("/v1/{asset}/{user}")),
            route("other", &[], &[], Some("/v1/{asset}")),
        ];
        let states = [Some(Status::Up); 3];
        build(Arc::new(Index::new(Arc::new(plan))), 1, Instant::now(), |_| [testing::servers("r", 1, &states), vec![]])
    }

    fn head(host: &str, target: &str) -> RequestHead {
        RequestHead::new(Method::GET, target, [("host", host.as_bytes()), ("cookie", b"sid=%61b"), ("x-user", b"")])
    }

    #[test]
    fn the_first_source_that_yields_decides() {
        let index = snapshot().index.clone();
        let part = HashSource::Part;
        let all = [
            part(SourceKind::Header(http::HeaderName::from_static("x-user"))),
            part(SourceKind::Path("user".into())),
            part(SourceKind::Host("tenant".into())),
            part(SourceKind::Cookie("sid".into())),
            part(SourceKind::ClientAddress),
            part(SourceKind::Const("x".into())),
            HashSource::Uri,
        ];
        let read = |head: &RequestHead, client: &str, from: usize| {
            index
                .hash(head, || client.parse().ok(), &all[from..])
                .map(|(source, hash)| (all.iter().position(|other| other == source).unwrap(), hash))
        };
        let hash = balance::hash;
        let user = head("t1.example.com", "/v1/A/u%31?q");
        assert_eq!(read(&user, "", 0), Some((1, hash(b"u1"))));
        assert_eq!(read(&user, "", 2), Some((2, hash(b"t1"))));
        // A route without such captures, and one that does not exist.
        for target in ["/v1/A", "/nowhere"] {
            assert_eq!(read(&head("a", target), "", 0), Some((3, hash(b"ab"))));
        }
        assert_eq!(read(&user, "::ffff:10.0.0.1", 4), Some((4, hash(&[10, 0, 0, 1]))));
        assert_eq!(read(&user, "10.0.0.1", 4), read(&user, "::ffff:10.0.0.1", 4));
        assert_eq!(read(&user, "", 4), Some((5, hash(b"x"))));
        assert_eq!(read(&user, "", 6), Some((6, hash(b"/v1/A/u%31?q"))));
        assert_eq!(index.hash(&head("a", "http://b/x"), || None, &all[6..]).unwrap().1, hash(b"http://b/x"));
        assert_eq!(index.hash(&user, || None, &all[..1]), None);
    }

    #[test]
    fn a_flip_keeps_the_table_and_other_servers_get_another() {
        let snapshot = snapshot();
        let table = |pool: &PoolState| match pool.rule(Role::Primary, |_| Some(1), || unreachable!()) {
            Rule::Maglev { table, .. } => std::ptr::from_ref(table) as usize,
            other => panic!("{other:?}"),
        };
        let pool = snapshot.pool(PoolId(0));
        assert!(matches!(pool.rule(Role::Primary, |_| None, || unreachable!()), Rule::Random));
        assert!(pool.tables.as_ref().unwrap()[0].get().is_none(), "not before it is needed");
        let before = table(pool);
        pool.tiers[0].servers[1].check.as_ref().unwrap().set(Status::Down(Cause::Refused), Instant::now());
        let flipped = pool.refreshed(Instant::now());
        assert_eq!((flipped.tiers[0].usable.len(), table(&flipped), table(pool)), (2, before, before));
        assert!(pool.tables.as_ref().unwrap()[1].get().is_none());
        assert_ne!(table(&pool.with_servers([testing::servers("r", 1, &[None; 2]), vec![]], Instant::now())), before);
        assert!(PoolState::new(PoolId(0), Arc::default(), [vec![], vec![]], Instant::now()).tables.is_none());
    }

    #[test]
    fn spreading_by_hash_allocates_nothing() {
        let snapshot = snapshot();
        let (pool, head) = (snapshot.pool(PoolId(0)), head("a.example.com", "/v1/A/u1"));
        let pick = || {
            let hash = |sources: &[HashSource]| snapshot.index.hash(&head, || None, sources).map(|(_, hash)| hash);
            let tier = &pool.tiers[0];
            let group = balance::Group { servers: &tier.servers, usable: &tier.usable, heaviest: tier.heaviest };
            let rule = pool.rule(Role::Primary, hash, || unreachable!());
            let (mut rotation, mut random) = (balance::Rotation::default(), fastrand::Rng::with_seed(1));
            balance::pick(rule, group, |_| false, &mut rotation, &mut random)
        };
        let first = pick();
        let allocated = allocation_counter::measure(|| assert_eq!(pick(), first));
        assert_eq!(allocated.count_total, 0, "{allocated:?}");
    }
}
