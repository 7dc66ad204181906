//! Rot: bits and pages of the store's file are damaged, and then everything is read and written over the API.
//!
//! Each answer is right, or `RECORD_CORRUPT`, or the file is refused when it is opened. No value is wrong, no row is
//! left out of a list or a stream that does not say so, nothing gets a second owner, and the server goes on.
//!
//! - `truth`: the store before the damage, and what it holds. `probe`: what is asked, and how answers are judged.
//! - `pages`: which table each page of the file belongs to, so that each is hit.

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

/// Another one damages other places.
const SEED: u64 = 0x0c0f_fee0;
const FLIPS: usize = 200;
const PAGES: usize = 50;
/// Pages that are replaced by one of the same table, or by what they were before.
const CONFUSED: usize = 30;
/// More than processors, as much of a case is waiting for the disk.
const THREADS: usize = 6;

/// One damage.
#[derive(Debug, Clone)]
struct Case {
    table: String,
    page: usize,
    damage: Damage,
}

impl Case {
    /// Whether a page is replaced by one whose rows are sound, or the page above leads to another one. A row has a
    /// checksum of its key and its value, but it does not know which rows should lie beside it, and not whether it was
    /// changed later. So such a page can hide rows, or bring old values back: only the checksums of redb, which are
    /// verified after a crash, would tell. Nothing is asked of these cases but that the server goes on.
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
    /// A page of another table lies there.
    Foreign(usize),
    /// Another page of the same table lies there.
    Sibling(usize),
    /// What was written last never reached the disk: the page is as it was in an older copy of the file.
    Older(usize),
}

/// What became of a case.
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
    assert_eq!(failures, 0, "cases with wrong answers");
}

/// redb panics at some pages, and the store catches it.
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
        // Each table as often as any other, so that the small ones are hit as well.
        let (table, pages) = &tables[n % tables.len()];
        let page = *pages.choose(&mut rng).unwrap();
        let damage = match n {
            n if n < FLIPS => flip(truth, page, &mut rng),
            n if n < FLIPS + PAGES => replace(&tables, table, n / tables.len(), &mut rng),
            n => confuse(truth, pages, page, n / tables.len(), &mut rng),
        };
        cases.push(Case { table: table.clone(), page, damage });
    }
    // The flags of the header, which no checksum covers.
    let flags = (0..8).map(|bit| Damage::Flip { byte: 9, bit });
    cases.extend(flags.map(|damage| Case { table: pages::HEADER.into(), page: 0, damage }));
    cases
}

/// In the part of the page that is in use.
fn flip(truth: &Truth, page: usize, rng: &mut StdRng) -> Damage {
    let bytes = &truth.file[page * PAGE..][..PAGE];
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(PAGE, |last| last + 1);
    Damage::Flip { byte: rng.random_range(..used), bit: rng.random_range(..8) }
}

/// By what is no page of the table's.
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

/// By a page that would be sound elsewhere, or was at another time.
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
    std::fs::create_dir(file.parent().unwrap()).unwrap();
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

/// `None` if the file is refused.
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

/// What was written is there after a restart too.
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
