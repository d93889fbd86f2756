//! The program: everything is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Thousands of connections and tokens leave holes of all sizes: docs/adr/0015-the-allocator.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    jotgate::cli::main()
}
