//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/chunked.rs"]
mod chunked;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| chunked::check(bytes));
