//! Stores in directories: what remains in their files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::harness::*;
use crate::config::StoreConfig;
use crate::model::Mpid;
use crate::proto::v1::ProfilePatch;
use crate::store::{CompactError, Store, compact_offline};

/// Begins each value that is removed.
const REMOVED: &str = "removed-value-";
/// Begins each value that stays.
const KEPT: &str = "kept-value-";

fn in_directory(directory: &TempDir) -> StoreConfig {
    StoreConfig { data_dir: directory.path().join("data"), min_free_bytes: 0, ..config() }
}

fn set_note(mpid: i64, note: &str) -> crate::command::Update {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(note.into())) };
    let fields = [("note".to_owned(), value)].into();
    let patch = ProfilePatch { set_user_attributes: Some(prost_types::Struct { fields }), ..ProfilePatch::default() };
    crate::command::Update { create_as: Mpid::new(mpid), ..update(mpid, patch) }
}

/// Plants values and removes them: from half of the profiles by a delete, from the others by an update. The log is
/// trimmed, so that it holds none of them either.
async fn plant_and_remove(store: &Store) {
    for mpid in 1..=60 {
        store.write(command(1, set_note(mpid, &format!("{REMOVED}{mpid}-")))).await.unwrap();
    }
    for mpid in 1..=60 {
        let kept = set_note(mpid, &format!("{KEPT}{mpid}-"));
        store.write(command(2, kept)).await.unwrap();
        if mpid % 2 == 0 {
            store.write(command(3, delete(mpid))).await.unwrap();
        }
    }
    for mpid in 100..=400 {
        store.write(command(DAY, create(mpid))).await.unwrap();
    }
    store.write(command(DAY, trim_by_age(1))).await.unwrap();
}

fn occurrences(file: &Path, text: &str) -> usize {
    let bytes = fs::read(file).unwrap();
    bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
}

fn leftovers(config: &StoreConfig) -> Vec<String> {
    let names = fs::read_dir(&config.data_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

async fn check(config: &StoreConfig) {
    let file = config.data_dir.join("cameo.redb");
    assert_eq!(occurrences(&file, REMOVED), 0, "removed values are gone");
    assert!(occurrences(&file, &format!("{KEPT}59-")) > 0, "others are still there");
    assert_eq!(occurrences(&file, &format!("{KEPT}60-")), 0, "its profile is deleted");
    assert_eq!(leftovers(config), ["cameo.lock", "cameo.redb"]);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let store = Store::open(config, |_, _| {}).unwrap();
    assert!(stored(&store, 59).unwrap().is_some() && stored(&store, 60).unwrap().is_none());
    assert_eq!((log(&store).head.get(), log(&store).floor.get()), (60 + 60 + 30 + 301, 60 + 60 + 30));
    store.close().await;
}

#[tokio::test]
async fn no_removed_value_remains_in_the_file_of_a_closed_store() {
    let directory = TempDir::new().unwrap();
    let config = in_directory(&directory);
    let file = config.data_dir.join("cameo.redb");
    let store = Store::open(&config, |_, _| {}).unwrap();
    plant_and_remove(&store).await;
    let locked = compact_offline(&config);
    assert!(matches!(locked, Err(CompactError::Locked { .. })), "{locked:?}");
    store.close().await;
    drop(store);
    assert!(occurrences(&file, REMOVED) > 0, "redb keeps what was removed");
    let before = fs::metadata(&file).unwrap().blocks() * 512;

    let compacted = compact_offline(&config).unwrap();

    let after = fs::metadata(&file).unwrap().blocks() * 512;
    assert_eq!((compacted.bytes_before, compacted.bytes_after), (before, after));
    assert!(after < before);
    check(&config).await;
}

#[tokio::test]
async fn no_removed_value_remains_in_the_file_of_an_open_store() {
    let directory = TempDir::new().unwrap();
    let config = in_directory(&directory);
    let file = config.data_dir.join("cameo.redb");
    let store = Store::open(&config, |_, _| {}).unwrap();
    plant_and_remove(&store).await;
    assert!(occurrences(&file, REMOVED) > 0, "redb keeps what was removed");
    let old = fs::metadata(&file).unwrap().ino();

    let compacted = store.compact(CancellationToken::new()).await.unwrap();

    assert!(compacted.bytes_after < compacted.bytes_before);
    assert_ne!(fs::metadata(&file).unwrap().ino(), old);
    assert_eq!(occurrences(&file, REMOVED), 0, "also while the store is open");
    store.close().await;
    drop(store);
    check(&config).await;
}

/// Writers write as fast as they can, while the store is compacted again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_write_survives_compactions() {
    let directory = TempDir::new().unwrap();
    let config = StoreConfig { scrub_rate: 100_000, ..in_directory(&directory) };
    let store = Arc::new(Store::open(&config, |_, _| {}).unwrap());
    let stop = CancellationToken::new();
    let writers: Vec<_> = (1..=4)
        .map(|mpid| {
            let (store, stop) = (Arc::clone(&store), stop.clone());
            tokio::spawn(async move {
                let mut confirmed = 0;
                while !stop.is_cancelled() {
                    let update = crate::command::Update { create_as: Mpid::new(mpid), ..increment(mpid) };
                    store.write(command(1, update)).await.unwrap();
                    confirmed += 1;
                    assert!(stored(&store, mpid).unwrap().is_some(), "a read sees it");
                }
                confirmed
            })
        })
        .collect();

    for _ in 0..5 {
        store.compact(CancellationToken::new()).await.unwrap();
    }
    stop.cancel();

    let mut confirmed = 0_u64;
    for writer in writers {
        confirmed += writer.await.unwrap();
    }
    assert_eq!(store.scrub_report().damaged, 0);
    store.close().await;
    drop(store);
    let store = Store::open(&config, |_, _| {}).unwrap();
    assert_eq!(log(&store).head.get(), confirmed);
    assert_eq!(events(&store).len() as u64, confirmed);
}

#[tokio::test]
async fn the_leftover_of_an_interrupted_compaction_is_removed() {
    let directory = TempDir::new().unwrap();
    let config = in_directory(&directory);
    let leftover = config.data_dir.join("cameo.redb.compact");
    let absent = compact_offline(&config);
    assert!(matches!(absent, Err(CompactError::Absent { .. })), "{absent:?}");
    assert!(!config.data_dir.exists(), "nothing is created");
    let store = Store::open(&config, |_, _| {}).unwrap();
    store.write(command(1, create(ADA))).await.unwrap();
    store.close().await;
    drop(store);

    fs::write(&leftover, "half").unwrap();
    let store = Store::open(&config, |_, _| {}).unwrap();
    assert!(!leftover.exists());
    store.close().await;
    drop(store);

    fs::write(&leftover, "half").unwrap();
    compact_offline(&config).unwrap();
    assert!(!leftover.exists());
    assert!(stored(&Store::open(&config, |_, _| {}).unwrap(), ADA).unwrap().is_some());
}

#[tokio::test]
async fn a_disk_without_room_for_a_second_file_is_refused_at_once() {
    let directory = TempDir::new().unwrap();
    let config = StoreConfig { min_free_bytes: u64::MAX / 2, ..in_directory(&directory) };
    let store = Store::open(&config, |_, _| {}).unwrap();
    let refused = store.compact(CancellationToken::new()).await;
    assert!(matches!(refused, Err(CompactError::DiskFull { .. })), "{refused:?}");
    store.close().await;
    drop(store);
    let refused = compact_offline(&config);
    assert!(matches!(refused, Err(CompactError::DiskFull { .. })), "{refused:?}");
    assert_eq!(leftovers(&config), ["cameo.lock", "cameo.redb"]);
}
