//! The store's file, which tests damage while no server has it open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use tempfile::TempDir;

/// The name of the store's file in a server's data directory.
pub const STORE_FILE: &str = "cameo.redb";
/// The number of the first workspace that a store holds.
pub const FIRST_WORKSPACE: u32 = 1;

/// Profiles, by the workspace's number and the mpid.
pub const PROFILES: TableDefinition<(u32, i64), &[u8]> = TableDefinition::new("profiles_v1");
/// Events, by the workspace's number and the sequence.
pub const EVENTS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("events_v1");

/// The data directory of a [`TestServer`](super::TestServer) that was started on `dir`.
pub fn data_dir(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The store's file in that directory.
pub fn store_file(dir: &Path) -> PathBuf {
    data_dir(dir).join(STORE_FILE)
}

/// Changes the store of a server that has stopped.
pub fn edit(dir: &Arc<TempDir>, edit: impl FnOnce(&WriteTransaction)) {
    let database = Database::open(store_file(dir.path())).unwrap();
    let transaction = database.begin_write().unwrap();
    edit(&transaction);
    transaction.commit().unwrap();
}

/// Flips a bit of a profile of the first workspace.
pub fn damage_profile(transaction: &WriteTransaction, mpid: i64) {
    let mut table = transaction.open_table(PROFILES).unwrap();
    let mut row = table.get((FIRST_WORKSPACE, mpid)).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    table.insert((FIRST_WORKSPACE, mpid), row.as_slice()).unwrap();
}

/// Flips a bit of an event of the first workspace.
pub fn damage_event(transaction: &WriteTransaction, sequence: u64) {
    let mut table = transaction.open_table(EVENTS).unwrap();
    let mut row = table.get((FIRST_WORKSPACE, sequence)).unwrap().unwrap().value().to_vec();
    *row.last_mut().unwrap() ^= 1;
    table.insert((FIRST_WORKSPACE, sequence), row.as_slice()).unwrap();
}
