//! Medians and tables.

use std::fmt::Write;
use std::time::Duration;

use crate::Plan;
use crate::client::Latency;
use crate::fixture::Fixture;

/// What is printed: each table when it is there, and at the end what it comes to.
pub struct Report {
    summary: Vec<[String; 3]>,
}

impl Report {
    /// Prints what was measured, and on what.
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

    #[allow(clippy::unused_self)] // A table is printed when it is there: it is part of the report all the same.
    pub fn table(&mut self, title: &str, columns: &[&str], rows: &[Vec<String>]) {
        print!("\n### {title}\n\n{}", markdown(columns, rows));
    }

    /// A line of the summary. The target may be empty.
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
        writeln!(table, "| {} |", row.join(" | ")).expect("a String takes anything");
    }
    table
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (odd, middle) if odd % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[allow(clippy::cast_precision_loss)] // Counts of what a program does in minutes.
pub fn float(count: u64) -> f64 {
    count as f64
}

/// A rounded number, with a comma at each thousand.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// In the unit that fits.
pub fn micros(value: f64) -> String {
    match value {
        ..1_000.0 => format!("{value:.0} µs"),
        ..100_000.0 => format!("{:.2} ms", value / 1_000.0),
        _ => format!("{} ms", count(value / 1_000.0)),
    }
}

pub fn micros_of(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The median over the rounds of a quantile, as text.
pub fn quantile<'a>(rounds: impl IntoIterator<Item = &'a Latency>, quantile: f64) -> String {
    micros(median(rounds.into_iter().map(|latency| float(latency.value_at_quantile(quantile)))))
}
