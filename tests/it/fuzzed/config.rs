//! Configuration text: nothing makes reading it panic, a refusal says why, and what is accepted can be routed with.

use std::sync::Arc;
use std::time::Instant;

use shardgate::config::load_str;
use shardgate::routing::{Index, build};

/// Bytes that are not text are of no use here.
pub fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    // Other files of this machine are not input.
    if text.contains("include") || text.contains("_file") {
        return;
    }
    match load_str(text) {
        Err(diagnostics) => assert!(!diagnostics.render(false).is_empty(), "refused without a word"),
        Ok(loaded) => {
            let plan = Arc::new(loaded.plan);
            assert!(!plan.listeners.is_empty());
            build(Arc::new(Index::new(plan)), 0, Instant::now(), |_| [Vec::new(), Vec::new()]);
        }
    }
}
