//! Rot: the test damages bits and pages of the store's file, and then reads and writes everything over the API.
//!
//! Either the server refuses to open the file, or each response is right or `RECORD_CORRUPT`. No value is wrong, no
//! list and no stream leaves a row out without saying so, no identity gets a second owner, and the server goes on. It
//! may abort only where redb panics twice. Then it starts again, and every confirmed write is still there.
//!
//! - [`truth`]: the store before the damage, and what it holds.
//! - [`served`]: the server, a process of its own, and how it ended.
//! - [`probe`]: the calls that the test makes, and how it judges the responses.
//! - [`pages`]: the table that each page of the file belongs to, so that every table is hit.

mod pages;
mod probe;
mod served;
mod truth;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use tempfile::TempDir;

use crate::harness::*;
use pages::PAGE;
use probe::{Findings, Probe};
use served::{End, Served};
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
    /// and redb verifies them after a crash. In these cases the server must go on, unless a commit fails because a write
    /// was led to such a page, and nothing more is asked of it.
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
    /// Whether redb ended the process by panicking twice.
    aborted: bool,
    /// Whether the store failed at a commit.
    failed: bool,
    findings: Findings,
}

#[test]
fn no_damage_of_the_file_makes_an_answer_wrong() {
    let truth = runtime().block_on(truth::build(Arc::new(TempDir::new().unwrap())));
    let cases = cases(&truth);
    let outcomes = run_all(&truth, &cases);
    report(&truth, &cases, &outcomes);
    let mut failures = 0;
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let wrong = if case.is_confused(&truth) { &outcome.findings.ended } else { &outcome.failures() };
        if let Some(first) = wrong.first() {
            eprintln!("{case:?} of {:?}: {} failures, as {first:.1000}", keep(&truth, case), wrong.len());
            failures += 1;
        }
    }
    assert_eq!(failures, 0, "cases with wrong responses");
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

/// Keeps the damaged file of a case, so that the failure can be examined: each run draws the ids of its store anew.
fn keep(truth: &Truth, case: &Case) -> PathBuf {
    let file = TempDir::new().unwrap().keep().join(STORE_FILE);
    std::fs::write(&file, damaged(truth, case)).unwrap();
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
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(data_dir(dir.path())).unwrap();
    std::fs::write(store_file(dir.path()), damaged(truth, case)).unwrap();
    let Some(server) = open(dir.path(), &mut outcome).await else { return outcome };
    let mut after = truth.workspaces.clone();
    for held in &mut after {
        let mut probe = Probe::new(server.client(), std::mem::take(held), &mut outcome.findings);
        probe.read().await;
        probe.write().await;
        probe.read_again().await;
        *held = probe.held;
        if !outcome.findings.unanswered.is_empty() {
            break; // The server is gone.
        }
    }
    close(server, &mut outcome).await;
    reopen(dir.path(), after, &mut outcome).await;
    outcome
}

/// Opens the store; `None` if the server does not listen.
async fn open(dir: &Path, outcome: &mut Outcome) -> Option<Served> {
    match Served::open(dir).await {
        Ok(server) => Some(server),
        Err(end) => {
            outcome.ended(end);
            None
        }
    }
}

async fn close(server: Served, outcome: &mut Outcome) {
    let end = server.stop().await;
    outcome.ended(end);
}

/// Restarts the server and reads again: what was written must still be there.
async fn reopen(dir: &Path, after: Vec<Held>, outcome: &mut Outcome) {
    let Some(server) = open(dir, outcome).await else { return };
    for held in after {
        Probe::new(server.client(), held, &mut outcome.findings).read_again().await;
        if !outcome.findings.unanswered.is_empty() {
            break;
        }
    }
    close(server, outcome).await;
}

impl Outcome {
    /// What is not allowed, unless the case is a confused one.
    fn failures(&self) -> Vec<String> {
        let failed = self.failed.then(|| "the store failed".to_owned());
        self.findings.all().into_iter().chain(failed).collect()
    }

    /// Notes how a server ended. Only one that ended by itself may leave calls without a response.
    fn ended(&mut self, end: End) {
        let unanswered = std::mem::take(&mut self.findings.unanswered);
        match end {
            End::InOrder => self.findings.ended.extend(unanswered),
            End::Refused => self.refused = true,
            End::Aborted => self.aborted = true,
            End::StoreFailed => self.failed = true,
            End::Otherwise(how) => self.findings.ended.push(format!("the server ended: {how}")),
        }
    }
}

fn report(truth: &Truth, cases: &[Case], outcomes: &[Outcome]) {
    let mut rows: BTreeMap<String, [usize; 7]> = BTreeMap::new();
    for (case, outcome) in cases.iter().zip(outcomes) {
        let Outcome { refused, aborted, failed, findings } = outcome;
        let (ended, corrupt, hid) = (*aborted || *failed, findings.corrupt > 0, !findings.hidden.is_empty());
        let wrong = !(findings.wrong.is_empty() && findings.ended.is_empty());
        let right = !(*refused || ended || corrupt || hid || wrong);
        let counts = [true, right, *refused, ended, corrupt, hid, wrong].map(usize::from);
        let all = if case.is_confused(truth) { "all with sound pages" } else { "all" };
        let table = if case.is_confused(truth) { format!("{}, sound page", case.table) } else { case.table.clone() };
        for row in [table, all.to_owned()] {
            let row = rows.entry(row).or_default();
            row.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    eprintln!("{:37} cases right refused ended corrupt hid wrong", "");
    for (row, [cases, right, refused, ended, corrupt, hid, wrong]) in rows {
        eprintln!("{row:37} {cases:5} {right:5} {refused:7} {ended:5} {corrupt:7} {hid:3} {wrong:5}");
    }
}
