//! Merges: the records of them that a survivor may have, and the audiences of a profile that is restored.

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Timestamp, Value};

use super::audiences::{add, at, members, register, unregister, work};
use super::disk::Disk;
use super::harness::*;
use super::memberships::check_index;
use crate::command::{Change, Command, Create, Identify, Merge, Unmerge};
use crate::model::identity::ParsedIdentity;
use crate::model::limits::MERGE_BYTES;
use crate::model::{Invalid, Limits, Mpid, NewProfile, Patch, ProfileKey};
use crate::proto::v1::{AudienceMembership, OnConflict, Profile, ProfilePatch, UnmergeProfilesResponse};
use crate::store::{Store, StoreError, Written};

fn merge(into: i64, from: i64) -> Change {
    let key = |mpid| ProfileKey::Mpid(Mpid::new(mpid).unwrap());
    let (into, from) = (key(into), key(from));
    Change::Merge(Merge { into, from, prefer_newer: false, into_etag: None, from_etag: None })
}

fn unmerge(mpid: i64) -> Change {
    Change::Unmerge(Unmerge { merged: Mpid::new(mpid).unwrap() })
}

/// A profile that is in audience 7 until a second.
fn member(mpid: i64, until: i64) -> Create {
    let expire_time = Some(Timestamp { seconds: until, nanos: 0 });
    let membership = AudienceMembership { audience_id: 7, expire_time, ..AudienceMembership::default() };
    create_with(mpid, Profile { audience_memberships: vec![membership], ..Profile::default() })
}

fn kept(written: &Written) -> Vec<String> {
    UnmergeProfilesResponse::decode(&*written.detail).unwrap().kept_fields
}

#[tokio::test]
async fn an_unmerge_enrols_nobody_in_an_audience_with_the_id_of_one_that_is_gone() {
    for is_used_again in [true, false] {
        let disk = Disk::default();
        let store = store_on(&disk, |_, _| {});
        at(&store, 1, register(7, "first")).await.unwrap();
        for profile in [member(ADA, 100), member(GRACE, 90), create(ALAN)] {
            at(&store, 2, profile).await.unwrap();
        }
        at(&store, 3, merge(GRACE, ADA)).await.unwrap();
        at(&store, 3, merge(ALAN, GRACE)).await.unwrap();
        at(&store, 4, unregister(7)).await.unwrap();
        at(&store, 4, work(7, 9)).await.unwrap();
        if is_used_again {
            at(&store, 5, register(7, "second")).await.unwrap();
        }
        for mpid in [GRACE, ADA] {
            let undone = at(&store, 6, unmerge(mpid)).await.unwrap();
            assert_eq!(kept(&undone), [""; 0]);
        }
        assert!(members(&store, 7, 6).is_empty());
        store.close().await;
        check_index(&disk);
    }
}

/// The survivor has joined the second audience itself.
#[tokio::test]
async fn an_unmerge_leaves_the_survivor_in_another_audience_with_the_same_id() {
    let store = store();
    at(&store, 1, register(7, "first")).await.unwrap();
    for profile in [member(ADA, 100), member(GRACE, 90), member(ALAN, 80)] {
        at(&store, 2, profile).await.unwrap();
    }
    at(&store, 3, merge(ALAN, ADA)).await.unwrap();
    at(&store, 3, unregister(7)).await.unwrap();
    at(&store, 3, work(7, 9)).await.unwrap();
    at(&store, 4, register(7, "second")).await.unwrap();
    at(&store, 5, add(7, [ALAN], Some(100 * SECOND))).await.unwrap();
    assert_eq!(kept(&at(&store, 6, unmerge(ADA)).await.unwrap()), [""; 0]);
    assert_eq!(members(&store, 7, 99), [ALAN], "it ends when it did");
}

#[tokio::test]
async fn an_unmerge_gives_back_memberships_of_audiences_that_are_as_they_were_or_new() {
    for was_registered in [true, false] {
        let store = store();
        if was_registered {
            at(&store, 1, register(7, "crm")).await.unwrap();
        }
        for profile in [member(ADA, 100), member(GRACE, 90)] {
            at(&store, 2, profile).await.unwrap();
        }
        at(&store, 3, merge(GRACE, ADA)).await.unwrap();
        if !was_registered {
            at(&store, 4, register(7, "crm")).await.unwrap(); // Until now only profiles named it.
        }
        at(&store, 5, unmerge(ADA)).await.unwrap();
        let seen = [89, 95].map(|second| members(&store, 7, second));
        assert_eq!(seen, [vec![ADA, GRACE], vec![ADA]], "{was_registered}");
    }
}

/// Profiles as large as these tests need.
fn large() -> Limits {
    Limits { profile_bytes: 64 << 20, attribute_value_bytes: 64 << 20, ..Limits::default() }
}

async fn write(store: &Store, change: impl Into<Change>) -> Result<Written, StoreError> {
    store.write(Command { limits: large(), ..command(SECOND, change) }).await
}

/// A profile with an email address, and a note of so many bytes.
fn noted(mpid: i64, bytes: usize) -> Create {
    let note = Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
    let user_attributes = Some(Struct { fields: [("note".to_owned(), note)].into() });
    let profile = Profile { user_attributes, ..with_emails([&*mpid.to_string()]) };
    let profile = Box::new(NewProfile::parse(profile, &large()).unwrap());
    Create { profile, mpid: Mpid::new(mpid).unwrap(), drawn: false }
}

/// The bytes of records that a merge was refused for.
fn found(refused: Result<Written, StoreError>) -> usize {
    match refused {
        Err(StoreError::Invalid(Invalid::Limit { subject: "bytes of records of merges", limit, found, .. })) => {
            assert_eq!(limit, MERGE_BYTES);
            found
        }
        other => panic!("{other:?}"),
    }
}

/// A write of a survivor reads all its records.
#[tokio::test]
async fn the_records_of_the_merges_of_one_survivor_are_bounded_to_the_byte() {
    let (store, quarter) = (store(), MERGE_BYTES / 4);
    for (mpid, bytes) in [(1, 0), (2, quarter), (3, quarter), (4, quarter), (5, quarter)] {
        write(&store, noted(mpid, bytes)).await.unwrap();
    }
    for (into, from) in [(2, 3), (1, 2), (1, 4)] {
        write(&store, merge(into, from)).await.unwrap();
    }
    let too_much = found(write(&store, merge(1, 5)).await) - MERGE_BYTES;
    assert!(too_much < 10_000, "the notes are most of it: {too_much}");

    for (more, mpid) in [(1, 6), (0, 7)] {
        write(&store, noted(mpid, quarter - too_much + more)).await.unwrap();
        let merged = write(&store, merge(1, mpid)).await;
        if more > 0 {
            assert_eq!(found(merged), MERGE_BYTES + more);
        } else {
            merged.unwrap();
        }
    }
    let with_all = found(write(&store, merge(5, 1)).await);
    assert!(with_all < MERGE_BYTES + 10_000, "what was absorbed with it counts: {with_all}");
    write(&store, unmerge(4)).await.unwrap();
    write(&store, noted(8, quarter / 2)).await.unwrap();
    write(&store, merge(1, 8)).await.unwrap();
}

#[tokio::test]
async fn the_records_of_several_merges_in_one_call_count_together() {
    let (store, third) = (store(), MERGE_BYTES / 3);
    for (mpid, bytes) in [(1, 0), (2, 2 * third), (3, third / 3), (4, third / 3), (5, third / 2)] {
        write(&store, noted(mpid, bytes)).await.unwrap();
    }
    write(&store, merge(1, 2)).await.unwrap();
    let identify = |mpids: &[i64]| {
        let emails = mpids.iter().map(|mpid| email(&mpid.to_string())).collect();
        let identities = ParsedIdentity::parse_all("identities", emails, &large()).unwrap();
        let patch = Box::new(Patch::parse(ProfilePatch::default(), &large()).unwrap());
        let create_as = Mpid::new(99).unwrap();
        Change::Identify(Identify { identities, patch, on_conflict: OnConflict::Merge, create_as })
    };
    found(write(&store, identify(&[1, 3, 4, 5])).await);
    write(&store, identify(&[1, 3, 4])).await.unwrap();
}
