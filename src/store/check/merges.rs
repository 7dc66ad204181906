//! The index of the identities that the records of merges hold.

use redb::{ReadableTable, ReadableTableMetadata};

use super::super::WorkspaceId;
use super::super::error::StoreError;
use super::super::rows::{Kind, MergeRow, RememberedRow, merge_key, remembered_key, unsorted_mpid};
use super::report::Problems;
use super::{Store, workspace_in};
use crate::model::Mpid;
use crate::model::identity::keys_of;
use crate::proto::storage::MergeRecord;

/// Where the absorbed profile is in the key of the record of a merge.
const ABSORBED: std::ops::Range<usize> = 4..12;

const NO_REMEMBERED: &str = "identities in records of merges that are missing from their index";
const STRAY_REMEMBERED: &str = "identities in the index of merges that the record of the merge does not have";

/// The index has what the records hold, and nothing else.
pub(super) fn check(store: &Store, damaged: &dyn Fn(Kind) -> bool, problems: &mut Problems) -> Result<(), StoreError> {
    let mut found = 0;
    for row in store.merges.iter()? {
        let (key, row) = row?;
        let workspace = workspace_in(key.value());
        let absorbed = key.value().get(ABSORBED).and_then(unsorted_mpid);
        let (Some(mpid), Ok(record)) = (absorbed, MergeRow::read(key.value(), row.value())) else { continue };
        for key in index_keys(store, workspace, mpid, &record) {
            match store.remembered.get(&*key)? {
                Some(_) => found += 1, // One that does not verify is reported with the rows.
                None => problems.add_profile(NO_REMEMBERED, workspace, mpid),
            }
        }
    }
    if damaged(Kind::Merge) || store.remembered.len()? == found {
        return Ok(()); // What a damaged record asks for would look like too much.
    }
    check_strays(store, problems)
}

fn check_strays(store: &Store, problems: &mut Problems) -> Result<(), StoreError> {
    for row in store.remembered.iter()? {
        let (key, row) = row?;
        let workspace = workspace_in(key.value());
        let Ok(mpid) = RememberedRow::read(key.value(), row.value()) else { continue };
        let merge = merge_key(workspace, mpid);
        let record = store.merges.get(&*merge)?.map(|row| MergeRow::read(&merge, row.value()));
        let has_it = |record| index_keys(store, workspace, mpid, &record).iter().any(|own| own == key.value());
        if !record.is_some_and(|record| record.is_ok_and(has_it)) {
            problems.add_profile(STRAY_REMEMBERED, workspace, mpid);
        }
    }
    Ok(())
}

/// The keys of the index that the record of the merge of a profile asks for.
fn index_keys(store: &Store, workspace: WorkspaceId, mpid: Mpid, record: &MergeRecord) -> Vec<Vec<u8>> {
    let mut identities = record.absorbed.as_ref().map(keys_of).unwrap_or_default();
    identities.dedup();
    let key = |identity| remembered_key(workspace, store.secret.hash(workspace, identity), mpid);
    identities.iter().map(key).collect()
}
