//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/words.rs"]
mod words;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| words::check(bytes));
