//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/reserialise.rs"]
mod reserialise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reserialise::check(bytes));
