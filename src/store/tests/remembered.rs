//! The index of the identities in merges has what the records of merges say: after an upgrade too.

use std::collections::BTreeSet;

use redb::ReadableTable;

use super::checks::assert_checked;
use super::damage::ID;
use super::disk::Disk;
use super::harness::*;
use crate::command::{Change, Erase, Merge};
use crate::model::{IdentityKey, Mpid, ProfileKey};
use crate::store::StoreError;
use crate::store::rows::{FormatsRow, merge_key, remembered_key};
use crate::store::tables::{MERGES, META, REMEMBERED};

/// So many profiles were absorbed. Each has an email address of its own.
const ABSORBED: i64 = 30;

/// The tables of versions that did not have the index.
const TABLES_BEFORE: usize = 17;

fn named(number: i64) -> ProfileKey {
    ProfileKey::Mpid(Mpid::new(number).unwrap())
}

fn address(number: i64) -> String {
    format!("{number}@x")
}

/// A closed store with merges, as an earlier version wrote it.
async fn without_index() -> Disk {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    store.write(command(1, create(100))).await.unwrap();
    for number in 1..=ABSORBED {
        store.write(command(2, create_with(number, with_emails([&*address(number)])))).await.unwrap();
        let merge =
            Merge { into: named(100), from: named(number), prefer_newer: false, into_etag: None, from_etag: None };
        store.write(command(3, Change::Merge(merge))).await.unwrap();
    }
    store.close().await;
    tamper(&disk, |transaction| {
        assert!(transaction.delete_table(REMEMBERED).unwrap());
        let formats = FormatsRow::encode_first(TABLES_BEFORE);
        transaction.open_table(META).unwrap().insert(FormatsRow::KEY, &*formats).unwrap();
    });
    disk
}

/// The index of a closed store.
fn index(disk: &Disk) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    tamper(disk, |transaction| {
        let formats = transaction.open_table(META).unwrap().get(FormatsRow::KEY).unwrap().unwrap().value().to_vec();
        assert_eq!(formats, FormatsRow::encode());
        let table = transaction.open_table(REMEMBERED).unwrap();
        keys.extend(table.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()));
    });
    keys
}

fn expected() -> BTreeSet<Vec<u8>> {
    let key = |number: i64| {
        let hash = ORIGIN.secret.hash(ID, &IdentityKey::of(&email(&address(number))));
        remembered_key(ID, hash, Mpid::new(number).unwrap())
    };
    (1..=ABSORBED).map(key).collect()
}

#[tokio::test]
async fn a_file_without_the_index_of_merges_gets_it_when_it_is_opened() {
    let disk = without_index().await;
    for _ in 0..2 {
        store_on(&disk, |_, _| {}).close().await;
        assert_eq!(index(&disk), expected());
        assert_checked(&disk);
    }
}

#[tokio::test]
async fn an_index_of_merges_that_loses_its_power_is_begun_anew() {
    let disk = without_index().await;
    open_after_power_losses(&disk, |survivor| assert_eq!(index(survivor), expected())).await;
}

/// The record is damaged, and so is what would be given back. The others are indexed, and the person can be erased.
#[tokio::test]
async fn a_damaged_record_of_a_merge_is_passed_over_and_goes_with_its_person() {
    let disk = without_index().await;
    tamper(&disk, |transaction| {
        let (mut merges, key) = (transaction.open_table(MERGES).unwrap(), merge_key(ID, Mpid::new(7).unwrap()));
        let mut row = merges.get(&*key).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        merges.insert(&*key, &*row).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    let erase = Erase { key: named(100), etag: None, allow_missing: false, most: 1_000, begun: None };
    store.write(command(4, Change::Erase(erase.clone()))).await.unwrap();
    assert!(matches!(
        store
            .write(command(
                5,
                Change::Merge(Merge {
                    into: named(100),
                    from: named(7),
                    prefer_newer: false,
                    into_etag: None,
                    from_etag: None,
                })
            ))
            .await,
        Err(StoreError::ProfileNotFound { .. })
    ));
    store.close().await;
    assert_eq!(index(&disk), BTreeSet::new());
    assert_checked(&disk);
}
