//! Pages of events and of snapshots: one state for each page.

use super::disk::Disk;
use super::harness::*;
use super::retention::{of_ada, store_with, trim};
use crate::model::cursor::Start;
use crate::model::{Filter, Micros, Mpid, Place, Position};
use crate::store::{AsOf, EventPage, PageSize, Store, StoreError};

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
    listing.events(position.place(), filter, size, |event| {
        note(event.sequence.get());
        Ok(Some(1))
    })
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
        assert!(page.unwrap().complete);
        assert_eq!(seen, (5..=10).collect::<Vec<_>>());
        assert!(listing.has_events_before(Mpid::new(ADA).unwrap(), position.place()).unwrap());
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

    let as_of = AsOf { of, after, mpids: &[], now: Micros::new(0) };
    let mut profiles = 0;
    let reached = listing.profiles_as_of(as_of, EVERYTHING, |_, _| {
        profiles += 1;
        Ok(Some(1))
    });
    assert_eq!((reached.unwrap(), profiles), (Place::after(3).into(), 1));
}
