//! The table of the measured attacks, in Markdown.

use std::io::Write;
use std::time::Duration;

use crate::attacks::Attack;
use crate::server::allowed;
use crate::trial::Outcome;

pub fn print_head() {
    println!(
        "| attack | polite caller | sent | memory, of {} | p99 quiet | p99 busy | p99 under attack | ratio | failed calls | \
         the attacker |",
        mebibytes(allowed())
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

pub fn print_row(attack: &Attack, outcome: &Outcome) {
    let (quiet, attacked) = (outcome.quiet.p99(), outcome.attacked.p99());
    let ratio = attacked.as_secs_f64() / quiet.as_secs_f64().max(f64::EPSILON);
    let slow = if outcome.is_slow() { " (slow)" } else { "" };
    let ending = outcome.ending.as_ref().map_or_else(String::as_str, String::as_str);
    println!(
        "| {} | {:?} | {} | {} | {} | {} | {} | {ratio:.1}{slow} | {} of {} | {ending} |",
        attack.name,
        attack.polite,
        bytes(outcome.sent),
        mebibytes(outcome.memory),
        millis(quiet),
        millis(outcome.busy.p99()),
        millis(attacked),
        outcome.attacked.failed,
        outcome.attacked.count(),
    );
    for fault in outcome.faults() {
        eprintln!("FAILED: {}: {fault}", attack.name);
    }
    let _ = std::io::stdout().flush(); // An error means that stdout is closed.
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes >> 20)
}

fn bytes(bytes: usize) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => mebibytes(bytes),
    }
}
