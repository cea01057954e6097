//! `primaries` and `replicas`: a pool's backends.

use std::sync::Arc;

use super::shared::Shared;
use crate::config::address::address;
use crate::config::context::Context;
use crate::config::decode::{Fields, expected_help, integer, list};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::{Kind, Value};
use crate::model::{Member, Role};

/// Of a member that is written as a table.
pub(in crate::config) const KEYS: &[&str] = &["address", "weight"];

/// Both lists of a pool, or `None` if a fault has been noted.
pub(super) fn decode(
    cx: &Context<'_>,
    fields: Fields<'_, '_, '_>,
    pool: Span,
    shared: &mut Shared,
) -> Option<Box<[Member]>> {
    let mut members = Vec::new();
    let mut spans = Vec::new();
    let mut faulty = false;
    for (key, role) in [("primaries", Role::Primary), ("replicas", Role::Replica)] {
        let Some(value) = fields.get(key) else { continue };
        if let Kind::Array(items) = &value.kind {
            members.reserve_exact(items.len());
            faulty |= items.is_empty() && key == "primaries" && fields.get("replicas").is_none();
        }
        let read = list(cx, value, |cx, item| {
            let member = member(cx, item, role, shared);
            faulty |= member.is_none();
            members.push(member?);
            spans.push(item.span);
            Some(())
        });
        faulty |= read.is_none();
    }
    if members.is_empty() && (!faulty || is_empty_list(fields.get("primaries"))) {
        if fields.is_misspelt("primaries") || fields.is_misspelt("replicas") {
            return None;
        }
        let span = fields.span("primaries").unwrap_or(pool);
        let fault = Fault::error(span, "this pool has no backend").absence();
        cx.note(fault.help("such as `primaries = [\"10.1.0.11:8000\", \"10.1.0.12:8000\"]`"));
        return None;
    }
    note_twice(cx, &members, &spans);
    (!faulty).then(|| members.into_boxed_slice())
}

fn is_empty_list(value: Option<&Value<'_>>) -> bool {
    matches!(value.map(|value| &value.kind), Some(Kind::Array(items)) if items.is_empty())
}

/// `"host:port"` or `{ address = "host:port", weight = 2 }`.
fn member(cx: &Context<'_>, item: &Value<'_>, role: Role, shared: &mut Shared) -> Option<Member> {
    let (at, weight) = match &item.kind {
        Kind::String(_) => (item, 1),
        Kind::Table(table) => {
            let fields = Fields::new(cx, table, KEYS, "a backend");
            let weight = match fields.get("weight") {
                None => Some(1),
                Some(Value { kind: Kind::Integer(0), span }) => {
                    let fault = Fault::error(*span, "a weight is 1 to 65535");
                    cx.note(fault.help("to take a backend out of service, take it out of the list"));
                    None
                }
                Some(value) => integer(1..=u64::from(u16::MAX))(cx, value),
            };
            let Some(at) = fields.get("address") else {
                let fault = Fault::error(item.span, "this backend has no `address`").absence();
                cx.note(fault.help("such as { address = \"10.1.0.11:8000\", weight = 2 }"));
                return None;
            };
            match weight {
                Some(weight) => (at, weight),
                None => {
                    address(cx, at);
                    return None;
                }
            }
        }
        _ => {
            let help = "\"host:port\" or { address = \"host:port\", weight = 2 }".to_owned();
            expected_help(cx, item, "a string or a table", Some(help));
            return None;
        }
    };
    Some(Member { address: shared.address(address(cx, at)?), weight, role })
}

/// Equal addresses are one allocation, so pointers tell.
fn note_twice(cx: &Context<'_>, members: &[Member], spans: &[Span]) {
    let mut order: Vec<(usize, usize)> =
        members.iter().enumerate().map(|(i, member)| (Arc::as_ptr(&member.address).addr(), i)).collect();
    order.sort_unstable();
    for (first, second) in order.iter().zip(order.iter().skip(1)) {
        if first.0 != second.0 {
            continue;
        }
        if let (Some(member), Some(at), Some(before)) = (members.get(second.1), spans.get(second.1), spans.get(first.1))
        {
            let fault = Fault::error(*at, format!("{} is in this pool already", member.address));
            cx.note(fault.also(*before, "first here").help("give it a `weight` to send it more"));
        }
    }
}
