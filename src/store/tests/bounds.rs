//! Bounds: the bytes, the pages and the results of a batch, the queue, the free disk space, and the workspaces.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use super::disk::Disk;
use super::harness::*;
use crate::command::Command;
use crate::config::StoreConfig;
use crate::model::{Limits, Workspace};
use crate::proto::v1::{Profile, WriteOutcome};
use crate::store::apply::{Reply, State, decide};
use crate::store::logs::{Logs, Workspaces};
use crate::store::tables::Tables;
use crate::store::{PAGE, ReadClass, Store, StoreError};

/// The most bytes of pages that a batch makes dirty.
const DIRTY_BYTES: usize = 128 << 20;
/// About as many bytes of results as a batch holds.
const HELD_BYTES: usize = 8_000_000;
/// Free space that other processes may take during a test. It is far more than a batch takes.
const ROOM_FOR_OTHERS: u64 = 1 << 30;

/// Decides a command against the store on a disk, and writes nothing.
fn decided<T>(
    disk: &Disk,
    command: &Command,
    reply: Reply,
    read: impl FnOnce(crate::store::apply::Decision) -> T,
) -> T {
    let opened = open(database(disk)).unwrap();
    let transaction = opened.database.begin_write().unwrap();
    let workspaces = Arc::new(Workspaces::new(opened.facts.workspaces));
    let logs = Logs::new(workspaces, opened.facts.heads);
    let tables = Tables::open(&transaction).unwrap();
    read(decide(&State { origin: ORIGIN, tables: &tables, logs: &logs }, command, reply).unwrap())
}

/// A copy of the profile for each record would be costly: 8,000 such records once took a gigabyte.
#[tokio::test]
async fn an_import_gets_no_copy_of_the_profile() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, set_large_attributes(ADA))).await.unwrap();
    store.write(with_id(command(1, increment(ADA)), "r")).await.unwrap();
    store.close().await;
    let check = Command { validate_only: true, ..command(2, increment(ADA)) };
    let (nothing, repeat) = (command(2, set_large_attributes(ADA)), with_id(command(2, increment(ADA)), "r"));
    for command in [check, nothing, repeat] {
        let profile =
            |reply| decided(&disk, &command, reply, |decision| decision.written.profile.map(|bytes| bytes.len()));
        assert!(profile(Reply::WithProfile).unwrap() > 200_000, "{command:?}");
        assert_eq!(profile(Reply::WithoutProfile), None);
    }
}

/// Calls with large results go into several batches, even if they write nothing.
#[tokio::test]
async fn the_results_of_a_batch_are_bounded_even_if_nothing_is_written() {
    let store = store();
    store.write(command(1, set_large_attributes(ADA))).await.unwrap();
    store.write(with_id(command(1, increment(ADA)), "r")).await.unwrap();
    let check = || Command { validate_only: true, ..command(2, increment(ADA)) };
    let repeat = || with_id(command(2, increment(ADA)), "r");
    let held = Arc::new(Mutex::new((0, 0)));
    let counted = async |command| {
        let answer = store.write(command).await.unwrap();
        let mut held = held.lock().unwrap();
        held.0 += answer.profile.unwrap().len();
        held.1 += 1;
    };
    let calls = (0..100).flat_map(|_| [counted(check()), counted(repeat())]);
    join_all(calls).await;
    let (bytes, answers) = *held.lock().unwrap();
    assert_eq!(answers, 200);
    assert!(bytes > 4 * HELD_BYTES, "as much as several batches: {bytes}");
}

/// Each row of the index lies on a page of its own. So a few records with many identities make as many pages dirty as
/// many records with few.
#[tokio::test]
async fn a_batch_is_bounded_by_the_pages_that_its_identities_make_dirty() {
    const IDENTITIES: usize = 100;
    const PAGES: usize = IDENTITIES + 2; // One more for the profile, and one for its event.
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&batches);
    let store = store_on(&Disk::default(), move |_, commit| told.lock().unwrap().push(commit.events.len()));
    let record = |mpid| {
        let emails: Vec<_> = (0..IDENTITIES).map(|n| format!("{mpid}-{n}@x")).collect();
        command(1, create_with(mpid, with_emails(emails.iter().map(String::as_str))))
    };
    let import = async |mpid| store.import(record(mpid)).await?.await;
    for answer in join_all((1..=1_056).map(import)).await {
        assert_eq!(answer.unwrap().outcome, WriteOutcome::Created);
    }
    let most = DIRTY_BYTES / (PAGES * PAGE) + 1;
    let batches = batches.lock().unwrap();
    assert!(batches.iter().all(|records| *records <= most), "{batches:?}, at most {most}");
    assert!(batches.len() > 3, "{batches:?}");
}

#[tokio::test]
async fn a_disk_with_too_little_free_space_refuses_writes_but_not_checks() {
    let disk = rustix::fs::statvfs(".").unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&batches);
    let config = StoreConfig { min_free_bytes: free.saturating_sub(ROOM_FOR_OTHERS), ..config() };
    let store = start(database(&Disk::default()), &config, move |_, commit| {
        told.lock().unwrap().push(commit.events.len());
    });
    let store = store.unwrap();
    assert!(store.write(command(1, create(ADA))).await.is_ok());

    let full = StoreConfig { min_free_bytes: u64::MAX, ..config };
    let store = start(database(&Disk::default()), &full, |_, _| {}).unwrap();
    let refused = store.write(command(1, create(ADA))).await;
    assert!(matches!(refused, Err(StoreError::DiskFull { .. })), "{refused:?}");
    let check = Command { validate_only: true, ..command(1, create(ADA)) };
    assert!(store.write(check).await.is_ok(), "a check writes nothing");
}

#[tokio::test]
async fn a_workspace_past_the_limit_is_not_created() {
    let store = store();
    let with_limit = |name: &str, limit, command: Command| {
        let limits = Limits { workspaces: limit, ..Limits::default() };
        Command { workspace: Workspace::parse(name).unwrap(), limits, ..command }
    };
    let create = |name: &str, limit| with_limit(name, limit, command(1, create(ADA)));
    assert!(store.write(create("a/b/1", 2)).await.is_ok());
    assert!(store.write(create("a/b/2", 2)).await.is_ok());
    let refused = store.write(create("a/b/3", 2)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWorkspaces { limit: 2 })), "{refused:?}");
    let check = Command { validate_only: true, ..create("a/b/3", 2) };
    assert!(matches!(store.write(check).await, Err(StoreError::TooManyWorkspaces { limit: 2 })));
    assert_eq!(store.workspace_id(&Workspace::parse("a/b/3").unwrap()), None);
    let existing = with_limit("a/b/2", 1, command(1, increment(ADA)));
    assert!(store.write(existing).await.is_ok(), "an existing workspace stays writable after the limit is lowered");
    assert!(store.write(create("a/b/3", 3)).await.is_ok());
}

#[test]
fn a_command_weighs_what_it_takes_once_parsed() {
    let small = command(1, create(ADA)).weight();
    let list = (0..10_000).map(|_| prost_types::Value {
        kind: Some(prost_types::value::Kind::StructValue(prost_types::Struct {
            fields: [("k".to_owned(), prost_types::Value { kind: None })].into(),
        })),
    });
    let list = prost_types::ListValue { values: list.collect() };
    let attributes =
        [("list".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) })];
    let profile =
        Profile { user_attributes: Some(prost_types::Struct { fields: attributes.into() }), ..Profile::default() };
    let create = crate::command::Create {
        profile: Box::new(crate::model::NewProfile { profile, identities: Vec::new() }),
        ..create(ADA)
    };
    let large = command(1, create).weight();
    assert!(small < 2_000, "{small}");
    assert!(large > 10_000 * 600, "each entry takes a node of a B-tree: {large}");
    let patch = command(1, set_large_attributes(ADA)).weight();
    assert!(patch > 4 * 60_000, "a patch: {patch}");
    let etag = crate::model::Etag::parse("x".repeat(64)).unwrap();
    let with_etag = command(1, crate::command::Delete { etag, ..delete(ADA) }).weight();
    assert!(with_etag >= command(1, delete(ADA)).weight() + 64);
}

/// Exactly the calls that succeeded have written an event.
#[tokio::test]
async fn a_call_that_a_full_queue_refuses_leaves_no_trace() {
    let config = StoreConfig { queue_commands: 1, ..config() };
    let store: Store = start(database(&Disk::default()), &config, |_, _| {}).unwrap();
    let answers = join_all((1..=50).map(|mpid| store.write(command(1, create(mpid))))).await;
    let written = answers.iter().flatten().count() as u64;
    assert_eq!(head(&store).get(), written);
}

/// Scans that never end hold up neither the other classes nor, once they end, each other.
#[tokio::test]
async fn a_flood_of_one_class_of_reads_leaves_the_others_their_threads() {
    const READS: usize = 2;
    let config = StoreConfig { read_concurrency: READS, ..config() };
    let store = Arc::new(start(database(&Disk::default()), &config, |_, _| {}).unwrap());
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let ends = Arc::new(Mutex::new(ends));
    let scans: Vec<_> = (0..3 * READS)
        .map(|_| {
            let (store, ends) = (Arc::clone(&store), Arc::clone(&ends));
            tokio::spawn(async move {
                let scan = move |_: &Store| -> Result<(), StoreError> {
                    let _ = ends.lock().unwrap().recv(); // Until the test drops the sender.
                    Ok(())
                };
                store.on_read_pool(ReadClass::Scan, None, scan).await
            })
        })
        .collect();
    for class in [ReadClass::Batch, ReadClass::Feed, ReadClass::Status] {
        for _ in 0..3 * READS {
            let read: Result<(), StoreError> = store.on_read_pool(class, None, |_| Ok(())).await;
            read.unwrap();
        }
    }
    assert!(scans.iter().all(|scan| !scan.is_finished()));
    drop(end);
    for scan in scans {
        scan.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_store_that_closes_refuses_the_reads_that_wait() {
    let config = StoreConfig { read_concurrency: 1, ..config() };
    let store = Arc::new(start(database(&Disk::default()), &config, |_, _| {}).unwrap());
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let read = |ends: Option<std::sync::mpsc::Receiver<()>>| {
        let store = Arc::clone(&store);
        async move {
            let wait = move |_: &Store| {
                ends.map(|ends| ends.recv());
                Ok::<_, StoreError>(())
            };
            store.on_read_pool(ReadClass::Scan, None, wait).await
        }
    };
    let (running, waiting) = (read(Some(ends)), read(None));
    let close = async {
        store.close().await;
        drop(end);
    };
    let (running, waiting, ()) = tokio::join!(running, waiting, close);
    assert!(running.is_ok(), "it had its turn");
    assert!(matches!(waiting, Err(StoreError::Closed)), "{waiting:?}");
}

/// A workspace floods the writer with large updates. A small write of another workspace gets into the next commit.
#[tokio::test]
async fn a_small_write_does_not_wait_for_the_large_ones_of_others() {
    const LARGE: usize = 100;
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let commits = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&commits);
    let store = store_on(&Disk::default(), move |_, commit| {
        told.lock().unwrap().push(commit.events.iter().map(|event| event.workspace.clone()).collect::<Vec<_>>());
        let _ = begun.send(());
        let _ = goes.recv(); // The first commit waits here, and what follows queues up.
    });
    let other = Workspace::parse("a/b/other").unwrap();
    let small = Command { workspace: other.clone(), ..command(1, create(GRACE)) };
    let first = store.write(command(1, create(ALAN)));
    let queue_up = async {
        tokio::task::spawn_blocking(move || is_begun.recv()).await.unwrap().unwrap();
        let large = (100..).take(LARGE).map(|mpid| store.write(command(2, set_large_attributes(mpid))));
        let mut all = Box::pin(async { tokio::join!(join_all(large), store.write(small)) });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(all.as_mut().poll(&mut context).is_pending(), "they wait in the queue");
        drop(go);
        all.await
    };
    let (first, (large, small)) = tokio::join!(first, queue_up);
    assert!(first.is_ok() && small.is_ok() && large.iter().all(Result::is_ok));
    let commits = commits.lock().unwrap();
    let with_small: Vec<_> = commits.iter().map(|commit| commit.contains(&other)).collect();
    assert_eq!(with_small.iter().position(|has| *has), Some(1), "{with_small:?}");
    assert!(commits.len() > 3, "the large ones take several commits: {}", commits.len());
}
