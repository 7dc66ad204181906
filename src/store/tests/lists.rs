//! Pages of events and of snapshots: one state for each page, what it misses, and how much it reads.

use redb::{ReadableTable, StorageBackend};

use super::damage::{ID, LEAF, disk_with, turn_bit_of_event, turn_bit_of_profile};
use super::disk::Disk;
use super::harness::*;
use super::retention::{of_ada, store_with, trim};
use crate::command::Trim;
use crate::model::cursor::Start;
use crate::model::{Filter, Micros, Mpid, Place, Position, Shard};
use crate::proto::v1::{self, EventFilter};
use crate::store::rows::{EventRow, Head, HeadRow, ProfileRow};
use crate::store::tables::{EVENTS, HEADS, PROFILES};
use crate::store::{AsOf, EventPage, ListedEvents, PAGE, PageSize, Past, Store, StoreError};

/// Reads a page, and calls `note` with the sequence of each event.
pub(super) fn list(
    store: &Store,
    start: &Start,
    filter: &Filter,
    size: PageSize,
    mut note: impl FnMut(u64),
) -> Result<EventPage, StoreError> {
    let listing = store.listing(&workspace())?;
    let (_, position) = listing.begin(start)?;
    let listed = listing.events(position.place(), filter, size, |event| {
        note(event.sequence.get());
        Ok(Some(1))
    });
    Ok(listed?.page)
}

/// The caller gave no cursor, so none can have expired, and nothing is missing.
#[tokio::test]
async fn a_list_reads_one_state_although_the_log_is_trimmed_meanwhile() {
    for filter in [Filter::default(), of_ada()] {
        let store = store_with(&Disk::default(), 10).await;
        trim(&store, 10, trim_by_age(6_000_000)).await;
        let listing = store.listing(&workspace()).unwrap();
        let (_, position) = listing.begin(&Start::Earliest).unwrap();

        assert_eq!(trim(&store, 10, trim_by_age(3_000_000)).await, 7);

        let mut seen = Vec::new();
        let page = listing.events(position.place(), &filter, EVERYTHING, |event| {
            seen.push(event.sequence.get());
            Ok(Some(1))
        });
        let ListedEvents { page, truncated } = page.unwrap();
        assert_eq!((page.complete, truncated), (true, true));
        assert_eq!(seen, (5..=10).collect::<Vec<_>>());
    }
}

/// A snapshot that begins at the head of the log does not need the events that follow it until the next page.
#[tokio::test]
async fn a_snapshot_begins_in_one_state_although_the_log_is_trimmed_meanwhile() {
    let store = store_with(&Disk::default(), 3).await;
    let listing = store.listing(&workspace()).unwrap();
    let (_, position) = listing.begin(&Start::Snapshot).unwrap();
    let Position::Snapshot { of, after } = position else { panic!("{position:?}") };
    store.write(command(4 * SECOND, increment(ADA))).await.unwrap();
    assert_eq!(trim(&store, 100, trim_by_age(0)).await, 4);

    let as_of = AsOf { of, after, filter: &Filter::default(), now: Micros::new(0) };
    let mut profiles = 0;
    let reached = listing.profiles_as_of(as_of, EVERYTHING, |_, _| {
        profiles += 1;
        Ok(Some(1))
    });
    assert_eq!((reached.unwrap(), profiles), (Place::after(3).into(), 1));
}

/// More pages than any of these snapshots has, also if the machine is slow.
const PAGES: usize = 1_000;

/// Reads a snapshot as of a place, page by page and over damage. Returns the profiles, and those after which a page
/// ended or was refused.
fn snapshot_of(store: &Store, of: Place, filter: &Filter) -> (Vec<i64>, Vec<i64>) {
    let (mut after, mut seen, mut ends) = (None, Vec::new(), Vec::new());
    for _ in 0..PAGES {
        let as_of = AsOf { of, after, filter, now: Micros::new(0) };
        let reached = store.profiles_as_of(&workspace(), as_of, EVERYTHING, |mpid, _| {
            seen.push(mpid.get());
            Ok(Some(1))
        });
        let (Ok(reached) | Err(StoreError::Corrupt { past: Some(Past::Position(reached)), .. })) = reached else {
            panic!("{reached:?}");
        };
        let Position::Snapshot { after: next, .. } = reached else { return (seen, ends) };
        assert!(next >= after, "the next page would go back: after {after:?}, {seen:?}");
        ends.extend(next.filter(|_| next > after).map(Mpid::get)); // A page may end where it started.
        after = next;
    }
    panic!("the snapshot does not end: after {after:?}, {seen:?}");
}

/// 0 is no mpid, so a cursor cannot name the place between it and 1.
#[tokio::test]
async fn a_snapshot_continues_behind_damage_at_each_side_of_zero() {
    for damaged in [[-5, -3], [-3, -1], [-1, 1], [1, 2]] {
        let disk = Disk::default();
        let store = store_on(&disk, |_, _| {});
        let all = [-5, -3, -1, 1, 2, 4];
        for mpid in all {
            store.write(command(1, create(mpid))).await.unwrap();
        }
        store.close().await;
        tamper(&disk, |transaction| damaged.iter().for_each(|mpid| turn_bit_of_profile(transaction, *mpid)));
        let store = store_on(&disk, |_, _| {});

        let sound: Vec<_> = all.into_iter().filter(|mpid| !damaged.contains(mpid)).collect();

        assert_eq!(snapshot_of(&store, Place::after(6), &Filter::default()).0, sound, "{damaged:?}");
    }
}

/// Makes each page of a store of 400 profiles unreadable in turn. Only the rows of that page may be lost to a list.
pub(super) async fn each_unreadable_page(list: impl Fn(&Store) -> Vec<i64>) {
    let disk = disk_with(400, 0).await;
    let whole = bytes_of(&disk);
    let mut unreadable = 0;
    for page in (1..whole.len() / PAGE).filter(|page| whole[page * PAGE] == LEAF) {
        let copy = disk_of(&whole);
        copy.write((page * PAGE) as u64, &[0; PAGE]).unwrap();
        let Some(store) = store_if_sound(&copy) else { continue };
        let found: Vec<_> = (1..=400).filter(|mpid| matches!(stored(&store, *mpid), Ok(Some(_)))).collect();
        assert_eq!(list(&store), found, "page {page}");
        unreadable += usize::from(found.len() < 400);
    }
    assert!(unreadable > 3, "{unreadable} pages of profiles");
}

#[tokio::test]
async fn a_snapshot_continues_behind_a_page_that_cannot_be_read() {
    each_unreadable_page(|store| snapshot_of(store, Place::after(400), &Filter::default()).0).await;
}

/// The chains of other shards are not even looked at: they are damaged.
#[tokio::test]
async fn a_snapshot_of_a_shard_follows_no_chain_of_another() {
    let disk = disk_with(20, 0).await;
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=20 {
        store.write(command(2, increment(mpid))).await.unwrap();
    }
    store.close().await;
    let shard = Shard::parse("shard", v1::Shard { index: 1, count: 3 }).unwrap();
    let (own, others): (Vec<_>, Vec<_>) = (1..=20).partition(|mpid| shard.holds(Mpid::new(*mpid).unwrap()));
    assert!(own.len() > 1 && others.len() > 1);
    tamper(&disk, |transaction| {
        for mpid in &others {
            turn_bit_of_event(transaction, 20 + mpid.cast_unsigned());
        }
    });
    let store = store_on(&disk, |_, _| {});

    let of_shard = Filter::default().of_shard(Some(shard));

    assert_eq!(snapshot_of(&store, Place::after(20), &of_shard), (own, vec![]));
}

/// Whether a list of everything from the oldest event, of one profile or of all, is truncated.
fn is_truncated(store: &Store, filter: &Filter) -> bool {
    let listing = store.listing(&workspace()).unwrap();
    let (_, position) = listing.begin(&Start::Earliest).unwrap();
    listing.events(position.place(), filter, EVERYTHING, |_| Ok(Some(1))).unwrap().truncated
}

fn of(mpid: i64) -> Filter {
    Filter::parse(Some(EventFilter { mpids: vec![mpid], ..EventFilter::default() }), None).unwrap()
}

#[tokio::test]
async fn a_list_is_truncated_if_retention_has_removed_events_of_what_it_lists() {
    let store = store_with(&Disk::default(), 10).await;
    let truncated = || [Filter::default(), of(ADA), of(GRACE), of(ALAN)].map(|filter| is_truncated(&store, &filter));
    assert_eq!(truncated(), [false; 4], "nothing was removed");

    trim(&store, 10, trim_by_age(6_000_000)).await;
    store.write(command(11 * SECOND, create(GRACE))).await.unwrap();
    store.write(command(12 * SECOND, increment(GRACE))).await.unwrap();
    assert_eq!(truncated(), [true, true, false, false], "Grace was created after the trim, and Alan never");

    assert_eq!(trim(&store, 100, trim_by_age(0)).await, 12);
    store.write(command(101 * SECOND, create(ALAN))).await.unwrap();
    assert_eq!(truncated(), [true, true, true, false], "Ada and Grace have no event left");

    store.write(command(102 * SECOND, delete(GRACE))).await.unwrap();
    store.write(command(103 * SECOND, create(GRACE))).await.unwrap();
    assert_eq!(trim(&store, 103, Trim { most: 2, ..trim_by_age(0) }).await, 14);
    assert_eq!(truncated(), [true; 4], "what is left of Grace began before her tombstone");
}

/// The check looks at the first event that the page finds, and not at the rest of the chain.
#[tokio::test]
async fn a_history_with_damage_is_listed_up_to_it_also_after_a_trim() {
    let disk = Disk::default();
    let store = store_with(&disk, 20).await;
    trim(&store, 20, trim_by_age(15_000_000)).await;
    store.write(command(20 * SECOND, create(GRACE))).await.unwrap();
    store.write(command(20 * SECOND, increment(GRACE))).await.unwrap();
    store.close().await;
    tamper(&disk, |transaction| [12, 22].iter().for_each(|event| turn_bit_of_event(transaction, *event)));
    let store = store_on(&disk, |_, _| {});
    let read = |mpid: i64| {
        let listing = store.listing(&workspace()).unwrap();
        let mut seen = Vec::new();
        let listed = listing.events(Place::after(5), &of(mpid), EVERYTHING, |event| {
            seen.push(event.sequence.get());
            Ok(Some(1))
        });
        let ListedEvents { page, truncated } = listed.unwrap();
        (seen, page.through.get(), truncated)
    };

    assert_eq!(read(ADA), ((6..=11).collect(), 11, true));
    assert_eq!(read(GRACE), (vec![], 11, true), "the page ends before her first event, and cannot tell");
}

/// Neither the page nor the check follows such a chain to its beginning.
#[tokio::test]
async fn a_history_that_is_too_long_to_follow_says_what_its_page_has_found() {
    let disk = Disk::default();
    let store = store_with(&disk, 5).await;
    trim(&store, 5, trim_by_age(2_000_000)).await;
    store.write(command(5 * SECOND, create(GRACE))).await.unwrap();
    store.write(command(5 * SECOND, increment(GRACE))).await.unwrap();
    store.close().await;
    lengthen(&disk, ADA, TOO_LONG);
    lengthen(&disk, GRACE, TOO_LONG);
    let store = store_on(&disk, |_, _| {});
    assert!(is_truncated(&store, &of(ADA)));
    assert!(!is_truncated(&store, &of(GRACE)), "her first event is on the page");

    store.write(command(6 * SECOND, create(ALAN))).await.unwrap();
    store.write(command(6 * SECOND, increment(ALAN))).await.unwrap();
    store.close().await;
    lengthen(&disk, ALAN, TOO_LONG);
    let store = store_on(&disk, |_, _| {});
    assert!(is_truncated(&store, &of(ALAN)), "the page does not reach his first event, and cannot tell");
}

/// Pages get past each profile, also past one with a chain that is longer than a page may be.
#[tokio::test]
async fn a_snapshot_page_ends_early_if_its_chains_are_long() {
    let disk = disk_with(4, 0).await;
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=4 {
        store.write(command(2, increment(mpid))).await.unwrap();
    }
    store.close().await;
    for (mpid, by) in [(1, TOO_LONG), (2, TOO_LONG / 2), (3, TOO_LONG / 2), (4, 1)] {
        lengthen(&disk, mpid, by);
    }
    let of_four =
        Filter::parse(Some(EventFilter { mpids: (1..=4).collect(), ..EventFilter::default() }), None).unwrap();
    for filter in [Filter::default(), of_four] {
        let store = store_on(&disk, |_, _| {}); // A new one has no walks yet.
        let (seen, ends) = snapshot_of(&store, Place::after(4), &filter);
        assert_eq!(seen, [1, 2, 3, 4]);
        assert!(ends.first().is_some_and(|first| *first <= 2), "{ends:?}"); // There are more if the machine is slow.
        store.close().await;
    }
}

/// More events than one page reads.
const TOO_LONG: u64 = 10_001;

/// Appends copies of a profile's latest event, far faster than the store can write them.
fn lengthen(disk: &Disk, mpid: i64, by: u64) {
    let mpid = Mpid::new(mpid).unwrap();
    tamper(disk, |transaction| {
        let mut profiles = transaction.open_table(PROFILES).unwrap();
        let mut events = transaction.open_table(EVENTS).unwrap();
        let mut heads = transaction.open_table(HEADS).unwrap();
        let head = HeadRow::read(ID, heads.get(1).unwrap().unwrap().value()).unwrap();
        let profile = profiles.get((1, mpid.get())).unwrap().unwrap().value().to_vec();
        let profile = ProfileRow::read(ID, mpid, &profile).unwrap();
        let latest = events.get((1, profile.last_event.get())).unwrap().unwrap().value().to_vec();
        let latest = EventRow::read(ID, profile.last_event, &latest).unwrap();
        let mut previous = profile.last_event;
        for number in head.place.get() + 1..=head.place.get() + by {
            let row = EventRow { previous: Some(previous), ..latest };
            previous = sequence(number);
            events.insert((1, number), &*row.encode(ID, previous)).unwrap();
        }
        let profile = ProfileRow { last_event: previous, ..profile };
        profiles.insert((1, mpid.get()), &*profile.encode(ID, mpid)).unwrap();
        heads.insert(1, &*HeadRow::encode(&Head { place: previous.into(), ..head }, ID)).unwrap();
    });
}
