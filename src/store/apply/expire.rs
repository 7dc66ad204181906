//! Ends memberships whose time is over, in the order of their ends.
//!
//! - A profile has one event. It removes all its memberships that have ended at the command's own time, and it comes at
//!   the place of the earliest.
//! - A row that leads to no such profile goes without an event.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::super::effects::RowTable;
use super::super::error::StoreError;
use super::super::rows::{ExpiryRow, Kind, expiry_key};
use super::super::tables;
use super::Verdict;
use super::state::{Context, Stored};
use super::step::Step;
use crate::command::Expire;
use crate::model::{Micros, Mpid};

pub(super) fn decide(context: &Context<'_, '_>, expire: Expire) -> Result<Verdict, StoreError> {
    let mut step = Step::new(context);
    let mut done = BTreeSet::new();
    for key in ended(context, Step::most(expire.most))? {
        if step.is_full() {
            break;
        }
        end(&mut step, &mut done, key)?;
    }
    Ok(step.verdict())
}

/// Returns the keys of the rows whose time is over, whether the rows are sound or not.
fn ended(context: &Context<'_, '_>, most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
    let workspace = context.workspace;
    let last = Mpid::new(i64::MAX).expect("it is not 0");
    let range = (
        Bound::Included(workspace.0.to_be_bytes().to_vec()),
        Bound::Included(expiry_key(workspace, context.now(), last)),
    );
    tables::rows(&context.state.tables.expiries, Kind::Expiry, &range, most, |key, _| Ok(key.to_vec()))
}

/// Ends the memberships of the profile that a row leads to.
fn end(step: &mut Step<'_, '_, '_>, done: &mut BTreeSet<Mpid>, key: Vec<u8>) -> Result<(), StoreError> {
    let Some((time, mpid)) = ExpiryRow::parts_in(&key) else {
        step.is_damaged();
        step.draft.put(RowTable::Expiry, key, None);
        return Ok(());
    };
    let now = step.context.now();
    let found = if done.contains(&mpid) { None } else { step.stored(mpid)? };
    let found = found.filter(|stored| stored.next_expiry.is_some_and(|end| end <= now));
    if is_elsewhere(found.as_ref(), time) {
        step.draft.put(RowTable::Expiry, key, None);
    }
    if let Some(stored) = found {
        let after = step.context.served(&stored).into_owned();
        step.update(mpid, &stored, after)?;
        done.insert(mpid);
    }
    Ok(())
}

/// Whether the row of a profile has another key, so that the change of the profile does not remove this one.
fn is_elsewhere(found: Option<&Stored>, time: Micros) -> bool {
    found.is_none_or(|stored| stored.next_expiry != Some(time))
}
