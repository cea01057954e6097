//! Values with a unit: durations, sizes, rates.

use std::time::Duration;

use super::context::Context;
use super::decode::{expected_help, string};
use super::diagnostic::Fault;
use super::tree::{Kind, Value};

/// A year: whatever is longer is a mistake, and sums of durations stay far from any overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// `"250ms"`, `"2s"`, `"1m30s"`; more than nothing.
pub(super) fn duration(cx: &Context<'_>, value: &Value<'_>) -> Option<Duration> {
    let duration = duration_or_zero(cx, value)?;
    if duration.is_zero() {
        cx.note(Fault::error(value.span, "this must be longer than zero"));
        return None;
    }
    Some(duration)
}

/// The same where `"0s"` has a meaning.
pub(super) fn duration_or_zero(cx: &Context<'_>, value: &Value<'_>) -> Option<Duration> {
    let text = unit_text(cx, value, "a duration", "s")?;
    if text == "off" {
        cx.note(Fault::error(value.span, "this cannot be switched off").help("write a duration, such as \"30s\""));
        return None;
    }
    match parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Some(duration),
        Ok(_) => {
            cx.note(Fault::error(value.span, "this is longer than a year"));
            None
        }
        Err(help) => {
            cx.note(Fault::error(value.span, format!("`{text}` is not a duration")).help(help));
            None
        }
    }
}

/// The same where `"off"` has a meaning: `Some(None)`.
pub(super) fn duration_or_off(cx: &Context<'_>, value: &Value<'_>) -> Option<Option<Duration>> {
    match &value.kind {
        Kind::String(text) if text == "off" => Some(None),
        Kind::Boolean(false) => {
            expected_help(cx, value, "a duration", Some("write \"off\"".to_owned()));
            None
        }
        Kind::String(text) if parse_duration(text).is_ok_and(|duration| duration.is_zero()) => {
            cx.note(Fault::error(value.span, "this must be longer than zero").help("to switch it off, write \"off\""));
            None
        }
        _ => duration(cx, value).map(Some),
    }
}

/// `"16KiB"`, in bytes, at least and at most so many.
pub(super) fn size(cx: &Context<'_>, value: &Value<'_>, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let text = unit_text(cx, value, "a size", "B")?;
    match parse_size(text) {
        Ok(bytes) if range.contains(&bytes) => Some(bytes),
        Ok(_) => {
            let (low, high) = (show_size(*range.start()), show_size(*range.end()));
            cx.note(Fault::error(value.span, format!("expected a size from \"{low}\" to \"{high}\"")));
            None
        }
        Err(help) => {
            cx.note(Fault::error(value.span, format!("`{text}` is not a size")).help(help));
            None
        }
    }
}

/// `"240B/s"`, in bytes per second; `"off"` is 0.
pub(super) fn rate(cx: &Context<'_>, value: &Value<'_>) -> Option<u64> {
    let text = unit_text(cx, value, "a rate", "B/s")?;
    if text == "off" {
        return Some(0);
    }
    let fault = Fault::error(value.span, format!("`{text}` is not a rate"));
    let Some(size) = text.strip_suffix("/s") else {
        let help = match parse_size(text) {
            Ok(_) => format!("per second: \"{text}/s\""),
            Err(_) => "write bytes per second, such as \"240B/s\" or \"1KiB/s\", or \"off\"".to_owned(),
        };
        cx.note(fault.help(help));
        return None;
    };
    match parse_size(size) {
        Ok(0) => {
            cx.note(Fault::error(value.span, "this must be more than zero").help("to switch it off, write \"off\""))
        }
        Ok(bytes) => return Some(bytes),
        Err(help) => cx.note(fault.help(help)),
    }
    None
}

/// The text of a value that needs a unit. A bare number gets the hint to add one.
fn unit_text<'a>(cx: &Context<'_>, value: &'a Value<'_>, what: &str, unit: &str) -> Option<&'a str> {
    match &value.kind {
        Kind::Integer(number) => {
            let help = format!("with its unit, in quotes: \"{number}{unit}\"");
            expected_help(cx, value, what, Some(help));
            None
        }
        Kind::Float(_) => {
            let help = format!("a whole number and its unit, in quotes, such as \"250{unit}\"");
            expected_help(cx, value, what, Some(help));
            None
        }
        _ => string(cx, value),
    }
}

/// One or more whole numbers with `ms`, `s`, `m` or `h`; or a hint.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let usage = || "a whole number and a unit: ms, s, m or h, such as \"250ms\" or \"5m\"".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return Err(usage());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let (unit, after) = after.split_at_checked(letters).ok_or_else(usage)?;
        let number: u64 = number.parse().map_err(|_| usage())?;
        let millis = match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => {
                let right = match unit.trim().to_ascii_lowercase().as_str() {
                    "s" | "sec" | "secs" | "second" | "seconds" => "s",
                    "m" | "min" | "mins" | "minute" | "minutes" => "m",
                    "h" | "hr" | "hrs" | "hour" | "hours" => "h",
                    "ms" | "msec" | "millis" | "milliseconds" => "ms",
                    "" => return Err(format!("add a unit: \"{text}s\" or \"{text}ms\"")),
                    _ => return Err(usage()),
                };
                return Err(format!("write \"{number}{right}\""));
            }
        };
        let part = Duration::from_millis(millis.unwrap_or(u64::MAX));
        total = total.checked_add(part).unwrap_or(Duration::MAX);
        rest = after;
    }
    Ok(total)
}

/// A whole number with `B`, `KiB`, `MiB` or `GiB`; or a hint.
fn parse_size(text: &str) -> Result<u64, String> {
    let usage = || "a whole number and a unit: B, KiB, MiB or GiB, such as \"16KiB\"".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| usage())?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => {
            let right = match unit.trim().to_ascii_lowercase().as_str() {
                "b" | "" | "byte" | "bytes" => "B",
                "k" | "kb" | "ki" | "kib" => "KiB",
                "m" | "mb" | "mi" | "mib" => "MiB",
                "g" | "gb" | "gi" | "gib" => "GiB",
                _ => return Err(usage()),
            };
            return Err(format!("write \"{number}{right}\""));
        }
    };
    number.checked_mul(1 << shift).ok_or_else(|| "this is more than any machine has".to_owned())
}

fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("5 sec"), Err("write \"5s\"".to_owned()));
        assert_eq!(parse_duration("5"), Err("add a unit: \"5s\" or \"5ms\"".to_owned()));
        for bad in ["", "s", "-1s", "1.5s", "1s ", "1d", "ü", "1ü", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_duration("18446744073709551615h").is_ok_and(|duration| duration > LONGEST));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("16KiB"), Ok(16 * 1024));
        assert_eq!(parse_size("0B"), Ok(0));
        assert_eq!(parse_size("16 KB"), Err("write \"16KiB\"".to_owned()));
        assert_eq!(parse_size("16"), Err("write \"16B\"".to_owned()));
        for bad in ["", "KiB", "1.5MiB", "-1B", "1TB", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(show_size(16 * 1024), "16KiB");
        assert_eq!(show_size(1500), "1500B");
    }
}
