//! Operators' states in the control plane's loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::keeper::Keeper;
use super::Daemon;
use crate::control::{Board, Request, StateFile};

/// How long the state file may take to be written at the end.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// What was said before this process, and who keeps what is said from now on. `file`: of the configuration.
pub(super) fn restore(file: Option<&PathBuf>) -> (Arc<Board>, Keeper) {
    let Some(path) = file else {
        let board = Board::new(Default::default());
        let keeper = Keeper::new(None, "no admin.state_file is configured", board.states());
        return (board, keeper);
    };
    let opened = StateFile::open(path);
    let kept = opened.states.len();
    if kept > 0 {
        tracing::info!(file = path.display().to_string(), states = kept, "states of before are in force again");
    }
    let board = Board::new(opened.states);
    let saved = if opened.is_saved { board.states() } else { Arc::default() };
    let mut keeper = Keeper::new(opened.file, "the state file can't be used; the log says why", saved);
    keeper.keep(board.states());
    (board, keeper)
}

impl Daemon {
    /// Whether an operator may ask for the next change: what there is has been said and is known.
    pub(super) fn takes_changes(&self) -> bool {
        self.readiness.is_past_start() && !self.controller.is_sweeping() && self.keeper.has_room()
    }

    /// An operator asks for a change.
    pub(super) fn operate(&mut self, request: Request) {
        if let Some(done) = self.controller.operate(request) {
            self.keeper.made(done, self.controller.states());
        }
    }

    /// Goes through some more pools of a region, and lets the runtime's other tasks have their turn.
    pub(super) async fn sweep(&mut self) {
        if let Some(done) = self.controller.sweep() {
            self.keeper.made(done, self.controller.states());
        }
        tokio::task::yield_now().await;
    }

    /// At the end of the process: what is being written is written to its end.
    pub(super) async fn finish_keeping(&mut self) {
        self.keeper.keep(self.controller.states());
        let all = async {
            while !self.keeper.is_idle() {
                self.keeper.written().await;
            }
        };
        if tokio::time::timeout(LAST_WRITE, all).await.is_err() {
            tracing::warn!("the state file was not written in time");
        }
    }
}
