//! `[metrics]`: how many series there may be.

use super::context::Context;
use super::decode::{Fields, integer, table};
use super::diagnostic::Fault;
use super::source::Span;
use super::tree::Value;

pub(super) const KEYS: &[&str] = &["max_pools"];

/// Gives back `max_pools`.
pub(super) fn decode(cx: &Context<'_>, value: Option<&Value<'_>>, pools: usize) -> usize {
    let fields = value.and_then(|value| table(cx, value)).map(|table| Fields::new(cx, table, KEYS, "[metrics]"));
    let said = fields.as_ref().and_then(|fields| fields.read("max_pools", integer(0..=10_000_000)));
    let max_pools = said.unwrap_or(10_000);
    if pools > max_pools {
        let span = fields.and_then(|fields| fields.span("max_pools")).unwrap_or(Span::whole_file(0));
        let message = format!("{pools} pools, but series of metrics for at most {max_pools} of them");
        cx.note(
            Fault::warning(span, message).help("the rest are counted as `_other`; raise metrics.max_pools to see them"),
        );
    }
    max_pools
}
