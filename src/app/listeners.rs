//! Which listeners are open, over reloads.
//!
//! Sockets that are bound stay open for as long as a listener with that address is configured, under whatever name: closing
//! and opening again would lose the connections that wait in its queue. What a reload adds is bound before anything else
//! changes, so that an address that is taken refuses the reload instead of half of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::worker::Order;
use crate::listen::{BindError, Sockets, bind};
use crate::model::{Listener, Plan};
use crate::telemetry::Metrics;
use crate::tls::{Front, TlsError};

/// The listeners in force.
pub(super) struct Listeners {
    workers: Vec<mpsc::Sender<Order>>,
    metrics: Arc<Metrics>,
    open: Vec<Open>,
}

/// A listener with its sockets.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) listener: Arc<Listener>,
    pub(super) sockets: Arc<Sockets>,
    /// There exactly if the listener has TLS.
    pub(super) tls: Option<Arc<Front>>,
}

/// Why a listener can't be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cannot {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the listener {listener}: {error}")]
    Tls { listener: Arc<str>, error: TlsError },
}

impl Listeners {
    pub(super) fn new(workers: Vec<mpsc::Sender<Order>>, metrics: Arc<Metrics>) -> Self {
        Self { workers, metrics, open: Vec::new() }
    }

    /// Binds what a Plan has and we have not. Nothing is accepted yet.
    pub(super) fn prepare(&self, plan: &Plan, workers: usize) -> Result<Vec<Open>, Cannot> {
        plan.listeners
            .iter()
            .map(|listener| {
                let known = self.open.iter().find(|open| is_same_socket(&open.listener, listener));
                // Under another name the address is bound all the same; a port of 0 is another one each time.
                let same = |open: &&Open| open.listener.bind == listener.bind && listener.bind.overlaps(&listener.bind);
                let sockets = match known.or_else(|| self.open.iter().find(same)) {
                    Some(open) => Arc::clone(&open.sockets),
                    None => Arc::new(bind(&listener.bind, workers)?),
                };
                let listener = match known {
                    Some(open) if *open.listener == *listener => Arc::clone(&open.listener),
                    _ => Arc::new(listener.clone()),
                };
                let tls = Self::front(&listener, known)?;
                Ok(Open { listener, sockets, tls })
            })
            .collect()
    }

    /// Made anew each time: the files may hold something else now. Tickets of the one before stay good.
    fn front(listener: &Listener, before: Option<&Open>) -> Result<Option<Arc<Front>>, Cannot> {
        let Some(tls) = &listener.tls else { return Ok(None) };
        let front = Front::new(tls, listener.protocols, before.and_then(|open| open.tls.as_deref()));
        let front = front.map_err(|error| Cannot::Tls { listener: Arc::clone(&listener.name), error })?;
        Ok(Some(Arc::new(front)))
    }

    /// Makes every worker accept from these listeners and from no others.
    pub(super) async fn commit(&mut self, next: Vec<Open>, drain_timeout: Duration) {
        let gone =
            self.open.iter().filter(|open| !next.iter().any(|new| is_same_socket(&new.listener, &open.listener)));
        // Whose name is another's by now goes before that comes. The others go last: what a worker has accepted for one may
        // be handed to another worker until its address has its new name everywhere.
        let is_reused = |gone: &&Open| next.iter().any(|new| new.listener.name == gone.listener.name);
        let (first, last): (Vec<_>, Vec<_>) = gone.partition(is_reused);
        self.remove(&first, drain_timeout).await;
        for new in &next {
            let known = self.open.iter().any(|open| Arc::ptr_eq(&open.listener, &new.listener));
            if known && new.tls.is_none() {
                continue;
            }
            if !known {
                let address = address(new);
                tracing::info!(listener = &*new.listener.name, address, "listening");
            }
            // Last the first: it may have to accept for all, who should know what they are given.
            for worker in self.workers.iter().rev() {
                let Open { listener, sockets, tls } = new.clone();
                let _ = worker.send(Order::Add(listener, sockets, tls)).await;
            }
        }
        self.remove(&last, drain_timeout).await;
        self.open = next;
    }

    async fn remove(&self, gone: &[&Open], drain_timeout: Duration) {
        for gone in gone {
            tracing::info!(listener = &*gone.listener.name, "no longer listening");
            for worker in &self.workers {
                let _ = worker.send(Order::Remove(Arc::clone(&gone.listener.name), drain_timeout)).await;
            }
            self.metrics.remove_listener(&gone.listener.name);
        }
    }

    /// Those in force.
    pub(super) fn open(&self) -> &[Open] {
        &self.open
    }

    /// Names and addresses, in the order of the file.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        self.open.iter().map(|open| (open.listener.name.to_string(), address(open))).collect()
    }

    /// How every worker is told things.
    pub(super) fn workers(&self) -> &[mpsc::Sender<Order>] {
        &self.workers
    }
}

/// With the port that the system chose.
fn address(open: &Open) -> String {
    open.sockets.local_addr().map_or_else(|| open.listener.bind.to_string(), |address| address.to_string())
}

fn is_same_socket(one: &Listener, other: &Listener) -> bool {
    one.name == other.name && one.bind == other.bind
}
