//! What is verified when a store is opened, and the files that it creates.

use std::os::unix::fs::PermissionsExt;

use redb::{ReadableTable, WriteTransaction};
use tempfile::TempDir;

use super::damage::{ID, disk_with};
use super::harness::*;
use crate::config::StoreConfig;
use crate::model::Place;
use crate::proto::v1::WriteOutcome;
use crate::store::rows::{Head, HeadRow};
use crate::store::tables::{HEADS, PROFILES, WORKSPACES};
use crate::store::{OpenError, Store};

type Damage = fn(&WriteTransaction);

/// A single damaged bit in these rows once made one tenant read and write the data of another.
#[tokio::test]
async fn what_every_call_depends_on_is_verified_at_open() {
    let disk = disk_with(1, 0).await;
    let damages: [(&str, Damage); 4] = [
        ("workspace", |transaction| {
            let mut workspaces = transaction.open_table(WORKSPACES).unwrap();
            let mut row = workspaces.get(&b"a/b/c"[..]).unwrap().unwrap().value().to_vec();
            *row.last_mut().unwrap() ^= 1;
            workspaces.insert(&b"a/b/c"[..], &*row).unwrap();
        }),
        ("workspace", |transaction| {
            let mut workspaces = transaction.open_table(WORKSPACES).unwrap();
            let row = workspaces.remove(&b"a/b/c"[..]).unwrap().unwrap().value().to_vec();
            workspaces.insert(&b"a/b/b"[..], &*row).unwrap();
        }),
        ("head", |transaction| drop(transaction.open_table(HEADS).unwrap().remove(1).unwrap().unwrap())),
        ("head", |transaction| {
            let head = Head { floor: Place::after(2), place: Place::after(1), ..Head::default() };
            transaction.open_table(HEADS).unwrap().insert(1, &*HeadRow::encode(&head, ID)).unwrap();
        }),
    ];
    for (table, damage) in damages {
        let copy = disk.after_power_loss();
        tamper(&copy, damage);
        let refused = try_store_on(&copy, |_, _| {}).unwrap_err();
        let OpenError::Damaged { path, what } = &refused else { panic!("{refused:?}") };
        assert!(path.ends_with("cameo.redb") && what.contains(table), "{refused}");
    }
    let copy = disk.after_power_loss();
    tamper(&copy, |transaction| assert!(transaction.delete_table(PROFILES).unwrap()));
    let refused = try_store_on(&copy, |_, _| {});
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "a missing table is not created again, empty");
}

fn in_directory(directory: &TempDir) -> StoreConfig {
    StoreConfig { data_dir: directory.path().join("data"), ..config() }
}

#[tokio::test]
async fn an_empty_or_a_foreign_file_is_refused_by_name_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let config = in_directory(&directory);
    let file = config.data_dir.join("cameo.redb");
    let store = Store::open(&config, |_, _| {}).unwrap();
    store.write(command(1, create(ADA))).await.unwrap();
    store.close().await;
    drop(store);
    for bytes in [&b""[..], b"not a store", &[0; 8_192], &[0xff; 10_000]] {
        std::fs::write(&file, bytes).unwrap();
        let refused = Store::open(&config, |_, _| {}).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{} bytes: {refused}", bytes.len());
        assert!(refused.to_string().contains("cameo.redb"), "{refused}");
        assert_eq!(std::fs::read(&file).unwrap().len(), bytes.len());
    }
}

/// An interrupted start leaves an unfinished file beside the store's place. The next start replaces it.
#[tokio::test]
async fn a_store_is_created_whole_or_not_at_all_and_for_one_user_and_process() {
    let directory = TempDir::new().unwrap();
    let config = in_directory(&directory);
    std::fs::create_dir(&config.data_dir).unwrap();
    std::fs::remove_dir(&config.data_dir).unwrap();
    let store = Store::open(&config, |_, _| {}).unwrap();
    let mode = |path: &str| std::fs::metadata(config.data_dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("cameo.redb"), mode("cameo.lock")), (0o700, 0o600, 0o600));
    let second = Store::open(&config, |_, _| {});
    assert!(matches!(second, Err(OpenError::Locked { .. })), "{second:?}");
    store.close().await;
    drop(store);

    std::fs::remove_file(config.data_dir.join("cameo.redb")).unwrap();
    std::fs::write(config.data_dir.join("cameo.redb.new"), "half").unwrap();
    let store = Store::open(&config, |_, _| {}).unwrap();
    assert_eq!(store.write(command(1, create(ADA))).await.unwrap().outcome, WriteOutcome::Created);
    assert!(!config.data_dir.join("cameo.redb.new").exists());
}
