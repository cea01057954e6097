//! The live state of one server, apart from what the operator says about it.
//!
//! A reload builds a new Snapshot, but a server that the new file still names has not changed: its connections are
//! open, its requests are in flight, its checks have passed. So that state lives here, by [`Identity`], and the
//! [`Registry`] hands the same [`Backend`] and the same [`Check`] to every Plan that names them.
//!
//! Everything here is atomics and guards: workers write without locks (but where requests have to wait, in [`queue`]),
//! and what a cancelled request held is given back when its guard is dropped. No clock and no runtime: whoever knows the
//! time passes it in.

mod adaptive;
mod agent;
mod breaker;
mod check;
mod identity;
mod latency;
mod live;
pub mod outlier;
pub mod queue;
mod registry;
mod standing;
mod tls;
mod verdict;
mod words;

pub use adaptive::Gradient;
pub use agent::{Agent, AgentLine};
pub use breaker::{Breaker, Tick};
pub use check::{Cause, Check, Status};
pub use identity::Identity;
pub use latency::Latency;
pub use live::{Backend, Connection, InFlight};
pub use registry::Registry;
pub use standing::{Announced, Ejection, Observation, Passive, Standing};
pub use tls::Tls;
pub use verdict::{Announcer, Verdict, Voices, Why, verdicts};
pub use words::Words;
