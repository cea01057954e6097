//! shardgate, a layer-7 HTTP reverse proxy and load balancer for servers that are sharded by asset and region.
//!
//! The modules in reading order. A file imports only from modules of a lower level than its own (`tests/it/tidy.rs`
//! checks it); ARCHITECTURE.md says why.

pub mod hint;
pub mod model;
pub mod config;
pub mod discovery;
pub mod backend;
pub mod message;
pub mod telemetry;
pub mod tls;
pub mod balance;
pub mod upstream;
pub mod health;
pub mod routing;
pub mod proxy;
pub mod control;
pub mod listen;
pub mod admin;
pub mod app;
pub mod cli;
