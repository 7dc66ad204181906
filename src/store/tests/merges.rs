//! Merges: the audiences of a profile that is restored.

use prost::Message;
use prost_types::Timestamp;

use super::audiences::{add, at, members, register, unregister, work};
use super::disk::Disk;
use super::harness::*;
use super::memberships::check_index;
use crate::command::{Change, Create, Merge, Unmerge};
use crate::model::{Mpid, ProfileKey};
use crate::proto::v1::{AudienceMembership, Profile, UnmergeProfilesResponse};
use crate::store::Written;

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
