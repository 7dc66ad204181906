//! The records of merges, and the index of the identities in them.
//!
//! What always holds: the index has each identity that the record of a merge would give back to the absorbed profile,
//! and no other. An erasure finds by it what records hold of a person, also if the log no longer tells how that came
//! about.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use redb::ReadableTableMetadata;

use super::super::effects::RowTable;
use super::super::error::StoreError;
use super::super::rows::{EventRow, Kind, MergeRow, RememberedRow, merge_key, remembered_key};
use super::draft::Draft;
use super::state::{Context, Found};
use crate::model::identity::keys_of;
use crate::model::{IdentityKey, Mpid, Place, Sequence, patch};
use crate::proto::storage::MergeRecord;
use crate::proto::v1::Event;

/// Writes the record of the merge of a profile. `None` means that there is none. Returns the bytes of the row.
pub(super) fn put(
    draft: &mut Draft<'_, '_, '_>,
    mpid: Mpid,
    was: Option<&MergeRecord>,
    is: Option<&MergeRecord>,
) -> usize {
    let (old, new) = (remembered(was), remembered(is));
    for identity in old.difference(&new) {
        draft.put(RowTable::Remembered, index_key(draft.context, identity, mpid), None);
    }
    for identity in new.difference(&old) {
        let key = index_key(draft.context, identity, mpid);
        let row = RememberedRow::encode(&key);
        draft.put(RowTable::Remembered, key, Some(row));
    }
    let key = merge_key(draft.context.workspace, mpid);
    let row = is.map(|record| MergeRow::encode(&key, record));
    let bytes = row.as_ref().map_or(0, Vec::len);
    draft.put(RowTable::Merge, key, row);
    bytes
}

/// Returns the bytes of the records of the merges of absorbed profiles.
pub(super) fn bytes(context: &Context<'_, '_>, absorbed: &[(Mpid, Mpid)]) -> Result<usize, StoreError> {
    absorbed.iter().map(|(mpid, _)| context.merge_bytes(*mpid)).sum()
}

/// Removes the record of the merge of a profile that is gone, and returns the identities in it. One that is damaged goes
/// too, and leaves its rows in the index: they lead to no record.
pub(super) fn remove(draft: &mut Draft<'_, '_, '_>, mpid: Mpid) -> Result<BTreeSet<IdentityKey>, StoreError> {
    let was = match draft.context.merge(mpid) {
        Err(StoreError::Corrupt { .. }) => None,
        read => read?,
    };
    put(draft, mpid, was.as_ref(), None);
    Ok(remembered(was.as_ref()))
}

/// Removes identities of a person who is erased from what unmerges of others would give back. `gone` are the profiles of
/// the person: the records of their merges are removed already.
pub(super) fn forget(
    draft: &mut Draft<'_, '_, '_>,
    identities: &BTreeSet<IdentityKey>,
    gone: &[Mpid],
) -> Result<(), StoreError> {
    let context = draft.context;
    if context.state.tables.remembered.is_empty()? {
        return Ok(()); // The common case costs no search.
    }
    let mut found = BTreeMap::<Mpid, Vec<IdentityKey>>::new();
    for identity in identities {
        for mpid in context.remembered(identity)?.into_iter().filter(|mpid| !gone.contains(mpid)) {
            found.entry(mpid).or_default().push(identity.clone());
        }
    }
    for (mpid, identities) in found {
        let (Found::Absorbed(survivor, _), Some(was)) = (context.found(mpid)?, context.merge(mpid)?) else { continue };
        let lost = lost(draft, survivor, &was, identities)?;
        if !lost.is_empty() {
            let mut is = was.clone();
            is.absorbed.iter_mut().for_each(|absorbed| patch::unlink(absorbed, &lost));
            put(draft, mpid, Some(&was), Some(&is));
        }
    }
    Ok(())
}

/// Of these identities, those that the record of a merge loses. It has what the event of the merge has. If the log does
/// not tell that any more, it keeps those that the survivor owns: they are not those of the person.
fn lost(
    draft: &Draft<'_, '_, '_>,
    survivor: Mpid,
    record: &MergeRecord,
    mut identities: Vec<IdentityKey>,
) -> Result<Vec<IdentityKey>, StoreError> {
    if let Some(told) = told(draft, record)? {
        identities.retain(|identity| !told.contains(identity));
        return Ok(identities);
    }
    let mut lost = Vec::new();
    for identity in identities {
        if draft.context.owner(&identity)? != Some(survivor) {
            lost.push(identity);
        }
    }
    Ok(lost)
}

/// The identities of the absorbed profile in the event of its merge, as the command leaves it. `None` if the log does
/// not hold them.
fn told(draft: &Draft<'_, '_, '_>, record: &MergeRecord) -> Result<Option<Vec<IdentityKey>>, StoreError> {
    let context = draft.context;
    let held = Sequence::new(record.sequence).filter(|sequence| Place::from(*sequence) > context.head.floor);
    let Some(sequence) = held else { return Ok(None) };
    let absorbed_in = |row: EventRow<'_>| {
        let event = Event::decode(row.event).map_err(|_| Kind::Event.corrupt())?;
        Ok(event.merged_profile.as_ref().map(keys_of))
    };
    let rewritten = draft.effects.rewritten.iter().find(|(rewritten, _)| *rewritten == sequence);
    match rewritten {
        Some((_, row)) => absorbed_in(EventRow::read(context.workspace, sequence, row)?),
        None => Ok(context.state.tables.event(context.workspace, sequence, absorbed_in)?.flatten()),
    }
}

fn remembered(record: Option<&MergeRecord>) -> BTreeSet<IdentityKey> {
    let absorbed = record.and_then(|record| record.absorbed.as_ref());
    absorbed.map(keys_of).unwrap_or_default().into_iter().collect()
}

fn index_key(context: &Context<'_, '_>, identity: &IdentityKey, mpid: Mpid) -> Vec<u8> {
    remembered_key(context.workspace, context.hash(identity), mpid)
}
