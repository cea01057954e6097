//! The seeds of the fuzz targets, replayed: what a fuzzer once found, or should begin with, holds in every test run.

use std::path::Path;

use crate::fuzzed;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 9] = [
    ("chunked", fuzzed::chunked::check),
    ("config", fuzzed::config::check),
    ("forwarded", fuzzed::forwarded::check),
    ("framing", fuzzed::framing::check),
    ("key", fuzzed::key::check),
    ("proxy_protocol", fuzzed::proxy_protocol::check),
    ("reserialise", fuzzed::reserialise::check),
    ("upstream_response", fuzzed::upstream_response::check),
    ("words", fuzzed::words::check),
];

#[test]
fn every_seed_of_every_target_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in TARGETS {
        let mut seeds = 0;
        for seed in std::fs::read_dir(root.join(target)).unwrap_or_else(|e| panic!("fuzz/corpus/{target}: {e}")) {
            let path = seed.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            if std::panic::catch_unwind(|| check(&bytes)).is_err() {
                panic!("{}", path.display());
            }
            seeds += 1;
        }
        assert!(seeds >= 5, "{target} has {seeds} seeds");
    }
}

/// A seed also in every piece of itself: what is cut off anywhere must not panic either.
#[test]
fn every_seed_passes_when_it_is_cut() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in TARGETS.into_iter().filter(|(target, _)| *target != "config") {
        for seed in std::fs::read_dir(root.join(target)).unwrap() {
            let bytes = std::fs::read(seed.unwrap().path()).unwrap();
            (0..bytes.len()).for_each(|end| check(&bytes[..end]));
        }
    }
}
