//! What a sample backend computes: a forecast from a short history of prices.
//!
//! Holt's linear exponential smoothing (C. C. Holt, "Forecasting seasonals and trends by exponentially weighted moving
//! averages", 1957; Hyndman & Athanasopoulos, "Forecasting: Principles and Practice", 3rd ed., 8.2): a level and a
//! trend, each moved a little towards what was seen. It is small enough to read, it is a real method, and its errors on
//! the history give an honest width. It says nothing about markets.

/// How fast the level follows.
const ALPHA: f64 = 0.5;
/// How fast the trend follows.
const BETA: f64 = 0.2;

/// A forecast and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Forecast {
    /// The expected value.
    pub(super) value: f64,
    /// Half the width of the range that holds the value in about 95 of 100 cases, if errors go on as they were.
    pub(super) plus_minus: f64,
}

/// The name of the method, for the answer.
pub(super) const METHOD: &str = "Holt's linear exponential smoothing (alpha 0.5, beta 0.2)";

/// The value `horizon` steps after the end of the history; `None` for fewer than three values.
pub(super) fn forecast(history: &[f64], horizon: u32) -> Option<Forecast> {
    let [first, second, rest @ ..] = history else { return None };
    if rest.is_empty() {
        return None;
    }
    let (mut level, mut trend) = (*second, second - first);
    let mut squares = 0.0;
    for &seen in rest {
        let expected = level + trend;
        squares += (seen - expected).powi(2);
        let before = level;
        level = ALPHA * seen + (1.0 - ALPHA) * expected;
        trend = BETA * (level - before) + (1.0 - BETA) * trend;
    }
    // The variance h steps ahead is that of one step times 1 + Σ (alpha + alpha·beta·j)² for j = 1 .. h-1.
    let one_step = squares / rest.len() as f64;
    let growth: f64 = (1..horizon).map(|j| (ALPHA + ALPHA * BETA * f64::from(j)).powi(2)).sum();
    let deviation = (one_step * (1.0 + growth)).sqrt();
    Some(Forecast { value: level + f64::from(horizon) * trend, plus_minus: 1.96 * deviation })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_goes_on_exactly() {
        let line: Vec<f64> = (0..10).map(|i| 5.0 + 2.0 * f64::from(i)).collect();
        let found = forecast(&line, 3).unwrap();
        assert!((found.value - 29.0).abs() < 1e-9, "{found:?}");
        assert!(found.plus_minus < 1e-9, "{found:?}");
    }

    #[test]
    fn a_longer_horizon_is_less_sure_and_a_short_history_gives_none() {
        let history = [10.0, 11.0, 9.0, 12.0, 10.0, 13.0];
        assert!(forecast(&history, 5).unwrap().plus_minus > forecast(&history, 1).unwrap().plus_minus);
        assert_eq!(forecast(&history[..2], 1), None);
    }
}
