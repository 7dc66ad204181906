//! What is bounded: a batch in bytes and in pages, its answers, and the workspaces.

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
use crate::store::{Store, StoreError};

/// Decides a command on what a disk holds, and writes nothing.
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

/// 8,000 such records once took a gigabyte.
#[tokio::test]
async fn no_profile_is_made_for_an_import() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, set_large_attributes(1))).await.unwrap();
    store.write(with_id(command(1, increment(1)), "r")).await.unwrap();
    store.close().await;
    let check = Command { validate_only: true, ..command(2, increment(1)) };
    let (nothing, repeat) = (command(2, set_large_attributes(1)), with_id(command(2, increment(1)), "r"));
    for command in [check, nothing, repeat] {
        let profile =
            |reply| decided(&disk, &command, reply, |decision| decision.written.profile.map(|bytes| bytes.len()));
        assert!(profile(Reply::WithProfile).unwrap() > 200_000, "{command:?}");
        assert_eq!(profile(Reply::WithoutProfile), None);
    }
}

/// Calls whose answers are large take turns, though they write nothing.
#[tokio::test]
async fn the_answers_of_a_batch_are_bounded_where_nothing_is_written() {
    let store = store();
    store.write(command(1, set_large_attributes(1))).await.unwrap();
    store.write(with_id(command(1, increment(1)), "r")).await.unwrap();
    let check = || Command { validate_only: true, ..command(2, increment(1)) };
    let repeat = || with_id(command(2, increment(1)), "r");
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
    assert!(bytes > 4 * 8_000_000, "several batches' worth: {bytes}");
}

/// Each row of the index lies on a page of its own, so a few records of many identities dirty as much as many of few.
#[tokio::test]
async fn a_batch_is_bounded_by_the_pages_that_its_identities_make_dirty() {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&batches);
    let store = store_on(&Disk::default(), move |_, events| told.lock().unwrap().push(events.len()));
    let record = |mpid| {
        let emails: Vec<_> = (0..100).map(|n| format!("{mpid}-{n}@x")).collect();
        command(1, create_with(mpid, with_emails(emails.iter().map(String::as_str))))
    };
    let import = async |mpid| store.import(record(mpid)).await?.await;
    for answer in join_all((1..=1_056).map(import)).await {
        assert_eq!(answer.unwrap().outcome, WriteOutcome::Created);
    }
    // 128 MiB of pages: 102 for each record.
    let most = (128 << 20) / (102 * 4_096) + 1;
    let batches = batches.lock().unwrap();
    assert!(batches.iter().all(|records| *records <= most), "{batches:?}, at most {most}");
    assert!(batches.len() > 3, "{batches:?}");
}

#[tokio::test]
async fn on_a_nearly_full_disk_a_batch_takes_at_most_half_of_what_must_stay_free() {
    let disk = rustix::fs::statvfs(".").unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&batches);
    // All but a gigabyte, which others may take meanwhile: so half of it is far more than a batch.
    let config = StoreConfig { min_free_bytes: free.saturating_sub(1 << 30), ..config() };
    let store = start(database(&Disk::default()), &config, move |_, events| {
        told.lock().unwrap().push(events.len());
    });
    let store = store.unwrap();
    assert!(store.write(command(1, create(1))).await.is_ok());

    let full = StoreConfig { min_free_bytes: u64::MAX, ..config };
    let store = start(database(&Disk::default()), &full, |_, _| {}).unwrap();
    let refused = store.write(command(1, create(1))).await;
    assert!(matches!(refused, Err(StoreError::DiskFull { .. })), "{refused:?}");
    let check = Command { validate_only: true, ..command(1, create(1)) };
    assert!(store.write(check).await.is_ok(), "it writes nothing");
}

#[tokio::test]
async fn a_workspace_past_the_limit_does_not_come_into_being() {
    let store = store();
    let with_limit = |name: &str, limit, command: Command| {
        let limits = Limits { workspaces: limit, ..Limits::default() };
        Command { workspace: Workspace::parse(name).unwrap(), limits, ..command }
    };
    let create = |name: &str, limit| with_limit(name, limit, command(1, create(1)));
    assert!(store.write(create("a/b/1", 2)).await.is_ok());
    assert!(store.write(create("a/b/2", 2)).await.is_ok());
    let refused = store.write(create("a/b/3", 2)).await;
    assert!(matches!(refused, Err(StoreError::TooManyWorkspaces { limit: 2 })), "{refused:?}");
    let check = Command { validate_only: true, ..create("a/b/3", 2) };
    assert!(matches!(store.write(check).await, Err(StoreError::TooManyWorkspaces { limit: 2 })));
    assert_eq!(store.workspace_id(&Workspace::parse("a/b/3").unwrap()), None);
    let there = with_limit("a/b/2", 1, command(1, increment(1)));
    assert!(store.write(there).await.is_ok(), "one that is there is written to, though the limit was lowered");
    assert!(store.write(create("a/b/3", 3)).await.is_ok());
}

#[test]
fn a_command_weighs_what_it_was_parsed_into() {
    let small = command(1, create(1)).weight();
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
        ..create(1)
    };
    let large = command(1, create).weight();
    assert!(small < 2_000, "{small}");
    assert!(large > 10_000 * 600, "each is a node of a B-tree: {large}");
    let patch = command(1, set_large_attributes(1)).weight();
    assert!(patch > 4 * 60_000, "a patch: {patch}");
    let etag = crate::model::Etag::parse("x".repeat(64)).unwrap();
    let with_etag = command(1, crate::command::Delete { etag, ..delete(1) }).weight();
    assert!(with_etag >= command(1, delete(1)).weight() + 64);
}

/// Two calls that do not fit together are still both served, one after the other.
#[tokio::test]
async fn what_a_full_queue_refuses_leaves_no_trace() {
    let config = StoreConfig { queue_commands: 1, ..config() };
    let store: Store = start(database(&Disk::default()), &config, |_, _| {}).unwrap();
    let answers = join_all((1..=50).map(|mpid| store.write(command(1, create(mpid))))).await;
    let written = answers.iter().flatten().count() as u64;
    assert_eq!(head(&store).get(), written);
}
