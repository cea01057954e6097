//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/key.rs"]
mod key;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| key::check(bytes));
