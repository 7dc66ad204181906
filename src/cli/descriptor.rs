//! `cameo descriptor`: the API as a `FileDescriptorSet`, for proxies and tools that cannot ask a server by reflection.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::proto::DESCRIPTORS;

#[derive(Debug, Args)]
pub(super) struct Descriptor {
    /// File to write. Without it, the descriptors go to standard output.
    #[arg(long, env = "CAMEO_OUT")]
    out: Option<PathBuf>,
}

pub(super) fn run(Descriptor { out }: &Descriptor) -> anyhow::Result<()> {
    match out {
        Some(path) => fs::write(path, DESCRIPTORS).with_context(|| format!("cannot write {}", path.display())),
        None if io::stdout().is_terminal() => {
            bail!("the descriptors are binary: pass --out FILE, or redirect the output")
        }
        None => print().context("cannot write to standard output"),
    }
}

/// The flush is explicit, because an error of the one at exit would be lost.
fn print() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(DESCRIPTORS)?;
    stdout.flush()
}
