//! The wiring: planes, workers, signals, reload, shutdown. To be read top to bottom.
//!
//! The main thread is the control plane: one current-thread runtime on which health checks, discovery, the admin
//! address, signals and reloads take turns; what takes long is done in the background. Each worker is a thread with a runtime of
//! its own. They meet in the Snapshot, in the counts on backends, and in one bounded channel of orders per worker.

mod backend_files;
mod background;
mod certificates;
mod daemon;
mod descriptors;
mod keeper;
mod listeners;
mod notify;
mod reload;
mod signals;
mod worker;

use std::path::PathBuf;

use crate::config::{self, Diagnostics};
use crate::listen::BindError;

/// Where the configuration is.
#[derive(Debug, Clone)]
pub enum Source {
    /// In this file, read again at every reload.
    File(PathBuf),
    /// Here; a reload finds the same again.
    Text(String),
}

impl Source {
    fn load(&self) -> Result<config::Loaded, Diagnostics> {
        match self {
            Self::File(path) => config::load(path),
            Self::Text(text) => config::load_str(text),
        }
    }
}

/// What to run.
pub struct Options {
    /// The configuration.
    pub config: Source,
    /// Called once, when requests are being answered.
    pub ready: Box<dyn FnOnce(&Addresses)>,
}

/// Where the daemon listens, with the ports that the system chose.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// By listener, in the order of the file: its name and its address.
    pub listeners: Vec<(String, String)>,
    /// Of the admin address, if there is one.
    pub admin: Option<String>,
}

/// Why the daemon did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error("{0}")]
    Config(Diagnostics),
    /// A listener or the admin address can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin address can't be bound.
    #[error("cannot bind the admin address {address}: {source}{held_by}")]
    Admin {
        /// As it was configured.
        address: String,
        /// What the system says.
        source: std::io::Error,
        /// Who has it, as [`crate::listen::held_by`] says.
        held_by: String,
    },
    /// Anything else.
    #[error("{what}: {error}")]
    Other {
        /// What was being done.
        what: &'static str,
        /// What the system says. Not a `source`, since the text has it already.
        error: std::io::Error,
    },
}

impl From<listeners::Cannot> for RunError {
    fn from(cannot: listeners::Cannot) -> Self {
        match cannot {
            listeners::Cannot::Bind(error) => Self::Bind(error),
            tls => Self::Other { what: "cannot listen", error: std::io::Error::other(tls.to_string()) },
        }
    }
}

/// Serves until a signal ends it.
///
/// # Errors
/// See [`RunError`]. Nothing is served when it returns one.
pub fn run(options: Options) -> Result<(), RunError> {
    daemon::run(options)
}
