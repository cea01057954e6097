//! The program: the allocator, the command line, the exit code. Everything else is the library's.

use std::process::ExitCode;

/// jemalloc: many threads, many small buffers of different lives; its fragmentation stays low over months.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    shardgate::cli::run()
}
