//! The binary: see the library.

fn main() -> anyhow::Result<()> {
    cameo::cli::run()
}
