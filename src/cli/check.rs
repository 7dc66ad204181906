//! `cameo check`: verifies that a store, or the one that a backup makes, agrees with itself.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;

use super::print;
use super::progress::Progress;
use crate::server::{CheckError, CheckReport, Finding, check, check_backup};

/// The exit status if something is wrong with the store.
const HAS_PROBLEMS: u8 = 1;
/// The exit status if the store could not be checked, as for a wrong command line.
const NOT_CHECKED: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Directory of the store, which no server may have open. It is not used with `--backup`.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value = "cameo-data")]
    data_dir: PathBuf,
    /// File of a backup to check instead. The store that it makes is built beside it in `FILE.check`, and removed again.
    #[arg(long, env = "CAMEO_BACKUP", value_name = "FILE")]
    backup: Option<PathBuf>,
}

pub(super) fn run(check: &Check) -> ExitCode {
    let begun = Instant::now();
    match checked(check) {
        Ok(report) => {
            let subject = check.backup.as_ref().unwrap_or(&check.data_dir);
            print::line(format_args!("Checked {} in {:.1} s.", subject.display(), begun.elapsed().as_secs_f64()));
            print::line(shown(&report).trim_end());
            if report.findings.is_empty() { ExitCode::SUCCESS } else { HAS_PROBLEMS.into() }
        }
        Err(error) => {
            eprintln!("Error: {:#}", anyhow::Error::from(error)); // As for other commands, with another exit status.
            NOT_CHECKED.into()
        }
    }
}

fn checked(Check { data_dir, backup }: &Check) -> Result<CheckReport, CheckError> {
    let mut progress = Progress::new();
    let show = |what: &'static str| progress.show_now(|| format!("checking {what}"));
    match backup {
        Some(file) => check_backup(file, show),
        None => check(data_dir, show),
    }
}

/// A report as lines of text.
fn shown(CheckReport { rows, findings }: &CheckReport) -> String {
    let mut text = String::new();
    let total: u64 = rows.iter().map(|(_, rows)| rows).sum();
    let tables = rows.iter().filter(|(_, rows)| *rows > 0).map(|(table, rows)| format!("{table} {rows}"));
    let tables = tables.collect::<Vec<_>>().join(", ");
    if !rows.is_empty() {
        let _ = writeln!(text, "Rows: {total} ({tables})."); // A string takes everything.
    }
    if findings.is_empty() {
        return text + "Nothing is wrong.\n";
    }
    text += "Problems:\n";
    for Finding { what, count, first } in findings {
        let _ = writeln!(text, "- {what}: {count}. First: {}", first.join("; "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_line_for_each_problem_with_its_first_places() {
        let rows = vec![("profile", 3), ("merge", 0), ("event", 4)];
        let clean = CheckReport { rows, findings: Vec::new() };
        assert_eq!(shown(&clean), "Rows: 7 (profile 3, event 4).\nNothing is wrong.\n");
        let finding = Finding {
            what: "profiles without a head".into(),
            count: 12,
            first: vec!["a/b/c mpid 1".into(), "a/b/c mpid 2".into()],
        };
        let broken = CheckReport { findings: vec![finding], ..clean };
        assert_eq!(
            shown(&broken),
            "Rows: 7 (profile 3, event 4).\nProblems:\n\
             - profiles without a head: 12. First: a/b/c mpid 1; a/b/c mpid 2\n"
        );
        let unusable = CheckReport { rows: Vec::new(), ..broken };
        assert!(shown(&unusable).starts_with("Problems:\n"));
    }
}
