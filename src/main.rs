//! The binary: see the library.

use std::process::ExitCode;

/// Parsing, patching and encoding are many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cameo::cli::run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("Error: {error:#}"); // Without a backtrace, which says nothing about a setting or a file.
            ExitCode::FAILURE
        }
    }
}
