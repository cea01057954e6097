//! Sockets to accept on: bound by us, or passed on by systemd.
//!
//! A TCP address that we bind gets one socket per worker with SO_REUSEPORT, and the kernel spreads connections over
//! them. They are kept as long as the address is configured, over reloads: closing one resets the connections that wait
//! in its queue. Options that accepted sockets inherit from the listening one (tcp(7)) are set here, once.

use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::holder::held_by;
use super::wire::systemd_sockets;
use crate::model::Bind;

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// When a silent client is asked whether it is still there, and how often. After about two minutes it is given up.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// What a listener accepts on. When nobody holds it any more, or a worker that accepts on it drains, the sockets close and
/// the file of a Unix socket is removed.
#[derive(Debug)]
pub struct Sockets {
    open: Mutex<Open>,
    address: Option<SocketAddr>,
    /// Connections of clients that were accepted here and are open.
    pub(super) connections: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Open {
    /// Goes first, so that nobody finds the file without a listener behind it.
    _file: Option<SocketFile>,
    /// One per worker, as far as it can accept.
    own: Vec<Option<Listening>>,
    /// For one acceptor each, which hands connections on to the other workers.
    single: Vec<Listening>,
}

/// One listening socket.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bind that failed: where, why, and who holds it if that can be known.
#[derive(Debug)]
pub struct BindError {
    bind: String,
    source: io::Error,
    held_by: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't listen on {}: {}{}", self.bind, self.source, self.held_by)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds what the configuration names, for so many workers. Clients can connect from now on; they are served once a
/// [`Server`](super::Server) has been given the sockets.
pub fn bind(bind: &Bind, workers: usize) -> Result<Sockets, BindError> {
    let open = match bind {
        Bind::Tcp(address) => tcp(*address, workers),
        Bind::Unix(path) => unix(path),
        Bind::Systemd(name) => systemd(name),
    };
    let open = open.map_err(|source| BindError { bind: bind.to_string(), held_by: held_by(bind, &source), source })?;
    Ok(Sockets { address: open.local_addr(), open: Mutex::new(open), connections: Arc::default() })
}

impl Sockets {
    /// The address that was bound, with the port that the kernel chose for port 0. `None`: a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where every connection is to, if that is one address. What systemd passes on may be transparent (`ip(7)`), and then
    /// each connection has an address of its own.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        let is_ours = !self.open().own.is_empty();
        self.address.filter(|address| is_ours && !address.ip().to_canonical().is_unspecified())
    }

    /// What this worker accepts on. Inherited and Unix sockets are spread over the workers, one each.
    pub(super) fn of_worker(&self, worker: usize, workers: usize) -> io::Result<Vec<Listening>> {
        let open = self.open();
        let single = open.single.iter().enumerate().filter(|(i, _)| i % workers.max(1) == worker).map(|(_, s)| s);
        open.own.get(worker).into_iter().flatten().chain(single).map(Listening::try_clone).collect()
    }

    /// Closes the one of a worker that can't accept on it, so that clients come to the others.
    pub(super) fn give_up(&self, worker: usize) {
        if let Some(own) = self.open().own.get_mut(worker) {
            *own = None;
        }
    }

    /// Gives up the sockets; they close once no worker accepts on them any more.
    pub(super) fn close(&self) {
        *self.open() = Open::default();
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Whoever panicked with it has left it as it was.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn local_addr(&self) -> Option<SocketAddr> {
        self.own.iter().flatten().chain(&self.single).find_map(|socket| match socket {
            Listening::Tcp(socket) => socket.local_addr().ok(),
            Listening::Unix(_) => None,
        })
    }
}

impl Listening {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl AsRawFd for Listening {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

fn tcp(address: SocketAddr, workers: usize) -> io::Result<Open> {
    // SO_REUSEPORT would let a second daemon of the same user share the port silently. So first without it: that fails
    // if anybody listens there.
    let mut address = address;
    let probe = tcp_socket(address, false)?;
    if address.port() == 0 {
        address = probe.local_addr()?.as_socket().unwrap_or(address);
    }
    drop(probe);
    let own = (0..workers.max(1)).map(|_| {
        let socket = tcp_socket(address, true)?;
        inherit(&socket)?;
        socket.listen(BACKLOG)?;
        Ok(Some(Listening::Tcp(socket.into())))
    });
    Ok(Open { own: own.collect::<io::Result<_>>()?, single: vec![], _file: None })
}

fn tcp_socket(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // Dual stack, whatever the system's default.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn inherit(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)
}

fn unix(path: &Path) -> io::Result<Open> {
    remove_stale(path)?;
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    // As nginx does: who may connect is decided by the directory's rights.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    let file = SocketFile::at(path)?;
    Ok(Open { own: vec![], single: vec![Listening::Unix(socket)], _file: Some(file) })
}

/// Removes the file that a daemon which did not end well has left: a socket on which nobody listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let stale = is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if stale {
        return fs::remove_file(path);
    }
    let what = if is_socket {
        "address in use: another process listens on it"
    } else {
        "address in use: a file that is no socket is in its place"
    };
    Err(io::Error::new(io::ErrorKind::AddrInUse, what))
}

fn systemd(name: &str) -> io::Result<Open> {
    static PASSED: OnceLock<Result<Vec<(String, OwnedFd)>, String>> = OnceLock::new();
    // Kept for good: systemd does not pass them again after a reload.
    let passed = PASSED.get_or_init(|| systemd_sockets().map_err(|e| e.to_string()));
    let passed = passed.as_ref().map_err(|e| io::Error::other(e.clone()))?;
    let single = passed.iter().filter(|(n, _)| n == name).map(|(_, fd)| inherited(fd.try_clone()?));
    let single = single.collect::<io::Result<Vec<_>>>()?;
    if single.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "systemd passed on no socket of this name"));
    }
    Ok(Open { own: vec![], single, _file: None })
}

fn inherited(fd: OwnedFd) -> io::Result<Listening> {
    let socket = Socket::from(fd);
    if !socket.is_listener()? || socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening stream socket"));
    }
    socket.set_nonblocking(true)?;
    if socket.domain()? == Domain::UNIX {
        return Ok(Listening::Unix(socket.into()));
    }
    inherit(&socket)?;
    Ok(Listening::Tcp(socket.into()))
}

/// The file of a Unix socket that we bound, removed when the socket goes, if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: Self::id(path)? })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::id(&self.path).is_ok_and(|id| id == self.id) {
            // Whoever can't remove it now leaves a stale file, which the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> Bind {
        Bind::Tcp("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn each_worker_has_a_socket_on_the_same_port() {
        let sockets = bind(&any(), 3).unwrap();
        let address = sockets.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        for worker in 0..3 {
            let own = sockets.of_worker(worker, 3).unwrap();
            assert!(matches!(own.as_slice(), [Listening::Tcp(s)] if s.local_addr().unwrap() == address));
        }
    }

    #[test]
    fn where_connections_are_to_is_known_of_one_address_alone() {
        let one = bind(&any(), 1).unwrap();
        assert_eq!(one.destination(), one.local_addr());
        for several in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
            let Ok(sockets) = bind(&Bind::Tcp(several.parse().unwrap()), 1) else { continue };
            assert_eq!(sockets.destination(), None, "{several}");
        }
        let inherited =
            Open { single: vec![Listening::Tcp(TcpListener::bind("127.0.0.1:0").unwrap())], ..Open::default() };
        let address = inherited.local_addr();
        let sockets = Sockets { open: Mutex::new(inherited), address, connections: Arc::default() };
        assert_eq!((sockets.destination(), address.is_some()), (None, true));
    }

    #[test]
    fn a_port_that_is_taken_is_refused_and_its_holder_named() {
        let first = bind(&any(), 1).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(&Bind::Tcp(address), 2).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("in use"), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(first);
        bind(&Bind::Tcp(address), 2).unwrap();
    }

    #[test]
    fn dual_stack_takes_both_families() {
        let Ok(sockets) = bind(&Bind::Tcp("[::]:0".parse().unwrap()), 1) else { return };
        let port = sockets.local_addr().unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
    }

    #[test]
    fn a_stale_file_is_replaced_and_ours_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let sockets = bind(&Bind::Unix(path.clone()), 2).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(sockets.of_worker(0, 2).unwrap().len(), 1);
        assert_eq!(sockets.of_worker(1, 2).unwrap().len(), 0);
        assert!(bind(&Bind::Unix(path.clone()), 2).unwrap_err().to_string().contains("in use"));
        drop(sockets);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        let error = bind(&Bind::Unix(path.clone()), 2).unwrap_err();
        assert!(error.to_string().contains("no socket"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn without_systemd_there_is_no_socket_of_its() {
        let error = bind(&Bind::Systemd("public".into()), 1).unwrap_err();
        assert!(error.to_string().starts_with("can't listen on systemd:public"));
    }
}
