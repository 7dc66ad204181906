//! What a command does to the store: a pure function of the two. No clock, no dice, no disk and no flag is asked here;
//! what decides stands in the command or in the rows.
//!
//! Decide, then write: [`decide`] makes every check and encodes everything that will be written; `Tables::write` then
//! only writes, and fails only where redb does. So half a command cannot be: a batch whose writing fails is dropped
//! whole.
//!
//! One file per command: `create`, `update`, `delete`. A new one is a file here, a variant of `Change`, and an arm of
//! `decide`. `draft` makes the rows and the event of a profile's change, and `request` keeps what was answered to
//! a request id.

mod create;
mod delete;
mod draft;
mod request;
mod state;
mod update;

use bytes::Bytes;
use prost::Message;

pub(super) use state::State;

use super::effects::Effects;
use super::error::StoreError;
use crate::command::{Change, Command};
use crate::model::{Mpid, Place};
use crate::proto::v1::{Profile, WriteOutcome};
use state::Context;

/// What a command was answered.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it did.
    pub outcome: WriteOutcome,
    /// After its own event; where nothing changed, after the profile's latest, or at the end of the log if there is no
    /// profile. `None` if nothing was to be written.
    pub place: Option<Place>,
    /// Encoded `Profile` after it; `None` where there is none, or the caller does not read it.
    pub profile: Option<Bytes>,
}

/// Whether the caller reads the profile. An import does not, and so none is made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    WithProfile,
    WithoutProfile,
}

/// The answer to a command, and what to write before it is given.
pub(super) struct Decision {
    pub written: Written,
    pub effects: Effects,
}

/// What one of the files of commands comes to.
struct Verdict {
    outcome: WriteOutcome,
    mpid: Option<Mpid>,
    place: Place,
    /// Encoded, if the caller reads it.
    profile: Option<Bytes>,
    effects: Effects,
}

/// Decides a command.
///
/// # Errors
/// Why it is refused. Nothing was written.
pub(super) fn decide(state: &State<'_, '_>, command: &Command, reply: Reply) -> Result<Decision, StoreError> {
    let context = Context::new(state, command, reply);
    let earlier = request::earlier(&context)?;
    if let Some(first) = request::first_answer(&context, earlier.as_ref())? {
        return Ok(Decision { written: first, effects: Effects::default() });
    }
    let mut verdict = match &command.change {
        Change::Create(create) => create::decide(&context, create)?,
        Change::Update(update) => update::decide(&context, update)?,
        Change::Delete(delete) => delete::decide(&context, delete)?,
    };
    if command.validate_only {
        context.found_workspace(&mut verdict.effects)?;
        return Ok(verdict.preview());
    }
    let mpid = verdict.mpid;
    let mut decision = verdict.decided();
    request::remember(&context, earlier.as_ref(), mpid, &mut decision)?;
    context.found_workspace(&mut decision.effects)?;
    Ok(decision)
}

impl Verdict {
    /// That nothing changes.
    fn unchanged(mpid: Option<Mpid>, place: Place, profile: Option<Bytes>) -> Self {
        Self { outcome: WriteOutcome::Unchanged, mpid, place, profile, effects: Effects::default() }
    }

    fn decided(self) -> Decision {
        let Self { outcome, place, profile, effects, .. } = self;
        Decision { written: Written { outcome, place: Some(place), profile }, effects }
    }

    /// What `validate_only` answers: as the write would, without what only the write gives.
    fn preview(self) -> Decision {
        let changes = !self.effects.is_empty();
        let without_etag = |bytes: Bytes| {
            let mut profile = Profile::decode(bytes).expect("it was encoded just now");
            profile.etag.clear();
            Bytes::from(profile.encode_to_vec())
        };
        let profile = if changes { self.profile.map(without_etag) } else { self.profile };
        Decision { written: Written { outcome: self.outcome, place: None, profile }, effects: Effects::default() }
    }
}
