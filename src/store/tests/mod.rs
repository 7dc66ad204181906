//! Tests that need the store itself: a disk that loses power, damaged rows, a day that passes in no time.
//!
//! - `harness`: a store on a `disk` in memory. `former`: files as earlier versions wrote them.
//! - This file: durability, the memory of request ids, event times, and the bounds of the queue and of a batch.
//! - `crash`: a power loss at any moment of a busy run. `script` draws its commands, `watch` records it, and `holdings`
//!   is what the store must still hold.
//! - `damage`: damaged rows and pages, and disks that fail. `rot`: damage in redb's own pages.
//! - `compacting`: the file is rewritten, while the store is closed and while it is open.
//! - `backups`: copies of the store, and what they restore. `checks`: stores that do not agree with themselves.
//! - `as_of`: profiles as they were at a place in the log.
//! - `people`: who is who, against a model. `remembered`: the index of what their merges hold. `memberships`: the index of memberships.
//!   `audiences`: the commands on audiences. `expiry`: memberships that end. `member_lists`: damage in lists of members.
//! - `bounds`, `clocks`, `determinism`, `due`, `lists`, `migration`, `opening`, `retention`: as their names say.
//!
//! Deliberately absent: what can be tested through the API. Those tests are in `tests/it`.

mod acknowledging;
mod as_of;
mod audiences;
mod backups;
mod bounds;
mod checks;
mod clocks;
mod compacting;
mod crash;
mod damage;
mod determinism;
mod disk;
mod due;
mod expiry;
mod former;
mod harness;
mod holdings;
mod lists;
mod member_lists;
mod memberships;
mod merges;
mod migration;
mod opening;
mod people;
mod plans;
mod remembered;
mod retention;
mod rot;
mod script;
mod subscriptions;
mod watch;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use prost::Message;

use super::*;
use crate::command::Delete;
use crate::model::{Invalid, Limits, Place};
use crate::proto::v1::WriteOutcome;
use disk::Disk;
use harness::*;

/// The most bytes that a batch holds.
const BATCH_BYTES: usize = 8 << 20;

/// The limit is exact to the byte. Over gRPC this cannot be tested: the server sets the times, whose encoded length
/// varies.
#[tokio::test]
async fn a_profile_may_be_as_large_as_the_limit_and_no_larger() {
    let written = store().write(command(1, create(ADA))).await.unwrap();
    let bytes = written.profile.unwrap().len();
    let limited = |profile_bytes| {
        let limits = Limits { profile_bytes, ..Limits::default() };
        Command { limits, ..command(1, create(ADA)) }
    };

    assert!(store().write(limited(bytes)).await.is_ok(), "at the limit");

    let refused = store().write(limited(bytes - 1)).await.unwrap_err();
    let StoreError::Invalid(Invalid::ProfileTooLarge { limit, found }) = refused else { panic!("{refused:?}") };
    assert_eq!((limit, found), (bytes - 1, bytes), "one past it");
}

/// Once a caller has its result, or a subscriber its event, the change survives a power loss in the next moment.
#[tokio::test]
async fn durable_before_visible() {
    let disk = Disk::default();
    let (log, heard) = (disk.clone(), Arc::new(Mutex::new(0)));
    let told = Arc::clone(&heard);
    let check = move |_: LogId, Commit { events, .. }: Commit<'_>| {
        let survivor = store_on(&log.after_power_loss(), |_, _| {});
        let id = survivor.workspace_id(&workspace()).unwrap();
        let head = survivor.snapshot().unwrap().log_bounds(id).unwrap().head;
        assert_eq!(head, events.last().unwrap().sequence.into());
        *told.lock().unwrap() += events.len();
    };
    let store = store_on(&disk, check);
    store.write(command(1, create(ADA))).await.unwrap();
    for written in 1..30 {
        let answer = store.write(command(1, increment(ADA))).await.unwrap().profile;
        let survivor = store_on(&disk.after_power_loss(), |_, _| {});
        let profile = stored(&survivor, ADA).unwrap().unwrap();
        assert_eq!(Bytes::from(profile.encode_to_vec()), answer.unwrap(), "write {written}");
    }
    store.close().await;
    assert_eq!(*heard.lock().unwrap(), 30);
}

#[tokio::test]
async fn a_request_id_is_remembered_for_a_day_and_then_forgotten() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(0, create(ADA))).await.unwrap();
    let first = store.write(with_id(command(10, increment(ADA)), "r")).await.unwrap();
    store.write(command(11, increment(ADA))).await.unwrap();
    store.close().await;

    let store = store_on(&disk, |_, _| {});
    let repeat = store.write(with_id(command(9 + DAY, increment(ADA)), "r")).await.unwrap();
    assert_eq!((repeat.place, repeat.outcome), (first.place, first.outcome));
    assert_eq!(repeat.profile, first.profile, "the first result, though the profile has changed since");
    let anew = store.write(with_id(command(10 + DAY, increment(ADA)), "r")).await.unwrap();
    assert_eq!(number(&anew), 4);

    // Expired ids do not pile up.
    for n in 0..50 {
        store.write(with_id(command(2 * DAY, increment(ADA)), &format!("old {n}"))).await.unwrap();
    }
    for n in 0..50 {
        store.write(with_id(command(4 * DAY, increment(ADA)), &format!("new {n}"))).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        use redb::ReadableTableMetadata;
        assert_eq!(transaction.open_table(tables::REQUESTS).unwrap().len().unwrap(), 50);
        assert_eq!(transaction.open_table(tables::REQUEST_AGES).unwrap().len().unwrap(), 50);
    });
}

#[tokio::test]
async fn a_clock_that_goes_back_does_not_turn_the_log_back() {
    let store = store();
    store.write(command(500, create(ADA))).await.unwrap();
    store.write(command(400, increment(ADA))).await.unwrap();
    let profile = stored(&store, ADA).unwrap().unwrap();
    assert_eq!(profile.update_time, profile.create_time);
}

/// The writer after the restart has written no event yet, but the head of the log has the time of the latest.
#[tokio::test]
async fn a_clock_that_goes_back_over_a_restart_does_not_turn_the_log_back() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(500, create(ADA))).await.unwrap();
    store.close().await;

    let store = store_on(&disk, |_, _| {});
    store.write(command(400, increment(ADA))).await.unwrap();
    store.write(command(450, create(GRACE))).await.unwrap();

    let at_500 = Some(Micros::new(500).to_timestamp());
    let times: Vec<_> = events(&store).into_iter().map(|event| event.time).collect();
    assert_eq!(times, [at_500, at_500, at_500]);
    assert_eq!(stored(&store, ADA).unwrap().unwrap().update_time, at_500);
    assert_eq!(stored(&store, GRACE).unwrap().unwrap().create_time, at_500);
}

#[tokio::test]
async fn a_log_continues_where_it_was_after_an_orderly_restart_and_after_a_crash() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(100, create(ADA))).await.unwrap();
    store.write(command(200, increment(ADA))).await.unwrap();
    let crashed = disk.after_power_loss();
    store.close().await;

    for disk in [disk, crashed] {
        let store = store_on(&disk, |_, _| {});
        let id = store.workspace_id(&workspace()).unwrap();
        let bounds = store.snapshot().unwrap().log_bounds(id).unwrap();
        assert_eq!((bounds.floor, bounds.head), (Place::START, Place::after(2)));
        assert_eq!(number(&store.write(command(300, increment(ADA))).await.unwrap()), 3);
    }
}

/// The bound is on the events that a batch writes, and on its results if nothing changes. The next batch takes the
/// rest.
#[tokio::test]
async fn calls_and_imports_past_the_bytes_of_a_batch_all_get_their_results() {
    let batches = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&batches);
    let store = store_on(&Disk::default(), move |_, commit| {
        told.lock().unwrap().push(commit.events.iter().map(|event| event.event.len()).sum::<usize>());
    });
    let call = |mpid| store.write(command(1, set_large_attributes(mpid)));
    let import = async |mpid| store.import(command(1, set_large_attributes(mpid))).await?.await;
    let all = || {
        let (calls, imports) = ((1..=60).map(call), (61..=100).map(import));
        futures_util::future::join(futures_util::future::join_all(calls), futures_util::future::join_all(imports))
    };

    for outcome in [WriteOutcome::Created, WriteOutcome::Unchanged] {
        let (calls, imports) = all().await;
        let answers = calls.into_iter().chain(imports);
        assert!(answers.map(|answer| answer.unwrap().outcome).all(|found| found == outcome), "{outcome:?}");
    }

    let batches = batches.lock().unwrap();
    assert!(batches.iter().all(|events| *events < BATCH_BYTES), "{batches:?}");
    assert!(batches.iter().sum::<usize>() > 2 * BATCH_BYTES, "there was more than one batch: {batches:?}");
}

#[tokio::test]
async fn a_request_id_is_remembered_even_if_the_workspace_does_not_exist_yet() {
    let store = store();
    let delete = || with_id(command(1, Delete { allow_missing: true, ..delete(ADA) }), "r");
    assert_eq!(store.write(delete()).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert_eq!(number(&store.write(command(1, create(ADA))).await.unwrap()), 1);
    assert_eq!(store.write(delete()).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert!(stored(&store, ADA).unwrap().is_some());
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_and_in_commands() {
    for (queue_bytes, queue_commands) in [(10_000, 1_000), (1 << 20, 2)] {
        let config = StoreConfig { queue_commands, queue_bytes, ..config() };
        let store = start(database(&Disk::default()), &config, |_, _| {}).unwrap();
        // This thread polls each call once before the next, so the writer can take some, but not all of so many.
        let large = |mpid| store.write(command(1, create(mpid)));
        let answers = futures_util::future::join_all((1..=200).map(large)).await;
        let refused = answers.iter().filter(|answer| matches!(answer, Err(StoreError::Overloaded))).count();
        let written = answers.iter().flatten().count();
        assert!(refused > 0 && written > 0, "{refused} refused, {written} written");
        assert_eq!(written + refused, 200);
        assert_eq!((1..=200).filter(|mpid| stored(&store, *mpid).unwrap().is_some()).count(), written);
    }
}

/// A caller that gives up takes nothing back that is queued, so what bounds its writes must last as long.
#[tokio::test]
async fn what_a_call_keeps_lasts_until_its_commands_are_done_though_the_call_is_given_up() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let store = store_on(&Disk::default(), move |_, _| {
        let _ = released.recv();
    });
    let mut first = Box::pin(store.write(command(1, create(ADA))));
    assert!((&mut first).now_or_never().is_none(), "the writer waits at its commit");
    let kept: Kept = Arc::new(());
    let in_call = || Some(Arc::clone(&kept));
    assert!(keep(in_call(), store.write(command(1, create(GRACE)))).now_or_never().is_none());
    assert!(keep(in_call(), async { store.import(command(1, create(ALAN))).await?.await }).now_or_never().is_none());
    assert_eq!(Arc::strong_count(&kept), 3, "each is in the queue");
    drop(release);
    first.await.unwrap();
    store.write(command(1, increment(ADA))).await.unwrap(); // After the other call, as the next is after the other import.
    store.import(command(1, increment(ADA))).await.unwrap().await.unwrap();
    assert!(stored(&store, GRACE).unwrap().is_some() && stored(&store, ALAN).unwrap().is_some());
    assert_eq!(Arc::strong_count(&kept), 1);
}

/// A caller that has its reply has its place again.
#[tokio::test]
async fn what_a_call_keeps_is_given_back_before_its_reply() {
    let (store, kept) = (store(), Arc::new(()));
    for time in 1..100 {
        let write = async {
            store.write(command(time, create(time))).await.unwrap();
            assert_eq!(Arc::strong_count(&kept), 2, "this test has one, and the call that it makes");
        };
        keep(Some(Arc::clone(&kept) as Kept), write).await;
    }
}
