//! TLS towards clients, from a checked configuration to what a handshake needs: rustls' configuration, the choice of a
//! certificate, session tickets, what a client's certificate says.
//!
//! rustls does the protocol, *ring* the arithmetic (ADR 0019). A connection is not of this room: `listen` has that.

mod expiry;
mod front;
mod resolver;
mod subject;

pub use expiry::Warned;
pub use front::{Front, TlsError};
pub use subject::{Subject, subject};
