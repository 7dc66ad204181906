//! Memberships that end: they are served to the last microsecond, and their events come in the order of their ends.

use std::sync::Arc;

use redb::ReadableTable;
use tokio_util::sync::CancellationToken;

use super::audiences::{add, at, audience, members, register, until};
use super::damage::{ID, turn_bit_of_profile};
use super::disk::Disk;
use super::harness::*;
use super::memberships::check_index;
use crate::command::{Change, Command, Expire};
use crate::model::page_token::PageStart;
use crate::model::transition::Transition;
use crate::model::{Filter, Micros, Mpid, Workspace};
use crate::proto::v1::{EventFilter, FilterMatch, WriteOutcome};
use crate::store::rows::{ExpiryRow, expiry_key};
use crate::store::tables::{AUDIENCES, EXPIRIES};
use crate::store::{Store, StoreError};

fn expire(most: usize) -> Change {
    Change::Expire(Expire { most })
}

/// The events of ends: the mpid and the audiences of each.
fn exits(store: &Store) -> Vec<(i64, Vec<i64>)> {
    let events = events(store).into_iter().filter(|event| !event.exited_audience_ids.is_empty());
    events.map(|event| (event.mpid, event.exited_audience_ids)).collect()
}

/// The profiles that a list of the members of audience 7 has at this microsecond.
fn listed(store: &Store, now: i64) -> usize {
    let snapshot = store.snapshot().unwrap();
    let mut profiles = 0;
    let take = |_: &[u8]| {
        profiles += 1;
        Ok(1)
    };
    let id = super::audiences::id(7);
    snapshot.member_profiles(ID, id, PageStart::default(), Micros::new(now), EVERYTHING, take).unwrap();
    profiles
}

fn is_served(store: &Store, now: i64) -> bool {
    !stored_as_of(store, ADA, now).unwrap().unwrap().audience_memberships.is_empty()
}

#[tokio::test]
async fn a_membership_is_served_until_its_end_and_not_a_microsecond_longer() {
    let store = store();
    at(&store, 1, create(ADA)).await.unwrap();
    at(&store, 1, register(7, "crm")).await.unwrap();
    let end = 50 * SECOND;
    at(&store, 2, add(7, [ADA], Some(end))).await.unwrap();
    let in_list = |now: i64| {
        let mut members = 0;
        let (start, now) = (PageStart::default(), Micros::new(now));
        let take = |_| {
            members += 1;
            1
        };
        store.snapshot().unwrap().members(ID, super::audiences::id(7), start, now, EVERYTHING, take).unwrap();
        members
    };
    let seen = |now| (is_served(&store, now), listed(&store, now), in_list(now));
    assert_eq!([end - 1, end, end + 1].map(seen), [(true, 1, 1), (false, 0, 0), (false, 0, 0)]);

    let early = store.write(command(end - 1, expire(9))).await.unwrap();
    assert_eq!((early.outcome, exits(&store)), (WriteOutcome::Unchanged, vec![]));
    assert_eq!(audience(&store, 7).unwrap().member_count, 1);
    let written = store.write(command(end, expire(9))).await.unwrap();
    assert_eq!((written.outcome, exits(&store)), (WriteOutcome::Updated, vec![(ADA, vec![7])]));
    assert_eq!(audience(&store, 7).unwrap().member_count, 0);
    let event = events(&store).pop().unwrap();
    assert!(!event.silent && event.actor.is_empty() && event.r#type == "profile.updated");
    assert!(event.profile.unwrap().audience_memberships.is_empty());
    assert_eq!([end - 1, end].map(seen), [(false, 0, 0), (false, 0, 0)], "also before its end");
}

/// A subscriber with a filter learns of it: the profile leaves.
#[tokio::test]
async fn a_filter_of_the_audience_lets_the_exit_through() {
    let store = store();
    at(&store, 1, create(ADA)).await.unwrap();
    at(&store, 2, join(ADA, 7, 50)).await.unwrap();
    at(&store, 60, expire(9)).await.unwrap();
    let filter = Filter::parse(Some(EventFilter { audience_ids: vec![7], ..EventFilter::default() }), None).unwrap();
    let mut matches = Vec::new();
    let (snapshot, head) = (store.snapshot().unwrap(), head(&store));
    let take = |event: crate::store::EventRef<'_>| {
        matches.push((event.sequence.get(), Transition::decode(event.event).unwrap()));
        Ok(Some(1))
    };
    snapshot.events(ID, crate::model::Place::START, head, &filter, EVERYTHING, take).unwrap();
    let found: Vec<_> = matches.iter().map(|(sequence, event)| (*sequence, filter.judge(event))).collect();
    assert_eq!(found, [(1, None), (2, Some(FilterMatch::Entered)), (3, Some(FilterMatch::Left))]);
}

#[tokio::test]
async fn memberships_end_in_the_order_of_their_ends_step_by_step() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for (mpid, end) in [(4, 30), (3, 40), (2, 20), (1, 30), (5, 50), (6, 90)] {
        at(&store, 1, create(mpid)).await.unwrap();
        at(&store, 1, join(mpid, 7, end)).await.unwrap();
    }
    at(&store, 1, join(2, 8, 45)).await.unwrap();
    at(&store, 1, join(2, 9, 80)).await.unwrap();
    at(&store, 60, expire(2)).await.unwrap();
    assert_eq!(exits(&store), [(2, vec![7, 8]), (1, vec![7])], "all of a profile that are over come in one event");
    store.close().await;
    check_index(&disk);

    let store = store_on(&disk, |_, _| {}); // In the middle of a sweep.
    at(&store, 60, expire(9)).await.unwrap();
    assert_eq!(exits(&store)[2..], [(4, vec![7]), (3, vec![7]), (5, vec![7])]);
    assert_eq!(at(&store, 60, expire(9)).await.unwrap().outcome, WriteOutcome::Unchanged);
    at(&store, 80, expire(9)).await.unwrap();
    assert_eq!(exits(&store)[5..], [(2, vec![9])]);
    store.close().await;
    check_index(&disk);
}

/// A command ends no more than it may, by the bytes of the profiles.
#[tokio::test]
async fn a_step_is_bounded_by_the_bytes_of_profiles() {
    let store = store();
    for mpid in 1..=20 {
        at(&store, 1, set_large_attributes(mpid)).await.unwrap();
        at(&store, 1, join(mpid, 7, 30)).await.unwrap();
    }
    at(&store, 40, expire(1_000)).await.unwrap();
    let ended = exits(&store).len();
    assert!((1..=6).contains(&ended), "{ended}");
}

/// What cannot be read stops nothing: neither the others, nor later steps.
#[tokio::test]
async fn damage_does_not_stop_the_sweep() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=4 {
        at(&store, 1, create(mpid)).await.unwrap();
        at(&store, 1, join(mpid, 7, 10 + mpid)).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        turn_bit_of_profile(transaction, 1);
        for table in [AUDIENCES, EXPIRIES] {
            let mut rows = transaction.open_table(table).unwrap();
            let (key, mut row) = {
                let (key, row) =
                    rows.iter().unwrap().nth(usize::from(table.to_string() != AUDIENCES.to_string())).unwrap().unwrap();
                (key.value().to_vec(), row.value().to_vec())
            };
            row[1] ^= 1;
            rows.insert(&*key, &*row).unwrap();
        }
        let mut expiries = transaction.open_table(EXPIRIES).unwrap();
        expiries.insert([0, 0, 0, 1, 0].as_slice(), [9].as_slice()).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    at(&store, 60, expire(2)).await.unwrap();
    at(&store, 60, expire(9)).await.unwrap();
    assert_eq!(exits(&store), [(2, vec![7]), (3, vec![7]), (4, vec![7])]);
    assert_eq!(at(&store, 60, expire(9)).await.unwrap().outcome, WriteOutcome::Unchanged);
    assert!(matches!(audience(&store, 7), Err(StoreError::Corrupt { .. } | StoreError::AudienceNotFound { .. })));
}

/// Rows that lead to no membership that is over go, and a profile has one event however many rows lead to it.
#[tokio::test]
async fn rows_that_lead_to_no_end_are_removed() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in [ADA, GRACE] {
        at(&store, 1, create(mpid)).await.unwrap();
        at(&store, 1, join(mpid, 7, if mpid == ADA { 50 } else { 900 })).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        let mut expiries = transaction.open_table(EXPIRIES).unwrap();
        for (second, mpid) in [(10, ADA), (20, ADA), (30, GRACE), (40, ALAN)] {
            let key = expiry_key(ID, Micros::new(second * SECOND), Mpid::new(mpid).unwrap());
            expiries.insert(&*key, &*ExpiryRow::encode(&key)).unwrap();
        }
    });
    let store = store_on(&disk, |_, _| {});
    at(&store, 60, expire(9)).await.unwrap();
    assert_eq!(exits(&store), [(ADA, vec![7])]);
    assert_eq!(at(&store, 60, expire(9)).await.unwrap().outcome, WriteOutcome::Unchanged);
    store.close().await;
    check_index(&disk);
}

/// More workspaces than the survey reads at a time, and more memberships in one than a step ends.
#[tokio::test]
async fn all_memberships_that_ended_while_the_store_was_closed_end_with_an_event() {
    const WORKSPACES: usize = 1_050;
    const PEOPLE: usize = 300;
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let name = |n: usize| Workspace::parse(&format!("a/b/{n:04}")).unwrap();
    let places = (0..WORKSPACES).map(|n| (n, ADA)).chain((2..=PEOPLE).map(|n| (WORKSPACES - 1, n.try_into().unwrap())));
    let places: Vec<_> = places.collect();
    let mut written = Vec::new();
    for (n, mpid) in &places {
        for change in [Change::from(create(*mpid)), Change::from(join(*mpid, 7, 50))] {
            written.push(store.import(Command { workspace: name(*n), ..command(SECOND, change) }).await.unwrap());
        }
    }
    for written in written {
        written.await.unwrap();
    }
    store.close().await;

    let store = Arc::new(store_on(&disk, |_, _| {}));
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));
    let head =
        |n: usize| store.snapshot().unwrap().log_bounds(store.workspace_id(&name(n)).unwrap()).unwrap().head.get();
    until(|| (0..WORKSPACES - 1).all(|n| head(n) == 3) && head(WORKSPACES - 1) == 3 * PEOPLE as u64).await;
    stop.cancel();
    upkeep.await.unwrap();
    store.close().await;
    check_index(&disk);
}

/// The sweep finds what was due before the start, what the writer tells, and nothing else; in every workspace.
#[tokio::test]
async fn the_sweep_ends_memberships_soon_after_their_ends() {
    let disk = Disk::default();
    let in_workspace = |n: usize, command: Command| {
        let workspace = Workspace::parse(&format!("a/b/{n}")).unwrap();
        Command { workspace, ..command }
    };
    let now = |store: &Store| store.now().get();
    let store = store_on(&disk, |_, _| {});
    let first = now(&store);
    for n in 0..40 {
        let joined = in_workspace(n, command(first, create(ADA)));
        store.write(joined).await.unwrap();
        let second = first / SECOND + if n % 2 == 0 { 1 } else { 1_000 };
        store.write(in_workspace(n, command(first, join(ADA, 7, second)))).await.unwrap();
    }
    store.close().await;

    let store = Arc::new(store_on(&disk, |_, _| {}));
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));
    let head = |n: usize| {
        let workspace = Workspace::parse(&format!("a/b/{n}")).unwrap();
        store.snapshot().unwrap().log_bounds(store.workspace_id(&workspace).unwrap()).unwrap().head.get()
    };
    until(|| (0..40).step_by(2).all(|n| head(n) == 3)).await;
    assert!(now(&store) >= (first / SECOND + 1) * SECOND, "not before the end");
    for n in [1, 2] {
        let joined = join(ADA, 8, now(&store) / SECOND + 1);
        store.write(in_workspace(n, command(now(&store), joined))).await.unwrap();
    }
    until(|| head(1) == 4 && head(2) == 5).await;
    assert!((3..40).step_by(2).all(|n| head(n) == 2), "no other membership has ended");
    stop.cancel();
    upkeep.await.unwrap();
    store.close().await;
    check_index(&disk);
}

/// The next end comes between the stamp of a step that found nothing to end and the look for that next end.
#[tokio::test]
async fn the_sweep_does_not_rest_because_a_membership_ended_while_its_step_waited() {
    let (begun, is_begun) = std::sync::mpsc::channel();
    let (go, goes) = std::sync::mpsc::channel::<()>();
    let waits = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_to_wait = Arc::clone(&waits);
    let store = Arc::new(store_on(&Disk::default(), move |_, _| {
        if is_to_wait.swap(false, std::sync::atomic::Ordering::SeqCst) {
            begun.send(()).unwrap();
            goes.recv().unwrap(); // The step queues up behind this commit.
        }
    }));
    let first = store.now().get();
    let [early, late] = [800, 1_600].map(|milliseconds| first + milliseconds * 1_000);
    for change in [Change::from(create(ADA)), register(7, "crm")] {
        store.write(command(first, change)).await.unwrap();
    }
    for end in [early, late] {
        store.write(command(first, add(7, [ADA], Some(end)))).await.unwrap();
    }
    waits.store(true, std::sync::atomic::Ordering::SeqCst);
    let waiting = Arc::clone(&store);
    let waiting = tokio::spawn(async move { waiting.write(command(first, create(GRACE))).await });
    tokio::task::spawn_blocking(move || is_begun.recv()).await.unwrap().unwrap();
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(Arc::clone(&store).keep_up(stop.clone()));
    until(|| store.now().get() > late + 100_000).await;
    go.send(()).unwrap();
    waiting.await.unwrap().unwrap();

    let ended = until(|| exits(&store) == [(ADA, vec![7])]);
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.expect("it rests for a minute");
    stop.cancel();
    upkeep.await.unwrap();
}

/// The members of an audience whose membership has ended and that the sweep has not reached.
#[tokio::test]
async fn a_member_that_joins_again_after_the_end_enters_again() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    at(&store, 1, create(ADA)).await.unwrap();
    at(&store, 1, register(7, "crm")).await.unwrap();
    at(&store, 1, add(7, [ADA], Some(20 * SECOND))).await.unwrap();
    assert!(members(&store, 7, 30).is_empty());
    let left = at(&store, 30, super::audiences::remove(7, [ADA])).await.unwrap();
    assert_eq!(left.outcome, WriteOutcome::Unchanged, "it is no member, and the sweep tells of it");
    at(&store, 30, add(7, [ADA], Some(40 * SECOND))).await.unwrap();
    let event = events(&store).pop().unwrap();
    assert_eq!((event.entered_audience_ids, audience(&store, 7).unwrap().member_count), (vec![7], 1));
    store.close().await;
    check_index(&disk);
}
