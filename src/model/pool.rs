//! A pool: the backends for one asset in one region.

use std::fmt;
use std::sync::Arc;

use super::{Address, AssetId, PoolSettings, RegionId};

/// The backends for one asset in one region. A million of these fit: settings that are equal are shared.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Whom it serves.
    pub asset: PoolAsset,
    /// Where.
    pub region: RegionId,
    /// Primaries first, then replicas, each in the order of the file. At least one.
    pub members: Box<[Member]>,
    /// Everything else; equal settings are one allocation, shared by all pools that have them.
    pub settings: Arc<PoolSettings>,
}

/// Whom a pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolAsset {
    /// `[pools.BTC.us-east]`
    Named(AssetId),
    /// `[pools."*".us-east]`: every asset that has no pool of its own there.
    Any,
}

/// One line of `primaries` or `replicas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Shared between the pools that name the same address.
    pub address: Arc<Address>,
    /// Relative capacity, 1 to 65,535.
    pub weight: u16,
    /// Which of the two lists it stands in.
    pub role: Role,
}

/// The place of a backend in its pool's failover order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Serves while it can.
    Primary,
    /// Serves what the primaries can't.
    Replica,
}

impl Role {
    /// Both, in failover order.
    pub const ALL: [Self; 2] = [Self::Primary, Self::Replica];

    /// The word in labels, logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
