//! What subscriptions skipped, of the events that a trim removes: their lists lose these events with the log.
//!
//! - A list never names an event that the log has lost. So if a command cannot forget all, the log keeps the first event
//!   that some list still names, and the next trim goes on with it.
//! - One event may be in the lists of all subscriptions. Then commands forget it in parts, before one removes it.

use std::collections::BTreeSet;

use redb::ReadableTable;

use super::super::effects::{RowTable, RowWrite};
use super::super::error::StoreError;
use super::super::rows::{Kind, ProgressRow, sequence_in};
use super::super::tables::{borrowed, guarded};
use super::state::Context;
use super::subscription::{of_workspace, removal, skipped};
use crate::model::Place;

/// The most rows of skipped events that a command removes. It also writes a row for each subscription that had them.
pub(in crate::store) const FORGOTTEN: usize = 1_000;

/// What a trim forgets.
pub(super) struct Forgotten {
    /// The rows to remove, and the progress without them.
    pub rows: Vec<RowWrite>,
    /// No list names an event at or before this place any more. It is not before the floor of the log.
    pub through: Place,
}

/// An event in a list: its place, the subscription by its index, and its key.
type Listed = (Place, usize, Vec<u8>);

/// Forgets events that a trim is about to remove: those up to a place, the oldest first.
pub(super) fn up_to(context: &Context<'_, '_>, floor: Place) -> Result<Forgotten, StoreError> {
    let (tables, listing) = (context.state.tables, listing(context)?);
    let (mut lost, mut through) = (BTreeSet::<Listed>::new(), floor);
    for (of, (subscription, _)) in listing.iter().enumerate() {
        for key in skipped(tables, subscription, Place::START, through, FORGOTTEN + 1)? {
            let place = sequence_in(&key).map_or(Place::START, Place::from); // Damaged keys go first.
            lost.insert((place.min(through), of, key));
        }
        while lost.len() > FORGOTTEN {
            let Some((place, ..)) = lost.pop_last() else { break };
            through = through.min(Place::after(place.get().saturating_sub(1)));
        }
        if through <= context.head.floor {
            // The oldest event alone is in more lists. This command forgets what it may of it, and removes none.
            return Ok(Forgotten { rows: rows(listing, &lost), through: context.head.floor });
        }
    }
    lost.retain(|(place, ..)| *place <= through);
    Ok(Forgotten { rows: rows(listing, &lost), through })
}

/// Returns the subscriptions that list skipped events, by their keys.
fn listing(context: &Context<'_, '_>) -> Result<Vec<(Vec<u8>, ProgressRow)>, StoreError> {
    guarded(Kind::Progress, || {
        let mut listing = Vec::new();
        for row in context.state.tables.progress.range::<&[u8]>(borrowed(&of_workspace(context.workspace)))? {
            let (key, row) = row?;
            match ProgressRow::read(key.value(), row.value()) {
                Ok(progress) if progress.skipped > 0 => listing.push((key.value().to_vec(), progress)),
                Ok(_) | Err(_) => {} // A damaged row must not stop retention.
            }
        }
        Ok(listing)
    })
}

fn rows(listing: Vec<(Vec<u8>, ProgressRow)>, lost: &BTreeSet<Listed>) -> Vec<RowWrite> {
    let mut counts = vec![0; listing.len()];
    for (_, of, _) in lost {
        counts[*of] += 1;
    }
    let shorter = listing.into_iter().zip(counts).filter(|(_, count)| *count > 0);
    let progress = shorter.map(|((key, progress), count)| {
        let row = Some(progress.without_skipped(count).encode(&key));
        RowWrite { table: RowTable::Progress, key, row }
    });
    lost.iter().map(|(_, _, key)| removal(RowTable::Skipped, key.clone())).chain(progress).collect()
}
