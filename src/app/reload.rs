//! A configuration on its way into force, at the start and at every reload: load, resolve, check, publish.
//!
//! Each step runs beside everything else that the control plane does. Up to the last, nothing has changed that a
//! request could notice; a step that fails leaves the configuration in force as it was.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Source;
use super::listeners::Open;
use crate::config::{Diagnostics, Loaded};
use crate::control::{self, ReloadReport};
use crate::discovery::Resolver;
use crate::model::Plan;
use crate::telemetry::AccessSink;

/// How long names may take to resolve before a configuration goes on without them.
const RESOLVE: Duration = Duration::from_secs(5);
/// How much nicer than the rest the thread is that loads a configuration.
const NICE: i32 = 10;

/// Addresses of names.
pub(super) type Answers = Vec<(Arc<str>, Vec<IpAddr>)>;

/// What a step comes to.
pub(super) enum Step {
    /// The files were read.
    Loaded(Box<Result<Loaded, Diagnostics>>),
    /// The names were asked for.
    Resolved(Arc<Plan>, Answers),
    /// The first round of checks is over.
    Checked,
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
}

impl Job {
    pub(super) fn load(source: &Source, reply: Option<oneshot::Sender<ReloadReport>>) -> Self {
        let source = source.clone();
        Self { step: Box::pin(load(source)), opened: Vec::new(), access: None, plan: None, reply }
    }
}

/// Reads the files on a thread of its own, which yields to those that serve: a large file takes seconds.
async fn load(source: Source) -> Step {
    let (done, loaded) = oneshot::channel();
    let name = "load".to_owned();
    let started = std::thread::Builder::new().name(name).spawn({
        let source = source.clone();
        move || {
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
            let _ = done.send(source.load());
        }
    });
    let result = match (started, loaded.await) {
        (Ok(_), Ok(result)) => result,
        // No thread to be had: it takes its time here instead.
        _ => source.load(),
    };
    Step::Loaded(Box::new(result))
}

/// Asks for the addresses of every name in the Plan.
pub(super) async fn resolve(resolver: Resolver, plan: Arc<Plan>) -> Step {
    let names = control::names(&plan);
    let answers = if names.is_empty() { Vec::new() } else { resolver.resolve_all(names, RESOLVE).await };
    Step::Resolved(plan, answers)
}

/// Waits for the first round of checks.
pub(super) async fn checked(first_round: impl Future<Output = ()>) -> Step {
    first_round.await;
    Step::Checked
}
