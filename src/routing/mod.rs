//! From a request to the pools that can serve it, and what those pools look like now.
//!
//! - [`Index`]: names to numbers: hosts, paths and methods to a route; asset and region to pools; client addresses to
//!   regions. Built once per Plan, shared by all Snapshots of that Plan.
//! - [`Snapshot`]: an Index and the state of every pool, in pages, immutable. A fact copies the pages it touches.
//! - [`Loads`]: how a key's load spreads over tiers.
//! - [`Table`]: the Snapshot in force. Control publishes, each worker has a [`Reader`].
//! - [`explain()`]: the same decisions, told.
//!
//! Pure: no clock, no runtime. Routing a request allocates nothing, unless a value has to be decoded. (One exception
//! is `matchit`'s: a path at which both a literal and a template could go on costs a small allocation, and so does a
//! fourth capture.)

mod build;
mod chain;
mod explain;
mod hosts;
mod index;
mod loads;
mod pool;
mod resolve;
mod rule;
mod snapshot;
mod table;
mod why;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use build::{Origin, build, rebuild};
pub use chain::Chain;
pub use explain::{Explanation, TlsSeen, explain};
pub use index::Index;
pub use loads::{Loads, Room};
pub use pool::{Places, PoolState, Server, Tier};
pub use resolve::{Refusal, Resolved, Target};
pub use snapshot::Snapshot;
pub use table::{Reader, Table};
