//! One worker's server, and two of them, over real sockets.

use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::LocalOptions;

use super::super::{Server, Shared, Sockets, bind};
use super::*;
use crate::telemetry::Metrics;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

/// On a runtime such as a worker has.
fn local(test: impl AsyncFnOnce()) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), test()).await.expect("the test hangs") });
}

fn on(bound: Bind) -> (Arc<Listener>, Arc<Sockets>) {
    let sockets = bind(&bound, 1).unwrap();
    (Arc::new(Listener::new("test", bound)), Arc::new(sockets))
}

struct Rig {
    server: Server<Echo>,
    service: Rc<Echo>,
    shared: Arc<Shared>,
    sockets: Arc<Sockets>,
    listener: Arc<Listener>,
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let (listener, sockets) = on(Bind::Tcp("127.0.0.1:0".parse().unwrap()));
        let shared = Shared::new(1, Metrics::new(1));
        let service = Echo::new(limits);
        let server = Server::new(Rc::clone(&service), Arc::clone(&shared), 0);
        server.add(Arc::clone(&listener), &sockets, None).unwrap();
        Self { server, service, shared, sockets, listener }
    }

    fn address(&self) -> SocketAddr {
        self.sockets.local_addr().unwrap()
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.unwrap()
    }
}

/// Polls until it is so.
async fn eventually(what: impl Fn() -> bool) {
    while !what() {
        sleep(Duration::from_millis(2)).await;
    }
}

async fn until(stream: &mut (impl AsyncReadExt + Unpin), text: &str) -> String {
    let mut out = vec![];
    while !out.ends_with(text.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => out.push(byte),
            Err(e) => panic!("{e} after {}", String::from_utf8_lossy(&out)),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut out = vec![];
    let _ = stream.read_to_end(&mut out).await;
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn requests_are_served_over_tcp_and_counted() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(GET).await.unwrap();
        assert!(until(&mut client, "[]").await.starts_with("HTTP/1.1 200 OK"));
        assert_eq!(rig.shared.connections(), 1);
        let metrics = rig.shared.metrics.encode();
        assert!(metrics.contains("shardgate_client_connections{listener=\"test\"} 1"), "{metrics}");
        drop(client);
        rig.server.idle().await;
        assert_eq!(rig.shared.connections(), 0);
    });
}

#[test]
fn a_client_that_sends_no_more_still_gets_what_was_answered() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(&[GET, b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"].concat()).await.unwrap();
        client.shutdown().await.unwrap();
        rig.server.idle().await;
        // The second request was cancelled; the first answer lay in the kernel, and a reset would have thrown it away.
        let mut out = vec![];
        client.read_to_end(&mut out).await.unwrap();
        assert!(out.starts_with(b"HTTP/1.1 200 OK") && out.ends_with(b"[]"), "{}", out.escape_ascii());
        assert_eq!((rig.service.served.get(), rig.service.cancelled.get()), (2, 1));
    });
}

#[test]
fn what_comes_late_does_not_cut_the_last_answer_off() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // Room for little, so that most of the answer waits in the server's kernel.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(rig.address()).await.unwrap();
        client.write_all(b"GET /large HTTP/1.0\r\nHost: x\r\n\r\n").await.unwrap();
        let head = until(&mut client, "\r\n\r\n").await;
        assert!(head.contains("content-length: 1048576"), "{head}");
        client.write_all(b"\r\n").await.unwrap();
        let mut out = vec![];
        client.read_to_end(&mut out).await.unwrap();
        assert_eq!(out.len(), 1 << 20);
    });
}

#[test]
fn requests_are_served_over_a_unix_socket() {
    local(async || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, sockets) = on(Bind::Unix(path.clone()));
        let rig = Rig::new(Limits::default());
        rig.server.add(Arc::new(Listener { name: "unix".into(), ..(*listener).clone() }), &sockets, None).unwrap();
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(GET).await.unwrap();
        until(&mut client, "[]").await;
        assert!(path.exists());
        rig.server.remove("unix", Duration::ZERO);
        assert!(path.exists(), "it may be another listener's by now");
        drop(sockets);
        eventually(|| !path.exists()).await;
    });
}

#[test]
fn one_connection_too_many_gets_503() {
    local(async || {
        let rig = Rig::new(Limits { max_connections: 1, ..Limits::default() });
        let first = rig.connect().await;
        eventually(|| rig.shared.connections() == 1).await;
        let mut second = rig.connect().await;
        let _ = second.write_all(GET).await;
        let answer = rest(&mut second).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
        assert!(answer.contains("\"reason\":\"overloaded\"") && answer.contains("connection: close"), "{answer}");
        let metrics = rig.shared.metrics.encode();
        assert!(metrics.contains("shardgate_limit_hits_total{limit=\"max_connections\"} 1"), "{metrics}");
        drop(first);
        rig.server.idle().await;
        let mut third = rig.connect().await;
        third.write_all(GET).await.unwrap();
        until(&mut third, "[]").await;
    });
}

#[test]
fn one_client_may_hold_so_many() {
    local(async || {
        let rig = Rig::new(Limits { max_connections_per_client: 2, ..Limits::default() });
        let _held = (rig.connect().await, rig.connect().await);
        eventually(|| rig.shared.connections() == 2).await;
        assert!(rest(&mut rig.connect().await).await.starts_with("HTTP/1.1 503 "));
        let metrics = rig.shared.metrics.encode();
        assert!(metrics.contains("limit=\"max_connections_per_client\"} 1"), "{metrics}");
    });
}

#[test]
fn a_panic_ends_its_connection_and_no_other() {
    local(async || {
        let limits = Limits { max_connections: 2, max_connections_per_client: 2, ..Limits::default() };
        let rig = Rig::new(limits);
        let mut bystander = rig.connect().await;
        // Were a count not given back, the second would be refused.
        for _ in 0..4 {
            let mut unlucky = rig.connect().await;
            unlucky.write_all(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert_eq!(rest(&mut unlucky).await, "");
            eventually(|| rig.shared.connections() == 1).await;
            bystander.write_all(GET).await.unwrap();
            assert!(until(&mut bystander, "[]").await.starts_with("HTTP/1.1 200 OK"));
        }
        drop(bystander);
        rig.server.idle().await;
        let metrics = rig.shared.metrics.encode();
        assert!(metrics.contains("shardgate_client_connections{listener=\"test\"} 0"), "{metrics}");
    });
}

#[test]
fn heads_that_are_not_whole_share_so_much_memory() {
    local(async || {
        let rig = Rig::new(Limits { max_buffered_bytes: 250, ..Limits::default() });
        let half = [b"GET /a HTTP/1.1\r\nHost: ", &[b'x'; 76][..]].concat();
        let mut held = [rig.connect().await, rig.connect().await];
        for client in &mut held {
            client.write_all(&half).await.unwrap();
        }
        eventually(|| rig.shared.connections() == 2).await;
        // A head that comes in one piece waits for nothing.
        let mut whole = rig.connect().await;
        whole.write_all(&[&half[..], &[b'x'; 200], b"\r\n\r\n"].concat()).await.unwrap();
        assert!(until(&mut whole, "[]").await.starts_with("HTTP/1.1 200 "));
        let mut third = rig.connect().await;
        third.write_all(&half).await.unwrap();
        let answer = rest(&mut third).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many heads"), "{answer}");
        // Those that were there are served, and their memory is free again.
        held[0].write_all(b"\r\n\r\n").await.unwrap();
        until(&mut held[0], "[]").await;
        drop(held);
        let mut fourth = rig.connect().await;
        fourth.write_all(&half).await.unwrap();
        let mut fifth = rig.connect().await;
        fifth.write_all(&half).await.unwrap();
        for client in [&mut fourth, &mut fifth] {
            client.write_all(b"\r\n\r\n").await.unwrap();
            until(client, "[]").await;
        }
    });
}

#[test]
fn draining_stops_accepting_and_waits_for_requests() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut busy = rig.connect().await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        eventually(|| rig.service.served.get() == 1).await;
        let mut idle = rig.connect().await;
        eventually(|| rig.shared.connections() == 2).await;
        let address = rig.address();
        rig.server.drain(Duration::from_secs(6));
        let Rig { server, .. } = rig;
        let answer = rest(&mut busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("[]"), "{answer}");
        assert!(TcpStream::connect(address).await.is_err());
        assert_eq!(rest(&mut idle).await, "");
        server.idle().await;
    });
}

#[test]
fn a_listener_that_is_removed_drains_and_others_stay() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let (second, sockets) = on(Bind::Tcp("127.0.0.1:0".parse().unwrap()));
        let second = Arc::new(Listener { name: "second".into(), ..(*second).clone() });
        rig.server.add(Arc::clone(&second), &sockets, None).unwrap();
        let mut stays = rig.connect().await;
        let mut goes = TcpStream::connect(sockets.local_addr().unwrap()).await.unwrap();
        for client in [&mut stays, &mut goes] {
            client.write_all(GET).await.unwrap();
            until(client, "[]").await;
        }
        rig.server.remove("second", Duration::ZERO);
        assert_eq!(rest(&mut goes).await, "");
        stays.write_all(GET).await.unwrap();
        assert!(!until(&mut stays, "[]").await.contains("close"));
    });
}

#[test]
fn a_reload_keeps_connections_and_gives_new_ones_the_new_settings() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(GET).await.unwrap();
        until(&mut client, "[]").await;
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let changed = Arc::new(Listener { trusted_proxies: trusted, ..(*rig.listener).clone() });
        rig.server.add(Arc::clone(&changed), &rig.sockets, None).unwrap();
        client.write_all(GET).await.unwrap();
        until(&mut client, "[]").await;
        let mut new = rig.connect().await;
        new.write_all(GET).await.unwrap();
        until(&mut new, "[]").await;
        // The server's own, this one, and the new connection's.
        assert_eq!(Arc::strong_count(&changed), 3);
    });
}

#[test]
fn closing_all_ends_what_is_being_answered() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        until(&mut client, "begun\r\n").await;
        rig.server.close_all();
        rig.server.idle().await;
        assert_eq!(client.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_answer_without_a_length_that_fails_is_cut_off_by_a_reset() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(b"GET /stuck HTTP/1.0\r\n\r\n").await.unwrap();
        until(&mut client, "begun").await;
        rig.server.close_all();
        assert!(client.read_u8().await.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    });
}

#[test]
fn an_answer_arrives_although_the_client_is_still_sending() {
    local(async || {
        let rig = Rig::new(Limits::default());
        let mut client = rig.connect().await;
        client.write_all(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        let (mut read, mut write) = client.split();
        let send = async {
            for _ in 0..100 {
                if write.write_all(&[b'x'; 10_000]).await.is_err() {
                    break;
                }
            }
        };
        let (answer, ()) = tokio::join!(until(&mut read, "early"), send);
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(read.read(&mut [0; 8]).await.unwrap(), 0);
    });
}

#[test]
fn a_worker_with_many_hands_connections_on() {
    let shared = Shared::new(2, Metrics::new(1));
    let bound = Bind::Unix(tempfile::tempdir().unwrap().keep().join("s"));
    let (listener, sockets) = on(bound.clone());
    let Bind::Unix(path) = bound else { unreachable!() };
    let (done, until_done) = tokio::sync::oneshot::channel::<()>();
    let other = {
        let (shared, listener, sockets) = (Arc::clone(&shared), Arc::clone(&listener), Arc::clone(&sockets));
        std::thread::spawn(move || {
            local(async || {
                let service = Echo::new(Limits::default());
                let server = Server::new(Rc::clone(&service), shared, 1);
                server.add(listener, &sockets, None).unwrap();
                until_done.await.unwrap();
                assert!(service.served.get() > 0, "nothing was handed on");
            });
        })
    };
    local(async || {
        let service = Echo::new(Limits::default());
        let server = Server::new(Rc::clone(&service), Arc::clone(&shared), 0);
        server.add(Arc::clone(&listener), &sockets, None).unwrap();
        let mut clients = vec![];
        for _ in 0..40 {
            let mut client = UnixStream::connect(&path).await.unwrap();
            client.write_all(GET).await.unwrap();
            until(&mut client, "[]").await;
            clients.push(client);
        }
        assert_eq!(shared.connections(), 40);
        assert!((9..=31).contains(&service.served.get()), "{}", service.served.get());
        done.send(()).unwrap();
    });
    other.join().unwrap();
    let _ = std::fs::remove_dir_all(path.parent().unwrap());
}
