//! Drives the real binary through TOML files and sockets: a file per capability, all of them in one binary, because
//! linking is what takes the time. Backends are scriptable ones of `support`, or real servers in `real_peers`.
//!
//! Rules: ports are 0 and read from the daemon's log; nothing sleeps in order to wait (`support::poll_until` and the
//! methods built on it look again until a deadline); no test depends on how fast the machine is.
#![allow(unreachable_pub, reason = "modules of one test binary")]
#![allow(clippy::print_stderr, reason = "a failing test shows the daemon's log")]

mod bad_backends;
mod bad_input;
mod bad_h2_backends;
mod balancing;
mod broken_bodies;
mod chaos;
mod cli;
mod config_api;
mod config_errors;
mod corpora;
mod demo;
mod docs;
mod drain;
mod ejection;
mod explain;
mod failover;
mod forwarding;
mod grpc;
mod h2_backends;
mod h2_health;
mod h2;
mod h2_conformance;
mod h2_floods;
mod fuzzed;
mod health;
mod hedging;
mod keys;
mod limits;
mod listeners;
mod admin;
mod admin_tls;
mod logs;
mod metrics;
mod queueing;
mod operator;
mod profile;
mod proxy_protocol;
mod real_peers;
mod reload;
mod routing;
mod secrets;
mod simulation;
mod slow_clients;
mod smuggling;
mod support;
mod systemd;
mod tidy;
mod tiers;
mod timeouts;
mod websocket;
mod websocket_h2;
mod tls_backend_files;
mod websocket_h2_backends;
mod websocket_tls;
mod tls_backends;
mod tls_checks;
mod tls_choice;
mod tls_files;
mod tls;
mod websocket_drain;
mod websocket_peers;
mod words;
