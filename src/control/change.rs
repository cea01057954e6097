//! What an operator can ask for, and what comes of it.

use tokio::sync::oneshot;

use super::orders::Unknown;
use super::states::Author;
use crate::model::{Operator, Target};

/// What an operator asks for.
#[derive(Debug)]
pub struct Change {
    /// Of what.
    pub target: Target,
    /// What it is to be.
    pub state: Operator,
    /// Who asks.
    pub author: Author,
}

/// That, and who waits for it.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub change: Change,
    /// Told when it holds and is saved.
    pub reply: Reply,
}

/// Whoever waits for a change.
pub type Reply = oneshot::Sender<Result<Changed, Refused>>;

/// What came of a change, when it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Of what, as the configuration spells it.
    pub target: Target,
    /// What it was by itself.
    pub before: Operator,
    /// What it is by itself.
    pub after: Operator,
    /// Pools that it concerns.
    pub pools: usize,
    /// Backends that it concerns, each once.
    pub backends: usize,
    /// Backends of these that another level still keeps out of a pool.
    pub held: usize,
    /// Whether it survives a restart; if not, why not.
    pub saved: Result<(), String>,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// There is nothing of this name.
    Unknown(Unknown),
    /// States of so many things are set that there is no place for another.
    TooMany,
    /// The process is ending.
    Ending,
}
