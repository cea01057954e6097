//! The admin address's socket, and the loop that serves its connections.
//!
//! On the control plane's runtime, apart from the data path: its bounds are a number of connections, a time for each
//! request's head, and what `tower` adds per request (`super::app`).

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::model::Bind;

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;

/// For a request's head, and between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub(super) async fn serve(self, app: Router) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            let accepted = match &self.kind {
                SocketKind::Tcp(listener) => listener.accept().await.map(|(stream, peer)| {
                    let _ = stream.set_nodelay(true); // Only a matter of speed.
                    connections.spawn(connection(stream, Peer(peer.to_string().into()), app.clone(), place));
                }),
                SocketKind::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    let peer = Peer::of_socket(&stream);
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

/// Who is at the other end, for the audit: an address, or of a Unix socket the user and the process.
#[derive(Debug, Clone)]
pub(super) struct Peer(pub(super) Arc<str>);

impl Peer {
    fn of_socket(stream: &UnixStream) -> Self {
        let Ok(peer) = stream.peer_cred() else { return Self("unix".into()) };
        let process = peer.pid().map_or_else(String::new, |pid| format!(" pid {pid}"));
        Self(format!("unix uid {}{process}", peer.uid()).into())
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
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
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
