//! A worker: one thread of the data plane, with its own runtime, connections, cells and log.
//!
//! Workers share nothing that is written per request but the counts on a backend. What the control plane wants of one
//! comes through a bounded channel and is done between requests.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::backend::Observation;
use crate::backend::queue::Queues;
use crate::listen::{Incoming, Server, Service, Shared, Sockets};
use crate::message::body::Attempt;
use crate::message::{Conn, Request, Response};
use crate::model::{Limits, Listener};
use crate::proxy::{Proxy, ResponseBody};
use crate::routing::Table;
use crate::telemetry::{AccessLog, Metrics};
use crate::{tls, upstream};

/// How often a worker lets go of what is past its time.
const TICK: Duration = Duration::from_millis(250);

/// What a worker can be told.
pub(super) enum Order {
    /// Accept from this listener.
    Add(Arc<Listener>, Arc<Sockets>, Option<Arc<tls::Front>>),
    /// Do so no more, and end its connections within this time.
    Remove(Arc<str>, Duration),
    /// Do so for all, and say when the last connection has ended.
    Drain(Duration, oneshot::Sender<()>),
    /// End every connection now.
    Stop,
}

/// What a worker starts with.
pub(super) struct Kit {
    pub(super) number: usize,
    pub(super) table: Arc<Table>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) queues: Arc<Queues>,
    pub(super) log: AccessLog,
    pub(super) observations: mpsc::Sender<Observation>,
    pub(super) shared: Arc<Shared>,
    pub(super) max_connections: u32,
}

/// How long connections have for their end, which is a reset where an answer is not whole.
const LAST: Duration = Duration::from_millis(200);

/// Starts a worker's thread. It ends when `orders` does, or at [`Order::Stop`].
///
/// # Errors
/// When the operating system gives no thread, or the thread nothing to wait with.
pub(super) fn spawn(kit: Kit, orders: mpsc::Receiver<Order>) -> io::Result<JoinHandle<()>> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(format!("worker-{}", kit.number)).spawn(move || {
        match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = tell.send(Ok(()));
                runtime.block_on(run(kit, orders));
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    })?;
    // Clients that are given to a worker that is not there would wait for ever.
    told.recv().map_err(io::Error::other)??;
    Ok(thread)
}

async fn run(kit: Kit, mut orders: mpsc::Receiver<Order>) {
    let proxy = Proxy::new(kit.table.reader(), kit.metrics.worker(), kit.queues, kit.log, kit.observations);
    let (max_connections, workers) = (kit.max_connections, kit.shared.workers());
    let service = Rc::new(Front { proxy, max_connections, workers });
    let server = Rc::new(Server::new(Rc::clone(&service), kit.shared, kit.number));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Add(listener, sockets, front)) => {
                    let name = Arc::clone(&listener.name);
                    if let Err(error) = server.add(listener, &sockets, front) {
                        tracing::error!(listener = &*name, %error, "a worker can't accept");
                    }
                }
                Some(Order::Remove(name, within)) => server.remove(&name, within),
                Some(Order::Drain(within, done)) => {
                    server.drain(within);
                    let server = Rc::clone(&server);
                    tokio::task::spawn_local(async move {
                        server.idle().await;
                        // Nobody is left to be told only when the process is ending anyway.
                        let _ = done.send(());
                    });
                }
                Some(Order::Stop) | None => {
                    server.close_all();
                    let _ = tokio::time::timeout(LAST, server.idle()).await;
                    return;
                }
            },
            _ = tick.tick() => service.proxy.tick(),
        }
    }
}

/// The proxy as the connections of clients see it.
struct Front {
    proxy: Proxy<Incoming>,
    max_connections: u32,
    workers: usize,
}

impl Service for Front {
    type Body = ResponseBody<upstream::ResponseBody<Attempt<Incoming>>>;

    fn call(&self, request: Request<Incoming>, conn: Rc<Conn>) -> impl Future<Output = Response<Self::Body>> {
        self.proxy.handle(request, conn)
    }

    fn limits(&self) -> Limits {
        let limits = self.proxy.limits();
        Limits {
            max_connections: limits.max_connections.min(self.max_connections),
            // Each worker has its part, since connections are spread evenly and a shared sum would be written at every step.
            max_buffered_bytes: limits.max_buffered_bytes / self.workers.max(1) as u64,
            ..limits
        }
    }
}
