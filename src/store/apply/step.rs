//! A step of the store's own upkeep of memberships: it changes some profiles, each with an event.
//!
//! - A step is bounded in profiles and in bytes, so that no call waits for it long.
//! - Damage stops no step. A profile that cannot be read has no event: nothing of it is served anyway. A damaged page of
//!   an index does stop the steps that need it.

use prost::Message;

use super::super::error::StoreError;
use super::Verdict;
use super::draft::{Draft, Told};
use super::state::{Context, Stored};
use crate::model::limits::MEMBERS;
use crate::model::{EventKind, Mpid};
use crate::proto::storage::StepTaken;
use crate::proto::v1::{Profile, WriteOutcome};

/// The bytes of profiles after which a step looks at no other. The last profile may exceed it.
const STEP_BYTES: usize = 1 << 20;

/// A step while it is taken.
pub(super) struct Step<'c, 'a, 'txn> {
    pub context: &'c Context<'a, 'txn>,
    pub draft: Draft<'c, 'a, 'txn>,
    /// The bytes of the profiles that it has looked at.
    bytes: usize,
    taken: StepTaken,
}

impl<'c, 'a, 'txn> Step<'c, 'a, 'txn> {
    pub fn new(context: &'c Context<'a, 'txn>) -> Self {
        Self { context, draft: Draft::new(context), bytes: 0, taken: StepTaken::default() }
    }

    /// The most rows that a step looks at, of a command that allows this many.
    pub fn most(allowed: usize) -> usize {
        allowed.min(MEMBERS)
    }

    /// Whether it must look at no other profile.
    pub fn is_full(&self) -> bool {
        self.bytes >= STEP_BYTES || self.draft.event_bytes() >= STEP_BYTES
    }

    /// Returns a profile. `None` if there is none, or it is damaged.
    pub fn stored(&mut self, mpid: Mpid) -> Result<Option<Stored>, StoreError> {
        match self.context.stored(mpid) {
            Ok(stored) => {
                self.bytes += stored.as_ref().map_or(0, |stored| stored.profile.encoded_len());
                Ok(stored)
            }
            Err(StoreError::Corrupt { .. }) => {
                self.is_damaged();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Counts a row that is damaged.
    pub fn is_damaged(&mut self) {
        self.taken.damaged += 1;
    }

    /// Changes a profile.
    pub fn update(&mut self, mpid: Mpid, before: &Stored, after: Profile) -> Result<(), StoreError> {
        self.draft.update(mpid, before, after, &Told::of(EventKind::Updated))?;
        self.taken.changed += 1;
        Ok(())
    }

    pub fn verdict(self) -> Verdict {
        let detail = self.taken.encode_to_vec().into();
        let (effects, place) = self.draft.finish();
        let outcome = if effects.is_empty() { WriteOutcome::Unchanged } else { WriteOutcome::Updated };
        Verdict { outcome, detail, effects, ..Verdict::unchanged(None, place, None) }
    }
}
