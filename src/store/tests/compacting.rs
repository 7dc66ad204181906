//! The file is rewritten: `files` are stores in directories, and here are stores on disks in memory, which can lose
//! power.

mod files;

use std::sync::{Arc, Mutex};

use rand::SeedableRng;
use rand::rngs::StdRng;
use redb::{Database, StorageBackend};
use tokio_util::sync::CancellationToken;

use super::damage::{disk_with, turn_bit_of_event, turn_bit_of_profile};
use super::determinism::rows;
use super::disk::{Crash, Disk, Replay};
use super::harness::*;
use super::script::Script;
use super::watch::Watch;
use crate::command::Command;
use crate::store::backend::Backend;
use crate::store::compact::{Bounds, Replace, Target};
use crate::store::rows::Origin;
use crate::store::{CompactError, Compacted, OpenError, PAGE, Store, StoreError, open, pages};

/// So small that a copy takes many steps, and the tail is applied between them.
const SMALL: Bounds = Bounds { step_rows: 7, step_bytes: 20_000, tail_bytes: 64 << 20, apply_bytes: 0 };

type Hook = Box<dyn FnMut() + Send>;

/// A second disk. The hooks run at moments of the compaction.
pub(super) struct Beside {
    disk: Disk,
    /// The writer keeps the effects of its commits, and nothing is copied yet.
    at_start: Hook,
    /// Before each step.
    at_step: Hook,
    is_created: bool,
    /// Everything is copied, and the tail is not applied yet.
    at_end: Hook,
    /// Runs on the writer's thread.
    replace: Box<dyn FnMut() -> Result<(), Replace> + Send>,
}

impl Beside {
    pub fn new() -> (Self, Disk) {
        let disk = Disk::default();
        let none = || Box::new(|| {});
        let target = Self {
            disk: disk.clone(),
            at_start: none(),
            at_step: none(),
            is_created: false,
            at_end: none(),
            replace: Box::new(|| Ok(())),
        };
        (target, disk)
    }
}

impl Target for Mutex<Beside> {
    fn create(&mut self) -> Result<Database, OpenError> {
        let target = self.get_mut().unwrap();
        (target.at_start)();
        target.is_created = true;
        Ok(database(&target.disk))
    }

    fn reopen(&mut self) -> Result<(Database, Origin), OpenError> {
        let target = self.get_mut().unwrap();
        (target.at_end)();
        pages::verify(&target.disk).unwrap();
        let database = Database::builder().create_with_backend(Backend::new(target.disk.clone())).unwrap();
        let facts = open::load(&database, "cameo.redb".as_ref())?;
        Ok((database, facts.origin))
    }

    fn replace(&mut self) -> Result<(), Replace> {
        (self.get_mut().unwrap().replace)()
    }

    fn check_room(&self, _: u64) -> Result<(), CompactError> {
        let mut target = self.lock().unwrap();
        if target.is_created {
            (target.at_step)();
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        0
    }

    fn new_bytes(&self) -> u64 {
        0
    }
}

pub(super) async fn compact(store: &Store, target: Beside, bounds: Bounds) -> Result<Compacted, CompactError> {
    store.compact_to(Mutex::new(target), bounds, CancellationToken::new()).await
}

/// Runs a future on a thread that has no runtime.
fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Writes each command after the one before.
fn write_all(store: &Store, commands: Vec<Command>) {
    for command in commands {
        drop(wait(store.write(command))); // Some are refused, in either store.
    }
}

/// A store that is compacted in the middle of a busy run holds what a store holds that is not: byte for byte.
#[test]
fn a_store_that_is_compacted_amid_writes_has_the_rows_of_one_that_is_not() {
    for bounds in [SMALL, Bounds { apply_bytes: usize::MAX, ..SMALL }, Bounds::default()] {
        let mut script = Script::new(11);
        let mut rounds = |count| (0..count).flat_map(|_| script.round()).collect::<Vec<_>>();
        let phases = [rounds(120), rounds(30), rounds(80), rounds(30), rounds(30)];
        let plain = Disk::default();
        let reference = store_on(&plain, |_, _| {});
        for phase in &phases {
            write_all(&reference, phase.clone());
        }
        wait(reference.close());

        let [before, at_start, amid, at_end, after] = phases;
        let store = Arc::new(store_on(&Disk::default(), |_, _| {}));
        write_all(&store, before);
        let (mut target, new) = Beside::new();
        let (steps, amid) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(amid.into_iter())));
        let (writer, mut commands) = (Arc::clone(&store), Some(at_start));
        target.at_start = Box::new(move || write_all(&writer, commands.take().unwrap()));
        let (writer, some, taken) = (Arc::clone(&store), Arc::clone(&amid), Arc::clone(&steps));
        target.at_step = Box::new(move || {
            *taken.lock().unwrap() += 1;
            write_all(&writer, some.lock().unwrap().by_ref().take(2).collect());
        });
        let (writer, mut commands) = (Arc::clone(&store), Some(at_end));
        target.at_end = Box::new(move || {
            write_all(&writer, amid.lock().unwrap().by_ref().collect());
            write_all(&writer, commands.take().unwrap());
        });

        wait(compact(&store, target, bounds)).unwrap();

        write_all(&store, after);
        wait(store.close());
        assert!(rows(&new) == rows(&plain), "{bounds:?}");
        assert_eq!(*steps.lock().unwrap() > 20, bounds.step_rows == SMALL.step_rows);
    }
}

/// After the rename, any crash leaves the new file, with every write that a caller was told of. Just before it, the old
/// file has them too, because the rename may be lost.
#[test]
fn a_crash_around_the_rename_loses_no_reported_write() {
    let old = Disk::default();
    let store = Arc::new(store_on(&old, |_, _| {}));
    wait(store.write(command(1, create(ADA)))).unwrap();
    let (mut target, new) = Beside::new();
    let increment_ada = |times: usize| {
        let store = Arc::clone(&store);
        Box::new(move || (0..times).for_each(|_| drop(wait(store.write(command(2, increment(ADA)))).unwrap())))
    };
    (target.at_start, target.at_end) = (increment_ada(5), increment_ada(5));
    let (disks, renamed_at) = ((old.clone(), new.clone()), Arc::new(Mutex::new(0)));
    let renamed = Arc::clone(&renamed_at);
    target.replace = Box::new(move || {
        *renamed.lock().unwrap() = disks.1.operations();
        for disk in [&disks.0, &disks.1] {
            assert_eq!(events(&store_on(&disk.after_power_loss(), |_, _| {})).len(), 11);
        }
        Ok(())
    });
    wait(compact(&store, target, Bounds::default())).unwrap();
    let watch = Watch::new(&new);
    let answers = (0..5).map(|_| {
        let mut answers = super::watch::write_together(&store, &[command(3, increment(ADA))], &watch);
        let (answer, when) = answers.pop().unwrap();
        answer.unwrap();
        when.operations
    });
    let answers: Vec<_> = answers.collect();
    wait(store.close());

    let (renamed_at, journal) = (*renamed_at.lock().unwrap(), new.journal());
    let mut random = StdRng::seed_from_u64(7);
    let mut replay = Replay::up_to(&new, renamed_at);
    for cut in renamed_at..=journal.len() {
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Scatter, Crash::Tear] {
            let survivor = store_on(&Disk::holding(replay.crash(crash, &mut random)), |_, _| {});
            let told = answers.iter().filter(|operations| **operations <= cut).count();
            let events = events(&survivor);
            assert!(events.len() >= 11 + told, "cut {cut}, {crash:?}: {} of {told}", events.len() - 11);
            assert_eq!(stored(&survivor, ADA).unwrap(), events.last().unwrap().profile);
        }
        journal.get(cut).inspect(|operation| replay.play(operation));
    }
    assert!(journal.len() > renamed_at + 20 && answers.len() == 5);
}

#[tokio::test]
async fn a_damaged_row_ends_a_compaction_that_would_lose_it() {
    type Damage = fn(&redb::WriteTransaction);
    let damages: [(&str, Damage); 2] =
        [("profile", |changes| turn_bit_of_profile(changes, 20)), ("event", |changes| turn_bit_of_event(changes, 3))];
    for (damaged, damage) in damages {
        let disk = disk_with(40, 3).await;
        tamper(&disk, damage);
        let before = rows(&disk.after_power_loss());
        let store = store_on(&disk, |_, _| {});
        let (target, _) = Beside::new();

        let refused = compact(&store, target, SMALL).await;

        let Err(CompactError::Damaged { table }) = refused else { panic!("{refused:?}") };
        assert_eq!(table, damaged);
        assert!(rows(&disk.after_power_loss()) == before);
        store.write(command(9, create(100))).await.unwrap();
    }
}

/// Makes each page unreadable in turn. A copy is complete, or there is none.
#[tokio::test]
async fn rows_that_a_damaged_page_hides_end_a_compaction() {
    let disk = disk_with(200, 0).await;
    let (whole, all) = (bytes_of(&disk), rows(&disk));
    let mut refused = 0;
    for page in 1..whole.len() / PAGE {
        let copy = disk_of(&whole);
        copy.write((page * PAGE) as u64, &[0; PAGE]).unwrap();
        let Some(store) = store_if_sound(&copy) else { continue };
        let (target, new) = Beside::new();
        match compact(&store, target, SMALL).await {
            Ok(_) => assert!(rows(&new.after_power_loss()) == all, "page {page}"),
            Err(CompactError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("page {page}: {other:?}"),
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn writes_that_overtake_the_copy_end_it_and_are_kept() {
    let disk = Disk::default();
    let store = Arc::new(store_on(&disk, |_, _| {}));
    let (mut target, _) = Beside::new();
    let writer = Arc::clone(&store);
    target.at_start = Box::new(move || {
        wait(writer.write(command(1, set_large_attributes(ADA)))).unwrap();
        wait(writer.write(command(1, create(GRACE)))).unwrap();
    });

    let refused = wait(compact(&store, target, Bounds { tail_bytes: 100_000, ..SMALL }));

    assert!(matches!(refused, Err(CompactError::Overtaken)), "{refused:?}");
    let (target, new) = Beside::new();
    wait(compact(&store, target, SMALL)).unwrap();
    wait(store.close());
    assert!(rows(&new) == rows(&disk.after_power_loss()));
    assert!(stored(&store_on(&new, |_, _| {}), GRACE).unwrap().is_some());
}

#[test]
fn one_compaction_runs_at_a_time() {
    let store = Arc::new(store_on(&Disk::default(), |_, _| {}));
    let (mut target, _) = Beside::new();
    let other = Arc::clone(&store);
    target.at_start = Box::new(move || {
        let refused = wait(compact(&other, Beside::new().0, SMALL));
        assert!(matches!(refused, Err(CompactError::Running)), "{refused:?}");
    });
    wait(compact(&store, target, SMALL)).unwrap();
    wait(compact(&store, Beside::new().0, SMALL)).unwrap();
}

/// A refused rename leaves the old file in its place, so the store goes on with it.
#[test]
fn a_rename_that_is_refused_changes_nothing() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let (mut target, _) = Beside::new();
    target.replace = Box::new(|| Err(Replace::Refused(std::io::ErrorKind::PermissionDenied.into())));

    let refused = wait(compact(&store, target, SMALL));

    assert!(matches!(refused, Err(CompactError::Write(_))), "{refused:?}");
    wait(store.write(command(1, create(ADA)))).unwrap();
    assert!(stored(&store_on(&disk.after_power_loss(), |_, _| {}), ADA).unwrap().is_some());
}

/// It is not certain which file a restart will find, so no further write may be confirmed.
#[test]
fn a_rename_with_an_unknown_outcome_ends_the_store() {
    let store = store_on(&Disk::default(), |_, _| {});
    let (mut target, _) = Beside::new();
    target.replace = Box::new(|| Err(Replace::Unknown(std::io::Error::other("fsync"))));

    wait(compact(&store, target, SMALL)).unwrap_err();

    wait(store.failed().cancelled());
    assert!(matches!(wait(store.write(command(1, create(ADA)))), Err(StoreError::Failed)));
}

/// A page of work that began before the swap ends after it.
#[test]
fn a_reader_of_the_old_file_reads_on_after_the_swap() {
    let disk = Disk::default();
    let store = Arc::new(store_on(&disk, |_, _| {}));
    (1..200).for_each(|mpid| drop(wait(store.write(command(1, create(mpid)))).unwrap()));
    let (id, snapshot) = (store.workspace_id(&workspace()).unwrap(), store.snapshot().unwrap());
    let (mut target, _) = Beside::new();
    let (renamed, is_renamed) = std::sync::mpsc::channel();
    target.replace = Box::new(move || {
        renamed.send(()).unwrap();
        Ok(())
    });
    let compacting = Arc::clone(&store);
    let compaction = std::thread::spawn(move || wait(compact(&compacting, target, SMALL)));
    is_renamed.recv().unwrap();
    wait(store.write(command(2, increment(ADA)))).unwrap(); // The writer has done the step before.

    for mpid in 1..200 {
        let mpid = crate::model::Mpid::new(mpid).unwrap();
        let read = snapshot.profile(id, mpid, crate::model::Micros::new(0), <[u8]>::len);
        assert!(read.unwrap().is_some());
    }
    assert!(!compaction.is_finished(), "the old file is open for its readers");
    drop(snapshot);
    compaction.join().unwrap().unwrap();
}

#[test]
fn a_compaction_ends_when_it_is_stopped_and_when_the_store_is_closed() {
    let store = Arc::new(store_on(&Disk::default(), |_, _| {}));
    wait(store.write(command(1, create(ADA)))).unwrap();
    let stop = CancellationToken::new();
    let (mut target, _) = Beside::new();
    let stopping = stop.clone();
    target.at_start = Box::new(move || stopping.cancel());
    let stopped = wait(store.compact_to(Mutex::new(target), SMALL, stop));
    assert!(matches!(stopped, Err(CompactError::Closed)), "{stopped:?}");
    assert!(stored(&store, ADA).unwrap().is_some());

    let (mut target, _) = Beside::new();
    let (begun, has_begun) = std::sync::mpsc::channel();
    target.at_step = Box::new(move || {
        let _ = begun.send(()); // The test waits for the first only.
    });
    let compacting = Arc::clone(&store);
    let compaction = std::thread::spawn(move || wait(compact(&compacting, target, SMALL)));
    has_begun.recv().unwrap();
    wait(store.close());
    let ended = compaction.join().unwrap();
    assert!(ended.is_ok() || matches!(ended, Err(CompactError::Closed)), "{ended:?}");
}
