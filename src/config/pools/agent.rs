//! `health.agent`: of `[defaults]` and of a pool.

use std::num::NonZeroU16;
use std::time::Duration;

use super::settings::Switch;
use crate::config::context::Context;
use crate::config::decode::{Fields, integer, table};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::Value;
use crate::config::units::duration;
use crate::model::AgentCheck;

pub(in crate::config) const KEYS: &[&str] = &["port", "interval", "timeout"];

/// What an `agent` table says.
#[derive(Debug, Default)]
pub(in crate::config) struct Override {
    port: Option<NonZeroU16>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    /// Where the table stands, if it has no port: whether it needs one shows only after merging.
    without_port: Option<Span>,
}

impl PartialEq for Override {
    fn eq(&self, other: &Self) -> bool {
        let said = |o: &Self| (o.port, o.interval, o.timeout);
        said(self) == said(other)
    }
}

pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Override> {
    let f = Fields::new(cx, table(cx, value)?, KEYS, "an `agent` table");
    Some(Override {
        port: f.read("port", integer::<u16>(1..=65_535)).and_then(NonZeroU16::new),
        interval: f.read("interval", duration),
        timeout: f.read("timeout", duration),
        // A port that is faulty is not a port that is missing.
        without_port: f.get("port").is_none().then_some(value.span),
    })
}

/// What a pool's word comes to over what it starts from.
pub(super) fn merge(cx: &Context<'_>, said: Option<&Switch<Override>>, base: Option<AgentCheck>) -> Option<AgentCheck> {
    let said = match said {
        None => return base,
        Some(Switch::Off) => return None,
        Some(Switch::On(said)) => said,
    };
    let port = said.port.or(base.map(|base| base.port));
    if let (None, Some(span)) = (port, said.without_port) {
        let fault = Fault::error(span, "an agent needs a `port`");
        cx.note(fault.help("the port at the backend's host on which it answers, such as `port = 9101`").absence());
    }
    Some(AgentCheck {
        port: port?,
        interval: said.interval.or(base.map(|base| base.interval)).unwrap_or(AgentCheck::INTERVAL),
        timeout: said.timeout.or(base.map(|base| base.timeout)).unwrap_or(AgentCheck::TIMEOUT),
    })
}
