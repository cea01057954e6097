//! Where backends are, when the file names them: from names to addresses, once at load and then for as long as the
//! names are in force.
//!
//! [`Resolver`] asks; what it knows and when it asks again is decided in `book`, without sockets or a clock.

mod book;
mod dns;
#[cfg(test)]
mod tests;

pub use dns::{Resolved, Resolver};
