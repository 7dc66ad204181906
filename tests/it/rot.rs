//! Rot: the test damages bits and pages of the store's file, and then reads and writes everything over the API.
//!
//! Either the server refuses to open the file, or each response is right or `RECORD_CORRUPT`. No value is wrong, no
//! list and no stream leaves a row out without saying so, no identity gets a second owner, and the server goes on.
//!
//! - [`truth`]: the store before the damage, and what it holds.
//! - [`probe`]: the calls that the test makes, and how it judges the responses.
//! - [`pages`]: the table that each page of the file belongs to, so that every table is hit.

mod pages;
mod probe;
mod truth;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cameo::server::ServerError;
use cameo::store::OpenError;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use tempfile::TempDir;

use crate::harness::*;
use pages::PAGE;
use probe::{Findings, Probe};
use truth::{Held, Truth};

/// Decides which places are damaged.
const SEED: u64 = 0x0c0f_fee0;
/// Cases in which a bit is flipped.
const FLIPS: usize = 200;
/// Cases in which a page is overwritten by something that is no page of its table.
const PAGES: usize = 50;
/// Cases in which a page is replaced by another page of its table, or by an older copy of itself.
const CONFUSED: usize = 30;
/// More than there are processors: most of a case is waiting for the disk.
const THREADS: usize = 6;

/// One damage to the file.
#[derive(Debug, Clone)]
struct Case {
    table: String,
    page: usize,
    damage: Damage,
}

impl Case {
    /// Whether the damage puts a page with sound rows where another page should be, directly or through the page above.
    /// A row has a checksum of its key and its value. It cannot tell which rows should lie beside it, or whether it was
    /// changed later. So such a page can hide rows or bring old values back. Only redb's own checksums would show that,
    /// and redb verifies them after a crash. In these cases the server must go on, and nothing more is asked of it.
    fn is_confused(&self, truth: &Truth) -> bool {
        match self.damage {
            Damage::Sibling(_) | Damage::Older(_) => true,
            Damage::Flip { byte, .. } => pages::leads_to_a_page(&truth.file[self.page * PAGE..][..PAGE], byte),
            Damage::Noise | Damage::Zeros | Damage::Foreign(_) => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Damage {
    Flip {
        byte: usize,
        bit: u8,
    },
    Noise,
    Zeros,
    /// A page of another table is written over it.
    Foreign(usize),
    /// Another page of the same table is written over it.
    Sibling(usize),
    /// The last write never reached the disk: the page is as it was in an older copy of the file.
    Older(usize),
}

/// What came of a case.
#[derive(Debug, Default)]
struct Outcome {
    refused: bool,
    findings: Findings,
}

#[test]
fn no_damage_of_the_file_makes_an_answer_wrong() {
    silence_redb();
    let truth = runtime().block_on(truth::build(Arc::new(TempDir::new().unwrap())));
    let cases = cases(&truth);
    let outcomes = run_all(&truth, &cases);
    report(&truth, &cases, &outcomes);
    let mut failures = 0;
    for (case, Outcome { findings, .. }) in cases.iter().zip(&outcomes) {
        let wrong = if case.is_confused(&truth) { &findings.ended } else { &findings.all() };
        if let Some(first) = wrong.first() {
            eprintln!("{case:?}: {} failures, as {first:.300}", wrong.len());
            failures += 1;
        }
    }
    assert_eq!(failures, 0, "cases with wrong responses");
}

/// Keeps the panics of redb, which the store catches, out of the output.
fn silence_redb() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("redb-")) {
            report(panic);
        }
    }));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn cases(truth: &Truth) -> Vec<Case> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let tables: Vec<_> = pages::by_table(&truth.file).into_iter().filter(|(_, pages)| !pages.is_empty()).collect();
    let mut cases = Vec::new();
    for n in 0..FLIPS + PAGES + CONFUSED {
        // Each table in turn, so that the small ones are hit as often as the large ones.
        let (table, pages) = &tables[n % tables.len()];
        let page = *pages.choose(&mut rng).unwrap();
        let damage = match n {
            n if n < FLIPS => flip(truth, page, &mut rng),
            n if n < FLIPS + PAGES => replace(&tables, table, n / tables.len(), &mut rng),
            n => confuse(truth, pages, page, n / tables.len(), &mut rng),
        };
        cases.push(Case { table: table.clone(), page, damage });
    }
    // No checksum covers the flags of the header.
    let flags = (0..8).map(|bit| Damage::Flip { byte: pages::FLAGS, bit });
    cases.extend(flags.map(|damage| Case { table: pages::HEADER.into(), page: 0, damage }));
    cases
}

/// Flips a bit in the part of the page that is in use.
fn flip(truth: &Truth, page: usize, rng: &mut StdRng) -> Damage {
    let bytes = &truth.file[page * PAGE..][..PAGE];
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(PAGE, |last| last + 1);
    Damage::Flip { byte: rng.random_range(..used), bit: rng.random_range(..8) }
}

/// Overwrites a page with something that is no page of its table.
fn replace(tables: &[(String, Vec<usize>)], table: &str, n: usize, rng: &mut StdRng) -> Damage {
    match n % 3 {
        0 => Damage::Noise,
        1 => Damage::Zeros,
        _ => {
            let others = tables.iter().filter(|(other, _)| other != table && other != pages::FREE);
            let others: Vec<_> = others.flat_map(|(_, pages)| pages).collect();
            Damage::Foreign(**others.choose(rng).unwrap())
        }
    }
}

/// Overwrites a page with one that would be sound elsewhere, or was sound earlier.
fn confuse(truth: &Truth, siblings: &[usize], page: usize, n: usize, rng: &mut StdRng) -> Damage {
    let range = page * PAGE..(page + 1) * PAGE;
    let differs = |older: &Vec<u8>| older.get(range.clone()).is_some_and(|older| older != &truth.file[range.clone()]);
    match truth.older.iter().rposition(differs) {
        Some(older) if n.is_multiple_of(2) => Damage::Older(older),
        _ => Damage::Sibling(*siblings.choose(rng).unwrap()),
    }
}

fn damaged(truth: &Truth, case: &Case) -> Vec<u8> {
    let mut file = truth.file.clone();
    let at = case.page * PAGE;
    let page = &mut file[at..at + PAGE];
    match case.damage {
        Damage::Flip { byte, bit } => page[byte] ^= 1 << bit,
        Damage::Noise => StdRng::seed_from_u64(SEED + case.page as u64).fill_bytes(page),
        Damage::Zeros => page.fill(0),
        Damage::Foreign(other) | Damage::Sibling(other) => page.copy_from_slice(&truth.file[other * PAGE..][..PAGE]),
        Damage::Older(older) => page.copy_from_slice(&truth.older[older][at..at + PAGE]),
    }
    file
}

fn run_all(truth: &Truth, cases: &[Case]) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let runtime = runtime();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(n) else { return };
                    let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(truth, case))));
                    let outcome = outcome.unwrap_or_else(|panic| {
                        let panic = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        let findings = Findings { ended: vec![panic], ..Findings::default() };
                        Outcome { findings, ..Outcome::default() }
                    });
                    outcomes.lock().unwrap().insert(n, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap().into_values().collect()
}

async fn run(truth: &Truth, case: &Case) -> Outcome {
    let mut outcome = Outcome::default();
    let dir = Arc::new(TempDir::new().unwrap());
    let file = store_file(dir.path());
    std::fs::create_dir(data_dir(dir.path())).unwrap();
    std::fs::write(file, damaged(truth, case)).unwrap();
    let Some(server) = open(&dir, &mut outcome).await else { return outcome };
    let mut after = Vec::new();
    for held in &truth.workspaces {
        let mut probe = Probe::new(server.client().await, held.clone(), &mut outcome.findings);
        probe.read().await;
        probe.write().await;
        probe.read_again().await;
        after.push(probe.held);
    }
    if let Err(error) = server.try_stop().await {
        outcome.findings.ended.push(format!("the server ended: {error}"));
    }
    reopen(&dir, after, &mut outcome).await;
    outcome
}

/// Opens the store; `None` if the server refuses the file.
async fn open(dir: &Arc<TempDir>, outcome: &mut Outcome) -> Option<TestServer> {
    match TestServer::try_reopen_with(Arc::clone(dir), straight_from_the_file).await {
        Ok(server) => Some(server),
        Err(ServerError::Open(OpenError::Damaged { .. } | OpenError::Format { .. } | OpenError::Storage { .. })) => {
            outcome.refused = true;
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Restarts the server and reads again: what was written must still be there.
async fn reopen(dir: &Arc<TempDir>, after: Vec<Held>, outcome: &mut Outcome) {
    let Some(server) = open(dir, outcome).await else { return };
    for held in after {
        Probe::new(server.client().await, held, &mut outcome.findings).read_again().await;
    }
    if let Err(error) = server.try_stop().await {
        outcome.findings.ended.push(format!("the server ended: {error}"));
    }
}

fn report(truth: &Truth, cases: &[Case], outcomes: &[Outcome]) {
    let mut rows: BTreeMap<String, [usize; 6]> = BTreeMap::new();
    for (case, Outcome { refused, findings }) in cases.iter().zip(outcomes) {
        let (corrupt, hid) = (findings.corrupt > 0, !findings.hidden.is_empty());
        let wrong = !(findings.wrong.is_empty() && findings.ended.is_empty());
        let right = !(*refused || corrupt || hid || wrong);
        let counts = [true, right, *refused, corrupt, hid, wrong].map(usize::from);
        let all = if case.is_confused(truth) { "all with sound pages" } else { "all" };
        let table = if case.is_confused(truth) { format!("{}, sound page", case.table) } else { case.table.clone() };
        for row in [table, all.to_owned()] {
            let row = rows.entry(row).or_default();
            row.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    eprintln!("{:37} cases right refused corrupt hid wrong", "");
    for (row, [cases, right, refused, corrupt, hid, wrong]) in rows {
        eprintln!("{row:37} {cases:5} {right:5} {refused:7} {corrupt:7} {hid:3} {wrong:5}");
    }
}
