//! What the control plane tells those who follow events about backends.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::super::passive::What;
use super::super::world::World;
use super::Controller;
use crate::backend::Backend;
use crate::health::Transition;

/// Assets that an event about a backend names. A backend may be in a million pools.
const NAMED: usize = 8;

/// What is said of every backend: where it is, and in how many pools.
fn about(backend: &Arc<Backend>, world: &World) -> Vec<(&'static str, Value)> {
    let pools = world.pools_of(backend);
    let assets: Vec<_> = pools.iter().take(NAMED).map(|&id| world.index.pool_labels(id).0.to_string()).collect();
    vec![
        ("region", (*backend.identity.region).into()),
        ("backend", (*backend.label).into()),
        ("assets", assets.into()),
        ("pools", pools.len().into()),
    ]
}

impl Controller {
    /// Checks have changed their mind about a backend.
    pub(super) fn tell_health(&self, transition: &Transition, world: &World) {
        let mut about = about(&transition.check.backend, world);
        let cause = transition.cause().map(|cause| cause.to_string()).into();
        about.extend([("to", if transition.to_up() { "up" } else { "down" }.into()), ("cause", cause)]);
        self.board.events().emit("health", &about);
    }

    /// A backend has announced drain in an answer, or that is over.
    pub(super) fn tell_announcement(&self, backend: &Arc<Backend>, drains: bool, cause: &'static str) {
        let mut about = about(backend, &self.world);
        about.extend([("to", if drains { "drain" } else { "ready" }.into()), ("cause", cause.into())]);
        self.board.events().emit("announced", &about);
    }

    /// The errors of a backend's requests have led to something.
    pub(super) fn tell_ejection(&self, backend: &Arc<Backend>, what: &What, now: Instant) {
        let mut about = about(backend, &self.world);
        let name = match what {
            What::Ejected(ejection) => {
                let seconds = ejection.until.saturating_duration_since(now).as_secs_f64().round();
                about.extend([("cause", ejection.detector.as_str().into()), ("seconds", seconds.into())]);
                "ejected"
            }
            What::HalfOpened => "half-open",
            What::Closed => "closed",
            // Nothing has happened to it.
            What::Counted(..) => return,
        };
        self.board.events().emit(name, &about);
    }
}
