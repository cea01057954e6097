//! The admin address.
mod guard;
mod problem;
mod socket;
pub use socket::Socket;
