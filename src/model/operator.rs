//! What an operator says about a backend, a pool or a region, over what checks and requests say.

/// What the operator says about a backend, a pool or a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Operator {
    /// It takes requests.
    #[default]
    Ready,
    /// It finishes what it has and gets nothing new, whatever else happens.
    Drain,
    /// The same, and it is expected to fail: its checks go on, but bring nothing back.
    Maintenance,
}

impl Operator {
    /// Every state, in the order of how much it takes away.
    pub const ALL: [Self; 3] = [Self::Ready, Self::Drain, Self::Maintenance];

    /// The word in the API and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maintenance => "maintenance",
        }
    }
}
