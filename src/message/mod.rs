//! HTTP messages as such: what is allowed in them, what must change on the way, and what we say ourselves.
//!
//! One set of rules serves both sides, clients and backends. Nothing here knows of pools, routes or connections to
//! backends.

pub mod framing;
pub mod fields;
pub mod head;
pub mod conn;
pub mod ahead;
pub mod body;
pub mod buffer;
pub mod send;
pub mod socket;
pub mod tunnel;
pub mod upgrade;
pub mod websocket;
pub mod forwarded;
pub mod grpc;
pub mod hop;
pub mod key;
pub mod load_report;
pub mod proxy_protocol;
pub mod respond;
pub mod secure;
pub mod trailers;

pub use conn::Conn;
pub use head::{Request, RequestHead, Response, ResponseHead};
pub use secure::Secure;
