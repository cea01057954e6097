//! The admin address's socket, and the loop that serves its connections.
//!
//! On the control plane's runtime, apart from the data path: its bounds are a number of connections, a time for each
//! request's head and for each step of an answer, and what `tower` adds per request (`super::app`).

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::model::Bind;
use crate::tls::{Front, subject};

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;

/// For a request's head, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For the reader to take as much of an answer as the kernel wants room for before it takes more from us: by default a
/// third of a buffer that grows to megabytes, which a slow reader takes minutes for. Of [`SEND_BUFFER`], which Linux
/// doubles, it is some 40 KB over TCP and 100 KB over a Unix socket.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that the kernel keeps of an answer.
const SEND_BUFFER: usize = 64 * 1024;

/// After a failed accept (out of descriptors): time for something to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Socket {
    kind: SocketKind,
    /// Where, with the port that was given if 0 was asked for.
    address: Bind,
    /// Of a Unix socket.
    _file: Option<RemoveOnDrop>,
}

#[derive(Debug)]
enum SocketKind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

#[derive(Debug)]
struct RemoveOnDrop(PathBuf);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // Nothing is left to be told, and the next start removes it too.
    }
}

impl Socket {
    /// Binds. Needs a tokio runtime with IO around. A socket file that nobody listens at any more is taken over.
    pub async fn bind(bind: &Bind) -> io::Result<Self> {
        match bind {
            Bind::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = Bind::Tcp(listener.local_addr()?);
                Ok(Self { kind: SocketKind::Tcp(listener), address, _file: None })
            }
            Bind::Unix(path) => {
                remove_stale(path).await?;
                let listener = UnixListener::from_std(private(path)?)?;
                let file = Some(RemoveOnDrop(path.clone()));
                Ok(Self { kind: SocketKind::Unix(listener), address: bind.clone(), _file: file })
            }
            Bind::Systemd(_) => {
                let message = "the admin address can't be a socket of systemd: use an address or unix:PATH";
                Err(io::Error::new(io::ErrorKind::Unsupported, message))
            }
        }
    }

    /// Where, with the port that was given if 0 was asked for.
    pub fn address(&self) -> &Bind {
        &self.address
    }

    /// Serves until it is dropped; so do its connections.
    pub(super) async fn serve(self, front: Option<Arc<Front>>, app: Router) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let accepted = match &self.kind {
                SocketKind::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                    let _ = stream.set_nodelay(true); // Only a matter of speed.
                    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER); // Only one of slow readers.
                    let (peer, app) = (peer.to_string(), app.clone());
                    match front.clone() {
                        None => connections.spawn(connection(stream, Peer::unknown(peer), app, place)),
                        Some(front) => connections.spawn(secured(stream, front, peer, app, place)),
                    };
                }),
                SocketKind::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let peer = Peer::of_socket(&stream);
                    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
                    connections.spawn(connection(stream, peer, app.clone(), place));
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "the admin address can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// For the audit: an address, or of a Unix socket the user and the process; and whose certificate was shown.
    pub(super) name: Arc<str>,
    /// Whether a certificate was shown that one of `client_ca` has signed.
    pub(super) is_certified: bool,
}

impl Peer {
    fn unknown(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), is_certified: false }
    }

    /// Of a handshake that is over, by which a certificate has been verified if there is one.
    fn of_session(address: &str, session: &ServerConnection) -> Self {
        let shown = session.peer_certificates().and_then(<[_]>::first).and_then(subject);
        // That of a session that is resumed may have ended since.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
        match shown.filter(|shown| shown.not_after >= now) {
            Some(shown) => Self { name: format!("{address} {}", shown.text).into(), is_certified: true },
            None => Self::unknown(address),
        }
    }

    fn of_socket(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self::unknown("unix") };
        let process = peer.pid().map_or_else(String::new, |pid| format!(" pid {pid}"));
        Self::unknown(format!("unix uid {}{process}", peer.uid()))
    }
}

/// The handshake, then the same.
async fn secured(stream: TcpStream, front: Arc<Front>, address: String, app: Router, place: OwnedSemaphorePermit) {
    let accepted = tokio::time::timeout(HEAD_TIMEOUT, TlsAcceptor::from(front.config()).accept(stream)).await;
    match accepted {
        Ok(Ok(stream)) => {
            let peer = Peer::of_session(&address, stream.get_ref().1);
            connection(stream, peer, app, place).await;
        }
        Ok(Err(error)) => tracing::debug!(client = address, %error, "no TLS handshake with the admin address"),
        Err(_) => tracing::debug!(client = address, "no TLS handshake with the admin address in time"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    app: Router,
    _place: OwnedSemaphorePermit,
) {
    let app = app.map_request(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let served = builder.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app)).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin address ended early");
    }
}

/// Connections that may wait to be accepted; the kernel takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 128;

/// A Unix socket for its owner and group at most, whatever the umask; a stricter umask makes it stricter. Linux makes the
/// file with the mode of the socket that is bound (`unix_bind_bsd` in net/unix/af_unix.c), so that there is no moment at
/// which others could connect.
fn private(path: &Path) -> io::Result<unix::UnixListener> {
    use rustix::net::{bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::from_raw_mode(0o660))?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Removes a socket file whose owner is gone.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            // Bound: let the bind say so.
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_read_an_answer_is_let_go() {
        let app = Router::new().route("/", axum::routing::get(async || "x".repeat(1 << 20)));
        let places = Arc::new(Semaphore::new(1));
        let (mut client, server) = tokio::io::duplex(1024);
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let served = tokio::spawn(connection(server, Peer::unknown("test"), app, place));
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let began = tokio::time::Instant::now();
        tokio::time::timeout(10 * WRITE_TIMEOUT, served).await.expect("it ends").unwrap();
        assert_eq!(began.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
        assert_eq!(places.available_permits(), 1);
    }
}
