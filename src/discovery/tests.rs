//! The resolver against a name server of our own on loopback.

use std::collections::HashMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::Hosts;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use tokio::sync::mpsc;

use super::book::Book;
use super::dns::client;
use super::{Resolved, Resolver};

const PATIENCE: Duration = Duration::from_secs(20);
const LEAST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_millis(50);

/// What a name is answered with.
#[derive(Clone)]
enum Zone {
    Addresses(Vec<IpAddr>, u32),
    ServerFailure,
    Silence,
    /// Addresses of IPv4, and to the question for those of IPv6 this.
    Half(Vec<IpAddr>, Box<Zone>),
}

/// RFC 1035, as much of it as a stub resolver needs: one question, A or AAAA, over UDP.
struct NameServer {
    port: u16,
    zones: Arc<Mutex<HashMap<String, Zone>>>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let zones = Arc::new(Mutex::new(HashMap::<String, Zone>::new()));
        let asked = Arc::new(AtomicUsize::new(0));
        let (known, count) = (zones.clone(), asked.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut bytes) {
                count.fetch_add(1, SeqCst);
                if let Some(answer) = answer(&bytes[..n], &known.lock().unwrap()) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { port, zones, asked }
    }

    fn set(&self, name: &str, zone: Zone) {
        self.zones.lock().unwrap().insert(name.into(), zone);
    }

    fn addresses(&self, name: &str, addresses: &[&str]) {
        self.set(name, Zone::Addresses(ips(addresses), 1));
    }
}

fn answer(query: &[u8], zones: &HashMap<String, Zone>) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap().to_lowercase());
        at = end;
    }
    let question = &query[12..at + 5];
    let kind = query[at + 2];
    let zone = match zones.get(&labels.join(".")) {
        Some(Zone::Half(addresses, _)) if kind == 1 => Some(&Zone::Addresses(addresses.clone(), 1)),
        Some(Zone::Half(_, other)) => Some(&**other),
        zone => zone,
    };
    let (code, addresses, ttl) = match zone {
        None => (3, vec![], 0),
        Some(Zone::Silence | Zone::Half(..)) => return None,
        Some(Zone::ServerFailure) => (2, vec![], 0),
        Some(Zone::Addresses(all, ttl)) => {
            let of_kind = |ip: &&IpAddr| kind == if ip.is_ipv4() { 1 } else { 28 };
            (0, all.iter().filter(of_kind).copied().collect(), *ttl)
        }
    };
    let mut reply = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0], question].concat();
    for address in addresses {
        let data = match address {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        reply.extend([0xc0, 12, 0, kind, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

fn resolver(server: &NameServer, hosts: &str) -> (Resolver, mpsc::Receiver<Resolved>) {
    resolver_with(server, hosts, Book::new(LEAST, MOST))
}

fn resolver_with(server: &NameServer, hosts: &str, book: Book) -> (Resolver, mpsc::Receiver<Resolved>) {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.port;
    let mut upstream = NameServerConfig::udp("127.0.0.1".parse().unwrap());
    upstream.connections = vec![connection];
    let mut table = Hosts::default();
    table.read_hosts_conf(hosts.as_bytes()).unwrap();
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_millis(500);
    let client = client(ResolverConfig::from_name_servers(vec![upstream]), options, table);
    let (sender, updates) = mpsc::channel(1);
    (Resolver::spawn_with(sender, Some(client), book), updates)
}

async fn next(updates: &mut mpsc::Receiver<Resolved>) -> Resolved {
    tokio::time::timeout(PATIENCE, updates.recv()).await.expect("news").unwrap()
}

#[tokio::test]
async fn both_families_and_names_that_are_nowhere() {
    let server = NameServer::start();
    server.addresses("two.example", &["10.0.0.2", "10.0.0.1", "2001:db8::1"]);
    let (resolver, _updates) = resolver(&server, "");
    let names = vec!["two.example".into(), "none.example".into()];
    let answers = resolver.resolve_all(names, PATIENCE).await;
    let expected = [
        (Arc::from("two.example"), ips(&["10.0.0.1", "10.0.0.2", "2001:db8::1"])),
        (Arc::from("none.example"), ips(&[])),
    ];
    assert_eq!(answers, expected);
}

#[tokio::test]
async fn hosts_come_first_and_no_server_is_asked() {
    let server = NameServer::start();
    server.addresses("in-hosts.example", &["10.9.9.9"]);
    let (resolver, _updates) = resolver(&server, "127.0.0.1 localhost\n10.0.0.7 In-Hosts.example alias\n");
    let names = ["localhost", "in-hosts.example", "ALIAS"].map(Arc::from).to_vec();
    let answers = resolver.resolve_all(names, PATIENCE).await;
    let addresses: Vec<_> = answers.into_iter().map(|(_, addresses)| addresses).collect();
    assert_eq!(addresses, [ips(&["127.0.0.1"]), ips(&["10.0.0.7"]), ips(&["10.0.0.7"])]);
    assert_eq!(server.asked.load(SeqCst), 0);
}

#[tokio::test]
async fn changes_are_told_and_failures_change_nothing() {
    let server = NameServer::start();
    server.addresses("a.example", &["10.0.0.1"]);
    let (resolver, mut updates) = resolver(&server, "");
    let names: Vec<Arc<str>> = vec!["a.example".into()];
    assert_eq!(resolver.resolve_all(names.clone(), PATIENCE).await[0].1, ips(&["10.0.0.1"]));
    resolver.set(names.clone());

    server.addresses("a.example", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        next(&mut updates).await,
        Resolved { name: "a.example".into(), addresses: ips(&["10.0.0.1", "10.0.0.2"]) }
    );

    server.set("a.example", Zone::ServerFailure);
    let asked = server.asked.load(SeqCst);
    let deadline = std::time::Instant::now() + PATIENCE;
    while server.asked.load(SeqCst) < asked + 12 {
        assert!(std::time::Instant::now() < deadline, "it is not asked again");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(updates.try_recv().is_err(), "a failure is no news");
    assert_eq!(resolver.resolve_all(names, PATIENCE).await[0].1, ips(&["10.0.0.1", "10.0.0.2"]));

    server.addresses("a.example", &["10.0.0.3"]);
    assert_eq!(next(&mut updates).await.addresses, ips(&["10.0.0.3"]));
}

#[tokio::test]
async fn a_silent_server_holds_a_load_up_no_longer_than_allowed() {
    let server = NameServer::start();
    server.set("slow.example", Zone::Silence);
    server.addresses("quick.example", &["10.0.0.1"]);
    let (resolver, mut updates) = resolver(&server, "");
    let names: Vec<Arc<str>> = vec!["slow.example".into(), "quick.example".into()];
    let mut seen = vec![];
    for _ in 0..100 {
        seen = resolver.resolve_all(names.clone(), Duration::from_millis(200)).await;
        if !seen[1].1.is_empty() {
            break;
        }
    }
    assert_eq!((seen[0].1.clone(), seen[1].1.clone()), (ips(&[]), ips(&["10.0.0.1"])));
    // What comes later is told.
    resolver.set(names);
    server.addresses("slow.example", &["10.0.0.8"]);
    let news = next(&mut updates).await;
    assert_eq!((&*news.name, news.addresses), ("slow.example", ips(&["10.0.0.8"])));
}

/// As of servers that drop the questions they do not know (RFC 4074).
#[tokio::test]
async fn a_family_without_an_answer_does_not_cost_the_other_its_own() {
    let server = NameServer::start();
    server.set("half.example", Zone::Half(ips(&["10.0.0.1"]), Box::new(Zone::Silence)));
    let (resolver, _updates) = resolver(&server, "");
    let mut seen = vec![];
    for _ in 0..20 {
        seen = resolver.resolve_all(vec!["half.example".into()], Duration::from_secs(1)).await;
        if !seen[0].1.is_empty() {
            break;
        }
    }
    assert_eq!(seen[0].1, ips(&["10.0.0.1"]));
}

#[tokio::test]
async fn what_a_reload_has_found_out_is_what_news_are_told_against() {
    let hour = Duration::from_secs(3600);
    let server = NameServer::start();
    let zone = |ip| Zone::Half(ips(&[ip]), Box::new(Zone::ServerFailure));
    // A family that fails: so a reload asks, and nobody else does within the hour.
    server.set("a.example", zone("10.0.0.1"));
    let (resolver, mut updates) = resolver_with(&server, "", Book::new(hour, hour));
    let names: Vec<Arc<str>> = vec!["a.example".into()];
    assert_eq!(resolver.resolve_all(names.clone(), PATIENCE).await[0].1, ips(&["10.0.0.1"]));
    resolver.set(names.clone());
    server.set("a.example", zone("10.0.0.2"));
    let mut seen = vec![];
    while seen != ips(&["10.0.0.2"]) {
        // The names are followed by a task that may not have seen them yet.
        tokio::task::yield_now().await;
        seen = resolver.resolve_all(names.clone(), PATIENCE).await.remove(0).1;
    }
    resolver.set(names);
    assert_eq!(next(&mut updates).await.addresses, ips(&["10.0.0.2"]));
}

#[tokio::test]
async fn a_full_channel_tells_the_newest() {
    let server = NameServer::start();
    for name in ["a.example", "b.example", "c.example"] {
        server.addresses(name, &["10.0.0.1"]);
    }
    let (resolver, mut updates) = resolver(&server, "");
    resolver.set(["a.example", "b.example", "c.example"].map(Arc::from).to_vec());
    let mut told = HashMap::new();
    while told.len() < 3 {
        let news = next(&mut updates).await;
        server.addresses(&news.name, &["10.0.0.2"]);
        told.insert(news.name, news.addresses);
    }
    while told.values().any(|addresses| *addresses != ips(&["10.0.0.2"])) {
        let news = next(&mut updates).await;
        told.insert(news.name, news.addresses);
    }
}
