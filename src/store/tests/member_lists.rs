//! Lists of members, and of their profiles, with damage in them.

use prost::Message;
use redb::ReadableTable;

use super::audiences::{id, with_patched};
use super::damage::{ID, turn_bit_of_profile};
use super::disk::Disk;
use super::harness::*;
use crate::model::page_token::PageStart;
use crate::model::{Micros, Mpid};
use crate::proto::v1::Profile;
use crate::store::rows::member_key;
use crate::store::tables::MEMBERS;
use crate::store::{Past, StoreError};

/// A damaged row of the index ends a page, and the caller may go on behind it.
#[tokio::test]
async fn a_list_of_members_goes_on_behind_a_damaged_row() {
    let disk = with_patched_and_closed(9).await;
    tamper(&disk, |transaction| {
        let mut rows = transaction.open_table(MEMBERS).unwrap();
        let key = member_key(ID, id(7), Mpid::new(4).unwrap());
        let mut row = rows.get(&*key).unwrap().unwrap().value().to_vec();
        row[1] ^= 1;
        rows.insert(&*key, &*row).unwrap();
        turn_bit_of_profile(transaction, 7);
    });
    let store = store_on(&disk, |_, _| {});
    let page = |start: PageStart, profiles: bool| {
        let (mut found, now, snapshot) = (Vec::new(), Micros::new(0), store.snapshot().unwrap());
        let last = if profiles {
            snapshot.member_profiles(ID, id(7), start, now, EVERYTHING, |profile| {
                found.push(Profile::decode(profile).unwrap().mpid);
                Ok(1)
            })
        } else {
            snapshot.members(ID, id(7), start, now, EVERYTHING, |member| {
                found.push(member.mpid);
                1
            })
        };
        (found, last.map(|last| last.map(Mpid::get)))
    };
    let after = |mpid, over_damage| PageStart { after: Mpid::new(mpid), over_damage };
    let is_damage = |last: &Result<Option<i64>, StoreError>| {
        matches!(last, Err(StoreError::Corrupt { past: Some(Past::Profile), .. }))
    };
    for profiles in [false, true] {
        let (found, last) = page(PageStart::default(), profiles);
        assert_eq!((found, last.unwrap()), (vec![1, 2, 3], Some(3)), "the page ends before the damage");
        let (found, last) = page(after(3, false), profiles);
        assert!(found.is_empty() && is_damage(&last), "{last:?}");
    }
    assert_eq!(page(after(3, true), false).0, [5, 6, 7, 8, 9], "a list of members reads no profile");
    let (found, last) = page(after(3, true), true);
    assert_eq!((found, last.unwrap()), (vec![5, 6], Some(6)));
    assert!(is_damage(&page(after(6, false), true).1));
    assert_eq!(page(after(6, true), true).0, [8, 9]);
    assert!(page(after(9, true), true).0.is_empty());
}

async fn with_patched_and_closed(people: i64) -> Disk {
    let disk = Disk::default();
    with_patched(&disk, people).await.close().await;
    disk
}
