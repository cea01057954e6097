//! What the fuzz targets check, one function per target: `fuzz/fuzz_targets` feeds them bytes that libFuzzer makes up,
//! and `corpora` the seeds under `fuzz/corpus`, so that an ordinary test run replays what was once worth looking at.
//!
//! Each takes any bytes, and panics when shardgate breaks a promise.

pub mod chunked;
pub mod config;
pub mod forwarded;
pub mod framing;
pub mod key;
pub mod proxy_protocol;
pub mod reserialise;
pub mod upstream_response;
pub mod words;
