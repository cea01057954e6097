//! What backends say of themselves: no report makes it panic, and what is made of one is a number to go by.

use shardgate::backend::{Agent, AgentLine};
use shardgate::message::load_report::{encoded, worded};

/// A report in any form, or an agent's line.
pub fn check(bytes: &[u8]) {
    for report in [worded(bytes), encoded(bytes)].into_iter().flatten() {
        assert!(report.utilization.is_finite() && report.utilization > 0.0);
    }
    if let Some(said) = AgentLine::parse(bytes) {
        let agent = Agent::default();
        agent.note(bytes, said);
        assert!(agent.percent().is_none_or(|percent| percent <= 256));
    }
}
