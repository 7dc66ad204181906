//! Crashes at every moment of a busy run.
//!
//! The run is recorded once: every call to the disk, and between which of these calls the store published events and
//! replied to callers. Then the run is cut at one call after another, and the store is opened on the disks that a crash
//! at that moment may leave. Each time, the following holds:
//!
//! - The store opens without a walk over the whole file.
//! - It holds the run up to the end of some batch: whole batches, and no part of the next.
//! - No batch is missing that a subscriber or a caller has learned of.
//! - A repeated request gets its first result, and is applied again only if it was lost.
//! - All of this still holds after a second crash while the store was being opened.
//!
//! Deliberately absent: a crash while redb creates the file. redb then refuses the file, but a store creates its file
//! beside its place and renames it when it is complete.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::thread;

use prost::Message;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use redb::Database;

use super::disk::{Crash, Disk, Fault, Image, Operation, Replay};
use super::harness::*;
use super::holdings::{Holdings, State};
use super::script::{Script, UNUSED_MPID, WORKSPACES, place};
use super::watch::{Moment, Watch, answers_to, close, write_together};
use crate::command::{Change, Command};
use crate::proto::v1::WriteOutcome;
use crate::store::backend::Backend;
use crate::store::pages;
use crate::store::{Store, StoreError, Written};

/// The seed of the commands, and of what each crash leaves.
const SEED: u64 = 7;
/// Rounds of commands. The commands of a round are queued at once, and make one batch or a few.
const ROUNDS: usize = 200;
/// One in this many cuts between two writes is tested. All cuts at a sync are tested.
const WRITES_PER_CUT: usize = 16;
/// One in this many stores crashes again while it is being opened.
const CUTS_PER_REPAIR: usize = 8;
/// Requests that are repeated on each store that was opened.
const RETRIES: usize = 4;

#[test]
fn a_crash_at_any_moment_keeps_every_reported_write_and_no_part_of_a_batch() {
    let recording = Recording::of_a_busy_run();
    recording.check_answers();
    let images = recording.sweep(WRITES_PER_CUT);
    assert!(images > 1_000, "only {images}");
}

/// The same test, cut at every call.
#[test]
#[ignore = "takes a minute; the test above cuts at a sample of the calls"]
fn a_crash_at_every_moment() {
    let recording = Recording::of_a_busy_run();
    println!("{} disks were opened", recording.sweep(1));
}

/// A batch of imports alone is synced before its callers get their results, like any other batch.
#[test]
fn a_batch_of_imports_alone_is_on_disk_when_its_callers_have_their_results() {
    let disk = Disk::default();
    let watch = Watch::new(&disk);
    let store = store_on(&disk, watch.listener());
    let import = async |mpid| store.import(command(1, create(mpid))).await?.await;

    let answers = answers_to((1..=40).map(import), &watch);

    for (mpid, (answer, when)) in (1..).zip(answers) {
        assert_eq!(answer.unwrap().outcome, WriteOutcome::Created);
        let power_lost = Replay::up_to(&disk, when.operations).crash(Crash::LoseAll, &mut StdRng::seed_from_u64(SEED));
        let survivor = reopen(&Disk::holding(power_lost));
        assert!(stored(&survivor, mpid).unwrap().is_some(), "profile {mpid}");
    }
}

/// A failing disk leaves what a crash leaves, and the caller learns that the outcome is unknown.
#[test]
fn a_disk_that_fails_at_any_call_of_a_commit_leaves_all_of_it_or_nothing() {
    let mut random = StdRng::seed_from_u64(SEED);
    for calls in 0.. {
        let disk = Disk::default();
        let store = store_on(&disk, |_, _| {});
        write_together(&store, &[command(1, create(ADA))], &Watch::new(&disk));
        disk.refuse(Fault::ChangesFrom(disk.operations() + calls));
        let answers = write_together(&store, &[command(2, increment(ADA))], &Watch::new(&disk));
        let answer = &answers[0].0;
        if answer.is_ok() {
            assert!(calls > 5, "a commit makes more calls than that");
            break;
        }
        assert!(matches!(answer, Err(StoreError::Failed)), "{answer:?}");
        let replay = Replay::up_to(&disk, disk.operations());
        for &crash in crashes_of(&replay) {
            let survivor = reopen(&Disk::holding(replay.crash(crash, &mut random)));
            let events = events(&survivor);
            assert!([1, 2].contains(&events.len()), "call {calls}, {crash:?}");
            assert_eq!(stored(&survivor, ADA).unwrap(), events.last().unwrap().profile, "call {calls}, {crash:?}");
        }
    }
}

/// The end of the log that a caller learned of. 0 if its command was only validated.
fn reached(answer: &Written) -> u64 {
    answer.place.unwrap_or_default().get()
}

/// Opens the store on what a crash has left. Fails if redb would have to walk over the whole file, which takes minutes
/// for a large one.
fn reopen(disk: &Disk) -> Store {
    let mut builder = Database::builder();
    builder.set_repair_callback(redb::RepairSession::abort);
    pages::verify(disk).expect("a crash is not taken for damage");
    let backend = Backend::new(disk.clone());
    let database = builder.create_with_backend(backend).expect("the file opens without a walk over all of it");
    start(database, &config(), |_, _| {}).unwrap()
}

/// What a run did to the disk, and what the store promised along the way.
struct Recording {
    journal: Vec<Operation>,
    /// The first is the empty store.
    batches: Vec<Batch>,
    /// The last state, with all events.
    untrimmed: State,
    answered: Vec<Answered>,
    /// Every mpid that ever had a profile, in any workspace.
    mpids: BTreeSet<i64>,
}

/// The state at the end of a batch.
struct Batch {
    /// Calls to the disk before the store published the batch's events.
    told_at: usize,
    holds: State,
}

/// A command that was not refused, and its result.
struct Answered {
    command: Command,
    answer: Written,
    when: Moment,
    /// Whether it is the first command with its request id.
    is_first: bool,
}

/// The states after each batch, with no event trimmed. The first is the empty store.
fn batches_of(watch: &Watch, file_made_at: usize) -> Vec<Batch> {
    let mut holds = vec![Holdings::default(); WORKSPACES.len()];
    let mut batches = vec![Batch { told_at: file_made_at, holds: holds.clone() }];
    for told in watch.told() {
        for event in &told.events {
            holds[place(&event.workspace)].append(&event.event);
        }
        batches.push(Batch { told_at: told.operations, holds: holds.clone() });
    }
    batches
}

/// Trims the states from the batch on in which a command has trimmed a log.
fn trim(batches: &mut [Batch], answered: &[Answered]) {
    for Answered { command, answer, when, .. } in answered {
        if matches!(command.change, Change::Trim(_))
            && answer.outcome == WriteOutcome::Updated
            && answer.place.is_some()
        {
            let trimmed = |batch: &mut Batch| batch.holds[place(&command.workspace)].trim(reached(answer));
            batches[when.batches..].iter_mut().for_each(trimmed);
        }
    }
}

impl Recording {
    fn of_a_busy_run() -> Self {
        let disk = Disk::default();
        drop(Database::builder().create_with_backend(disk.clone()).unwrap()); // No crash here: see the module.
        let file_made_at = disk.operations();
        let watch = Watch::new(&disk);
        let store = store_on(&disk, watch.listener());
        let (mut script, mut ids, mut answered) = (Script::new(SEED), BTreeSet::new(), Vec::new());
        for _ in 0..ROUNDS {
            let commands = script.round();
            let answers = write_together(&store, &commands, &watch);
            for (command, (answer, when)) in commands.into_iter().zip(answers) {
                let Ok(answer) = answer else { continue };
                let is_first = command.request.as_ref().is_some_and(|request| ids.insert(request.id.clone()));
                answered.push(Answered { command, answer, when, is_first });
            }
        }
        close(&store); // Recorded too: a crash may happen while the store closes.
        let mut batches = batches_of(&watch, file_made_at);
        let untrimmed = batches.last().unwrap().holds.clone();
        trim(&mut batches, &answered);
        assert!(batches.last().unwrap().holds.iter().all(|held| held.floor > 0), "every log is trimmed");
        assert!(batches.len() > ROUNDS / 2, "the run writes");
        let mpids = batches.iter().flat_map(|batch| &batch.holds).flat_map(|held| held.histories.keys().copied());
        let mpids = mpids.collect();
        Self { journal: disk.journal(), batches, untrimmed, answered, mpids }
    }

    /// Checks that every caller got the profile that the log has. A repeat gets none if the log no longer has it.
    fn check_answers(&self) {
        let last = &self.untrimmed;
        for Answered { command, answer, is_first, .. } in &self.answered {
            let is_of_a_profile = matches!(command.change, Change::Create(_) | Change::Update(_) | Change::Delete(_));
            let is_forgotten = command.request.is_some() && !is_first && answer.profile.is_none();
            if !is_of_a_profile
                || is_forgotten
                || command.validate_only
                || !matches!(answer.outcome, WriteOutcome::Created | WriteOutcome::Updated)
            {
                continue;
            }
            let event = last[place(&command.workspace)].event(reached(answer));
            assert_eq!(event.profile.map(|profile| profile.encode_to_vec().into()), answer.profile);
        }
    }

    /// Crashes at the chosen calls. Returns how many crashed disks were opened.
    fn sweep(&self, writes_per_cut: usize) -> usize {
        let cuts = &self.cuts(writes_per_cut);
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let share = |worker| cuts.iter().skip(worker).step_by(workers);
            let work = |worker| scope.spawn(move || self.sweep_share(share(worker)));
            let running: Vec<_> = (0..workers).map(work).collect();
            running.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).sum()
        })
    }

    /// The calls before which to crash: all around a sync or a change of the file's length, and a sample of the others.
    fn cuts(&self, writes_per_cut: usize) -> Vec<usize> {
        let is_write = |operation: Option<&Operation>| matches!(operation, Some(Operation::Write { .. }));
        let amid_writes = |cut: usize| is_write(self.journal.get(cut - 1)) && is_write(self.journal.get(cut));
        let cuts = self.batches[0].told_at..=self.journal.len();
        cuts.filter(|cut| cut % writes_per_cut == 0 || !amid_writes(*cut)).collect()
    }

    fn sweep_share<'c>(&self, cuts: impl Iterator<Item = &'c usize>) -> usize {
        let (mut replay, mut played, mut images) = (Replay::default(), 0, 0);
        for &cut in cuts {
            self.journal[played..cut].iter().for_each(|operation| replay.play(operation));
            played = cut;
            for &crash in crashes_of(&replay) {
                images += self.crash_at(cut, &replay, crash);
            }
        }
        images
    }

    fn crash_at(&self, cut: usize, replay: &Replay, crash: Crash) -> usize {
        let _case = Case(format!("call {cut} of {}, {crash:?}", self.journal.len()));
        let mut random = StdRng::seed_from_u64(SEED + 4 * cut as u64 + crash as u64);
        let image = replay.crash(crash, &mut random);
        let promised = self.promised_at(cut);
        let repaired = self.open(&image, cut, promised);
        let images = match cut % CUTS_PER_REPAIR {
            0 => 1 + self.crash_in_repair(image, cut, &repaired, &mut random),
            _ => 1,
        };
        self.check_retries(&repaired, &mut random);
        images
    }

    /// The last batch that a subscriber or a caller knew of.
    fn promised_at(&self, cut: usize) -> usize {
        self.batches.iter().rposition(|batch| batch.told_at <= cut).expect("the empty store comes before any cut")
    }

    /// Opens the store on what a crash has left, and checks what it holds.
    fn open(&self, image: &Image, cut: usize, promised: usize) -> Repaired {
        let disk = Disk::holding(image.clone());
        let store = reopen(&disk);
        let repair = disk.journal();
        let holds: State = WORKSPACES.iter().map(|name| Holdings::read_from(&store, name, &self.mpids)).collect();
        for Answered { command, answer, .. } in self.answered.iter().take_while(|one| one.when.operations <= cut) {
            let head = holds[place(&command.workspace)].head();
            assert!(
                reached(answer) <= head,
                "a reported write was lost: sequence {}, the log ends at {head}",
                reached(answer)
            );
        }
        let batch = (promised..self.batches.len()).find(|&batch| self.batches[batch].holds == holds);
        let Some(batch) = batch else { panic!("{}", self.difference(&holds, promised)) };
        Repaired { store, disk, repair, batch }
    }

    /// The message of a failed check. The states themselves are too long to print.
    fn difference(&self, found: &State, promised: usize) -> String {
        let heads = |state: &State| state.iter().map(|held| (held.floor, held.head())).collect::<Vec<_>>();
        let like = self.batches.iter().position(|batch| heads(&batch.holds) == heads(found));
        let promised_heads = heads(&self.batches[promised].holds);
        format!(
            "no batch from {promised} on has this state: heads {:?} of batch {like:?}, promised {promised_heads:?}",
            heads(found),
        )
    }

    /// Crashes while the store is being opened. If it was already open, the state that its readers saw must be kept.
    fn crash_in_repair(&self, image: Image, cut: usize, first: &Repaired, random: &mut StdRng) -> usize {
        let again = random.random_range(0..=first.repair.len());
        let mut replay = Replay::of(image);
        first.repair[..again].iter().for_each(|operation| replay.play(operation));
        let promised = if again == first.repair.len() { first.batch } else { self.promised_at(cut) };
        let crashes = crashes_of(&replay);
        for &crash in crashes {
            let _case = Case(format!("then call {again} of {} of the repair, {crash:?}", first.repair.len()));
            self.open(&replay.crash(crash, random), cut, promised);
        }
        crashes.len()
    }

    /// Repeats requests, as callers do that do not know the outcome of their first attempt.
    fn check_retries(&self, repaired: &Repaired, random: &mut StdRng) {
        let first: Vec<_> = self.answered.iter().filter(|one| one.is_first).collect();
        let retried: Vec<_> = first.sample(random, RETRIES).copied().collect();
        let mut commands: Vec<_> = retried.iter().map(|one| one.command.clone()).collect();
        let time = commands.iter().map(|command| command.stamp.time.get()).max().unwrap();
        commands.push(command(time, create(UNUSED_MPID)));
        let heads = &self.batches[repaired.batch].holds;
        let mut answers = write_together(&repaired.store, &commands, &Watch::new(&repaired.disk));

        assert_eq!(answers.pop().unwrap().0.unwrap().outcome, WriteOutcome::Created, "the store accepts new writes");
        for (first, (answer, _)) in retried.into_iter().zip(answers) {
            let held = &heads[place(&first.command.workspace)];
            let head = held.head();
            if first.when.batches <= repaired.batch {
                let answer = answer.unwrap();
                assert_eq!((answer.outcome, answer.place), (first.answer.outcome, first.answer.place));
                let is_trimmed = reached(&answer) <= held.floor && answer.profile.is_none();
                assert!(is_trimmed || answer.profile == first.answer.profile);
            } else if let Ok(answer) = answer
                && answer.outcome != WriteOutcome::Unchanged
            {
                assert!(reached(&answer) > head, "a lost request is applied now");
            }
        }
    }
}

/// A store that was opened after a crash.
struct Repaired {
    store: Store,
    disk: Disk,
    /// What opening it did to the disk.
    repair: Vec<Operation>,
    /// The last batch that it holds.
    batch: usize,
}

/// Prints which crash was being tested when a check fails.
struct Case(String);

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("crash at {}", self.0);
        }
    }
}

fn crashes_of(replay: &Replay) -> &'static [Crash] {
    const ALL: [Crash; 4] = [Crash::LoseAll, Crash::KeepAll, Crash::Scatter, Crash::Tear];
    if replay.is_synced() { &ALL[..1] } else { &ALL } // With nothing to lose, all crashes are alike.
}
