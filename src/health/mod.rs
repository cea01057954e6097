//! Active health checks: who is asked when, what counts as an answer, and when that changes a backend's state.
//!
//! One [`Prober`] serves the whole process, on the control plane, so that a backend is asked once however many workers
//! and pools use it. What it finds stands in `backend::Check`; what changes is announced as a [`Transition`].
//!
//! The pure parts stand apart from the sockets: [`RiseFall`] decides, `schedule` spreads, `exchange` asks one backend
//! one time (`agent` what stands beside it), `prober` joins them in a single task.

mod agent;
mod drain;
mod exchange;
mod h2;
mod prober;
mod rise_fall;
mod schedule;
#[cfg(test)]
mod tests;

pub use prober::{Prober, Transition};
pub use rise_fall::RiseFall;
