//! The long steps of a Plan on its way into force, apart from the controller so that they can run on a thread of their
//! own: at a million pools they take seconds, and the control plane has health to act on meanwhile.
//!
//! Each step is given all that it needs and gives it back: the Snapshot in force, and what is known of the world, which
//! for so long nobody else has. No lock is held over a step, so that a thread of low priority keeps nobody waiting.

use std::net::IpAddr;
use std::sync::Arc;

use super::Summary;
use super::diff::Diff;
use super::world::{Answers, World};
use crate::backend::{Check, Registry};
use crate::model::Plan;
use crate::routing::{Index, Origin, Snapshot, rebuild};

/// What is known of the world.
#[derive(Default)]
pub(super) struct Known {
    pub(super) registry: Registry,
    pub(super) answers: Answers,
}

/// A Plan, its backends known and its Snapshot built.
pub(super) struct Next {
    pub(super) world: World,
    pub(super) snapshot: Snapshot,
    pub(super) summary: Summary,
}

/// The first step: the backends and the Snapshot of a Plan. See [`Staging::run`].
pub struct Staging {
    pub(super) known: Known,
    pub(super) plan: Arc<Plan>,
    pub(super) answers: Vec<(Arc<str>, Vec<IpAddr>)>,
    pub(super) current: Arc<Snapshot>,
    /// Whether a Plan is in force, rather than an empty Snapshot of the first one.
    pub(super) in_force: bool,
}

/// What came of [`Staging`].
pub struct Staged {
    pub(super) known: Known,
    pub(super) next: Next,
}

impl Staging {
    /// Takes the step.
    pub fn run(self) -> Staged {
        let Self { mut known, plan, answers, current, in_force } = self;
        known.answers.extend(answers);
        let index = match Arc::ptr_eq(&current.index.plan, &plan) {
            true => Arc::clone(&current.index),
            false => Arc::new(Index::new(plan)),
        };
        let Diff { summary, same } = match in_force {
            true => Diff::new(&current.index, &index),
            false => Diff::of_first(&index.plan),
        };
        let mut world = World::new(Arc::clone(&index));
        let mut pools = index.plan.pools.iter().zip(same);
        let snapshot = rebuild(&current, Arc::clone(&index), |id| match pools.next() {
            // A name may have other addresses now.
            Some((pool, Some(was))) if !World::has_names(pool) => {
                world.adopt(id, current.pool(was));
                Origin::Kept(was)
            }
            _ => Origin::New(world.servers(id, &mut known.registry, &known.answers)),
        });
        Staged { known, next: Next { world, snapshot, summary } }
    }
}

/// The last step before a Plan is put in force: its Snapshot by what the first round of checks has found. See
/// [`Settling::run`].
pub struct Settling {
    pub(super) known: Known,
    pub(super) next: Next,
}

/// What came of [`Settling`].
pub struct Settled {
    pub(super) known: Known,
    pub(super) next: Next,
    pub(super) checks: Vec<Arc<Check>>,
}

impl Settling {
    /// Takes the step.
    pub fn run(self) -> Settled {
        let Self { mut known, next: Next { mut world, mut snapshot, summary } } = self;
        // Names may have got other addresses since.
        let named = world.pools_with_names().into_iter().map(|id| {
            world.release(snapshot.pool(id));
            let servers = world.servers(id, &mut known.registry, &known.answers);
            (id, snapshot.pool(id).with_servers(servers))
        });
        let named: Vec<_> = named.collect();
        if !named.is_empty() {
            snapshot = snapshot.with_changes(named);
        }
        snapshot.judge_anew();
        let checks = world.checks().cloned().collect();
        Settled { known, next: Next { world, snapshot, summary }, checks }
    }
}
