//! Addresses: where a backend is, and where we listen.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a backend is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// `10.1.0.11:8000`, `[2001:db8::1]:8000`.
    Ip(SocketAddr),
    /// `btc-2.internal:8000`: resolved by `discovery`, each of its addresses is a backend of its own.
    Name(Arc<str>, u16),
    /// `unix:/run/btc.sock`.
    Unix(Arc<std::path::Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(addr) => addr.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a listener or the admin address is bound.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `0.0.0.0:8080`, `[::]:8080` (dual stack).
    Tcp(SocketAddr),
    /// `unix:/run/shardgate/http.sock`.
    Unix(PathBuf),
    /// `systemd:public`: a socket that systemd passes on under this name.
    Systemd(String),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}
