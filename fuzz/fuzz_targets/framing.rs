//! See the file that it takes in.
#![no_main]

#[path = "../../tests/it/fuzzed/framing.rs"]
mod framing;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| framing::check(bytes));
