//! Addresses: where a backend is, and where we listen.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
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

impl Bind {
    /// Whether the two can't both be bound. Port 0 is any free port, another one each time.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (Self::Tcp(one), Self::Tcp(other)) = (self, other) else { return self == other };
        let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
        // `[::]` takes IPv4, too.
        let takes = |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
        one.port() == other.port() && one.port() != 0 && (a == b || takes(a, b) || takes(b, a))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_take_the_same_port_overlap() {
        let of = |text: &str| text.parse().map_or_else(|_| Bind::Unix(text.into()), Bind::Tcp);
        let table = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", "[::]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("/run/a", "/run/a", true),
            ("/run/a", "0.0.0.0:80", false),
        ];
        for (one, other, overlap) in table {
            assert_eq!(
                (of(one).overlaps(&of(other)), of(other).overlaps(&of(one))),
                (overlap, overlap),
                "{one} {other}"
            );
        }
    }
}
