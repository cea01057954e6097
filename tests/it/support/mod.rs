//! What the tests drive and what they drive it with: the daemon (`Proxy`), a scriptable backend (`Origin`), a client
//! that reads strictly (`Client`).
#![allow(dead_code, unused_imports, reason = "each capability uses its part")]

use std::time::{Duration, Instant};

pub mod agent;
pub mod certs;
pub mod client;
pub mod exchange;
pub mod frames;
pub mod h2_origin;
pub mod h2_script;
pub mod http2;
pub mod ocsp;
pub mod origin;
pub mod peer;
pub mod proxy;
pub mod tls;
pub mod tls_origin;

pub use client::{Client, Response};
pub use frames::{Frame, Frames, frame};
pub use h2_origin::H2Origin;
pub use origin::{After, Behaviour, Gate, Origin};
pub use proxy::Proxy;

/// How long anything that must happen may take. Generous: it is only ever waited out by a test that fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Looks again and again until `look` yields something; panics with `what` when [`DEADLINE`] has passed.
pub fn poll<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    poll_until(DEADLINE, look).unwrap_or_else(|| panic!("waited {DEADLINE:?} for: {what}"))
}

/// Looks again and again until `look` yields something or the time is up.
pub fn poll_until<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5)); // between two looks
    }
}
