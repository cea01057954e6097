//! The program: the allocator, the command line, the exit code. Everything else is the library's.

use std::process::ExitCode;

/// jemalloc: many threads, many small buffers of different lives; its fragmentation stays low over months. Built with
/// threads of its own that give memory back (Cargo.toml, `background_threads`): else a thread does so for itself as it goes
/// on allocating, so that what a reload needed would stay until the next one, and workers would do it between requests.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    shardgate::cli::run()
}
