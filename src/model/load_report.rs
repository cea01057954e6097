//! What a server says of its own load: the part of an ORCA report that weights are made of.

/// A load report that can be used: finite, nothing negative, and a utilization above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadReport {
    /// How busy it is, 1.0 being all that it can do; more when it is overloaded.
    pub utilization: f64,
    /// Requests per second, over all its clients.
    pub rps: Option<f64>,
    /// Errors per second, over all its clients.
    pub eps: Option<f64>,
}

impl LoadReport {
    /// `None`: one of these is no such number. A rate of 0 is none: that is how protobuf leaves a field away.
    pub fn new(utilization: f64, rps: f64, eps: f64) -> Option<Self> {
        let is_number = |n: f64| n.is_finite() && n >= 0.0;
        let said = |n: f64| (n > 0.0).then_some(n);
        let usable = utilization > 0.0 && [utilization, rps, eps].into_iter().all(is_number);
        usable.then_some(Self { utilization, rps: said(rps), eps: said(eps) })
    }
}

/// What a server says about whether it wants to be sent anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Announcement {
    /// It takes requests.
    Ready,
    /// It finishes what it has.
    Drain,
}

impl Announcement {
    /// The field in which a response says it.
    pub const FIELD: &'static str = "x-shardgate-state";

    /// From the value of the field; any other word says nothing.
    pub fn from_value(value: &[u8]) -> Option<Self> {
        let is = |word: &str| value.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
        match () {
            () if is("ready") => Some(Self::Ready),
            () if is("drain") || is("draining") => Some(Self::Drain),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_make_a_report() {
        let nan = f64::NAN;
        assert_eq!(LoadReport::new(0.5, 10.0, 0.0), Some(LoadReport { utilization: 0.5, rps: Some(10.0), eps: None }));
        for bad in [[0.0, 1.0, 1.0], [-0.1, 1.0, 1.0], [nan, 1.0, 1.0], [0.5, nan, 1.0], [0.5, 1.0, -1.0]] {
            assert_eq!(LoadReport::new(bad[0], bad[1], bad[2]), None, "{bad:?}");
        }
        assert_eq!(LoadReport::new(f64::INFINITY, 1.0, 1.0), None);
        assert_eq!(LoadReport::new(0.5, f64::INFINITY, 1.0), None);
    }

    #[test]
    fn announcements() {
        for (value, expected) in [
            ("drain", Some(Announcement::Drain)),
            ("Draining", Some(Announcement::Drain)),
            (" READY ", Some(Announcement::Ready)),
            ("", None),
            ("drained", None),
            ("ready, drain", None),
        ] {
            assert_eq!(Announcement::from_value(value.as_bytes()), expected, "{value:?}");
        }
    }
}
