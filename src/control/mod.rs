//! The control plane: what the data path reads is made here, and only here.
//!
//! [`Controller`] turns a Plan and the facts about the world (checks, addresses of names) into Snapshots and is their
//! only writer. [`Handle`] is how others speak to it: a bounded channel, and what may be read by anyone at any time.

mod adaptive;
mod board;
mod change;
mod controller;
mod diff;
mod events;
mod heard;
mod orders;
mod passive;
mod staging;
mod state_file;
mod states;
#[cfg(test)]
mod tests;
mod world;

pub use board::Board;
pub use change::{Change, Changed, Refused, Reply, Request};
pub use controller::{Controller, Done, GATHER, Retired};
pub use diff::{Summary, unchangeable};
pub use events::{Event, Events, Subscription};
use orders::Scope;
pub use orders::Unknown;
pub use passive::{Ejections, What};
pub use staging::{Settled, Settling, Staged, Staging};
pub use state_file::{Opened, StateFile};
pub use states::{Author, KEPT, MAX_STATES, Said, States};
pub use world::names;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{mpsc, oneshot};

use crate::backend::{Backend, Observation};
use crate::model::Target;
use crate::routing::{Snapshot, Table};
use crate::telemetry::Metrics;

/// What the control plane can be asked for.
#[derive(Debug)]
pub enum Command {
    /// Read the configuration again, and say how it went.
    Reload(oneshot::Sender<ReloadReport>),
}

/// How a reload went.
#[derive(Debug, Clone)]
pub struct ReloadReport {
    /// What changed, in a line; or why nothing did: every diagnostic, as `check` prints them.
    pub result: Result<String, String>,
}

/// The running daemon, as the admin address sees it. Cloning it is cheap.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    changes: mpsc::Sender<Request>,
    table: Arc<Table>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    board: Arc<Board>,
    /// `None`: what is said of backends is heard by nobody.
    observations: Option<mpsc::Sender<Observation>>,
}

impl Handle {
    /// A handle that speaks to whoever holds the other ends of `commands` and `changes`. Those are two, because a
    /// reload waits for the one before it, and an operator must not.
    pub fn new(
        commands: mpsc::Sender<Command>,
        changes: mpsc::Sender<Request>,
        table: Arc<Table>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        board: Arc<Board>,
    ) -> Self {
        Self { commands, changes, table, metrics, readiness, board, observations: None }
    }

    /// The same, by which something can be said of backends, as workers do.
    pub fn with_observations(self, observations: mpsc::Sender<Observation>) -> Self {
        Self { observations: Some(observations), ..self }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// The part of the name that nothing has.
    pub fn backend(&self, target: &Target) -> Result<Arc<Backend>, Unknown> {
        let snapshot = self.snapshot();
        let (scope, _) = orders::find(&snapshot, target)?;
        let found = match scope {
            Scope::Backend(id, label) => {
                snapshot.pool(id).servers().find(|server| server.backend.label == label).map(|s| Arc::clone(&s.backend))
            }
            _ => None,
        };
        found.ok_or_else(|| Unknown { level: "backend", help: format!("{target} is no backend") })
    }

    /// Says something of a backend. False: it was not heard.
    pub fn tell(&self, observation: Observation) -> bool {
        self.observations.as_ref().is_some_and(|sender| sender.try_send(observation).is_ok())
    }

    /// Asks for an operator's state, and waits until it holds and is saved.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn change(&self, change: Change) -> Result<Changed, Refused> {
        let (reply, result) = oneshot::channel();
        if self.changes.send(Request { change, reply }).await.is_err() {
            return Err(Refused::Ending);
        }
        result.await.unwrap_or(Err(Refused::Ending))
    }

    /// What operators have said, and what happens.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Asks for a reload and waits for its end.
    pub async fn reload(&self) -> ReloadReport {
        let (reply, report) = oneshot::channel();
        if self.commands.send(Command::Reload(reply)).await.is_ok()
            && let Ok(report) = report.await
        {
            return report;
        }
        ReloadReport { result: Err("shardgate is shutting down".into()) }
    }

    /// The newest Snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.table.load()
    }

    /// Whether requests should be sent here; if not, why.
    ///
    /// # Errors
    /// A word for the answer of `/readyz`.
    pub fn readiness(&self) -> Result<(), &'static str> {
        self.readiness.check()
    }

    /// What is scraped.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

/// Whether requests should be sent here. Written by the control plane alone.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// Accepting begins. False: it had begun already, or is over.
    pub fn set_ready(&self) -> bool {
        self.0.compare_exchange(STARTING, READY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Draining begins; there is no way back.
    pub fn set_draining(&self) {
        self.0.store(DRAINING, Ordering::Relaxed);
    }

    /// Whether accepting has begun, ever.
    pub fn is_past_start(&self) -> bool {
        self.0.load(Ordering::Relaxed) != STARTING
    }

    fn check(&self) -> Result<(), &'static str> {
        match self.0.load(Ordering::Relaxed) {
            STARTING => Err("starting"),
            READY => Ok(()),
            _ => Err("draining"),
        }
    }
}
