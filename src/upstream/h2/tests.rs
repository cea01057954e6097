//! Connections that fall silent, with a clock that the test moves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::net::UnixListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::{Backend, Identity};
use crate::model::{Address, Protocol, Timeouts};
use crate::upstream::tests::Sent;
use crate::upstream::{Client, Error, ErrorKind, Outgoing, Reply, Terms};

async fn ask(client: &Client<Full<Bytes>>, backend: &Arc<Backend>) -> Result<Reply<Full<Bytes>>, Error> {
    let (hour, now) = (Duration::from_secs(3600), Instant::now());
    let terms = Terms {
        began: now,
        timeouts: &Timeouts { connect: hour, response: hour, idle: hour, keepalive: hour, ..Timeouts::default() },
        since: now,
        total: hour,
        end: None,
        announced: None,
        ahead: None,
        max_connections: 10,
        upload: &Sent(now),
        interim: &|_| {},
    };
    let head = b"GET /a HTTP/1.1\r\nhost: h\r\n".to_vec();
    let request =
        Outgoing { head, is_head: false, says_length: false, is_apart: false, body: Full::default(), upgrade: None };
    client.exchange(backend, &terms, request).await
}

/// Lets sockets and tasks do what they can; the runtime looks at its sockets every so many of these.
async fn settle() {
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
}

/// A request is at a backend that does not answer it. `is_there`: whether it goes on with its connection. Then time
/// passes; what has come of the request?
async fn silent(is_there: bool, steps: &[u64]) -> Option<Result<u16, (ErrorKind, bool)>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("h2.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let identity =
        Identity { region: "r".into(), address: Address::Unix(path.into()), protocol: Protocol::H2, tls: None };
    let backend = Backend::new(identity);
    let (arrived, client) = (Rc::new(Notify::new()), Client::<Full<Bytes>>::default());
    let at_server = Rc::clone(&arrived);
    tokio::task::spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut server = h2::server::handshake(stream).await.unwrap();
        let _request = server.accept().await.unwrap().unwrap();
        at_server.notify_one();
        if is_there {
            let _ = server.accept().await;
        }
        std::future::pending::<()>().await;
    });
    let moving = async {
        arrived.notified().await;
        settle().await;
        tokio::time::pause();
        for step in steps {
            tokio::time::advance(Duration::from_secs(*step)).await;
            client.sweep();
            settle().await;
        }
    };
    let got = tokio::select! {
        got = ask(&client, &backend) => Some(got.map(|reply| reply.response.head.status.as_u16()).map_err(|e| (e.kind, e.wrote))),
        () = moving => None,
    };
    tokio::time::resume();
    got
}

/// On a runtime like a worker's.
fn on_a_worker(test: impl Future<Output = ()>) {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(test);
}

#[test]
fn a_peer_that_has_vanished_ends_its_streams() {
    on_a_worker(async {
        let lost = Some(Err((ErrorKind::Reset, true)));
        assert_eq!(silent(false, &[19, 12]).await, None, "it is not asked before");
        assert_eq!(silent(false, &[21, 9]).await, None, "it has time to answer");
        assert_eq!(silent(false, &[21, 11]).await, lost);
    });
}

#[test]
fn a_peer_that_is_there_is_asked_once_and_left_alone() {
    on_a_worker(async { assert_eq!(silent(true, &[21, 11, 21, 11, 100, 11]).await, None) });
}
