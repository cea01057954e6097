//! What the control plane shows to whoever asks, besides the Snapshot: what operators have said, and what happens.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::events::Events;
use super::states::States;

/// One for the process. Written by the control plane alone.
#[derive(Debug)]
pub struct Board {
    states: ArcSwap<States>,
    events: Events,
}

impl Board {
    /// With what was said before this process.
    pub fn new(states: States) -> Arc<Self> {
        Arc::new(Self { states: ArcSwap::from_pointee(states), events: Events::new(Timestamp::now()) })
    }

    /// What operators have said.
    pub fn states(&self) -> Arc<States> {
        self.states.load_full()
    }

    /// What happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn set(&self, states: States) {
        self.states.store(Arc::new(states));
    }
}
