//! `outlier` and `slow_start`: of `[defaults]` and of a pool.

use std::time::Duration;

use crate::config::context::Context;
use crate::config::decode::{Fields, boolean, integer, table};
use crate::config::diagnostic::Fault;
use crate::config::source::Span;
use crate::config::tree::Value;
use crate::config::units::{duration, duration_or_zero};
use crate::model::{Outlier, SlowStart};

pub(in crate::config) const KEYS: &[&str] =
    &["consecutive_errors", "base_ejection", "max_ejection", "max_ejected_percent", "enforce"];
pub(in crate::config) const SLOW_START_KEYS: &[&str] = &["window"];

/// What an `outlier` table says.
#[derive(Debug, Default)]
pub(in crate::config) struct Override {
    consecutive_errors: Option<u32>,
    base_ejection: Option<Duration>,
    max_ejection: Option<Duration>,
    max_ejected_percent: Option<u8>,
    enforce: Option<bool>,
    /// Where `max_ejection` stands, or else `base_ejection`: which is too long shows only after merging.
    span: Option<Span>,
}

impl PartialEq for Override {
    fn eq(&self, other: &Self) -> bool {
        let said = |o: &Self| (o.consecutive_errors, o.base_ejection, o.max_ejection, o.max_ejected_percent, o.enforce);
        said(self) == said(other)
    }
}

pub(super) fn decode(cx: &Context<'_>, value: &Value<'_>) -> Option<Override> {
    let f = Fields::new(cx, table(cx, value)?, KEYS, "an `outlier` table");
    Some(Override {
        consecutive_errors: f.read("consecutive_errors", integer(1..=1_000_000)),
        base_ejection: f.read("base_ejection", duration),
        max_ejection: f.read("max_ejection", duration),
        max_ejected_percent: f.read("max_ejected_percent", integer(0..=100)),
        enforce: f.read("enforce", boolean),
        span: f.span("max_ejection").or(f.span("base_ejection")),
    })
}

impl Override {
    pub(super) fn over(self, cx: &Context<'_>, base: Outlier) -> Outlier {
        let base_ejection = self.base_ejection.unwrap_or(base.base_ejection);
        let max_ejection = match self.max_ejection {
            None => base.max_ejection.max(base_ejection),
            Some(most) => most,
        };
        if let Some(span) = self.span.filter(|_| max_ejection < base_ejection) {
            let fault = Fault::error(span, "`max_ejection` is shorter than `base_ejection`");
            cx.note(fault.help(format!("`base_ejection` is {} s here", base_ejection.as_secs_f64())));
        }
        Outlier {
            consecutive_errors: self.consecutive_errors.unwrap_or(base.consecutive_errors),
            base_ejection,
            max_ejection,
            max_ejected_percent: self.max_ejected_percent.unwrap_or(base.max_ejected_percent),
            enforce: self.enforce.unwrap_or(base.enforce),
        }
    }
}

/// `slow_start = { window = "30s" }`
pub(super) fn slow_start(cx: &Context<'_>, value: &Value<'_>) -> Option<SlowStart> {
    let f = Fields::new(cx, table(cx, value)?, SLOW_START_KEYS, "a `slow_start` table");
    Some(SlowStart { window: f.read("window", duration_or_zero)? })
}
