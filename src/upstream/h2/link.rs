//! Connections of HTTP/2 to backends: a worker's own, each shared by the exchanges that it has room for.
//!
//! An exchange takes a stream of a connection that has one left, by the other side's MAX_CONCURRENT_STREAMS; a new
//! connection is opened when none has, one at a time for each backend, and whoever comes meanwhile waits for it. It stands
//! when the other side's SETTINGS have come: only then is it known how many streams it may be given, and that it speaks
//! HTTP/2 at all. That costs a round trip for each connection, and no request is lost to a server that speaks something
//! else.
//!
//! A connection takes nothing new once the backend has said GOAWAY, once a request on it has had no answer in time while
//! nothing at all came, and once its socket has broken; what is under way goes on. One that is silent with streams open is
//! asked with a PING, and given up if nothing comes: a peer that has vanished must not hold streams for ever. It is not
//! asked again soon, because servers of gRPC take more than a few PINGs in five minutes for an attack.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::wire::{Traffic, Wire};
use crate::backend::{self, Backend};
use crate::upstream::client::{MAX_HEAD, failed_to_connect};
use crate::upstream::connection::Worker;
use crate::upstream::{Error, ErrorKind, Terms, dial};

/// Streams of one connection at once, whatever more the backend allows: what they all wait for is one socket.
const MAX_STREAMS: usize = 256;
/// Bytes of one response that may be on their way to us or wait to be passed on.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all responses of a connection: so many clients must be slow at once before they are in each other's way.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes of a request's body that lie between its sender and the socket.
const SEND_BUFFER: usize = 64 * 1024;
/// Silence after which a connection with open streams is asked whether it is there.
const QUIET: Duration = Duration::from_secs(20);
/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two such questions without anything else in between. Servers of gRPC allow one in five minutes.
const APART: Duration = Duration::from_secs(310);
/// How long a connection that is not wanted any more may take to close.
const LINGER: Duration = Duration::from_secs(5);

/// The connections of one worker, by the backend's place in memory, which the entry keeps from being reused.
#[derive(Default)]
pub(in crate::upstream) struct Links {
    entries: RefCell<FxHashMap<usize, Entry>>,
}

struct Entry {
    _backend: Arc<Backend>,
    links: Vec<Rc<Link>>,
    /// One more is being opened.
    is_opening: bool,
    /// Somebody should look again: a stream is free, a connection stands, or could not be made.
    news: Rc<News>,
}

/// See [`Entry`].
#[derive(Default)]
struct News {
    notify: Notify,
    waiting: Cell<usize>,
}

impl News {
    async fn wait(&self) {
        self.waiting.set(self.waiting.get() + 1);
        let _one = One(&self.waiting);
        self.notify.notified().await;
    }
}

/// One of those who wait.
struct One<'a>(&'a Cell<usize>);

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What there is for one more exchange.
enum Found {
    /// A stream of this connection.
    Room(Rc<Link>),
    /// A connection may be opened.
    Connection(backend::Connection),
    /// There may be something soon: this tells when to look again.
    Hope(Rc<News>),
    /// None, and others have all connections.
    Nothing,
}

/// One connection.
struct Link {
    sender: SendRequest<Bytes>,
    traffic: Rc<Traffic>,
    streams: Cell<usize>,
    /// It takes nothing new.
    is_retired: Cell<bool>,
    has_ended: Rc<Cell<bool>>,
    /// Until when it is kept without a stream.
    keep_until: Cell<Instant>,
    pinging: RefCell<Pinging>,
    gone: Rc<Notify>,
    task: AbortHandle,
}

/// Asking whether the other side is there.
struct Pinging {
    way: Option<PingPong>,
    /// When it was asked, and what had been read by then.
    asked: Option<(Instant, u64)>,
    /// When it was last asked, and what had been read when it had answered.
    last: Option<(Instant, u64)>,
}

/// A place for one exchange on a connection. Dropped, it is free again.
pub(super) struct Place {
    worker: Rc<Worker>,
    backend: Arc<Backend>,
    link: Rc<Link>,
    keep: Duration,
    began: Instant,
}

impl Links {
    /// A place on a connection, and how long connecting took if that was needed.
    pub(super) async fn place(
        worker: &Rc<Worker>,
        backend: &Arc<Backend>,
        terms: &Terms<'_>,
    ) -> Result<(Place, Option<Duration>), Error> {
        let until = Instant::now() + terms.timeouts.connect;
        loop {
            let news = match worker.links.look(backend, terms.max_connections) {
                Found::Room(link) => return Ok((Place::new(worker, backend, link, terms.timeouts.keepalive), None)),
                Found::Connection(counted) => return open(worker, backend, terms, counted, until).await,
                Found::Nothing => return Err(Error::new(ErrorKind::Limit, false)),
                Found::Hope(news) => news,
            };
            if timeout_at(until, news.wait()).await.is_err() {
                let kind = if worker.links.is_opening(backend) { ErrorKind::ConnectTimeout } else { ErrorKind::Limit };
                return Err(Error::new(kind, false));
            }
        }
    }

    /// What there is for one more exchange.
    fn look(&self, backend: &Arc<Backend>, max_connections: u32) -> Found {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.entry(key(backend)).or_insert_with(|| Entry::new(backend));
        if let Some(link) = entry.pick() {
            return Found::Room(link);
        }
        if !entry.is_opening {
            if let Some(counted) = backend.try_connection(max_connections) {
                entry.is_opening = true;
                return Found::Connection(counted);
            }
            // With all connections in use, a stream of one of them will do. For a while; then it is a connection that there
            // is none of.
            if !entry.links.iter().any(|link| link.is_usable()) {
                return Found::Nothing;
            }
        }
        Found::Hope(Rc::clone(&entry.news))
    }

    fn is_opening(&self, backend: &Arc<Backend>) -> bool {
        self.entries.borrow().get(&key(backend)).is_some_and(|entry| entry.is_opening)
    }

    /// Closes what has been idle for too long or is not usable any more, and asks after the silent. To be called four times
    /// a second.
    pub(in crate::upstream) fn sweep(&self, now: Instant) {
        let mut closed = Vec::new();
        self.entries.borrow_mut().retain(|_, entry| {
            entry.links.retain(|link| {
                let is_kept = link.is_kept(now);
                if !is_kept {
                    closed.push(Rc::clone(link));
                }
                is_kept
            });
            let is_kept = !entry.links.is_empty() || entry.is_opening;
            if !is_kept {
                entry.news.notify.notify_waiters();
            }
            is_kept
        });
        // What they run when they are dropped may look in here.
        drop(closed);
    }

    /// A stream of this connection has ended.
    fn freed(&self, backend: &Arc<Backend>, link: &Rc<Link>) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(&key(backend)) else { return };
        // Our own who wait for a stream come before others who wait for a connection.
        let is_wanted = link.is_usable() && (entry.news.waiting.get() > 0 || !backend.starved());
        if link.streams.get() == 0 && !is_wanted {
            entry.links.retain(|other| !Rc::ptr_eq(other, link));
        }
        entry.news.notify.notify_one();
    }
}

impl Entry {
    fn new(backend: &Arc<Backend>) -> Self {
        Self { _backend: Arc::clone(backend), links: Vec::new(), is_opening: false, news: Rc::default() }
    }

    /// The first with a stream left: so the fewest stay warm.
    fn pick(&self) -> Option<Rc<Link>> {
        self.links.iter().find(|link| link.has_room() && link.is_usable()).cloned()
    }
}

/// While it is there, whoever comes waits for the connection that is being made.
struct Opening<'a> {
    worker: &'a Worker,
    backend: &'a Arc<Backend>,
}

impl Opening<'_> {
    fn stands(&self, link: &Rc<Link>) {
        if let Some(entry) = self.worker.links.entries.borrow_mut().get_mut(&key(self.backend)) {
            entry.links.push(Rc::clone(link));
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.worker.links.entries.borrow_mut().get_mut(&key(self.backend)) {
            entry.is_opening = false;
            entry.news.notify.notify_waiters();
        }
    }
}

/// Opens a connection until then, and takes the first place on it.
async fn open(
    worker: &Rc<Worker>,
    backend: &Arc<Backend>,
    terms: &Terms<'_>,
    counted: backend::Connection,
    until: Instant,
) -> Result<(Place, Option<Duration>), Error> {
    let opening = Opening { worker, backend };
    let began = Instant::now();
    let connected = timeout_at(until, connect(backend, counted)).await;
    let connect = Some(began.elapsed());
    let link = match connected {
        Ok(Ok(link)) => link,
        Ok(Err(error)) => return Err(Error { connect, ..error }),
        Err(_) => return Err(Error { connect, ..Error::new(ErrorKind::ConnectTimeout, false) }),
    };
    let link = Rc::new(link);
    if link.max_streams() == 0 {
        return Err(Error { connect, ..Error::new(ErrorKind::Connect, false).because("the backend takes no streams") });
    }
    opening.stands(&link);
    Ok((Place::new(worker, backend, link, terms.timeouts.keepalive), connect))
}

/// Dials and waits for the other side's SETTINGS.
///
/// Inside TLS the backend must have agreed to HTTP/2 (RFC 9113, 3.2): one that ignores what it was asked speaks HTTP/1.
async fn connect(backend: &Arc<Backend>, counted: backend::Connection) -> Result<Link, Error> {
    let stream = dial(backend, &[]).await.map_err(failed_to_connect)?;
    if !stream.may_speak(b"h2") {
        return Err(Error::new(ErrorKind::Connect, false).because("the backend did not agree to HTTP/2 (ALPN)"));
    }
    let traffic = Rc::new(Traffic::new());
    let wire = Wire { stream, traffic: Rc::clone(&traffic) };
    let shaken = Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD as u32)
        .handshake::<_, Bytes>(wire)
        .await;
    let (sender, mut connection) = shaken.map_err(|error| Error::new(ErrorKind::Connect, false).because(error))?;
    let (changed, gone, has_ended) = (Rc::new(Notify::new()), Rc::new(Notify::new()), Rc::new(Cell::new(false)));
    let pinging = RefCell::new(Pinging { way: connection.ping_pong(), asked: None, last: None });
    let task = {
        let (traffic, changed, gone, has_ended) =
            (Rc::clone(&traffic), Rc::clone(&changed), Rc::clone(&gone), Rc::clone(&has_ended));
        tokio::task::spawn_local(async move {
            // Counted for as long as the socket is open.
            let _counted = counted;
            let mut connection = connection;
            let mut is_greeted = false;
            let mut run = poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                if !is_greeted && traffic.is_greeted() {
                    is_greeted = true;
                    changed.notify_one();
                }
                polled
            });
            let run = async {
                tokio::select! {
                    ended = &mut run => return ended,
                    () = gone.notified() => {}
                }
                timeout(LINGER, run).await.unwrap_or(Ok(()))
            };
            if let Err(error) = run.await {
                tracing::debug!(%error, "a connection to a backend ended");
            }
            has_ended.set(true);
            changed.notify_one();
        })
    };
    let link = Link {
        sender,
        traffic: Rc::clone(&traffic),
        streams: Cell::default(),
        is_retired: Cell::default(),
        has_ended: Rc::clone(&has_ended),
        keep_until: Cell::new(Instant::now()),
        pinging,
        gone,
        task: task.abort_handle(),
    };
    while !traffic.is_greeted() {
        if has_ended.get() {
            return Err(if traffic.is_foreign() {
                Error::new(ErrorKind::Protocol, false).because("not a server of HTTP/2")
            } else {
                Error::new(ErrorKind::Connect, false).because("closed before it said anything")
            });
        }
        changed.notified().await;
    }
    Ok(link)
}

impl Link {
    /// How many streams it may have at once.
    fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams().min(MAX_STREAMS)
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.max_streams()
    }

    /// Whether it takes new streams: neither side has said that it does not.
    fn is_usable(&self) -> bool {
        let is_open = || self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        !self.is_retired.get() && !self.has_ended.get() && matches!(is_open(), Poll::Ready(Ok(())))
    }

    /// Whether it is to be kept. One that is silent is asked, and ended if it does not answer.
    fn is_kept(&self, now: Instant) -> bool {
        if self.streams.get() == 0 {
            return self.is_usable() && self.keep_until.get() > now;
        }
        if !self.has_ended.get() && self.is_dead(now) {
            // Its exchanges end with an error.
            self.task.abort();
            self.has_ended.set(true);
        }
        true
    }

    fn is_dead(&self, now: Instant) -> bool {
        let mut pinging = self.pinging.borrow_mut();
        let (heard, read) = (self.traffic.heard(), self.traffic.read());
        match pinging.asked {
            Some((asked, had)) if read > had => {
                pinging.asked = None;
                pinging.last = Some((asked, read));
                false
            }
            Some((asked, _)) => now.saturating_duration_since(asked) >= PATIENCE,
            None => {
                let is_quiet = now.saturating_duration_since(heard) >= QUIET;
                let is_due = pinging.last.is_none_or(|(at, had)| read > had || now.duration_since(at) >= APART);
                if is_quiet && is_due && !self.has_ended.get() {
                    let asked = pinging.way.as_mut().is_some_and(|way| {
                        // The answer to the one before, so that another may be sent.
                        let _ = way.poll_pong(&mut Context::from_waker(Waker::noop()));
                        way.send_ping(Ping::opaque()).is_ok()
                    });
                    pinging.asked = asked.then_some((now, read));
                }
                false
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The library closes a connection that nobody can use; it may not take for ever over that.
        self.gone.notify_one();
    }
}

impl Place {
    fn new(worker: &Rc<Worker>, backend: &Arc<Backend>, link: Rc<Link>, keep: Duration) -> Self {
        link.streams.set(link.streams.get() + 1);
        let began = Instant::now();
        Self { worker: Rc::clone(worker), backend: Arc::clone(backend), link, keep, began }
    }

    /// What requests are sent with.
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.link.sender.clone()
    }

    /// Whether the backend has said that it takes extended CONNECTs (RFC 8441, 3). Its SETTINGS have come.
    pub(super) fn takes_tunnels(&self) -> bool {
        self.link.sender.is_extended_connect_protocol_enabled()
    }

    /// Bytes that the socket has taken so far.
    pub(super) fn written(&self) -> u64 {
        self.link.traffic.written()
    }

    /// There was no answer in time. If nothing at all came, the connection itself may be dead.
    pub(super) fn had_no_answer(&self) {
        if self.link.traffic.heard() <= self.began {
            self.link.is_retired.set(true);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.link.streams.set(self.link.streams.get().saturating_sub(1));
        self.link.keep_until.set(Instant::now() + self.keep);
        self.worker.links.freed(&self.backend, &self.link);
    }
}

fn key(backend: &Arc<Backend>) -> usize {
    Arc::as_ptr(backend) as usize
}
