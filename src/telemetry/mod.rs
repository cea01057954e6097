//! What can be seen from outside: metrics, the access log, the log of the process itself.
//!
//! The data path pays for none of it with a wait. Metrics are counted in cells that one worker owns ([`WorkerMetrics`])
//! and are summed when somebody scrapes ([`Metrics`]). A line of the access log goes into a ring that one worker owns
//! ([`AccessLog`]) and is written by a thread of its own ([`AccessWriter`]). What the process has to say ([`MainLog`])
//! goes through a bounded queue. Where a buffer is full, the line is lost and counted: a reader of logs that stands
//! still may cost lines, never requests.

mod access;
mod cells;
mod export;
mod main_log;
mod metrics;
mod panics;
mod record;
mod sink;
mod worker;

pub use access::{AccessLog, AccessSink, AccessWriter};
pub use cells::{HedgeResult, RetryResult};
pub use export::{CONTENT_TYPE, Family, Kind, Spec, families};
pub use main_log::{MainLog, init_logging};
pub use metrics::{
    Cause, CertificateEnd, ClientConnection, Handshake, ListenerCells, Metrics, OTHER, Subject, UNKNOWN,
};
pub use panics::log_panics;
pub use record::AccessRecord;
pub use worker::{BackendCells, InFlight, KeyCells, PoolCells, Queued, WorkerMetrics};

#[cfg(test)]
mod tests;
