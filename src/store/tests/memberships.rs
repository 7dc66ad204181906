//! The index of memberships says what the profiles say: after any commands, and after an upgrade.

use std::collections::BTreeMap;

use prost::Message;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::damage::turn_bit_of_profile;
use super::disk::Disk;
use super::harness::*;
use crate::model::profile::{expiry, next_expiry};
use crate::model::{AudienceId, Mpid};
use crate::proto::v1::{AudienceMembership, Profile, ProfilePatch};
use crate::store::WorkspaceId;
use crate::store::rows::{
    AudienceRow, ExpiryRow, FormatsRow, MemberRow, ProfileRow, Work, audience_key, expiry_key, member_key,
};
use crate::store::tables::{AUDIENCES, EXPIRIES, MEMBERS, META, PROFILES};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The index, as the profiles of a closed store say that it should be.
#[derive(Debug, Default, PartialEq)]
struct Index {
    members: Rows,
    expiries: Rows,
    /// The members of each audience that has any.
    counts: BTreeMap<Vec<u8>, u64>,
}

fn of_profiles(disk: &Disk) -> Index {
    let (mut index, database) = (Index::default(), database(disk));
    let transaction = database.begin_read().unwrap();
    for row in transaction.open_table(PROFILES).unwrap().iter().unwrap() {
        let (key, row) = row.unwrap();
        let (id, mpid) = (WorkspaceId(key.value().0), Mpid::new(key.value().1).unwrap());
        let Ok(row) = ProfileRow::read(id, mpid, row.value()) else { continue };
        let Some(profile) = row.profile().map(|profile| Profile::decode(profile).unwrap()) else { continue };
        assert_eq!(row.next_expiry, next_expiry(&profile));
        for membership in &profile.audience_memberships {
            let audience = AudienceId::new(membership.audience_id).unwrap();
            let key = member_key(id, audience, mpid);
            index.members.insert(key.clone(), MemberRow::encode(&key, expiry(membership)));
            *index.counts.entry(audience_key(id, audience)).or_default() += 1;
        }
        if let Some(end) = row.next_expiry {
            let key = expiry_key(id, end, mpid);
            index.expiries.insert(key.clone(), ExpiryRow::encode(&key));
        }
    }
    index
}

fn stored_index(disk: &Disk) -> Index {
    let database = database(disk);
    let transaction = database.begin_read().unwrap();
    let rows = |table: TableDefinition<&[u8], &[u8]>| -> Rows {
        let rows = transaction.open_table(table).unwrap();
        let rows = rows.iter().unwrap().map(Result::unwrap);
        rows.map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).collect()
    };
    let mut counts = BTreeMap::new();
    for (key, row) in rows(AUDIENCES) {
        let AudienceRow { members, work, registered } = AudienceRow::read(&key, &row).unwrap();
        assert!(members > 0 || registered.is_some(), "an audience that is nothing has no row");
        assert!(work == Work::None || registered.is_some(), "work is done on registered audiences");
        assert!(work != Work::Deleting || members > 0, "a deleted audience without members is gone");
        if members > 0 {
            counts.insert(key, members);
        }
    }
    Index { members: rows(MEMBERS), expiries: rows(EXPIRIES), counts }
}

/// Checks that the index of a closed store is what its profiles say.
pub fn check_index(disk: &Disk) {
    assert_eq!(stored_index(disk), of_profiles(disk));
}

/// A profile that is in the audiences, each until this second, or for ever.
fn member_of(audiences: &[(i64, Option<i64>)]) -> Profile {
    let membership = |(audience_id, second): &(i64, Option<i64>)| AudienceMembership {
        audience_id: *audience_id,
        audience_name: format!("patch {audience_id}"),
        expire_time: second.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
    };
    Profile { audience_memberships: audiences.iter().map(membership).collect(), ..Profile::default() }
}

#[tokio::test]
async fn the_index_follows_every_change_of_a_profile() {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    let write = async |change: crate::command::Change| store.write(command(SECOND, change)).await.unwrap();
    write(create_with(ADA, member_of(&[(7, Some(50)), (8, None)])).into()).await;
    write(create_with(GRACE, member_of(&[(7, Some(40)), (9, Some(30))])).into()).await;
    write(create_with(ALAN, member_of(&[(7, None)])).into()).await;
    write(join(ADA, 7, 60).into()).await;
    write(join(ADA, 9, 20).into()).await;
    let leave = ProfilePatch { leave_audiences: vec![7, 9], ..ProfilePatch::default() };
    write(update(GRACE, leave).into()).await;
    write(delete(ALAN).into()).await;
    store.close().await;
    check_index(&disk);
    let index = stored_index(&disk);
    assert_eq!((index.members.len(), index.expiries.len()), (3, 1));
    assert_eq!(index.counts.values().sum::<u64>(), 3);
}

/// A closed store as an earlier version wrote it: with memberships, but without an index of them.
async fn without_index() -> Disk {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=30 {
        let ends = (mpid % 3 == 0).then_some(1_000 + mpid);
        store.write(command(1, create_with(mpid, member_of(&[(100, ends), (mpid, None)])))).await.unwrap();
    }
    store.write(command(2, delete(5))).await.unwrap();
    store.close().await;
    forget_index(&disk);
    disk
}

fn forget_index(disk: &Disk) {
    tamper(disk, |transaction| {
        for table in [AUDIENCES, MEMBERS, EXPIRIES] {
            transaction.delete_table(table).unwrap();
        }
        let formats = FormatsRow::encode_before_audiences();
        transaction.open_table(META).unwrap().insert(FormatsRow::KEY, &*formats).unwrap();
    });
}

#[tokio::test]
async fn a_file_without_the_index_gets_it_when_it_is_opened() {
    let disk = without_index().await;
    for _ in 0..2 {
        store_on(&disk, |_, _| {}).close().await;
        check_index(&disk);
    }
    assert!(!of_profiles(&disk).members.is_empty());
    let formats = |transaction: &redb::WriteTransaction| {
        let row = transaction.open_table(META).unwrap().get(FormatsRow::KEY).unwrap().unwrap().value().to_vec();
        assert_eq!(row, FormatsRow::encode());
    };
    tamper(&disk, formats);
}

/// The index is built whole or not at all, and a start that was interrupted leaves what the next one needs.
#[tokio::test]
async fn an_upgrade_that_loses_its_power_begins_anew() {
    let disk = without_index().await;
    open_after_power_losses(&disk, check_index).await;
}

#[tokio::test]
async fn an_upgrade_passes_over_damaged_profiles() {
    let disk = without_index().await;
    tamper(&disk, |transaction| {
        turn_bit_of_profile(transaction, 1);
        turn_bit_of_profile(transaction, 11);
        turn_bit_of_profile(transaction, 12);
        turn_bit_of_profile(transaction, 30);
    });
    store_on(&disk, |_, _| {}).close().await;
    check_index(&disk);
    assert_eq!(of_profiles(&disk).members.len(), 2 * (30 - 5), "one was deleted, and four are damaged");
}
