//! What a backend says of itself beside its answer: how loaded it is, and whether it wants anything new.
//!
//! It is for this proxy alone, so it never reaches the client, not even where it can't be used.

use std::sync::Arc;

use super::slots::ServerSlot;
use crate::backend::{Backend, Observation};
use crate::message::fields::{Fields, Known, Names};
use crate::message::load_report;
use crate::model::Announcement;

/// The fields that say it.
pub(super) const FIELDS: Names = load_report::FIELDS.and(Names::of(&[Known::ShardgateState]));

/// Hears a response that has such fields, and takes them out.
#[inline(never)]
pub(super) fn hear(fields: &mut Fields, backend: &Arc<Backend>, server: &ServerSlot) {
    if fields.has(load_report::FIELDS) {
        let report = load_report::read(fields);
        server.cells.load_report(report.is_some());
        if let Some(report) = report {
            let words = backend.words_or_new();
            if words.report(report, false) && !server.reports.send(Observation::Reports(Arc::clone(backend))) {
                words.unwatched();
            }
        }
    }
    // What is known already need not be said again; what could not be said is with the next answer.
    if let Some(said) = announcement(fields)
        && (said == Announcement::Drain) != backend.drains()
    {
        server.reports.send(Observation::Announced(Arc::clone(backend), said));
    }
    fields.remove(FIELDS);
}

/// Of fields that contradict each other none is believed.
fn announcement(fields: &Fields) -> Option<Announcement> {
    let mut all = fields.all(Known::ShardgateState).map(Announcement::from_value);
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_or_none() {
        let of = |values: &[&str]| {
            let fields: Fields = values.iter().map(|value| ("X-Shardgate-State", value.as_bytes())).collect();
            announcement(&fields)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["drain"]), Some(Announcement::Drain));
        assert_eq!(of(&["ready", "Ready"]), Some(Announcement::Ready));
        assert_eq!(of(&["drain", "ready"]), None);
        assert_eq!(of(&["drain", "?"]), None);
        assert_eq!(of(&["maintenance"]), None);
    }
}
