//! Configuration text: nothing makes reading it panic, a refusal says why, and what is accepted can be routed with.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use shardgate::config::load_str;
use shardgate::routing::{Index, build};

fuzz_target!(|text: &str| {
    // Other files of this machine are not input.
    if text.contains("include") || text.contains("_file") {
        return;
    }
    match load_str(text) {
        Err(diagnostics) => assert!(!diagnostics.render(false).is_empty(), "refused without a word"),
        Ok(loaded) => {
            let plan = Arc::new(loaded.plan);
            assert!(!plan.listeners.is_empty());
            build(Arc::new(Index::new(plan)), 0, std::time::Instant::now(), |_| [Vec::new(), Vec::new()]);
        }
    }
});
