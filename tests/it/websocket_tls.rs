//! Tunnels over TLS, as clients mostly have them: by `Upgrade` over HTTP/1.1 and by extended CONNECT over HTTP/2, chosen by
//! ALPN. Much goes both ways at once, and both ends see the end of the other.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::certs::Authority;
use crate::support::frames::{GOAWAY, PREFACE, frame, settings};
use crate::support::h2_origin::{read, write};
use crate::support::http2::run;
use crate::support::tls::TlsClient;
use crate::support::{Client, DEADLINE, Proxy};
use crate::websocket::{ASK, Raw, accept, agree, config, listen, noise};

const LARGE: usize = 4 * 1024 * 1024;
const UP: u64 = 1;
const DOWN: u64 = 2;

/// A proxy with a certificate, and who trusts it.
fn start(backend: SocketAddr, server: &str) -> (Proxy, Authority, tempfile::TempDir) {
    let authority = Authority::new("authority");
    let directory = tempfile::tempdir().unwrap();
    authority.sign(&["a.example"]).write(directory.path(), "a");
    let path = directory.path().display();
    let tls =
        format!("bind = '127.0.0.1:0'\ntls = {{ certificates = [{{ cert = '{path}/a.pem', key = '{path}/a.key' }}] }}");
    let text = config(backend, server, "upgrade = ['websocket']").replace("bind = '127.0.0.1:0'", &tls);
    (Proxy::start(&text), authority, directory)
}

fn client(authority: &Authority, protocol: &str) -> TlsClient {
    TlsClient::new(authority).edit(|config| config.alpn_protocols = vec![protocol.into()])
}

async fn connect(proxy: &Proxy, authority: &Authority, protocol: &str) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(proxy.address()).await.unwrap();
    let connector = client(authority, protocol).connector();
    connector.connect(ServerName::try_from("a.example").unwrap(), socket).await.unwrap()
}

/// Agrees, and then reads and writes at once; what it has read.
fn backend(listener: TcpListener) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut backend = accept(&listener);
        let head = backend.head();
        backend.say(agree(&head));
        let mut writes = Raw::new(backend.0.try_clone().unwrap());
        let writer = std::thread::spawn(move || {
            writes.say(noise(DOWN, LARGE));
            writes.finish();
        });
        let got = backend.rest();
        writer.join().unwrap();
        got
    })
}

#[test]
fn a_websocket_over_tls_carries_much_both_ways_at_once() {
    let (listener, address) = listen();
    let backend = backend(listener);
    let (proxy, authority, _directory) = start(address, "");
    let got = run(async {
        let (mut from, mut to) = tokio::io::split(connect(&proxy, &authority, "http/1.1").await);
        to.write_all(ASK.as_bytes()).await.unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            from.read_exact(&mut byte).await.unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", head.escape_ascii());
        let send = async {
            to.write_all(&noise(UP, LARGE)).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        // The end is one that TLS knows of, else this would be an error.
        let (_, read) = tokio::join!(send, from.read_to_end(&mut got));
        read.unwrap();
        got
    });
    assert!(got == noise(DOWN, LARGE));
    assert!(backend.join().unwrap() == noise(UP, LARGE));
    let line = proxy.access_where(|line| line["status"] == 101 && line["reason"].is_null());
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&LARGE.into(), &LARGE.into()), "{line}");
}

#[test]
fn an_extended_connect_over_tls_carries_much_both_ways_at_once() {
    let (listener, address) = listen();
    let backend = backend(listener);
    let (proxy, authority, _directory) = start(address, "");
    let (got, _open) = run(async {
        let stream = connect(&proxy, &authority, "h2").await;
        // A socket that is closed answers whatever still comes, and windows do, with a reset, and that takes away what the
        // proxy has not read yet.
        let open = stream.get_ref().0.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let driven = tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let protocol = Protocol::from_static("websocket");
        let request = Request::builder().method(Method::CONNECT).uri("https://a.example/ws").extension(protocol);
        let request = request.header("sec-websocket-version", "13").body(()).unwrap();
        let (answer, mut to) = client.send_request(request, false).unwrap();
        let mut answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        let send = write(&mut to, Bytes::from(noise(UP, LARGE)), true);
        let (sent, got) = tokio::join!(send, read(answer.body_mut()));
        sent.unwrap();
        // Until all that was sent is on its way.
        drop((client, answer, to));
        driven.await.unwrap().unwrap();
        (got.unwrap().0, open)
    });
    assert!(got == noise(DOWN, LARGE));
    // The client has said goodbye by now. What it had said before is not lost with its connection.
    assert!(backend.join().unwrap() == noise(UP, LARGE));
    let line = proxy.access_where(|line| line["status"] == 101 && line["reason"].is_null());
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&LARGE.into(), &LARGE.into()), "{line}");
    assert_eq!(line["tls_version"], "1.3", "{line}");
}

/// A connection of HTTP/2 that we end says so in TLS as well: a client can tell the end from one that was forged.
#[test]
fn the_end_of_http_2_is_an_end_of_tls() {
    let (_listener, address) = listen();
    let (mut proxy, authority, _directory) = start(address, "drain_timeout = '8s'");
    let connect = |proxy: &Proxy| {
        let mut client = client(&authority, "h2").connect(proxy.address(), "a.example");
        client.send([PREFACE, &settings(&[])].concat());
        client
    };
    // What breaks a rule is answered with the reason, and then the end.
    let mut bad = connect(&proxy);
    bad.send(frame(0, 0, 1, b"data on no stream"));
    assert!(ends_with_goodbye(&mut bad));
    // So is an idle one when the proxy stops.
    let mut idle = connect(&proxy);
    proxy.signal(rustix::process::Signal::TERM);
    assert!(ends_with_goodbye(&mut idle));
    assert_eq!(proxy.wait_exit(DEADLINE).code(), Some(0));
}

/// Whether there was a GOAWAY, and close_notify behind it: without that rustls has an error for us.
fn ends_with_goodbye(client: &mut Client) -> bool {
    let all = std::iter::from_fn(|| Some(client.some().unwrap()).filter(|some| !some.is_empty()));
    let all: Vec<u8> = all.flatten().collect();
    let (mut bytes, mut has_goaway) = (&all[..], false);
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        has_goaway |= head[3] == GOAWAY;
        bytes = &rest[u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize..];
    }
    has_goaway
}
