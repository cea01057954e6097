//! The key of a request: which asset, in which region; and the small numbers that stand for names inside one Plan.
//!
//! Names are looked up once per request and are numbers from then on. A number means something only together with the
//! Plan (or the Snapshot built from it) that it came from: a reload may give the same name another number.

/// An asset's place in [`Plan::assets`](super::Plan::assets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetId(pub u32);

/// A region's place in [`Plan::regions`](super::Plan::regions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(pub u16);

/// A pool's place in [`Plan::pools`](super::Plan::pools).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

/// What a request is about and where it should be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// `None`: a name that is in no `[assets]` table and has no pool of its own; only a `*` pool can serve it.
    pub asset: Option<AssetId>,
    /// The region asked for, which is not always the one that serves.
    pub region: RegionId,
}

impl AssetId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl RegionId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl PoolId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
