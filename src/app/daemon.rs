//! The control plane's loop: signals, reloads, facts, drain.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::background::Background;
use super::certificates::Certificates;
use super::keeper::Keeper;
use super::listeners::{Listeners, Open};
use super::reload::{self, Job, Step};
use super::signals::Signals;
use super::worker::{self, Kit, Order};
use super::{Addresses, Options, RunError, Source, descriptors, notify};
use crate::backend::Observation;
use crate::backend::queue::Queues;
use crate::config::{Diagnostics, Loaded};
use crate::control::{self, Board, Command, Controller, GATHER, Handle, Readiness, ReloadReport, Settled};
use crate::discovery::{Resolved, Resolver};
use crate::health::{Prober, Transition};
use crate::listen::Shared;
use crate::model::Plan;
use crate::routing::{self, Index, Table};
use crate::telemetry::{AccessSink, AccessWriter, MainLog, Metrics, init_logging, log_panics};

mod admin;
mod operator;
mod renewal;
mod wait;

use admin::AdminSide;
use wait::{drained, due, interval, step, until};

/// How often the control plane lets go of what is past its time.
const TICK: Duration = Duration::from_millis(500);
/// How long the logs may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(1);
/// Between the end of `drain_timeout` and the end of the workers.
const STOP: Duration = Duration::from_millis(500);

/// Characters of the errors of a refused configuration in its event; all of them are in the log.
const EVENT_TEXT: usize = 2048;

/// What workers have to say that the control plane has not heard yet, at most.
const OBSERVATIONS: usize = 1024;

type Drained = Pin<Box<dyn Future<Output = ()>>>;

pub(super) fn run(options: Options) -> Result<(), RunError> {
    let Loaded { plan, warnings, .. } = options.config.load().map_err(RunError::Config)?;
    let plan = Arc::new(plan);
    let metrics = Metrics::new(plan.max_metric_pools);
    let log = init_logging(&plan.log, &metrics).map_err(other("cannot start logging"))?;
    log_panics(&metrics);
    let access = AccessWriter::spawn(&plan.log, &metrics).map_err(other("cannot open the access log"))?;
    warn(&warnings);
    let max_connections = descriptors::raise();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(other("cannot start the control plane"))?;
    let result = runtime.block_on(async {
        let mut daemon = Daemon::start(options.config, plan, &metrics, log, access, max_connections).await?;
        daemon.serve(options.ready).await;
        daemon.finish_keeping().await;
        daemon.stop();
        Ok(())
    });
    runtime.shutdown_background();
    result
}

struct Daemon {
    source: Source,
    log: MainLog,
    access: AccessWriter,
    background: Background,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    controller: Controller,
    resolver: Resolver,
    listeners: Listeners,
    certificates: Certificates,
    threads: Vec<std::thread::JoinHandle<()>>,
    shared: Arc<Shared>,
    workers: usize,
    admin: Option<AdminSide>,
    signals: Signals,
    commands: mpsc::Receiver<Command>,
    changes: mpsc::Receiver<control::Request>,
    board: Arc<Board>,
    keeper: Keeper,
    health: mpsc::Receiver<Transition>,
    resolved: mpsc::Receiver<Resolved>,
    observations: mpsc::Receiver<Observation>,
    /// What the descriptor limit allows.
    max_connections: u32,
    job: Option<Job>,
    drain: Drain,
}

enum Drain {
    No,
    /// `/readyz` fails already.
    Delay(Instant),
    /// Connections are ending; all of them by then.
    Ending(Drained),
}

impl Daemon {
    /// Binds everything, starts the workers, and sets the first configuration on its way. Nothing is accepted yet.
    async fn start(
        source: Source,
        plan: Arc<Plan>,
        metrics: &Arc<Metrics>,
        log: MainLog,
        access: AccessWriter,
        max_connections: u32,
    ) -> Result<Self, RunError> {
        let signals = Signals::new().map_err(other("cannot listen to signals"))?;
        let workers = plan.server.workers.unwrap_or_else(available_cores);
        let index = Arc::new(Index::new(Arc::new(plan.of_nothing())));
        let table = Arc::new(Table::new(routing::build(index, 0, std::time::Instant::now(), |_| Default::default())));
        let readiness = Arc::new(Readiness::default());

        let mut orders = Vec::new();
        let mut receivers = VecDeque::new();
        for _ in 0..workers {
            let (sender, receiver) = mpsc::channel(64);
            orders.push(sender);
            receivers.push_back(receiver);
        }
        let listeners = Listeners::new(orders, Arc::clone(metrics));
        let opened = listeners.prepare(&plan, workers)?;

        let (command_sender, commands) = mpsc::channel(16);
        let (observations_in, observations) = mpsc::channel(OBSERVATIONS);
        let (change_sender, changes) = mpsc::channel(16);
        let (board, keeper) = operator::restore(plan.admin.as_ref().and_then(|admin| admin.state_file.as_ref()));
        let (of_table, of_metrics) = (Arc::clone(&table), Arc::clone(metrics));
        let (of_readiness, of_board) = (Arc::clone(&readiness), Arc::clone(&board));
        let handle = Handle::new(command_sender, change_sender, of_table, of_metrics, of_readiness, of_board)
            .with_observations(observations_in.clone());
        let admin = AdminSide::start(&plan, handle).await?;

        let shared = Shared::new(workers, Arc::clone(metrics));
        let queues = Arc::<Queues>::default();
        let threads = receivers
            .into_iter()
            .enumerate()
            .map(|(number, orders)| {
                let kit = Kit {
                    number,
                    table: Arc::clone(&table),
                    metrics: Arc::clone(metrics),
                    queues: Arc::clone(&queues),
                    log: access.worker(),
                    observations: observations_in.clone(),
                    shared: Arc::clone(&shared),
                    max_connections,
                };
                worker::spawn(kit, orders)
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(other("cannot start a worker"))?;

        let (facts, health) = mpsc::channel(1024);
        let prober = Prober::spawn(facts, Arc::clone(metrics));
        let (answers, resolved) = mpsc::channel(256);
        let resolver = Resolver::spawn(answers);
        let background = Background::start().map_err(other("cannot start the background thread"))?;
        let step = Box::pin(reload::resolve(resolver.clone(), Arc::clone(&plan), control::names(&plan)));
        let mut daemon = Self {
            source,
            log,
            access,
            background,
            metrics: Arc::clone(metrics),
            readiness,
            controller: Controller::new(table, Arc::clone(metrics), prober, Arc::clone(&board)),
            resolver,
            listeners,
            certificates: Certificates::new(Arc::clone(metrics)),
            threads,
            shared,
            workers,
            admin,
            signals,
            commands,
            changes,
            board,
            keeper,
            health,
            resolved,
            observations,
            max_connections,
            job: None,
            drain: Drain::No,
        };
        daemon.job = Some(Job { opened, plan: Some(plan), ..Job::new(step) });
        Ok(daemon)
    }

    async fn serve(&mut self, ready: Box<dyn FnOnce(&Addresses)>) {
        let mut ready = Some(ready);
        let mut tick = interval(TICK);
        let mut alive = notify::watchdog_interval().map(interval);
        let mut gather: Option<Instant> = None;
        loop {
            let idle = self.job.is_none() && matches!(self.drain, Drain::No);
            tokio::select! {
                step = step(&mut self.job) => {
                    self.advance(step).await;
                    if self.job.is_none()
                        && matches!(self.drain, Drain::No)
                        && let Some(ready) = ready.take()
                    {
                        ready(&self.addresses());
                    }
                }
                Some(transition) = self.health.recv() => {
                    self.controller.transition(&transition);
                    gather.get_or_insert(Instant::now() + GATHER);
                }
                Some(observation) = self.observations.recv() => {
                    self.controller.observe(observation);
                    gather.get_or_insert(Instant::now() + GATHER);
                }
                () = until(gather) => {
                    gather = None;
                    self.controller.flush();
                }
                Some(Resolved { name, addresses }) = self.resolved.recv() => {
                    self.controller.resolved(name, addresses);
                    gather.get_or_insert(Instant::now() + GATHER);
                }
                Some(request) = self.changes.recv(), if self.takes_changes() => self.operate(request),
                () = std::future::ready(()), if self.controller.is_sweeping() => self.sweep().await,
                () = self.keeper.written() => {}
                renewed = self.certificates.looked(&self.background, self.controller.plan()), if idle => {
                    if let Some(renewed) = renewed { self.renew(renewed) }
                }
                _ = self.signals.hup.recv(), if idle => self.reload(None),
                Some(Command::Reload(reply)) = self.commands.recv(), if self.job.is_none() => {
                    if idle {
                        self.reload(Some(reply));
                    } else {
                        let _ = reply.send(ReloadReport { result: Err("error: shardgate is draining".into()) });
                    }
                }
                _ = self.signals.usr1.recv() => {
                    tracing::info!("opening the log files anew");
                    self.access.reopen();
                }
                _ = self.signals.usr2.recv() => tracing::warn!("SIGUSR2: a binary upgrade is not supported yet"),
                _ = self.signals.term.recv() => {
                    if self.terminate() { return }
                }
                _ = self.signals.int.recv() => {
                    if self.terminate() { return }
                }
                () = drained(&mut self.drain) => match self.drain {
                    Drain::Delay(_) => self.end_connections().await,
                    _ => return,
                },
                _ = tick.tick() => self.free(),
                () = due(&mut alive) => notify::alive(),
            }
        }
    }

    fn reload(&mut self, reply: Option<oneshot::Sender<ReloadReport>>) {
        tracing::info!("reloading");
        notify::reloading();
        let step = Box::pin(reload::load(&self.background, &self.source));
        self.job = Some(Job { reply, ..Job::new(step) });
    }

    /// Frees what is past its time, where that keeps nobody waiting.
    fn free(&mut self) {
        let retired = self.controller.tick();
        if !retired.is_empty() {
            self.background.free(retired);
        }
        self.keeper.begin();
    }

    /// Takes the configuration on its way one step further.
    async fn advance(&mut self, step: Step) {
        let Some(mut job) = self.job.take() else { return };
        if !matches!(self.drain, Drain::No) {
            match step {
                Step::Staged(staged) => self.controller.abandon_staged(*staged),
                Step::Settled(settled) => self.controller.abandon_settled(*settled),
                _ => {}
            }
            return;
        }
        job.is_indebted = false;
        match step {
            Step::Loaded(result) => match *result {
                Err(diagnostics) => return self.refuse(job, diagnostics.to_string()),
                Ok((Loaded { plan, warnings, .. }, names)) => {
                    warn(&warnings);
                    match self.open(&plan, job.is_renewal) {
                        Err(text) => {
                            self.background.free(plan);
                            return self.refuse(job, text);
                        }
                        Ok((opened, access)) => {
                            let plan = Arc::new(plan);
                            job.step = Box::pin(reload::resolve(self.resolver.clone(), Arc::clone(&plan), names));
                            job.plan = Some(plan);
                            job.opened = opened;
                            job.access = access;
                        }
                    }
                }
            },
            Step::Resolved(plan, answers) => {
                let Some(staging) = self.controller.stage(plan, answers) else { return };
                job.step = Box::pin(reload::stage(&self.background, staging));
                job.is_indebted = true;
            }
            Step::Staged(staged) => job.step = Box::pin(reload::checked(self.controller.check(*staged))),
            Step::Checked => {
                // The results of the first round, of which the last may still be in the channel.
                while let Ok(transition) = self.health.try_recv() {
                    self.controller.transition(&transition);
                }
                self.controller.flush();
                let Some(settling) = self.controller.settle() else { return };
                job.step = Box::pin(reload::settle(&self.background, settling));
                job.is_indebted = true;
            }
            Step::Settled(settled) if self.controller.is_overtaken(&settled) => {
                job.step = Box::pin(reload::settle(&self.background, self.controller.settle_again(*settled)));
                job.is_indebted = true;
            }
            Step::Settled(settled) => return self.put_in_force(job, *settled).await,
        }
        self.job = Some(job);
    }

    /// What a Plan needs of the system: its listeners and its access log. Or why it can't be had.
    fn open(&self, plan: &Plan, is_renewal: bool) -> Result<(Vec<Open>, Option<AccessSink>), String> {
        let fixed = control::unchangeable(self.controller.plan(), plan);
        if !fixed.is_empty() {
            let names = fixed.join("` and `");
            return Err(format!("error: a reload can't change `{names}`: restart shardgate to do that"));
        }
        let access = (!is_renewal).then(|| AccessSink::open(&plan.log)).transpose();
        let access = access.map_err(|error| format!("error: can't open the access log {error}"))?;
        let opened = self.listeners.prepare(plan, self.workers).map_err(|error| format!("error: {error}"))?;
        Ok((opened, access))
    }

    fn refuse(&mut self, job: Job, text: String) {
        if job.is_renewal {
            return self.not_renewed(&text);
        }
        tracing::error!("the configuration was refused, the old one goes on\n{text}");
        self.metrics.reload(false);
        self.board.events().emit(
            "reload",
            &[("result", "refused".into()), ("errors", text.chars().take(EVENT_TEXT).collect::<String>().into())],
        );
        notify::ready("reload refused, the old configuration goes on");
        if let Some(reply) = job.reply {
            let _ = reply.send(ReloadReport { result: Err(text) });
        }
    }

    async fn put_in_force(&mut self, job: Job, settled: Settled) {
        let summary = match job.is_renewal {
            true => self.controller.exchange(settled),
            false => self.controller.publish(settled),
        };
        let plan = Arc::clone(self.controller.plan());
        self.keeper.keep(self.controller.states());
        self.resolver.set(self.controller.names());
        self.listeners.commit(job.opened, plan.server.drain_timeout).await;
        let admin = self.admin.as_ref().and_then(|admin| admin.follow(&plan));
        self.certificates.follow(self.listeners.open(), admin, &plan);
        if job.is_renewal {
            return self.renewed(summary);
        }
        self.log.configure(&plan.log);
        if let Some(access) = job.access {
            self.access.configure(access);
        }
        descriptors::compare(&plan.limits, self.max_connections);
        let status = format!("{} pools, {} backends", summary.pools, self.controller.backends());
        if self.readiness.set_ready() {
            tracing::info!(hash = plan.hash, "ready");
        } else {
            self.metrics.reload(true);
            let changes = summary.to_string().into();
            let about = [("result", "taken".into()), ("hash", (&*plan.hash).into()), ("changes", changes)];
            self.board.events().emit("reload", &about);
            tracing::info!(hash = plan.hash, changes = %summary, "reloaded");
        }
        notify::ready(&status);
        if let Some(reply) = job.reply {
            let _ = reply.send(ReloadReport { result: Ok(summary.to_string()) });
        }
    }

    fn addresses(&self) -> Addresses {
        Addresses {
            listeners: self.listeners.addresses(),
            admin: self.admin.as_ref().map(|admin| admin.address.to_string()),
        }
    }

    /// Begins to drain. True: it is the second time, end at once.
    fn terminate(&mut self) -> bool {
        if !matches!(self.drain, Drain::No) {
            tracing::warn!("ending at once");
            return true;
        }
        let delay = self.controller.plan().server.drain_delay;
        tracing::info!(delay = delay.as_secs_f64(), "draining");
        self.board.events().emit("drain", &[("delay", delay.as_secs_f64().into())]);
        if let Some(job) = self.job.take() {
            // Put in force now, it would open listeners that are about to close.
            self.controller.abandon();
            let why = "error: shardgate is draining".to_owned();
            let Job { reply, step, is_renewal, is_indebted, .. } = job;
            let _ = reply.map(|reply| reply.send(ReloadReport { result: Err(why) }));
            let rest = Job { is_renewal, is_indebted, ..Job::new(step) };
            self.job = is_indebted.then_some(rest);
        }
        self.readiness.set_draining();
        self.metrics.draining(true);
        notify::stopping("draining");
        self.drain = Drain::Delay(Instant::now() + delay);
        false
    }

    async fn end_connections(&mut self) {
        let within = self.controller.plan().server.drain_timeout;
        let hard_stop = Instant::now() + within;
        let mut waiting = Vec::new();
        for worker in self.listeners.workers() {
            let (done, ended) = oneshot::channel();
            let _ = worker.send(Order::Drain(within, done)).await;
            waiting.push(ended);
        }
        let shared = Arc::clone(&self.shared);
        self.drain = Drain::Ending(Box::pin(async move {
            if tokio::time::timeout_at(hard_stop, join_all(waiting)).await.is_err() {
                let connections = shared.connections();
                tracing::warn!(?within, connections, "requests were still in flight when drain_timeout was over");
            }
        }));
    }

    /// Ends the workers and writes what is left of the logs.
    fn stop(self) {
        let Self { listeners, threads, access, log, .. } = self;
        for worker in listeners.workers() {
            let _ = worker.try_send(Order::Stop);
        }
        drop(listeners);
        let deadline = std::time::Instant::now() + STOP;
        for thread in threads {
            while !thread.is_finished() && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        tracing::info!("stopped");
        access.flush(FLUSH);
        log.flush(FLUSH);
    }
}

/// What is doubtful about a configuration, a line each.
fn warn(warnings: &Diagnostics) {
    for warning in warnings {
        tracing::warn!(file = warning.path(), line = warning.line(), "{}", warning.message());
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn other(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |error| RunError::Other { what, error }
}
