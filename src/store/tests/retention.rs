//! Trimming: what goes, what stays, and what readers of a trimmed log get.
//!
//! Each command carries its own time, so days pass in no time here. Which logs are trimmed, and when, is tested in `due`. What
//! callers see is tested in `tests/it`.

use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::damage::{ID, disk_with, page_of_events, turn_bit_of_event};
use super::disk::Disk;
use super::harness::*;
use super::script::Script;
use crate::command::{Command, Trim};
use crate::model::{Filter, Micros, Mpid, Place};
use crate::proto::v1::{EventFilter, WriteOutcome};
use crate::store::read::{History, Walks};
use crate::store::rows::{Head, HeadRow};
use crate::store::tables::{EVENTS, HEADS};
use crate::store::{LogBounds, PageSize, Store, StoreError};

/// Trims the log at this second, and returns the new floor.
pub(super) async fn trim(store: &Store, second: i64, trim: Trim) -> u64 {
    let written = store.import(command(second * SECOND, trim)).await.unwrap().await.unwrap();
    let floor = written.place.unwrap();
    assert_eq!(floor, log(store).floor);
    assert_eq!(written.profile, None);
    floor.get()
}

/// A log of this many events. The first creates Ada, and the event with sequence `n` is of second `n`.
pub(super) async fn store_with(disk: &Disk, events: i64) -> Store {
    let store = store_on(disk, |_, _| {});
    store.write(command(SECOND, create(ADA))).await.unwrap();
    for second in 2..=events {
        store.write(command(second * SECOND, increment(ADA))).await.unwrap();
    }
    store
}

/// The number and the bytes of the rows that each log has, by the number of its workspace.
fn recount(disk: &Disk) -> Vec<(u64, u64)> {
    let database = database(disk);
    let transaction = database.begin_read().unwrap();
    let heads = transaction.open_table(HEADS).unwrap();
    let events = transaction.open_table(EVENTS).unwrap();
    let count = |id: u32| {
        let rows = events.range((id, 0)..=(id, u64::MAX)).unwrap().map(|row| row.unwrap().1.value().len() as u64);
        rows.fold((0, 0), |(rows, bytes), row| (rows + 1, bytes + row))
    };
    heads.iter().unwrap().map(|head| count(head.unwrap().0.value())).collect()
}

/// The number and the bytes of the events of each log, by the number of its workspace, as the heads have them.
fn counts(store: &Store) -> Vec<(u64, u64)> {
    let ids = 1..=u32::try_from(store.shared.workspaces.count()).unwrap();
    let snapshot = store.snapshot().unwrap();
    let logs = ids.map(|id| snapshot.log_bounds(crate::store::WorkspaceId(id)).unwrap());
    logs.map(|log| (log.head.get() - log.floor.get(), log.bytes)).collect()
}

fn history(store: &Store, walks: &Walks, after: u64) -> Vec<u64> {
    let (snapshot, filter) = (store.snapshot().unwrap(), of_ada());
    let (after, through) = (Place::after(after), log(store).head);
    let mut seen = Vec::new();
    let history = History { workspace: ID, mpid: Mpid::new(ADA).unwrap(), after, through, filter: &filter };
    let page = snapshot.history(walks, history, EVERYTHING, |event| {
        seen.push(event.sequence.get());
        Ok(Some(1))
    });
    assert!(page.unwrap().page.complete);
    seen
}

pub(super) fn of_ada() -> Filter {
    Filter::parse(Some(EventFilter { mpids: vec![ADA], ..EventFilter::default() }), None).unwrap()
}

#[tokio::test]
async fn events_go_when_they_are_as_old_as_the_limit() {
    let store = store_with(&Disk::default(), 10).await;
    let age = trim_by_age(5_000_000);
    assert_eq!(trim(&store, 5, age).await, 0, "the first is 4 s old");
    assert_eq!(trim(&store, 6, age).await, 1, "the first is 5 s old");
    assert_eq!(trim(&store, 6, age).await, 1);
    assert_eq!(trim(&store, 9, age).await, 4);
    assert_eq!(trim(&store, 5, trim_by_age(0)).await, 5, "by the time of the command, and not of the latest event");
    assert_eq!(trim(&store, 100, age).await, 10, "the latest event goes too");
    assert_eq!(log(&store), LogBounds { floor: Place::after(10), head: Place::after(10), bytes: 0 });
    assert_eq!(number(&store.write(command(101 * SECOND, increment(ADA))).await.unwrap()), 11, "numbers continue");
    assert_eq!((log(&store).floor.get(), log(&store).head.get()), (10, 11));
}

#[tokio::test]
async fn the_oldest_events_go_until_the_log_is_no_larger_than_the_limit() {
    let store = store_with(&Disk::default(), 1).await;
    let first = log(&store).bytes;
    store.write(command(SECOND, create(GRACE))).await.unwrap();
    store.write(command(SECOND, create(ALAN))).await.unwrap();
    let all = log(&store).bytes;
    assert_eq!(trim(&store, 1, trim_by_bytes(all)).await, 0);
    assert_eq!(trim(&store, 1, trim_by_bytes(all - 1)).await, 1);
    assert_eq!(log(&store).bytes, all - first);
    assert_eq!(trim(&store, 1, trim_by_bytes(0)).await, 3);
    assert_eq!(log(&store).bytes, 0);
}

#[tokio::test]
async fn a_command_removes_no_more_than_it_may() {
    let store = store_with(&Disk::default(), 10).await;
    let three = Trim { most: 3, ..trim_by_age(0) };
    for floor in [3, 6, 9, 10, 10] {
        assert_eq!(trim(&store, 100, three).await, floor);
    }
    assert_eq!(store.metrics().events_trimmed(), 10);
    for mpid in 10..20 {
        store.write(command(100 * SECOND, set_large_attributes(mpid))).await.unwrap();
    }
    let bytes = log(&store).bytes / 10;
    let floor = trim(&store, 100, trim_by_age(0)).await - 10;
    assert_eq!(floor, (1_u64 << 20).div_ceil(bytes), "of {bytes} bytes each");
}

#[tokio::test]
async fn a_trim_without_a_limit_or_without_a_log_changes_nothing() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let nothing = store.write(command(1, trim_by_age(0))).await.unwrap();
    assert_eq!((nothing.outcome, nothing.place), (WriteOutcome::Unchanged, Some(Place::START)));
    assert_eq!(store.workspace_id(&workspace()), None, "it creates no workspace");
    store.write(command(1, create(ADA))).await.unwrap();
    assert_eq!(trim(&store, 1_000_000, NO_TRIM).await, 0);
    let validated = Command { validate_only: true, ..command(9 * SECOND, trim_by_age(0)) };
    let validated = store.write(validated).await.unwrap();
    assert_eq!((validated.outcome, validated.place), (WriteOutcome::Updated, None));
    assert_eq!(log(&store).floor, Place::START);
}

/// A trim is no request of a caller. With an id it is still made, and the id stays free.
#[tokio::test]
async fn a_trim_ignores_request_ids_and_makes_no_event() {
    let store = store_with(&Disk::default(), 3).await;
    let before = log(&store);
    for floor in [1, 2] {
        let one = with_id(command(9 * SECOND, Trim { most: 1, ..trim_by_age(0) }), "r");
        assert_eq!(number(&store.write(one).await.unwrap()), floor);
    }
    assert_eq!(log(&store).head, before.head);
    let written = store.write(with_id(command(9 * SECOND, increment(ADA)), "r")).await.unwrap();
    assert_eq!((written.outcome, number(&written)), (WriteOutcome::Updated, 4));
}

#[tokio::test]
async fn a_place_at_the_floor_is_read_from_and_one_before_it_has_expired() {
    let disk = Disk::default();
    let mut store = store_with(&disk, 10).await;
    for floor in [4, 9, 10] {
        trim(&store, 100, Trim { most: usize::try_from(floor - log(&store).floor.get()).unwrap(), ..trim_by_age(0) })
            .await;
        for _ in 0..2 {
            for filter in [Filter::default(), of_ada()] {
                let rest: Vec<_> = (floor + 1..=10).collect();
                for start in [0, floor] {
                    let (seen, page) = page_of_events(&store, start, &filter); // 0 is the earliest.
                    assert_eq!((seen, page.unwrap().complete), (rest.clone(), true), "{floor} {start}");
                }
                let (seen, page) = page_of_events(&store, floor - 1, &filter);
                let Err(StoreError::Expired { floor: oldest, head, oldest_time }) = page else { panic!("{page:?}") };
                assert_eq!((seen, oldest.get(), head.get()), (vec![], floor, 10));
                let first = i64::try_from(floor + 1).unwrap();
                assert_eq!(oldest_time, (first <= 10).then_some(Micros::new(first * SECOND)));
            }
            store.close().await;
            store = store_on(&disk, |_, _| {});
        }
    }
}

/// A subscriber that was in the middle of the log reads on with [`Snapshot::events`], which has no cursor to check.
#[tokio::test]
async fn a_reader_that_the_floor_has_passed_learns_it() {
    let store = store_with(&Disk::default(), 10).await;
    let read = |after: u64| {
        let snapshot = store.snapshot().unwrap();
        let (after, head, all) = (Place::after(after), Place::after(10), Filter::default());
        snapshot.events(ID, after, head, &all, PageSize { items: 1, bytes: 1 }, |_| Ok(Some(1)))
    };
    trim(&store, 9, trim_by_age(5_000_000)).await;
    assert!(matches!(read(3), Err(StoreError::Expired { .. })));
    assert_eq!(read(4).unwrap().through, Place::after(5));
    trim(&store, 100, trim_by_age(0)).await;
    assert!(matches!(read(9), Err(StoreError::Expired { .. })));
    assert!(read(10).unwrap().complete);
}

#[tokio::test]
async fn a_profile_whose_events_are_gone_is_found_changed_and_deleted() {
    let store = store_with(&Disk::default(), 3).await;
    store.write(command(4 * SECOND, create_with(GRACE, with_emails(["g@x"])))).await.unwrap();
    assert_eq!(trim(&store, 100, trim_by_age(0)).await, 4);
    assert_eq!(stored(&store, ADA).unwrap().unwrap().mpid, ADA);
    assert_eq!(history(&store, &Walks::default(), 4), [0; 0]);

    assert_eq!(number(&store.write(command(101 * SECOND, increment(ADA))).await.unwrap()), 5);
    assert_eq!(number(&store.write(command(101 * SECOND, delete(GRACE))).await.unwrap()), 6);
    assert_eq!(number(&store.write(command(101 * SECOND, increment(ADA))).await.unwrap()), 7);
    assert_eq!(history(&store, &Walks::default(), 4), [5, 7], "the chain ends at the floor");
    assert_eq!(number(&store.write(command(102 * SECOND, create(GRACE))).await.unwrap()), 8, "after its tombstone");
    let again = store.write(command(102 * SECOND, create_with(ALAN, with_emails(["g@x"])))).await;
    assert!(again.is_ok(), "the deleted profile's identity is free");
}

/// The walk of a page is kept for the next. The log is trimmed in between.
#[tokio::test]
async fn a_history_that_was_walked_before_the_trim_is_right_after_it() {
    let store = store_with(&Disk::default(), 20).await;
    let walks = Walks::default();
    let keep_a_walk = |after: u64| {
        let (snapshot, filter) = (store.snapshot().unwrap(), of_ada());
        let (after, through) = (Place::after(after), log(&store).head);
        let history = History { workspace: ID, mpid: Mpid::new(ADA).unwrap(), after, through, filter: &filter };
        let two = PageSize { items: 2, bytes: usize::MAX };
        assert!(!snapshot.history(&walks, history, two, |_| Ok(Some(1))).unwrap().page.complete);
    };
    keep_a_walk(0);
    assert_eq!(trim(&store, 20, trim_by_age(10_000_000)).await, 10);
    assert_eq!(history(&store, &walks, 10), (11..=20).collect::<Vec<_>>());

    keep_a_walk(10);
    for second in 21..=30 {
        store.write(command(second * SECOND, increment(ADA))).await.unwrap();
    }
    assert_eq!(trim(&store, 30, trim_by_age(5_000_000)).await, 25, "past all that was walked");
    assert_eq!(history(&store, &walks, 25), (26..=30).collect::<Vec<_>>());
    assert_eq!(trim(&store, 100, trim_by_age(0)).await, 30);
    assert_eq!(history(&store, &walks, 30), [0; 0]);
}

/// A walk that ends before the floor is of no use: the way back to it leads over events that are gone. The log would be
/// read instead, which meets the damaged event of another profile.
#[tokio::test]
async fn a_walk_that_ends_before_the_floor_is_begun_anew() {
    let (disk, walks) = (Disk::default(), Walks::default());
    let store = store_with(&disk, 10).await;
    let (snapshot, filter) = (store.snapshot().unwrap(), of_ada());
    let (mpid, after, through) = (Mpid::new(ADA).unwrap(), Place::START, log(&store).head);
    let whole = History { workspace: ID, mpid, after, through, filter: &filter };
    let one = PageSize { items: 1, bytes: usize::MAX };
    assert!(!snapshot.history(&walks, whole, one, |_| Ok(Some(1))).unwrap().page.complete);
    drop(snapshot);
    for second in 11..=20 {
        store.write(command(second * SECOND, increment(ADA))).await.unwrap();
    }
    store.write(command(20 * SECOND, create(GRACE))).await.unwrap();
    store.write(command(20 * SECOND, increment(ADA))).await.unwrap();
    assert_eq!(trim(&store, 20, trim_by_age(5_000_000)).await, 15);
    store.close().await;
    tamper(&disk, |transaction| turn_bit_of_event(transaction, 21));

    let store = store_on(&disk, |_, _| {});

    assert_eq!(history(&store, &walks, 15), [16, 17, 18, 19, 20, 22]);
}

#[tokio::test]
async fn a_repeat_of_a_request_whose_event_is_gone_is_not_made_again() {
    let store = store_with(&Disk::default(), 1).await;
    let request = |second| with_id(command(second * SECOND, increment(ADA)), "r");
    let first = store.write(request(2)).await.unwrap();
    trim(&store, 100, trim_by_age(0)).await;
    let repeat = store.write(request(100)).await.unwrap();
    assert_eq!((repeat.place, repeat.profile), (first.place, first.profile), "the profile is still at this event");

    store.write(command(100 * SECOND, increment(ADA))).await.unwrap();
    let repeat = store.write(request(101)).await.unwrap();
    assert_eq!((repeat.place, repeat.outcome), (first.place, first.outcome));
    assert_eq!(repeat.profile, None, "what it was is gone");
    assert_eq!(log(&store).head.get(), 3);
}

/// One damaged event, and a run of missing ones.
#[tokio::test]
async fn damaged_events_go_with_those_after_them() {
    let damages: [fn(&WriteTransaction); 4] = [
        |transaction| turn_bit_of_event(transaction, 1),
        |transaction| turn_bit_of_event(transaction, 3),
        |transaction| (1..=4).for_each(|sequence| turn_bit_of_event(transaction, sequence)),
        |transaction| {
            let mut events = transaction.open_table(EVENTS).unwrap();
            (1..=4).for_each(|sequence| drop(events.remove((1, sequence)).unwrap()));
        },
    ];
    for (case, damage) in damages.into_iter().enumerate() {
        let disk = Disk::default();
        store_with(&disk, 10).await.close().await;
        tamper(&disk, damage);
        let store = store_on(&disk, |_, _| {});
        assert_eq!(trim(&store, 9, trim_by_age(5_000_000)).await, [4, 4, 0, 0][case], "damage {case}");
        assert_eq!(trim(&store, 10, Trim { most: 2, ..trim_by_age(5_000_000) }).await, 5, "damage {case}");
        let (seen, page) = page_of_events(&store, 5, &Filter::default());
        assert_eq!((seen, page.unwrap().complete), ((6..=10).collect(), true));
        assert_eq!(trim(&store, 15, trim_by_age(5_000_000)).await, 10);
        assert_eq!(log(&store).bytes, 0);
        store.close().await;
        assert_eq!(recount(&disk), [(0, 0)], "damage {case}: no row is left");
    }
}

/// Nothing after the damage shows how old it is, but no event is younger than the latest.
#[tokio::test]
async fn damage_at_the_end_of_the_log_goes_when_even_the_latest_event_is_too_old() {
    let damages: [fn(&WriteTransaction); 2] = [
        |transaction| (8..=10).for_each(|sequence| turn_bit_of_event(transaction, sequence)),
        |transaction| {
            let mut events = transaction.open_table(EVENTS).unwrap();
            (8..=10).for_each(|sequence| drop(events.remove((1, sequence)).unwrap()));
        },
    ];
    for damage in damages {
        let disk = Disk::default();
        store_with(&disk, 10).await.close().await;
        tamper(&disk, damage);
        let store = store_on(&disk, |_, _| {});
        assert_eq!(trim(&store, 14, trim_by_age(5_000_000)).await, 7);
        assert_eq!(trim(&store, 15, trim_by_age(5_000_000)).await, 10);
        assert_eq!(log(&store).bytes, 0);
        store.close().await;
        assert_eq!(recount(&disk), [(0, 0)]);
    }
}

#[tokio::test]
async fn a_damaged_event_goes_by_the_bytes_of_the_log_like_any_other() {
    let disk = disk_with(1, 9).await;
    tamper(&disk, |transaction| (1..=10).for_each(|sequence| turn_bit_of_event(transaction, sequence)));
    let store = store_on(&disk, |_, _| {});
    let all = log(&store).bytes;
    assert_eq!(trim(&store, 1, trim_by_bytes(all - 1)).await, 1);
    assert_eq!(trim(&store, 1, trim_by_bytes(0)).await, 10);
}

/// Otherwise a clock that was set back would be followed as soon as retention has emptied the log.
#[tokio::test]
async fn time_continues_from_the_latest_event_although_it_is_gone() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let ahead = store.now().get() + HOUR / 2;
    store.write(command(ahead, create(ADA))).await.unwrap();
    trim(&store, (ahead + DAY) / SECOND, trim_by_age(0)).await;
    store.close().await;
    assert_eq!(store_on(&disk, |_, _| {}).now().get(), ahead);
}

/// In format 1, heads had no bytes.
#[tokio::test]
async fn the_bytes_of_a_log_are_added_up_when_a_file_of_an_earlier_version_is_opened() {
    let disk = Disk::default();
    let store = store_with(&disk, 10).await;
    trim(&store, 4, trim_by_age(1_000_000)).await;
    let expected = log(&store);
    store.close().await;
    assert_eq!(expected.floor.get(), 3);
    let damages: [fn(&WriteTransaction); 2] = [|_| {}, |transaction| turn_bit_of_event(transaction, 7)];
    for damage in damages {
        tamper(&disk, |transaction| {
            let head =
                Head { floor: Place::after(3), place: Place::after(10), time: Micros::new(7), ..Head::default() };
            let former = super::former::head_row(1, &head);
            assert!(HeadRow::read(ID, &former).is_err(), "only the upgrade reads it");
            transaction.open_table(HEADS).unwrap().insert(1, &*former).unwrap();
            damage(transaction);
        });
        for _ in 0..2 {
            let store = store_on(&disk, |_, _| {});
            assert_eq!(log(&store), expected);
            store.close().await;
        }
    }
    let store = store_on(&disk, |_, _| {});
    store.write(command(5, increment(ADA))).await.unwrap();
    let time = events_after(&store, 10)[0].time;
    assert_eq!(time, Some(Micros::new(7).to_timestamp()), "the time of the latest event was kept");
}

fn events_after(store: &Store, after: u64) -> Vec<crate::proto::v1::Event> {
    let snapshot = store.snapshot().unwrap();
    let decode = |number| {
        let decode = |event: crate::store::EventRef<'_>| Ok(prost::Message::decode(event.event).unwrap());
        snapshot.event(ID, sequence(number), decode).unwrap()
    };
    (after + 1..=log(store).head.get()).map(decode).collect()
}

/// Three workspaces, random commands, restarts.
#[test]
fn the_bytes_of_a_log_are_those_of_its_rows_after_any_commands() {
    for seed in 0..4 {
        let disk = Disk::default();
        let mut script = Script::new(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut trimmed = false;
        for _ in 0..4 {
            let store = store_on(&disk, |_, _| {});
            let counted = runtime.block_on(async {
                for _ in 0..40 {
                    join_all(script.round().into_iter().map(|command| store.write(command))).await;
                }
                let counted = counts(&store);
                trimmed |= store.metrics().events_trimmed() > 0;
                store.close().await;
                counted
            });
            assert_eq!(counted, recount(&disk), "seed {seed}");
        }
        assert!(trimmed, "seed {seed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// What one large command removes, many small ones remove too, at the same time.
    #[test]
    fn many_small_trims_remove_what_one_large_removes(
        max_age in prop::option::of(0_u64..30),
        max_bytes in prop::option::of(0_u64..8_000),
        most in 1_usize..7,
        now in 0_i64..30,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (one, many) = (store_with(&Disk::default(), 20).await, store_with(&Disk::default(), 20).await);
            let whole = Trim { max_age: max_age.map(Duration::from_secs), max_bytes, ..NO_TRIM };
            let floor = trim(&one, now, whole).await;
            let mut before = 0;
            loop {
                let after = trim(&many, now, Trim { most, ..whole }).await;
                assert!(after - before <= most as u64);
                if after == before {
                    break;
                }
                before = after;
            }
            assert_eq!(before, floor);
            assert_eq!(log(&one), log(&many));
        });
    }
}
