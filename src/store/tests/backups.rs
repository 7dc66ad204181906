//! Backups and what they restore: amid writes, damaged anywhere, interrupted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use super::determinism::rows;
use super::disk::Disk;
use super::harness::*;
use super::script::Script;
use crate::command::Command;
use crate::config::StoreConfig;
use crate::model::cursor::CursorSpace;
use crate::model::invalid::CursorError;
use crate::model::{Cursor, Place};
use crate::store::backup::Bounds;
use crate::store::rows::FORMER_LOGS;
use crate::store::{
    Backup, BackupError, BadBackup, CompactError, OpenError, RestoreError, Store, backup_offline, check, restore,
    verify_backup,
};

/// So small that a backup takes many steps, and the tail is sent between them.
const SMALL: Bounds = Bounds { step: 5_000, tail: 64 << 20, ahead: 0 };
const FILE: &str = "cameo.redb";

/// Writes each command after the one before.
async fn write_all(store: &Store, commands: impl IntoIterator<Item = Command>) {
    for command in commands {
        drop(store.write(command).await); // Some are refused, in either store.
    }
}

/// Reads the rest of a backup. `between` runs before each piece.
async fn read(mut backup: Backup, mut between: impl AsyncFnMut()) -> Result<Vec<u8>, BackupError> {
    let mut file = Vec::new();
    loop {
        between().await;
        let Some(piece) = backup.next().await? else { return Ok(file) };
        assert!(piece.bytes.len() <= 256 << 10);
        file.extend_from_slice(&piece.bytes);
    }
}

async fn backup_of(store: &Arc<Store>) -> Vec<u8> {
    read(store.backup().await.unwrap(), async || {}).await.unwrap()
}

/// The rows of the store in a directory, without the facts about the file.
fn rows_in(directory: &Path) -> super::determinism::Rows {
    without_facts(rows(&disk_of(&fs::read(directory.join(FILE)).unwrap())))
}

fn without_facts(mut rows: super::determinism::Rows) -> super::determinism::Rows {
    rows.retain(|(table, _), _| *table != "meta");
    rows
}

fn restored(backup: &[u8]) -> (TempDir, std::path::PathBuf) {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    restore(backup, &data, |_| {}).unwrap();
    (directory, data)
}

fn open(data: &Path) -> Arc<Store> {
    Arc::new(Store::open(&config_of(data), |_, _| {}).unwrap())
}

fn config_of(data: &Path) -> StoreConfig {
    StoreConfig { data_dir: data.to_owned(), min_free_bytes: 0, ..config() }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A store with rows in every table, and its backup.
async fn busy() -> (Arc<Store>, Vec<u8>) {
    let store = Arc::new(store());
    let mut script = Script::new(5);
    for _ in 0..60 {
        write_all(&store, script.round()).await;
    }
    let backup = backup_of(&store).await;
    (store, backup)
}

/// What is restored is the store as it was when the backup ended: byte for byte.
#[tokio::test]
async fn a_backup_amid_writes_restores_the_store_as_it_was_at_its_end() {
    let late = Bounds { ahead: usize::MAX, ..SMALL }; // The tail is sent once, at the end.
    for (bounds, writes) in [(SMALL, 60), (late, 60), (Bounds::default(), 10)] {
        let disk = Disk::default();
        let store = Arc::new(store_on(&disk, |_, _| {}));
        let mut script = Script::new(11);
        for _ in 0..120 {
            write_all(&store, script.round()).await;
        }
        let backup = store.backup_with(bounds).await.unwrap();
        write_all(&store, script.round()).await;
        let mut steps = 0;

        let backup = read(backup, async || {
            steps += 1;
            if steps <= writes {
                write_all(&store, script.round()).await;
            }
        });
        let backup = backup.await.unwrap();

        assert!(steps > writes + 2, "{steps} pieces: nothing was written after the last");
        store.close().await;
        let (_directory, data) = restored(&backup);
        assert!(rows_in(&data) == without_facts(rows(&disk)), "{bounds:?}");
    }
}

/// Writers do not wait for the steps, so the backup ends at any moment of theirs. A check notices a hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_ends_between_two_commits_of_many_writers() {
    const BACKUPS: usize = 8;
    let store = Arc::new(store());
    write_all(&store, (1..=40).map(|mpid| command(1, create(mpid)))).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = |first: i64| {
        let (store, is_over) = (Arc::clone(&store), Arc::clone(&is_over));
        tokio::spawn(async move {
            for round in 1_i64.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let mpid = first + round % 10;
                write_all(&store, [command(round, delete(mpid)), command(round, create(mpid))]).await;
            }
        })
    };
    let writers: Vec<_> = [1, 11, 21, 31].map(writer).into();
    for _ in 0..BACKUPS {
        let before = head(&store);
        let backup = read(store.backup_with(SMALL).await.unwrap(), async || {}).await.unwrap();
        let after = head(&store);
        let (_directory, data) = restored(&backup);
        assert_eq!(check(&data, |_| {}).unwrap().findings, []);
        assert!((before..=after).contains(&head(&open(&data))));
    }
    is_over.store(true, Ordering::Relaxed);
    futures_util::future::join_all(writers).await;
}

/// The last write before the last step is in the backup, and the first after it is not.
#[tokio::test]
async fn a_write_after_the_end_of_a_backup_is_not_in_it() {
    let store = Arc::new(store());
    write_all(&store, [command(1, create(ADA))]).await;
    let mut backup = store.backup().await.unwrap();
    write_all(&store, [command(2, create(GRACE))]).await;
    let mut file = Vec::new();
    while let Some(piece) = backup.next().await.unwrap() {
        file.extend_from_slice(&piece.bytes);
        if verify_backup(&*file).is_ok() {
            write_all(&store, [command(3, create(ALAN))]).await;
        }
    }
    assert_eq!(head(&store), Place::after(3));

    let (_directory, data) = restored(&file);

    let restored = open(&data);
    assert_eq!(head(&restored), Place::after(2));
    let exists = [ADA, GRACE, ALAN].map(|mpid| stored(&restored, mpid).unwrap().is_some());
    assert_eq!(exists, [true, true, false]);
}

#[tokio::test]
async fn a_closed_store_gives_the_backup_of_an_open_one() {
    let (store, online) = busy().await;
    let (_directory, data) = restored(&online);
    let mut offline = Vec::new();
    let mut told = Vec::new();

    backup_offline(&config_of(&data), &mut offline, |progress| told.push(progress)).unwrap();

    let (_second, again) = restored(&offline);
    assert!(rows_in(&again) == rows_in(&data));
    let last = told.last().unwrap();
    assert_eq!(last.rows, last.rows_expected);
    assert!(told.is_sorted_by_key(|progress| progress.rows));
    drop(store);
    let in_use = open(&data);
    let refused = backup_offline(&config_of(&data), Vec::new(), |_| {});
    assert!(matches!(refused, Err(BackupError::Locked { .. })), "{refused:?}");
    drop(in_use);
    let refused = backup_offline(&config_of(&data.join("nowhere")), Vec::new(), |_| {});
    assert!(matches!(refused, Err(BackupError::Absent { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_restored_store_is_only_for_its_user_and_says_what_it_is() {
    let (_, backup) = busy().await;
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("new/data");
    let mut told = Vec::new();

    let summary = restore(&*backup, &data, |rows| told.push(rows)).unwrap();

    assert_eq!(names_in(&data), ["cameo.lock", FILE]);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!([mode(&data), mode(&data.join(FILE))], [0o700, 0o600]);
    assert_eq!(Some(&summary.rows), told.last(), "nothing was written meanwhile");
    assert_eq!(summary, verify_backup(&*backup).unwrap());
    assert_eq!(summary.cameo_version, env!("CARGO_PKG_VERSION"));
}

/// Cursors of the old log go on up to the backup, and those after it are refused, also once the new log is longer.
#[tokio::test]
async fn a_restored_log_takes_the_cursors_of_its_former_logs_up_to_where_it_continues_them() {
    let mut store = Arc::new(store());
    let mut directories = Vec::new();
    let mut made: Vec<(CursorSpace, u64)> = Vec::new(); // The logs, and where the next one began.
    for round in 1..=3 {
        write_all(&store, (0..5).map(|_| command(round, increment_or_create(ADA)))).await;
        made.push((store.cursors(&workspace()), head(&store).get()));
        let backup = backup_of(&store).await;
        write_all(&store, (0..9).map(|_| command(round, increment_or_create(ADA)))).await; // They are lost.
        let (directory, data) = restored(&backup);
        directories.push(directory);
        store = open(&data);
    }
    write_all(&store, (0..50).map(|_| command(9, increment_or_create(ADA)))).await;
    let head = head(&store);
    assert_eq!(head, Place::after(65));
    assert_eq!(made.iter().map(|(_, end)| *end).collect::<Vec<_>>(), [5, 10, 15]);

    for (cursors, end) in made {
        let parse = |place| {
            let text = Cursor::to_string(&cursors.at(Place::after(place)));
            store.known_cursors(&workspace()).parse("cursor", &text, head)
        };
        for place in 0..=end {
            assert_eq!(parse(place), Ok(Place::after(place).into()));
        }
        let lost = Err(CursorError::Lost { field: "cursor", through: Place::after(end) }.into());
        assert_eq!([parse(end + 1), parse(65), parse(1_000)], [lost.clone(), lost.clone(), lost]);
    }
}

fn increment_or_create(mpid: i64) -> crate::command::Update {
    crate::command::Update { create_as: crate::model::Mpid::new(mpid), ..increment(mpid) }
}

/// A workspace that was born after the backup is unborn again, and its cursors are lost from the first event on.
#[tokio::test]
async fn a_workspace_that_a_backup_does_not_have_has_lost_all_its_cursors() {
    let store = Arc::new(store());
    let backup = backup_of(&store).await;
    write_all(&store, [command(1, create(ADA))]).await;
    let old = store.cursors(&workspace());
    let (_directory, data) = restored(&backup);
    let store = open(&data);
    for is_born in [false, true] {
        let known = store.known_cursors(&workspace());
        let parse = |place| known.parse("cursor", &old.at(Place::after(place)).to_string(), Place::after(9));
        assert_eq!(parse(0), Ok(Place::START.into()), "{is_born}");
        assert_eq!(parse(1), Err(CursorError::Lost { field: "cursor", through: Place::START }.into()), "{is_born}");
        write_all(&store, [command(1, create(ADA))]).await;
    }
}

#[tokio::test]
async fn a_store_remembers_so_many_former_logs_and_forgets_the_oldest() {
    let mut store = Arc::new(store());
    let mut directories = Vec::new();
    let mut logs = Vec::new();
    for _ in 0..=FORMER_LOGS {
        logs.push(store.cursors(&workspace()).at(Place::START).to_string());
        let (directory, data) = restored(&backup_of(&store).await);
        directories.push(directory);
        store = open(&data);
    }
    let known = store.known_cursors(&workspace());
    let parse = |text: &String| known.parse("cursor", text, Place::START);
    assert_eq!(parse(&logs[0]), Err(CursorError::ForeignLog { field: "cursor" }.into()));
    assert!(logs[1..].iter().all(|log| parse(log).is_ok()));
}

#[tokio::test]
async fn one_backup_runs_at_a_time_and_none_beside_a_compaction() {
    let store = Arc::new(store());
    write_all(&store, [command(1, create(ADA))]).await;
    let first = store.backup().await.unwrap();
    assert!(matches!(store.backup().await, Err(BackupError::Running)));
    let (target, _) = super::compacting::Beside::new();
    let compaction = super::compacting::compact(&store, target, crate::store::compact::Bounds::default()).await;
    assert!(matches!(compaction, Err(CompactError::BackingUp)), "{compaction:?}");

    drop(first);

    assert!(verify_backup(&*backup_of(&store).await).is_ok(), "a backup that is given up makes room");
    assert!(store.backup().await.is_ok(), "and so does one that has ended");
}

/// A slow reader costs bounded memory: the backup is given up, not the writes.
#[tokio::test]
async fn a_backup_ends_when_more_is_written_than_it_may_keep() {
    let store = Arc::new(store());
    let bounds = Bounds { tail: 100_000, ..Bounds::default() };
    let mut backup = store.backup_with(bounds).await.unwrap();
    assert!(backup.next().await.unwrap().is_some());
    for mpid in 1..=3 {
        store.write(command(1, set_large_attributes(mpid))).await.unwrap();
    }
    let ended = read(backup, async || {}).await;
    assert!(matches!(ended, Err(BackupError::Overtaken)), "{ended:?}");
}

#[tokio::test]
async fn a_backup_of_a_store_that_closes_is_not_whole() {
    let store = Arc::new(store());
    write_all(&store, (1..50).map(|mpid| command(1, create(mpid)))).await;
    let mut backup = store.backup_with(SMALL).await.unwrap();
    let first = backup.next().await.unwrap().unwrap();
    store.close().await;
    assert!(matches!(backup.next().await, Err(BackupError::Closed)));
    assert!(matches!(backup.next().await, Err(BackupError::Closed)), "and stays so");
    assert!(matches!(verify_backup(&*first.bytes), Err(BadBackup::Truncated { .. })));
}

#[tokio::test]
async fn a_damaged_row_ends_a_backup() {
    let disk = super::damage::disk_with(3, 0).await;
    tamper(&disk, |transaction| super::damage::turn_bit_of_profile(transaction, 2));
    let store = Arc::new(store_on(&disk, |_, _| {}));
    let ended = read(store.backup().await.unwrap(), async || {}).await;
    assert!(matches!(&ended, Err(BackupError::Damaged { table }) if table == "profile"), "{ended:?}");
}

#[tokio::test]
async fn a_directory_that_is_not_empty_is_left_alone() {
    let (_, backup) = busy().await;
    let (_directory, data) = restored(&backup);
    let before = xxh3_64(&fs::read(data.join(FILE)).unwrap());

    let refused = restore(&*backup, &data, |_| {});

    assert!(matches!(refused, Err(RestoreError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(xxh3_64(&fs::read(data.join(FILE)).unwrap()), before);
    let other = TempDir::new().unwrap();
    fs::write(other.path().join("notes.txt"), "mine").unwrap();
    assert!(matches!(restore(&*backup, other.path(), |_| {}), Err(RestoreError::NotEmpty { .. })));
    assert_eq!(names_in(other.path()), ["notes.txt"]);
}

/// As a kill in the middle of a restore leaves it.
#[tokio::test]
async fn a_server_does_not_start_on_a_restore_that_did_not_finish_and_the_next_restore_replaces_it() {
    let (_, backup) = busy().await;
    let directory = TempDir::new().unwrap();
    let data = directory.path();
    fs::write(data.join("cameo.redb.restore"), "half").unwrap();
    let refused = Store::open(&config_of(data), |_, _| {});
    assert!(matches!(refused, Err(OpenError::Unfinished { .. })), "{refused:?}");
    assert!(!data.join(FILE).exists(), "there is no empty store either");

    restore(&*backup, data, |_| {}).unwrap();

    assert_eq!(names_in(data), ["cameo.lock", FILE]);
    open(data);
}

/// Neither a restore nor a check takes this for a backup, and a failed restore leaves nothing.
fn assert_unusable(bytes: &[u8], what: &str) {
    assert!(verify_backup(bytes).is_err(), "{what}");
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    assert!(matches!(restore(bytes, &data, |_| {}), Err(RestoreError::Backup(_))), "{what}");
    assert_eq!(names_in(directory.path()), [""; 0], "{what}");
}

#[tokio::test]
async fn a_backup_that_is_cut_or_longer_is_not_restored() {
    let (_, backup) = busy().await;
    assert!(backup.len() > 10_000);
    for length in (0..40).chain([100, 1_000, backup.len() / 2]).chain(backup.len() - 40..backup.len()) {
        assert_unusable(&backup[..length], &format!("cut at {length}"));
    }
    assert_unusable(&[&backup[..], b"x"].concat(), "longer");
    assert_unusable(&[&backup[..], &backup[..]].concat(), "twice");
}

/// Whole frames of another backup, or in another order.
#[tokio::test]
async fn frames_in_another_order_are_no_backup() {
    let store = Arc::new(store());
    write_all(&store, (1..60).map(|mpid| command(1, create(mpid)))).await;
    let backup = read(store.backup_with(SMALL).await.unwrap(), async || {}).await.unwrap();
    let mut frames = Vec::new();
    let mut at = 8;
    while at < backup.len() {
        let length = 16 + u32::from_le_bytes(backup[at..at + 4].try_into().unwrap()) as usize;
        frames.push(&backup[at..at + length]);
        at += length;
    }
    assert!(frames.len() > 5);
    for at in 1..frames.len() - 1 {
        let mut swapped = frames.clone();
        swapped.swap(at, at + 1);
        let mut missing = frames.clone();
        missing.remove(at);
        let mut twice = frames.clone();
        twice.insert(at, frames[at]);
        for frames in [swapped, missing, twice] {
            assert_unusable(&[&backup[..8], &frames.concat()].concat(), &format!("at {at}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One bit anywhere.
    #[test]
    fn a_flipped_bit_anywhere_in_a_backup_is_found(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut backup = BACKUP.clone();
        let at = at.index(backup.len());
        backup[at] ^= 1 << bit;
        assert_unusable(&backup, &format!("bit {bit} of byte {at} of {}", backup.len()));
    }
}

static BACKUP: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::spawn(move || runtime.block_on(busy()).1).join().unwrap()
});
