//! When somebody has to be told that a certificate ends: at 30, 7 and 1 days before, and when it has.

/// How urgent it is: what has been said of one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Warned {
    /// There is time.
    #[default]
    No,
    /// 30 days or less.
    Days30,
    /// 7 days or less.
    Days7,
    /// A day or less.
    Day1,
    /// It is over.
    Over,
}

impl Warned {
    /// What has to have been said at this moment, both in Unix time.
    pub fn at(now: i64, not_after: i64) -> Self {
        const DAY: i64 = 24 * 60 * 60;
        match not_after.saturating_sub(now) {
            ..0 => Self::Over,
            left if left <= DAY => Self::Day1,
            left if left <= 7 * DAY => Self::Days7,
            left if left <= 30 * DAY => Self::Days30,
            _ => Self::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_more_urgent() {
        let day = 24 * 60 * 60;
        let table =
            [(31, Warned::No), (30, Warned::Days30), (8, Warned::Days30), (7, Warned::Days7), (1, Warned::Day1)];
        for (days, expected) in table {
            assert_eq!(Warned::at(1_000, 1_000 + days * day), expected, "{days}");
        }
        assert_eq!(Warned::at(1_000, 1_000), Warned::Day1);
        assert_eq!(Warned::at(1_001, 1_000), Warned::Over);
        assert!(Warned::Over > Warned::Day1 && Warned::Day1 > Warned::No);
    }
}
