//! The report: tables and a summary, in Markdown on standard output.

use std::fmt::Write;

use crate::figures::{count, float};
use crate::fixture::Fixture;
use crate::plan::Plan;

/// Prints each table as soon as it is complete, and the summary at the end.
pub struct Report {
    summary: Vec<[String; 3]>,
}

impl Report {
    /// Prints the number of profiles, the machine and the plan.
    pub fn begin(fixture: &Fixture, plan: Plan) -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism()?;
        println!(
            "{} profiles in a file of {:.2} GB, {} processors, {} rounds of {} s.",
            count(float(fixture.profiles)),
            float(std::fs::metadata(fixture.store_file())?.len()) / 1e9,
            processors,
            plan.rounds,
            plan.duration.as_secs(),
        );
        Ok(Self { summary: Vec::new() })
    }

    /// Prints a table.
    #[allow(clippy::unused_self)] // A table belongs to the report although it is printed at once.
    pub fn table(&mut self, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        print!("\n### {title}\n\n{}", markdown(columns, rows));
    }

    /// Adds a row to the summary. The target may be empty.
    pub fn claim(&mut self, what: impl Into<String>, measured: impl Into<String>, target: impl Into<String>) {
        self.summary.push([what.into(), measured.into(), target.into()]);
    }

    pub fn summarize(self) {
        let rows: Vec<_> = self.summary.into_iter().map(Vec::from).collect();
        print!("\n### Summary\n\n{}", markdown(&["What", "Measured", "Target"], &rows));
    }
}

fn markdown(columns: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = format!("| {} |\n|---{}|\n", columns.join(" | "), "|---:".repeat(columns.len() - 1));
    for row in rows {
        writeln!(table, "| {} |", row.join(" | ")).expect("writing to a String cannot fail");
    }
    table
}
