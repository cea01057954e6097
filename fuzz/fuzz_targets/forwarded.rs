//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/forwarded.rs"]
mod forwarded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forwarded::check(bytes));
