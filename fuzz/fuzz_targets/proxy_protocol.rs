//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/proxy_protocol.rs"]
mod proxy_protocol;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy_protocol::check(bytes));
