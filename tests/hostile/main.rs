//! Attacks on the server: what each costs it in memory, and another caller in time.
//!
//! ```sh
//! cargo test --test hostile [-- NAME]
//! ```
//!
//! Each attack has a server of its own, in a process of its own, with small budgets. Before and during the attack a
//! polite caller makes small calls, one after another. In between it makes them beside threads that keep the processors
//! busy: this shows how much of what an attack costs is the time of a processor that the attacker's work takes too. The run fails if an attack takes more memory than the budgets
//! and [`ALLOWANCE`](server::ALLOWANCE) together, if a polite call is refused or hangs, or if the server does not do
//! with the attacker what it should. Times are printed and not judged: a busy machine has its own.
//!
//! The modules, in reading order:
//!
//! - [`server`]: the server, its budgets and its memory. [`store`]: the profiles that it holds. [`logins`]: the
//!   credentials that some of the servers ask for.
//! - [`polite`]: the polite caller. [`raw`]: connections that break the rules of good clients.
//! - [`attacks`]: the attacks. [`trial`]: one of them, measured. [`report`]: the table.

#![allow(clippy::wildcard_imports)] // The messages of the API.

mod attacks;
mod logins;
mod polite;
mod raw;
mod report;
mod server;
mod store;
mod trial;

use std::process::ExitCode;

fn main() -> ExitCode {
    // `cargo test` passes its own flags to every test program.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let failed = runtime.block_on(run(&filter));
    runtime.shutdown_background(); // Attackers may still be at work.
    if failed == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{failed} of the attacks had an effect that they must not have");
    ExitCode::FAILURE
}

/// How many attacks had an effect that they must not have.
async fn run(filter: &str) -> usize {
    let chosen: Vec<_> = attacks::all().into_iter().filter(|attack| attack.name.contains(filter)).collect();
    if chosen.is_empty() {
        return 0;
    }
    let store = store::Store::fill().await;
    report::print_head();
    let mut failed = 0;
    for attack in chosen {
        let outcome = trial::measure(&attack, &store).await;
        report::print_row(&attack, &outcome);
        failed += usize::from(!outcome.faults().is_empty());
    }
    failed
}
