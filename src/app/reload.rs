//! A configuration on its way into force, at the start and at every reload: load, resolve, stage, check, settle, publish.
//!
//! Each step runs beside everything else that the control plane does, the long ones on the background's thread. Up to
//! the last, nothing has changed that a request could notice; a step that fails leaves the configuration in force as
//! it was.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Source;
use super::background::Background;
use super::listeners::Open;
use crate::config::{Diagnostics, Loaded};
use crate::control::{self, ReloadReport, Settled, Settling, Staged, Staging};
use crate::discovery::Resolver;
use crate::model::Plan;
use crate::telemetry::AccessSink;

/// How long names may take to resolve before a configuration goes on without them.
const RESOLVE: Duration = Duration::from_secs(5);

/// What has to be resolved.
pub(super) type Names = Vec<Arc<str>>;
/// Addresses of names.
pub(super) type Answers = Vec<(Arc<str>, Vec<IpAddr>)>;

/// What a step comes to.
pub(super) enum Step {
    /// The files were read; what they name has to be resolved.
    Loaded(Box<Result<(Loaded, Names), Diagnostics>>),
    /// The names were asked for.
    Resolved(Arc<Plan>, Answers),
    /// The backends are known and the Snapshot is built.
    Staged(Box<Staged>),
    /// The first round of checks is over.
    Checked,
    /// The Snapshot has been judged by it.
    Settled(Box<Settled>),
}

/// A configuration on its way.
pub(super) struct Job {
    /// The step that is being taken.
    pub(super) step: Pin<Box<dyn Future<Output = Step>>>,
    /// Sockets that are bound and not in use yet.
    pub(super) opened: Vec<Open>,
    /// The access log, opened and not in use yet; `None` at the start, which has it already.
    pub(super) access: Option<AccessSink>,
    /// The Plan, once it is known to be good.
    pub(super) plan: Option<Arc<Plan>>,
    /// Whoever wants to know how it went.
    pub(super) reply: Option<oneshot::Sender<ReloadReport>>,
    /// Only files of TLS to backends have changed: no configuration was read.
    pub(super) is_renewal: bool,
    /// The step has what the controller needs back, even if nobody wants its result any more.
    pub(super) is_indebted: bool,
}

impl Job {
    /// At its first step, with nothing of its own yet.
    pub(super) fn new(step: Pin<Box<dyn Future<Output = Step>>>) -> Self {
        Self { step, opened: Vec::new(), access: None, plan: None, reply: None, is_renewal: false, is_indebted: false }
    }
}

/// Reads the files.
pub(super) fn load(background: &Background, source: &Source) -> impl Future<Output = Step> + use<> {
    let source = source.clone();
    let loaded = background.run(move || {
        source.load().map(|loaded| {
            let names = control::names(&loaded.plan);
            (loaded, names)
        })
    });
    async { Step::Loaded(Box::new(loaded.await)) }
}

/// Asks for the addresses of these names.
pub(super) async fn resolve(resolver: Resolver, plan: Arc<Plan>, names: Names) -> Step {
    let answers = if names.is_empty() { Vec::new() } else { resolver.resolve_all(names, RESOLVE).await };
    Step::Resolved(plan, answers)
}

/// Makes the backends known and builds the Snapshot.
pub(super) fn stage(background: &Background, staging: Staging) -> impl Future<Output = Step> + use<> {
    let staged = background.run(move || Box::new(staging.run()));
    async { Step::Staged(staged.await) }
}

/// Waits for the first round of checks.
pub(super) async fn checked(first_round: impl Future<Output = ()>) -> Step {
    first_round.await;
    Step::Checked
}

/// Judges the Snapshot by that round.
pub(super) fn settle(background: &Background, settling: Settling) -> impl Future<Output = Step> + use<> {
    let settled = background.run(move || Box::new(settling.run()));
    async { Step::Settled(settled.await) }
}
