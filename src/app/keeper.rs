//! Keeps operators' states in their file, and tells those who wait when that is done.
//!
//! Writing waits for a disk, so it happens on a thread of its own, one write at a time; what is said meanwhile goes into
//! the next one, together. Not on the background's thread: there it could stand behind the reading of a large
//! configuration for seconds. A write that fails is tried again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::{Changed, Done, Reply, StateFile, States};

/// Changes that wait to be saved, at most. More of them wait to be made.
const WAITING: usize = 64;

/// After a write that failed.
const PAUSE: Duration = Duration::from_secs(10);

type Write = Pin<Box<dyn Future<Output = std::io::Result<()>>>>;

/// See the module.
pub(super) struct Keeper {
    file: Option<StateFile>,
    /// Why there is no file.
    without: &'static str,
    /// In the file, or on the way there.
    saved: Arc<States>,
    /// What it should have.
    wanted: Arc<States>,
    waiting: Vec<(Changed, Reply)>,
    /// The write under way, and who waits for it.
    write: Option<(Write, Vec<(Changed, Reply)>)>,
    /// A write has failed: not before then.
    not_before: Option<Instant>,
}

impl Keeper {
    /// With what the file says. `without`: why there is none, if there is none.
    pub(super) fn new(file: Option<StateFile>, without: &'static str, states: Arc<States>) -> Self {
        let saved = Arc::clone(&states);
        Self { file, without, saved, wanted: states, waiting: Vec::new(), write: None, not_before: None }
    }

    /// Whether more may be said.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// From now on the file should have these states.
    pub(super) fn keep(&mut self, states: Arc<States>) {
        self.wanted = states;
        self.begin();
    }

    /// A change has been made; whoever waits for it is told when it is saved.
    pub(super) fn made(&mut self, Done { mut changed, reply }: Done, states: Arc<States>) {
        if self.file.is_none() {
            changed.saved = Err(self.without.into());
            let _ = reply.send(Ok(changed)); // Whoever asked may have gone.
            return;
        }
        self.waiting.push((changed, reply));
        // What was said is to be on the disk before it is promised, even if that has just failed.
        self.not_before = None;
        self.keep(states);
        if self.write.is_none() {
            // It changed nothing.
            answer(std::mem::take(&mut self.waiting), Ok(()));
        }
    }

    /// Begins to write, if there is something to write.
    pub(super) fn begin(&mut self) {
        let Some(file) = &self.file else { return };
        let is_early = self.not_before.is_some_and(|then| Instant::now() < then);
        if self.write.is_some() || is_early || Arc::ptr_eq(&self.saved, &self.wanted) {
            return;
        }
        self.saved = Arc::clone(&self.wanted);
        let (file, states) = (file.clone(), Arc::clone(&self.wanted));
        let write = tokio::task::spawn_blocking(move || file.save(&states));
        let write = async { write.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic))) };
        self.write = Some((Box::pin(write), std::mem::take(&mut self.waiting)));
    }

    /// Ends with the write under way; without one, never. May be dropped and called again.
    pub(super) async fn written(&mut self) {
        let Some((write, _)) = &mut self.write else { return std::future::pending().await };
        let result = write.as_mut().await;
        let waited = self.write.take().map_or_else(Vec::new, |(_, waiting)| waiting);
        if let (Err(error), Some(file)) = (&result, &self.file) {
            let path = file.path().display().to_string();
            tracing::warn!(file = path, %error, "the state file can't be written: states will not survive a restart");
            self.saved = Arc::default();
            self.not_before = Some(Instant::now() + PAUSE);
        }
        answer(waited, result.map_err(|error| error.to_string()));
        if !self.waiting.is_empty() {
            self.not_before = None;
        }
        self.begin();
        if self.write.is_none() {
            answer(std::mem::take(&mut self.waiting), Ok(()));
        }
    }

    /// Whether there is nothing left to write.
    pub(super) fn is_idle(&self) -> bool {
        self.write.is_none()
    }
}

fn answer(waiting: Vec<(Changed, Reply)>, saved: Result<(), String>) {
    for (changed, reply) in waiting {
        let _ = reply.send(Ok(Changed { saved: saved.clone(), ..changed })); // Whoever asked may have gone.
    }
}
