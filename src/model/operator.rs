//! What an operator says about a backend, a pool or a region, over what checks and requests say.

use std::fmt;
use std::sync::Arc;

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

    /// The state of this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What an operator speaks about, by its names: numbers change with every Plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Every pool of a region.
    Region(Arc<str>),
    /// The pool of an asset (`*` is one of them) in a region.
    Pool(Arc<str>, Arc<str>),
    /// The backend of a pool at this address. Elsewhere the same server may be used all the same.
    Backend(Arc<str>, Arc<str>, Arc<str>),
}

impl Target {
    /// From the form on the command line: `REGION`, `ASSET/REGION`, `ASSET/REGION/ADDRESS`; in ASSET `%2F` is a slash and
    /// `%25` a percent sign. `None`: a part is empty.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let asset = |text: &str| Arc::from(text.replace("%2f", "/").replace("%2F", "/").replace("%25", "%"));
        let target = match (parts.next()?, parts.next(), parts.next()) {
            (region, None, _) => Self::Region(region.into()),
            (name, Some(region), None) => Self::Pool(asset(name), region.into()),
            (name, Some(region), Some(address)) => Self::Backend(asset(name), region.into(), address.into()),
        };
        let is_whole = target.parts().into_iter().flatten().all(|part| !part.is_empty());
        is_whole.then_some(target)
    }

    /// Region, asset and address.
    pub fn parts(&self) -> [Option<&Arc<str>>; 3] {
        match self {
            Self::Region(region) => [Some(region), None, None],
            Self::Pool(asset, region) => [Some(region), Some(asset), None],
            Self::Backend(asset, region, address) => [Some(region), Some(asset), Some(address)],
        }
    }

    /// The word for what it is.
    pub fn level(&self) -> &'static str {
        match self {
            Self::Region(_) => "region",
            Self::Pool(..) => "pool",
            Self::Backend(..) => "backend",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |asset: &str| asset.replace('%', "%25").replace('/', "%2F");
        match self {
            Self::Region(region) => f.write_str(region),
            Self::Pool(asset, region) => write!(f, "{}/{region}", name(asset)),
            Self::Backend(asset, region, address) => write!(f, "{}/{region}/{address}", name(asset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        let table = [
            ("north", Some("region")),
            ("gold/north", Some("pool")),
            ("*/north", Some("pool")),
            ("gold/north/10.0.0.1:80", Some("backend")),
            ("gold/north/[2001:db8::1]:80", Some("backend")),
            ("gold/north/unix:/run/gold.sock", Some("backend")),
            ("gold%2Fusd/north", Some("pool")),
            ("5%25%2Fusd/north/10.0.0.1:80", Some("backend")),
            ("", None),
            ("/north", None),
            ("gold/", None),
            ("gold//10.0.0.1:80", None),
            ("gold/north/", None),
        ];
        for (text, level) in table {
            let target = Target::from_text(text);
            assert_eq!(target.as_ref().map(Target::level), level, "{text:?}");
            assert!(target.is_none_or(|target| target.to_string() == text), "{text:?}");
        }
    }

    #[test]
    fn a_slash_in_an_assets_name_is_no_slash_between_names() {
        let target = Target::from_text("5%25%2fusd/north").expect("a target");
        assert_eq!(target, Target::Pool("5%/usd".into(), "north".into()));
        assert_eq!(Target::Pool("%2F".into(), "north".into()).to_string(), "%252F/north");
        assert_eq!(Target::from_text("%252F/north"), Some(Target::Pool("%2F".into(), "north".into())));
    }

    #[test]
    fn states_are_in_the_order_of_how_much_they_take_away() {
        assert!(Operator::ALL.is_sorted());
        assert!(Operator::ALL.iter().all(|state| Operator::from_word(state.as_str()) == Some(*state)));
        assert_eq!(Operator::from_word("Drain"), None);
    }
}
