//! TLS, where time matters: what comes on an idle connection, and what a write that fails has sent.
//!
//! The far end is the library's server, driven by hand, so that it says what it has to say when the test wants it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncWrite as _, Interest};

use super::*;
use crate::model::{BackendTls, FromFiles, TlsTo};

/// A backend that is spoken to inside TLS, and the server for it.
fn both() -> (Arc<Backend>, ServerConnection) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["a.internal".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(default_provider().into());
    let client = client.with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::builder_with_provider(default_provider().into());
    let server = server.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = server.with_single_cert(vec![cert.der().clone()], key).unwrap();

    let client = FromFiles::new(0, Arc::new(client));
    let settings = Arc::new(BackendTls { client, server_name: None, verifies: true, files: Default::default() });
    let name = ServerName::try_from("a.internal").unwrap();
    let address = Address::Unix(std::path::Path::new("/nonexistent/shardgate.sock").into());
    let tls = Some(Arc::new(TlsTo { settings, name }));
    let backend = Backend::new(Identity { region: "north".into(), address, protocol: Protocol::H1, tls });
    (backend, ServerConnection::new(Arc::new(server)).unwrap())
}

/// What there is from the near end goes to the server; at most until the handshake is over for it.
async fn hear(far: &UnixStream, server: &mut ServerConnection) {
    far.readable().await.unwrap();
    let read = far.try_io(Interest::READABLE, || {
        let mut bytes = [0; 16 * 1024];
        rustix::io::read(far, &mut bytes).map(|n| bytes[..n].to_vec()).map_err(Into::into)
    });
    let Ok(bytes) = read else { return };
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
        server.process_new_packets().unwrap();
    }
}

/// What the server has to say.
fn said(server: &mut ServerConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A connection after its handshake, and the tickets that the server has still to send.
async fn connected() -> (Stream, UnixStream, ServerConnection, Vec<u8>) {
    let (backend, mut server) = both();
    let (near, mut far) = UnixStream::pair().unwrap();
    let play = async {
        while server.is_handshaking() {
            hear(&far, &mut server).await;
            if server.is_handshaking() {
                far.write_all(&said(&mut server)).await.unwrap();
            }
        }
        said(&mut server)
    };
    let handshake = tls::handshake(backend.tls.as_deref().unwrap(), Stream::Unix(Socket(near)), true);
    let (stream, tickets) = tokio::join!(handshake, play);
    (stream.unwrap(), far, server, tickets)
}

/// Until the near end has something to read.
async fn arrived(stream: &Stream) {
    let Stream::Tls(secured) = stream else { panic!("in clear") };
    match secured.beneath() {
        Stream::Unix(socket) => socket.0.readable().await.unwrap(),
        _ => panic!("no Unix socket"),
    }
}

#[tokio::test]
async fn tickets_on_an_idle_connection_are_nothing_said() {
    let (mut stream, mut far, mut server, tickets) = connected().await;
    assert!(stream.is_quiet());
    assert!(!tickets.is_empty());
    // In pieces: half a record is none.
    for piece in tickets.chunks(tickets.len() / 2) {
        far.write_all(piece).await.unwrap();
        arrived(&stream).await;
        assert!(stream.is_quiet());
    }
    // New keys, which the other side has to follow, are nothing said either.
    server.refresh_traffic_keys().unwrap();
    far.write_all(&said(&mut server)).await.unwrap();
    arrived(&stream).await;
    assert!(stream.is_quiet());

    // A byte of data is.
    std::io::Write::write_all(&mut server.writer(), b"H").unwrap();
    far.write_all(&said(&mut server)).await.unwrap();
    arrived(&stream).await;
    assert!(!stream.is_quiet());
}

#[tokio::test]
async fn an_end_that_is_said_and_one_that_is_not() {
    let (mut stream, mut far, mut server, tickets) = connected().await;
    server.send_close_notify();
    far.write_all(&[tickets, said(&mut server)].concat()).await.unwrap();
    arrived(&stream).await;
    assert!(!stream.is_quiet());
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);

    let (mut stream, far, _, _) = connected().await;
    drop(far);
    arrived(&stream).await;
    assert!(!stream.is_quiet());
    assert!(stream.read(&mut [0; 9]).await.is_err());
}

#[tokio::test]
async fn who_is_let_go_of_is_told() {
    let (stream, far, mut server, _) = connected().await;
    drop(stream);
    hear(&far, &mut server).await;
    assert_eq!(std::io::Read::read(&mut server.reader(), &mut [0; 9]).unwrap(), 0, "no error: it was said");
}

#[tokio::test]
async fn what_the_socket_did_not_take_is_sent_on_by_reading() {
    let (mut stream, far, mut server, tickets) = connected().await;
    // More than the socket takes.
    let piece = vec![b'x'; 32 * 1024];
    let mut taken = 0;
    while let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &piece))).await {
        taken += written.unwrap();
    }
    assert!(!stream.is_quiet(), "not while a part of it is here");
    // The other side reads, and answers at the end. Nobody flushes: it is who waits for the answer that sends on.
    let mut plain = vec![0; 64 * 1024];
    let play = async {
        let mut heard = 0;
        while heard < taken {
            hear(&far, &mut server).await;
            while let Ok(n @ 1..) = std::io::Read::read(&mut server.reader(), &mut plain) {
                heard += n;
            }
        }
        std::io::Write::write_all(&mut server.writer(), b"H").unwrap();
        far.try_write(&[tickets, said(&mut server)].concat()).unwrap();
    };
    let mut byte = [0; 1];
    let (read, ()) = tokio::join!(stream.read(&mut byte), play);
    assert_eq!((read.unwrap(), &byte), (1, b"H"));
    assert!(stream.is_quiet());
}

#[test]
fn a_connection_in_clear_is_no_larger_for_it() {
    #[allow(dead_code, reason = "its size counts")]
    enum Clear {
        Tcp(tokio::net::TcpStream),
        Unix(UnixStream),
    }
    assert_eq!(size_of::<Stream>(), size_of::<Clear>());
}
