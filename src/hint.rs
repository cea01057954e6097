//! A word to the compiler on what is rare.
//!
//! A request runs through 52 KB of code, nearly all of it once, and the kernel's code has had the caches in between: each line
//! of 64 bytes that this code lies in has to be fetched again. What stands beside it but is rarely run, such as answers to a bad
//! request, should lie elsewhere, and the compiler has to be told what that is.

use std::hint::black_box;

/// The code from here to the end of the block is rarely run.
///
/// The standard library's function of this name says nothing in an `async` block: it counts only where it is inlined early on, and
/// into coroutines nothing is. A call of a function that is marked `cold` counts wherever it is, as long as something is
/// in that function that must not be left away.
#[cold]
#[inline(never)]
pub fn cold_path() {
    black_box(());
}
