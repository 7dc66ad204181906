//! `cameo restore`: makes a store of a backup.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;

use super::print;
use super::progress::Progress;
use crate::server::{BackupSummary, restore};

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// File of the backup.
    #[arg(long, env = "CAMEO_FROM", value_name = "FILE")]
    from: PathBuf,
    /// Directory of the new store. It must be empty, or not exist.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value = "cameo-data")]
    data_dir: PathBuf,
}

pub(super) fn run(Restore { from, data_dir }: &Restore) -> anyhow::Result<()> {
    let begun = Instant::now();
    let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut progress = Progress::new();
    let restored = restore(BufReader::new(file), data_dir, |rows| progress.show(|| format!("{rows} rows")));
    drop(progress);
    let BackupSummary { rows, time, .. } = restored?;
    let (path, seconds) = (data_dir.display(), begun.elapsed().as_secs_f64());
    print::line(format_args!("Restored {rows} rows into {path} in {seconds:.1} s, as of {}.", time.to_timestamp()));
    print::line(
        "Subscribers go on with cursors from before the backup. Later ones are refused: what they saw is lost.",
    );
    print::line("Erase again who was erased since the backup.");
    Ok(())
}
