//! Damage in the pages that redb keeps for itself, and damage that makes a row look absent.

use redb::{ReadableTable, StorageBackend};

use super::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::store::pages;
use crate::store::tables::REQUESTS;
use crate::store::tests::disk::{Crash, Replay};

/// Offset in redb's header of the flags, and the flag that names the slot of the latest commit.
const FLAGS: u64 = 9;
const SECOND_SLOT: u8 = 1;
/// Profiles of the closed store.
const PROFILES: i64 = 40;

/// A closed store whose profiles were created by requests with ids.
async fn closed_store() -> Disk {
    let disk = Disk::default();
    let store = store_on(&disk, |_, _| {});
    for mpid in 1..=PROFILES {
        let profile = with_emails([&*format!("{mpid}@example.org")]);
        store.write(with_id(command(mpid, create_with(mpid, profile)), &format!("id {mpid}"))).await.unwrap();
    }
    store.close().await;
    disk
}

#[tokio::test]
async fn a_lost_page_is_refused_when_the_file_is_opened_or_affects_only_calls_that_need_it() {
    let disk = closed_store().await;
    let (mut refused, mut opened) = (0, 0);
    let whole = bytes_of(&disk);
    for page in 1..whole.len() / PAGE {
        let disk = disk_of(&whole);
        disk.write((page * PAGE) as u64, &[0; PAGE]).unwrap();
        if pages::verify(&disk).is_err() {
            refused += 1;
            continue;
        }
        let Some(store) = store_if_sound(&disk) else {
            refused += 1;
            continue;
        };
        opened += 1;
        for mpid in 1..=PROFILES + 1 {
            let written = store.write(command(100, create(mpid))).await;
            let allowed = matches!(written, Ok(_) | Err(StoreError::ProfileExists { .. } | StoreError::Corrupt { .. }));
            assert!(allowed, "page {page}: {written:?}");
        }
        assert!(!store.failed().is_cancelled(), "page {page}");
        store.close().await;
    }
    assert!(refused > 5 && opened > 5, "{refused} refused, {opened} opened");
}

/// One bit says which of the last two commits is the latest. No checksum of redb covers it.
#[tokio::test]
async fn a_header_that_names_the_commit_before_the_last_is_refused() {
    let disk = closed_store().await;
    assert_eq!(pages::verify(&disk), Ok(()));
    let mut flags = [0];
    disk.read(FLAGS, &mut flags).unwrap();
    disk.write(FLAGS, &[flags[0] ^ SECOND_SLOT]).unwrap();
    assert!(pages::verify(&disk).is_err());
}

/// The pages verify whichever part of the latest commit has reached the disk.
#[tokio::test]
async fn a_crash_is_not_mistaken_for_damage() {
    let disk = closed_store().await;
    let mut random = StdRng::seed_from_u64(1);
    for operations in 0..disk.operations() {
        let replay = Replay::up_to(&disk, operations);
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Scatter, Crash::Tear] {
            let left = Disk::holding(replay.crash(crash, &mut random));
            assert_eq!(pages::verify(&left), Ok(()), "{crash:?} after {operations} operations");
        }
    }
}

#[tokio::test]
async fn a_request_whose_remembered_id_is_damaged_is_not_applied_again() {
    let disk = closed_store().await;
    tamper(&disk, |transaction| {
        let mut requests = transaction.open_table(REQUESTS).unwrap();
        let (key, row) =
            requests.first().unwrap().map(|(key, row)| (key.value().to_vec(), row.value().to_vec())).unwrap();
        assert!(key.ends_with(b"id 1"));
        requests.remove(&*key).unwrap();
        requests.insert(&*[&key[..key.len() - 1], b"0"].concat(), &*row).unwrap();
    });
    let store = store_on(&disk, |_, _| {});
    let repeated = store.write(with_id(command(100, create(99)), "id 1")).await;
    assert!(matches!(repeated, Err(StoreError::Corrupt { table: "request", .. })), "{repeated:?}");
    assert!(stored(&store, 99).unwrap().is_none());
}
