//! One worker's client connections: accepting them, counting them, sweeping them, ending them.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use slab::Slab;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, spawn_local, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::accept::{Acceptor, Fresh};
use super::announced::{self, Missing};
use super::bind::Sockets;
use super::connection;
use super::serve::{linger, only_answer};
use super::shared::{Place, Shared};
use super::tls;
use super::watch::{Clock, TICK, Watch};
use super::wire::{Peek, Wire};
use super::{Common, Service};
use crate::message::conn::Ends;
use crate::message::proxy_protocol::Header;
use crate::message::socket::Socket;
use crate::message::{Conn, forwarded, respond};
use crate::model::{Listener, Reason};
use crate::telemetry::{ClientConnection, ListenerCells};
use crate::tls::Front;

/// How long accepting rests when there is no descriptor left, or no memory.
const REST: Duration = Duration::from_millis(100);

/// How often that is said.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Refused connections that get an answer at the same time; any more are closed without.
const REFUSALS: u32 = 64;

/// One worker's client connections. Must be made on the worker's thread, inside its runtime. Cloning gives another
/// handle to the same.
pub struct Server<S: Service> {
    inner: Rc<Inner<S>>,
}

impl<S: Service> Clone for Server<S> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<S> {
    shared: Arc<Shared>,
    worker: usize,
    clock: Rc<Clock>,
    common: Rc<Common<S>>,
    listeners: RefCell<Vec<Rc<Bound>>>,
    connections: RefCell<Slab<Rc<Watch>>>,
    /// Set once the worker drains: until when.
    draining: Cell<Option<Instant>>,
    /// Told whenever the last connection has ended.
    emptied: Notify,
    refusing: Rc<Cell<u32>>,
}

/// A listener of this worker.
struct Bound {
    listener: RefCell<Arc<Listener>>,
    /// There exactly if the listener has TLS.
    tls: RefCell<Option<Arc<Front>>>,
    sockets: Arc<Sockets>,
    cells: Arc<ListenerCells>,
    acceptors: RefCell<Vec<AbortHandle>>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.accept_no_more();
    }
}

impl Bound {
    fn accept_no_more(&self) {
        self.acceptors.borrow_mut().drain(..).for_each(|task| task.abort());
    }
}

/// A connection that has been accepted, perhaps by another worker.
pub(super) struct Accepted {
    stream: Fresh,
    ends: Ends,
    listener: Arc<str>,
    pub(super) place: Place,
}

impl<S: Service> Server<S> {
    /// A worker's server without listeners. `worker` is its number, below what `shared` was made for.
    pub fn new(service: Rc<S>, shared: Arc<Shared>, worker: usize) -> Self {
        let inner = Rc::new(Inner {
            common: Common::new(service),
            worker,
            clock: Rc::default(),
            listeners: RefCell::default(),
            connections: RefCell::default(),
            draining: Cell::default(),
            emptied: Notify::new(),
            refusing: Rc::default(),
            shared,
        });
        // The tasks end when the server is gone.
        spawn_local(sweep(Rc::downgrade(&inner)));
        if let Some(inbox) = inner.shared.inbox(worker) {
            spawn_local(receive(Rc::downgrade(&inner), inbox));
        }
        Self { inner }
    }

    /// Accepts on these sockets. A listener that is there already keeps its connections; if only its settings differ,
    /// new connections get the new ones. `tls`: what handshakes begin with, for a listener that has TLS.
    pub fn add(&self, listener: Arc<Listener>, sockets: &Arc<Sockets>, tls: Option<Arc<Front>>) -> io::Result<()> {
        let inner = &self.inner;
        let known = inner.find(&listener.name).filter(|bound| Arc::ptr_eq(&bound.sockets, sockets));
        if let Some(bound) = known {
            *bound.listener.borrow_mut() = listener;
            *bound.tls.borrow_mut() = tls;
            return Ok(());
        }
        let destination = sockets.destination();
        let acceptors = sockets
            .of_worker(inner.worker, inner.shared.workers())
            .and_then(|sockets| sockets.into_iter().map(|socket| Acceptor::new(socket, destination)).collect());
        // Nobody would accept what came to it.
        let acceptors: Vec<_> = acceptors.inspect_err(|_| sockets.give_up(inner.worker))?;
        inner.listeners.borrow_mut().retain(|bound| bound.listener.borrow().name != listener.name);
        let bound = Rc::new(Bound {
            cells: inner.shared.metrics.listener(&listener.name),
            listener: RefCell::new(listener),
            tls: RefCell::new(tls),
            sockets: Arc::clone(sockets),
            acceptors: RefCell::default(),
        });
        for acceptor in acceptors {
            let task = spawn_local(accept(Rc::downgrade(inner), Rc::downgrade(&bound), acceptor));
            bound.acceptors.borrow_mut().push(task.abort_handle());
        }
        inner.listeners.borrow_mut().push(bound);
        Ok(())
    }

    /// Accepts no more for this listener and drains its connections, as [`drain`](Self::drain) does for all.
    pub fn remove(&self, name: &str, drain_timeout: Duration) {
        self.inner.listeners.borrow_mut().retain(|bound| &*bound.listener.borrow().name != name);
        for (_, watch) in &*self.inner.connections.borrow() {
            if &*watch.conn.listener.name == name {
                drain(watch, drain_timeout);
            }
        }
    }

    /// Accepts no more. Answers say `Connection: close`; connections that are idle are closed, spread over the first
    /// half of the timeout; what is left at the end of it is cut off.
    pub fn drain(&self, timeout: Duration) {
        self.inner.draining.set(Some(Instant::now() + timeout));
        self.inner.listeners.borrow().iter().for_each(|bound| {
            bound.sockets.close();
            bound.accept_no_more();
        });
        for (_, watch) in &*self.inner.connections.borrow() {
            drain(watch, timeout);
        }
    }

    /// Waits until there is no connection.
    pub async fn idle(&self) {
        loop {
            let emptied = self.inner.emptied.notified();
            if self.inner.connections.borrow().is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Ends every connection now.
    pub fn close_all(&self) {
        for (_, watch) in &*self.inner.connections.borrow() {
            watch.kill();
        }
    }
}

fn drain(watch: &Watch, timeout: Duration) {
    // At random, so that clients don't all come back at once somewhere else.
    watch.drain(timeout.mul_f32(fastrand::f32() / 2.0), timeout);
}

impl<S: Service> Inner<S> {
    fn find(&self, name: &str) -> Option<Rc<Bound>> {
        self.listeners.borrow().iter().find(|bound| &*bound.listener.borrow().name == name).cloned()
    }

    /// A connection has been accepted here: served here or by another worker, or refused. An error: it could not be
    /// taken into the runtime, for want of memory most likely.
    fn take(self: &Rc<Self>, bound: &Bound, stream: Fresh, ends: Ends) -> io::Result<()> {
        let (listener, limits) = (Arc::clone(&bound.listener.borrow()), self.common.service.limits());
        let address = ends.peer();
        // Who the client is, a proxy has yet to say. It has to be one that is believed.
        let announced = listener.proxy_protocol;
        if announced && address.is_some() && !forwarded::is_trusted(address, &listener.trusted_proxies) {
            self.no_header(&listener, ends.source, &Missing::Bad("not from a trusted proxy"));
            return Ok(());
        }
        let admitted = self.shared.admit(self.worker, &bound.sockets.connections, listener.max_connections, &limits);
        let counted = admitted.and_then(|mut place| match announced {
            true => Ok(place),
            false => place.count_for(address, &limits).map(|()| place),
        });
        let worker = self.shared.choose(self.worker);
        match counted {
            Ok(place) if worker != self.worker => {
                let accepted = Accepted { stream, ends, listener: Arc::clone(&listener.name), place };
                self.shared.hand_over(accepted, worker).or_else(|accepted| self.resume(*accepted))
            }
            counted => self.enter(bound, stream, ends, counted),
        }
    }

    /// A connection that was accepted by another worker.
    fn resume(self: &Rc<Self>, accepted: Accepted) -> io::Result<()> {
        let Accepted { stream, ends, listener, place } = accepted;
        // A listener that has been removed in the meantime serves nobody any more.
        let Some(bound) = self.find(&listener) else { return Ok(()) };
        self.enter(&bound, stream, ends, Ok(place))
    }

    /// Takes a connection into this worker's runtime. `place`: or the limit for which it gets none. Nothing is read before
    /// the runtime says that something came: most clients' first bytes come a moment after the connection.
    fn enter(
        self: &Rc<Self>,
        bound: &Bound,
        stream: Fresh,
        ends: Ends,
        place: Result<Place, &'static str>,
    ) -> io::Result<()> {
        match stream {
            Fresh::Tcp(stream) => self.begin(bound, Socket(TcpStream::from_std(stream)?), ends, place),
            Fresh::Unix(stream) => self.begin(bound, Socket(UnixStream::from_std(stream)?), ends, place),
        }
        Ok(())
    }

    fn begin<W: Wire + Peek>(
        self: &Rc<Self>,
        bound: &Bound,
        stream: W,
        ends: Ends,
        place: Result<Place, &'static str>,
    ) {
        let (listener, front) = (Arc::clone(&bound.listener.borrow()), bound.tls.borrow().clone());
        let cells = Arc::clone(&bound.cells);
        let place = match place {
            Ok(place) => place,
            Err(limit) => return self.refuse(stream, &listener, limit),
        };
        if listener.tls.is_some() != front.is_some() {
            // Never in clear where TLS was asked for.
            return;
        }
        let announced = listener.proxy_protocol;
        let conn = Conn::between(ends, listener);
        let watch = Watch::new(conn, Rc::clone(&self.clock), &self.common.service.limits());
        if let Some(until) = self.draining.get() {
            drain(&watch, until.saturating_duration_since(Instant::now()));
        }
        let number = self.connections.borrow_mut().insert(Rc::clone(&watch));
        let mut open = Open { server: Rc::clone(self), number, place, _counted: cells.connected() };
        let common = Rc::clone(&self.common);
        let metrics = Arc::clone(&self.shared.metrics);
        spawn_local(async move {
            // `open` is dropped at the end, also of a panic. What a beginning needs is in memory of its own, so that an open
            // connection does not hold it.
            let begun = if announced { Box::pin(open.announced(stream, watch)).await } else { Some((stream, watch)) };
            let Some((stream, watch)) = begun else { return };
            let Some(front) = front else {
                return connection::serve(stream, None, watch, common, &metrics).await;
            };
            let shaken = Box::pin(tls::handshake(stream, &front, &watch, &cells)).await;
            drop((front, cells));
            if let Some(stream) = shaken {
                let chosen = stream.protocol();
                connection::serve(stream, chosen, watch, common, &metrics).await;
            }
        });
    }

    /// Closes a connection without an answer: whoever sends no header may not even speak HTTP.
    fn no_header(&self, listener: &Listener, peer: Option<SocketAddr>, missing: &Missing) {
        if !matches!(missing, Missing::Nothing) {
            self.shared.metrics.limit_hit("proxy_protocol");
            let peer = peer.map_or_else(|| "unix:".to_owned(), |peer| peer.to_string());
            tracing::debug!(listener = &*listener.name, peer, error = %missing, "no PROXY header: closed");
        }
    }

    /// Says 503 to a connection over a limit and closes it. With TLS nothing can be said before a handshake, which is more
    /// work than whoever is one too many gets: it is closed without a word.
    fn refuse<W: Wire + Peek>(&self, mut stream: W, listener: &Listener, limit: &'static str) {
        self.shared.metrics.limit_hit(limit);
        let refusing = Rc::clone(&self.refusing);
        if listener.tls.is_some() || refusing.get() >= REFUSALS || !says(&stream, &OVERLOADED) {
            return;
        }
        refusing.set(refusing.get() + 1);
        spawn_local(async move {
            linger(&mut stream).await;
            refusing.set(refusing.get() - 1);
        });
    }
}

/// An open connection in the books.
struct Open<S> {
    server: Rc<Inner<S>>,
    number: usize,
    place: Place,
    _counted: ClientConnection,
}

impl<S: Service> Open<S> {
    /// Reads who the connection is for, and has it stand in the books so. `None`: it is not served.
    async fn announced<W: Wire + Peek>(&mut self, stream: W, watch: Rc<Watch>) -> Option<(W, Rc<Watch>)> {
        let (mut ends, listener) = (watch.conn.ends, Arc::clone(&watch.conn.listener));
        match announced::header(&stream, &watch).await {
            Ok(Header::Local) => {}
            Ok(Header::Unknown) => ends.is_anonymous = true,
            Ok(Header::Proxied { source, destination }) => {
                ends = Ends { source: Some(source), destination: Some(destination), is_anonymous: false };
            }
            Err(missing) => {
                self.server.no_header(&listener, ends.source, &missing);
                return None;
            }
        }
        let watch = watch.of(Conn::between(ends, listener));
        if let Err(limit) = self.place.count_for(watch.conn.peer, &self.server.common.service.limits()) {
            self.server.refuse(stream, &watch.conn.listener, limit);
            return None;
        }
        if let Some(known) = self.server.connections.borrow_mut().get_mut(self.number) {
            *known = Rc::clone(&watch);
        }
        Some((stream, watch))
    }
}

impl<S> Drop for Open<S> {
    fn drop(&mut self) {
        let mut connections = self.server.connections.borrow_mut();
        connections.try_remove(self.number);
        if connections.is_empty() {
            self.server.emptied.notify_waiters();
        }
    }
}

async fn sweep<S: Service>(server: Weak<Inner<S>>) {
    let began = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(server) = server.upgrade() else { return };
        server.clock.set(began.elapsed());
        let limits = server.common.service.limits();
        for (_, watch) in &*server.connections.borrow() {
            watch.sweep(&limits);
        }
    }
}

async fn receive<S: Service>(server: Weak<Inner<S>>, mut inbox: mpsc::Receiver<Accepted>) {
    while let Some(accepted) = inbox.recv().await {
        let Some(server) = server.upgrade() else { return };
        if let Err(error) = server.resume(accepted) {
            tracing::warn!(%error, "a connection could not be taken over");
        }
    }
}

async fn accept<S: Service>(server: Weak<Inner<S>>, bound: Weak<Bound>, acceptor: Acceptor) {
    let (mut failed, mut said) = (false, None::<Instant>);
    loop {
        let accepted = acceptor.accept().await;
        let (Some(server), Some(bound)) = (server.upgrade(), bound.upgrade()) else { return };
        match accepted.and_then(|(stream, ends)| server.take(&bound, stream, ends)) {
            Ok(()) => failed = false,
            // The client has gone already.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // No descriptor or no memory. What waits in the queue stays there; connections that end make room. Some may
                // have ended already, if only their tasks had had a turn.
                if !std::mem::replace(&mut failed, true) {
                    drop((server, bound));
                    yield_now().await;
                    continue;
                }
                server.shared.metrics.limit_hit("descriptors");
                if said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!(%error, listener = %bound.listener.borrow().name, "can't accept");
                }
                drop((server, bound));
                sleep(REST).await;
            }
        }
    }
}

/// Writes this at once, or not.
fn says(stream: &impl AsFd, bytes: &[u8]) -> bool {
    rustix::io::write(stream, bytes) == Ok(bytes.len())
}

/// What a connection over a limit is told.
static OVERLOADED: LazyLock<Vec<u8>> = LazyLock::new(|| only_answer(&respond::problem(Reason::Overloaded, None, "")));
