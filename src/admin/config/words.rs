//! Values as the file has them: with their units, in its words.

use std::time::Duration;

use serde_json::Value;

/// `"250ms"`, `"2s"`, `"5m"`, `"1h"`: in the largest unit that leaves no rest.
pub(super) fn duration(duration: Duration) -> Value {
    let millis = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let (size, unit) = match units.into_iter().find(|(size, _)| millis != 0 && millis.is_multiple_of(*size)) {
        Some(found) => found,
        None if millis == 0 => return "0s".into(),
        None => (1, "ms"),
    };
    format!("{}{unit}", millis / size).into()
}

/// A duration that can be switched off.
pub(super) fn duration_or_off(value: Option<Duration>) -> Value {
    value.map_or_else(|| "off".into(), duration)
}

/// `"16KiB"`.
pub(super) fn size(bytes: u64) -> Value {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let found = units.into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    let (shift, unit) = found.unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift).into()
}

/// `"240B/s"`, in bytes per second; 0 is `"off"`.
pub(super) fn rate(bytes: u64) -> Value {
    match size(bytes) {
        Value::String(size) if bytes != 0 => format!("{size}/s").into(),
        _ => "off".into(),
    }
}

/// A path, as far as it is text.
pub(super) fn path(path: &std::path::Path) -> Value {
    path.display().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (millis, expected) in [
            (0, "0s"),
            (1, "1ms"),
            (1_000, "1s"),
            (1_500, "1500ms"),
            (60_000, "1m"),
            (90_000, "90s"),
            (3_600_000, "1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
        for (bytes, expected) in
            [(0, "0B"), (1, "1B"), (1_500, "1500B"), (16 * 1024, "16KiB"), (1 << 20, "1MiB"), (3 << 30, "3GiB")]
        {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!((rate(0), rate(240), rate(2048)), ("off".into(), "240B/s".into(), "2KiB/s".into()));
        assert_eq!(duration_or_off(None), "off");
    }
}
