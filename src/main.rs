//! The binary: see the library.

/// Parsing, patching and encoding are many small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    cameo::cli::run()
}
