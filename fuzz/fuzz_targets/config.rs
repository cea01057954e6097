//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| config::check(bytes));
