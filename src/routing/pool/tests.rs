//! What servers say of themselves, in the weights of a pool.

use std::num::NonZeroU16;
use std::time::Duration;

use super::*;
use crate::backend::{AgentLine, Identity};
use crate::model::{Address, HealthCheck, SlowStart};

fn settings(balance: Policy, window: u64) -> PoolSettings {
    PoolSettings { balance, slow_start: SlowStart { window: Duration::from_secs(window) }, ..PoolSettings::default() }
}

/// A pool of servers with these configured and reported weights and percentages of an agent.
fn pool(settings: PoolSettings, servers: &[(u16, Option<f64>, Option<u16>)], now: Instant) -> PoolState {
    let server = |(port, &(weight, reported, percent)): (u16, &(u16, Option<f64>, Option<u16>))| {
        let address = Address::Ip(([10, 0, 0, 1], port).into());
        let backend = Backend::new(Identity { region: "r".into(), address, protocol: Default::default(), tls: None });
        if reported.is_some() {
            backend.words_or_new().set_weight(reported);
        }
        let agent = percent.map(|percent| {
            let settings = HealthCheck { agent: NonZeroU16::new(9), ..HealthCheck::default() };
            let check = Check::new(Arc::clone(&backend), settings, now);
            let said = AgentLine { percent: Some(percent), ..AgentLine::default() };
            check.agent().expect("an agent's").note(b"", said);
            check.set(check.agent().expect("an agent's").status(), now);
            Arc::new(check)
        });
        Server { agent, ..Server::new(backend, None, weight) }
    };
    let servers = (1..).zip(servers).map(server).collect();
    PoolState::new(PoolId(0), Arc::new(settings), [servers, Vec::new()], now)
}

fn weights(pool: &PoolState) -> Vec<u32> {
    pool.servers().map(Candidate::weight).collect()
}

#[test]
fn reports_move_weights_of_the_policies_that_ask_for_them() {
    let now = Instant::now();
    let servers = [(1, Some(300.0), None), (2, Some(100.0), None), (3, None, None)];
    for (policy, expected) in [
        (Policy::LeastRequest, [384, 256, 768]),
        (Policy::PeakEwma, [384, 256, 768]),
        (Policy::RoundRobin, [256, 512, 768]),
        (Policy::Random, [256, 512, 768]),
        (Policy::Maglev, [256, 512, 768]),
    ] {
        let pool = pool(settings(policy, 0), &servers, now);
        assert_eq!(weights(&pool), expected, "{policy:?}");
        assert_eq!((pool.tiers[0].health, pool.tiers[0].heaviest), (100, 768));
        assert!(pool.is_current(now) && !pool.is_warming_up());
    }
    let alone = pool(settings(Policy::LeastRequest, 0), &[(1, Some(300.0), None), (1, None, None)], now);
    assert_eq!(weights(&alone), [256, 256]);
    // The bounds, and the largest of all weights.
    let far = pool(settings(Policy::LeastRequest, 0), &[(1, Some(1e-9), None), (u16::MAX, Some(1e9), Some(256))], now);
    assert_eq!(weights(&far), [26, 1311 * u32::from(u16::MAX)]);
}

#[test]
fn an_agents_percentage_and_slow_start_and_reports_are_multiplied() {
    let now = Instant::now();
    let servers = [(1, Some(300.0), Some(50)), (2, Some(100.0), None), (1, None, Some(0))];
    let pool = pool(settings(Policy::LeastRequest, 100), &servers, now);
    assert_eq!(weights(&pool)[..2], [192, 256]);
    assert_eq!(pool.servers().map(Server::load_weight).collect::<Vec<_>>()[..2], [Some(0.75), Some(0.5)]);
    assert_eq!(&*pool.tiers[0].usable, [0, 1], "no percent at all is drain");
    // Of a weight of 4, one is drained: 3/4 and some more.
    assert_eq!(pool.tiers[0].health, 100);
    for server in pool.servers() {
        server.backend.warm_up(now);
    }
    assert!(!pool.is_current(now));
    let later = pool.refreshed(now + Duration::from_secs(50));
    assert_eq!(weights(&later)[..2], [96, 128]);
    // Half of what is there, whatever they say: 140 % of 3/4 of 1/2.
    assert_eq!(later.tiers[0].health, 52);
    assert!(later.is_warming_up());
}

#[test]
fn a_pool_is_judged_anew_when_a_weight_has_changed() {
    let now = Instant::now();
    let pool = pool(settings(Policy::LeastRequest, 0), &[(1, Some(1.0), None), (1, Some(1.0), None)], now);
    assert_eq!(weights(&pool), [256, 256]);
    let same = pool.refreshed(now);
    assert!(Arc::ptr_eq(&pool.tiers[0].servers, &same.tiers[0].servers));
    let words = pool.tiers[0].servers[0].backend.words_or_new();
    words.set_weight(Some(3.0));
    assert!(!pool.is_current(now));
    assert_eq!(weights(&pool.refreshed(now)), [384, 128]);
    words.set_weight(None);
    let after = pool.refreshed(now);
    assert!(pool.is_current(now) && after.is_current(now));
    assert_eq!(weights(&after), [256, 256]);
}
