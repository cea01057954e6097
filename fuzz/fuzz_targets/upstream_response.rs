//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/upstream_response.rs"]
mod upstream_response;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| upstream_response::check(bytes));
