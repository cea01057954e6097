//! Who a backend is: what makes two lines of two files the same server.

use std::sync::Arc;

use crate::model::{Address, Protocol, TlsTo};

/// Two members with equal identities are one server, with one set of connections, limits and checks, whatever pools
/// they stand in and whatever weight they have there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// As the file spells it. The same address in two regions is two backends: their labels differ.
    pub region: Arc<str>,
    /// A socket's address or a Unix path; names have been resolved before, so never [`Address::Name`].
    pub address: Address,
    /// What is spoken to it.
    pub protocol: Protocol,
    /// Inside TLS, and as whom; `None`: in clear.
    pub tls: Option<Arc<TlsTo>>,
}
