//! Profiles as they were at a place in the log: pages of named ones, memberships that have ended, and a trimmed log.
//!
//! That a snapshot meets the stream is tested in `tests/it`.

use futures_util::future::join_all;
use prost::Message;

use super::damage::ID;
use super::disk::Disk;
use super::harness::*;
use crate::model::{Filter, Micros, Mpid, Place, Position};
use crate::proto::v1::{EventFilter, Profile};
use crate::store::read::{Parts, ROWS};
use crate::store::{AsOf, PageSize, Store, StoreError};

/// The profiles of a page of at most so many, and how far it goes.
fn page(store: &Store, as_of: AsOf<'_>, items: usize) -> Result<(Vec<Profile>, Position), StoreError> {
    page_with(&Parts::default(), store, as_of, items)
}

/// The same, with the walks of earlier pages.
fn page_with(
    parts: &Parts,
    store: &Store,
    as_of: AsOf<'_>,
    items: usize,
) -> Result<(Vec<Profile>, Position), StoreError> {
    let mut profiles = Vec::new();
    let size = PageSize { items, bytes: usize::MAX };
    let reached = store.snapshot().unwrap().profiles_as_of(parts, ID, as_of, size, |_, profile| {
        profiles.push(Profile::decode(profile).unwrap());
        Ok(Some(profile.len()))
    })?;
    Ok((profiles, reached))
}

fn as_of(of: u64, after: Option<Mpid>, filter: &Filter, now: i64) -> AsOf<'_> {
    AsOf { of: Place::after(of), after, filter, now: Micros::new(now) }
}

/// Selects these profiles; all if there are none.
fn named(mpids: &[i64]) -> Filter {
    Filter::parse(Some(EventFilter { mpids: mpids.into(), ..EventFilter::default() }), None).unwrap()
}

#[tokio::test]
async fn pages_of_named_profiles_follow_each_other() {
    let store = store_on(&Disk::default(), |_, _| {});
    for person in 1..=7 {
        store.write(command(SECOND, create(person))).await.unwrap();
    }
    store.write(command(SECOND, delete(4))).await.unwrap(); // 8: before the place
    store.write(command(SECOND, delete(2))).await.unwrap(); // 9
    store.write(command(SECOND, increment(5))).await.unwrap(); // 10
    store.write(command(SECOND, create(9))).await.unwrap(); // 11
    let named = named(&[1, 2, 3, 4, 5, 7, 8, 9]);
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let (profiles, reached) = page(&store, as_of(8, after, &named, SECOND), 2).unwrap();
        assert!(profiles.iter().all(|profile| profile.user_attributes.is_none()), "none was incremented yet");
        pages.push(profiles.iter().map(|profile| profile.mpid).collect::<Vec<_>>());
        match reached {
            Position::Snapshot { of, after: last } => {
                assert_eq!(of, Place::after(8));
                after = last;
            }
            Position::Log(place) => break assert_eq!(place, Place::after(8)),
        }
    }
    assert_eq!(pages.concat(), [1, 2, 3, 5, 7]);
    assert!(pages.iter().all(|page| page.len() <= 2));
}

/// Whether the profile has changed since the place or not.
#[tokio::test]
async fn a_profile_as_of_a_place_is_in_no_audience_whose_membership_has_ended() {
    let store = store_on(&Disk::default(), |_, _| {});
    for person in [ADA, GRACE] {
        store.write(command(SECOND, create(person))).await.unwrap();
        store.write(command(SECOND, join(person, 7, 10))).await.unwrap();
    }
    store.write(command(2 * SECOND, increment(ADA))).await.unwrap(); // 5
    for (second, memberships) in [(9, 1), (10, 0)] {
        let (profiles, _) = page(&store, as_of(4, None, &Filter::default(), second * SECOND), 10).unwrap();
        let memberships_of = profiles.iter().map(|profile| profile.audience_memberships.len());
        assert_eq!(memberships_of.collect::<Vec<_>>(), [memberships; 2], "at second {second}");
    }
}

/// Without the events after the place, what a profile was at it cannot be told.
#[tokio::test]
async fn a_page_of_a_snapshot_that_the_floor_has_passed_is_refused() {
    let store = store_on(&Disk::default(), |_, _| {});
    store.write(command(SECOND, create(ADA))).await.unwrap();
    for second in 2..=10 {
        store.write(command(second * SECOND, increment(ADA))).await.unwrap();
    }
    store.import(command(9 * SECOND, trim_by_age(5_000_000))).await.unwrap().await.unwrap();
    assert_eq!(log(&store).floor, Place::after(4));
    for named in [named(&[]), named(&[ADA])] {
        assert!(matches!(page(&store, as_of(3, None, &named, 0), 10), Err(StoreError::Expired { .. })));
        let (profiles, reached) = page(&store, as_of(4, None, &named, 0), 10).unwrap();
        assert_eq!((profiles.len(), reached), (1, Position::Log(Place::after(4))));
    }
}

/// However long a chain is, a page reads a bounded part of it. The next page goes on from there.
#[tokio::test]
async fn a_chain_that_is_longer_than_a_page_is_walked_in_parts() {
    let store = store_on(&Disk::default(), |_, _| {});
    for person in [ADA, GRACE, ALAN] {
        store.write(command(SECOND, create(person))).await.unwrap();
    }
    for _ in 0..=ROWS / 500 {
        let changes = (0..500).map(|_| store.write(command(SECOND, increment(GRACE))));
        join_all(changes).await.into_iter().for_each(|written| drop(written.unwrap()));
    }
    let mpids = |profiles: &[Profile]| profiles.iter().map(|profile| profile.mpid).collect::<Vec<_>>();
    for named in [named(&[]), named(&[ADA, GRACE, ALAN])] {
        let parts = Parts::default();
        let read = |after| page_with(&parts, &store, as_of(3, after, &named, 0), 10).unwrap();
        let first = Position::Snapshot { of: Place::after(3), after: Mpid::new(ADA) };

        let (profiles, mut reached) = read(None);

        assert_eq!((mpids(&profiles), reached), (vec![ADA], first));
        let mut rest = Vec::new();
        for _ in 0..ROWS / 50 {
            let Position::Snapshot { after, .. } = reached else { break };
            let (profiles, next) = read(after);
            rest.extend(profiles);
            reached = next;
        }
        assert_eq!((mpids(&rest), reached), (vec![GRACE, ALAN], Position::Log(Place::after(3))));
        assert!(rest[0].user_attributes.is_none(), "it was not incremented yet");
    }
}
