//! How much of its weight a server has while it warms up: a tenth at first, then in proportion to the time, then all.
//!
//! A server that has just started has empty caches and code that is not compiled yet; its whole share at once would make
//! it look broken, and it would be taken out again. Source: Envoy, "Slow start mode" (with an aggression of 1 and its
//! least weight of 10 %).

use std::time::{Duration, Instant};

/// The share of one that has its whole weight.
pub const WHOLE: u16 = 256;
/// The least, of [`WHOLE`].
const LEAST: u16 = WHOLE / 10;

/// The share, of [`WHOLE`], `now`, of a server that warms up `since` then, if ever, for `window`.
pub fn share(since: Option<Instant>, window: Duration, now: Instant) -> u16 {
    let Some(since) = since else { return WHOLE };
    let passed = now.saturating_duration_since(since);
    if passed >= window {
        return WHOLE;
    }
    let part = passed.as_secs_f64() / window.as_secs_f64();
    ((f64::from(WHOLE) * part) as u16).clamp(LEAST, WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_a_tenth_to_all() {
        let start = Instant::now();
        let window = Duration::from_secs(100);
        for (after, expected) in [(0, 25), (9, 25), (10, 25), (20, 51), (50, 128), (99, 253), (100, 256), (1000, 256)] {
            assert_eq!(share(Some(start), window, start + Duration::from_secs(after)), expected, "{after} s");
        }
        assert_eq!(share(Some(start), Duration::ZERO, start), WHOLE);
        assert_eq!(share(None, window, start), WHOLE);
        // A clock that another thread read a moment earlier.
        assert_eq!(share(Some(start + window), window, start), LEAST);
    }
}
