//! The program: the allocator, the command line, the exit code. Everything else is the library's.

use std::process::ExitCode;

/// jemalloc: many threads, many small buffers of different lives; its fragmentation stays low over months. Built with
/// threads of its own that give memory back (Cargo.toml, `background_threads`): else a thread does so for itself as it goes
/// on allocating, so that what a reload needed would stay until the next one, and workers would do it between requests.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How jemalloc is set up (its manual, "TUNING"); `_RJEM_MALLOC_CONF` in the environment overrides it.
///
/// What a request needs is allocated when it comes and freed when it has been answered, and under load dozens are on their
/// way at once. By default a thread's cache holds 20 pieces of a larger size and is looked through after every 64 KiB,
/// which is every eighth request: each request went to the arenas, and a seventh of its instructions with it. With room
/// for 200, looked through after every 4 MiB, it hardly ever does.
#[expect(unsafe_code, reason = "a symbol that jemalloc looks for; see below")]
mod tuning {
    // SAFETY: jemalloc looks for a pointer to a string that ends with a zero by this name, which is nobody else's.
    #[unsafe(export_name = "_rjem_malloc_conf")]
    static MALLOC_CONF: &[u8; 86] =
        b"tcache_nslots_small_min:200,tcache_gc_incr_bytes:4194304,experimental_tcache_gc:false\0";
}

fn main() -> ExitCode {
    shardgate::cli::run()
}
