//! What it takes to speak TLS to one backend.
//!
//! Each backend remembers sessions of its own, so that what is resumed is what this backend has given out, and the
//! memory for it is bounded and goes with the backend. It is shared by the workers: who connects takes a lock twice per
//! handshake, for as long as it takes to look a ticket up.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;

use crate::model::{Protocol, TlsTo};

/// Sessions that can be resumed: as many as the library keeps of one server.
const SESSIONS: usize = 8;

/// TLS to one backend.
pub struct Tls {
    /// For connections that carry requests, checks among them: what is to be spoken is said by ALPN.
    pub config: Arc<ClientConfig>,
    /// The name that its certificate must be for.
    pub name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(to: &TlsTo, protocol: Protocol) -> Self {
        let mut config = ClientConfig::clone(&to.settings.client.value);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        config.alpn_protocols = vec![alpn(protocol).to_vec()];
        Self { config: Arc::new(config), name: to.name.clone() }
    }
}

/// RFC 7301, 6.
fn alpn(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::H1 => b"http/1.1",
        Protocol::H2 => b"h2",
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}
