//! The resolver: asks the name servers of the system, beside everything else that the control plane does.
//!
//! A name that stands in `/etc/hosts` is what stands there, in either family; no server is asked. Everything else is
//! asked for twice, A and AAAA at once (RFC 8305 3), with the search list of `/etc/resolv.conf`. Both files are read
//! again at every reload. hickory-resolver speaks the protocol; its cache is passed by, because how long an answer
//! is good for is decided in `book`.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, OptionFuture, join};
use futures_util::stream::{self, FuturesUnordered};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::book::{Answer, Book, Found, Taken};

/// How often a name is asked for, at most and at least, whatever its time to live says.
const LEAST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_secs(60);
/// Names that are asked for at once.
const MAX_CONCURRENT: usize = 32;
/// For one family of a name, over all servers and repetitions.
const PATIENCE: Duration = Duration::from_secs(10);

/// A name has other addresses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// As it was asked for.
    pub name: Arc<str>,
    /// IPv4 first, each once, sorted.
    pub addresses: Vec<IpAddr>,
}

/// The handle. When the last one is dropped, asking ends.
#[derive(Debug, Clone)]
pub struct Resolver {
    shared: Arc<Shared>,
    names: watch::Sender<Vec<Arc<str>>>,
}

struct Shared {
    book: Mutex<Book>,
    /// Made when it is first needed; `None` again when the system's files are to be read anew.
    client: Mutex<Option<Client>>,
    /// Whether the client follows the system's files.
    system: bool,
}

/// How to ask: what the system's files said when it was made.
#[derive(Clone)]
pub(super) struct Client {
    /// `None`: it can't be made; then only `hosts` answers.
    resolver: Option<TokioResolver>,
    hosts: Arc<Hosts>,
}

impl Resolver {
    /// Starts the task on the current runtime, with no names to follow. When a name's addresses change, `updates` is
    /// told; while it is full, changes wait and the newest counts.
    pub fn spawn(updates: mpsc::Sender<Resolved>) -> Self {
        Self::spawn_with(updates, None, Book::new(LEAST, MOST))
    }

    /// The same with times of one's own, and with servers unless they are the system's.
    pub(super) fn spawn_with(updates: mpsc::Sender<Resolved>, client: Option<Client>, book: Book) -> Self {
        let system = client.is_none();
        let shared = Arc::new(Shared { book: Mutex::new(book), client: Mutex::new(client), system });
        let (names, names_out) = watch::channel(Vec::new());
        tokio::spawn(follow(shared.clone(), names_out, updates));
        Self { shared, names }
    }

    /// The addresses of these names, asked for unless the last answer is still good, within `limit`: then, or if there
    /// is no answer, the last that is known; none if there never was one.
    pub fn resolve_all(
        &self,
        names: Vec<Arc<str>>,
        limit: Duration,
    ) -> impl Future<Output = Vec<(Arc<str>, Vec<IpAddr>)>> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            if shared.system {
                *lock(&shared.client) = None;
            }
            let now = Instant::now();
            let stale: Vec<_> = names.iter().filter(|name| !lock(&shared.book).is_fresh(name, now)).cloned().collect();
            // A family that is not answered must not cost the other one its answer.
            let patience = PATIENCE.min(limit.mul_f32(0.8));
            let asking = stream::iter(stale).for_each_concurrent(MAX_CONCURRENT, |name| {
                let shared = &shared;
                async move {
                    let answer = shared.client().ask(&name, patience).await;
                    shared.take(&name, answer);
                }
            });
            // Either all answers are there, or time is up: what is known is given in both cases.
            let _ = timeout(limit, asking).await;
            let mut book = lock(&shared.book);
            names.into_iter().map(|name| (name.clone(), book.look(&name))).collect()
        }
    }

    /// Follows these names from now on, and no others.
    pub fn set(&self, names: Vec<Arc<str>>) {
        self.names.send_replace(names);
    }
}

impl Shared {
    fn client(&self) -> Client {
        lock(&self.client).get_or_insert_with(system_client).clone()
    }

    fn take(&self, name: &Arc<str>, answer: Answer) -> Taken {
        let taken = lock(&self.book).take(name, answer, Instant::now());
        match taken {
            Taken::Failed(0) => tracing::warn!(name = &**name, "the name can't be resolved, so it is no backend yet"),
            Taken::Failed(_) => tracing::warn!(name = &**name, "the name can't be resolved; the addresses it had stay"),
            Taken::News | Taken::Nothing => {}
        }
        taken
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The task: asks for each followed name when it is time, and tells what is new.
async fn follow(shared: Arc<Shared>, mut names: watch::Receiver<Vec<Arc<str>>>, updates: mpsc::Sender<Resolved>) {
    let mut running: FuturesUnordered<BoxFuture<'static, (Arc<str>, Answer)>> = FuturesUnordered::new();
    let mut news: VecDeque<Arc<str>> = VecDeque::new();
    loop {
        let due = if running.len() < MAX_CONCURRENT { lock(&shared.book).wake() } else { None };
        tokio::select! {
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                let names = names.borrow_and_update().clone();
                let mut book = lock(&shared.book);
                book.follow(&names, Instant::now());
                // What a reload has found out is in force and was told to nobody: said now, it is what all go by.
                news.extend(names.into_iter().filter(|name| book.has_news(name)));
            }
            Some((name, answer)) = running.next() => {
                if shared.take(&name, answer) == Taken::News && !news.contains(&name) {
                    news.push_back(name);
                }
            }
            Some(()) = OptionFuture::from(due.map(|due| sleep_until(due.into()))) => {
                while running.len() < MAX_CONCURRENT
                    && let Some(name) = lock(&shared.book).ask(Instant::now())
                {
                    let client = shared.client();
                    running.push(Box::pin(async move {
                        let answer = client.ask(&name, PATIENCE).await;
                        (name, answer)
                    }));
                }
            }
            permit = updates.reserve(), if !news.is_empty() => {
                let (Ok(permit), Some(name)) = (permit, news.pop_front()) else { return };
                let mut book = lock(&shared.book);
                if book.has_news(&name) {
                    let addresses = book.tell(&name);
                    tracing::info!(name = &*name, ?addresses, "the name has other addresses");
                    permit.send(Resolved { name, addresses });
                }
            }
        }
    }
}

impl Client {
    async fn ask(&self, name: &str, patience: Duration) -> Answer {
        if let Some(answer) = self.in_hosts(name) {
            return answer;
        }
        let family = async |kind| timeout(patience, self.family(name, kind)).await.unwrap_or(Found::Unknown);
        let (v4, v6) = join(family(RecordType::A), family(RecordType::AAAA)).await;
        Answer { v4, v6 }
    }

    fn in_hosts(&self, name: &str) -> Option<Answer> {
        let name = Name::from_utf8(name).ok()?;
        let family = |kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            let addresses: Vec<_> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            (!addresses.is_empty()).then_some(Found::Addresses(addresses, MOST))
        };
        match (family(RecordType::A), family(RecordType::AAAA)) {
            (None, None) => None,
            (v4, v6) => Some(Answer { v4: v4.unwrap_or(Found::None), v6: v6.unwrap_or(Found::None) }),
        }
    }

    async fn family(&self, name: &str, kind: RecordType) -> Found {
        let Some(resolver) = &self.resolver else { return Found::Unknown };
        resolver.clear_lookup_cache(name, kind);
        match resolver.lookup(name, kind).await {
            Ok(lookup) => {
                // The way may lead over aliases (CNAME), whose time to live counts as well.
                let seconds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                let addresses: Vec<_> = lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
                if addresses.is_empty() {
                    return Found::None;
                }
                Found::Addresses(addresses, Duration::from_secs(seconds.into()))
            }
            Err(error) if error.is_no_records_found() => Found::None,
            Err(error) => {
                tracing::debug!(name, %kind, %error, "no answer");
                Found::Unknown
            }
        }
    }
}

/// What the system's files say. Without `/etc/resolv.conf`, a server on this machine, as the C library has it.
fn system_client() -> Client {
    let (config, options) = system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "/etc/resolv.conf can't be used; asking 127.0.0.1");
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
    });
    client(config, options, Hosts::from_system().unwrap_or_default())
}

/// A client of these servers. The files are read here and not by hickory, so that a name in `/etc/hosts` is not also
/// asked for in the family that stands not there.
pub(super) fn client(config: ResolverConfig, mut options: ResolverOpts, hosts: Hosts) -> Client {
    options.use_hosts_file = ResolveHosts::Never;
    let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
    let resolver = resolver.build().inspect_err(|error| tracing::warn!(%error, "names can't be resolved")).ok();
    Client { resolver, hosts: Arc::new(hosts) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
