//! Decides what a command does to the store.
//!
//! In reading order:
//! - [`decide`] is the entry: it recognises repeated requests, and calls the file of the command.
//! - `state` is what a decision may look at: the store and the command.
//! - `create`, `update`, `delete` and `erase` are the commands on profiles, `identify`, `merge`, `unmerge` and
//!   `identity_settings` those on who is who, one file each. `audience` and `members` have those on audiences, and
//!   `subscription` those on durable subscriptions. `trim`, `expire` and `work` are the store's own; a trim makes
//!   the lists of skipped events `forget`, and the last two take a `step`.
//! - `draft` makes the rows and the event of a profile's change; `memberships` those of audiences, and `records` those
//!   by which a merge is undone.
//! - `request` remembers the result of a request that has an id, so that a repeat gets the first result.
//!
//! What always holds:
//! - A decision is a pure function of the store and the command. It reads no clock, no random number, no disk space and
//!   no flag: everything that it depends on is in the command or in the rows.
//! - Decide, then write. [`decide`] makes every check and encodes everything that will be written. `Tables::write` then
//!   only writes, and fails only if redb fails. A batch whose writing fails is dropped whole, so half a command is
//!   never committed.
//!
//! A new command touches these places:
//! 1. a struct and a variant of [`Change`] in `src/command/mod.rs`, and an arm of [`Command::weight`] there;
//! 2. its encoding: a message and a field of `oneof change` in `proto/cameo/storage/v1/command.proto`, and an arm each
//!    of [`Command::encode`] and `decode_change` in `src/command/encoding.rs`;
//! 3. a file in `src/store/apply/` with a function `decide`, and its `mod` line here;
//! 4. an arm of [`decide`] here.
//!
//! The compiler finds each `match` that lacks the new variant. Two tests draw random commands and should draw the new
//! one too: `src/store/tests/determinism.rs` and `src/store/tests/script.rs`.
//!
//! Deliberately absent: admission. A full queue and a full disk are refused in `write`.

mod audience;
mod create;
mod delete;
mod draft;
mod erase;
mod expire;
mod forget;
mod identify;
mod identity_settings;
mod members;
mod memberships;
mod merge;
mod records;
mod request;
mod state;
mod step;
mod subscription;
mod trim;
mod unmerge;
mod update;
mod work;

use bytes::Bytes;
use prost::Message;

#[cfg(test)]
pub(super) use forget::FORGOTTEN;
pub use members::MemberResult;
pub(super) use state::State;
pub use subscription::SubscriptionState;
pub(super) use subscription::check_in_log;
pub(super) use trim::TRIM_BYTES;

use super::effects::Effects;
use super::error::StoreError;
use crate::command::{Change, Command};
use crate::model::{Mpid, Place};
use crate::proto::v1::{Profile, WriteOutcome};
use state::Context;

/// The result of a command.
#[derive(Debug, Clone)]
pub struct Written {
    /// What the command did.
    pub outcome: WriteOutcome,
    /// The place after the command's own event. If nothing changed, it is the place after the profile's latest event,
    /// or the end of the log if there is no profile. After a trim it is the floor of the log. `None` if the command was
    /// only validated.
    pub place: Option<Place>,
    /// The profile that was changed or found. `None` if there is none.
    pub mpid: Option<Mpid>,
    /// Encoded `Profile` after the command. `None` if there is no profile, or the caller does not read it.
    pub profile: Option<Bytes>,
    /// The subscription after the command. `None` if it was deleted, or the command is about none.
    pub subscription: Option<Box<SubscriptionState>>,
    /// An encoded part of the response, which tells what else the command did. A repeat of the request gets it again. It
    /// holds no value of a person.
    pub detail: Bytes,
}

/// Whether the caller reads the profile. An import does not, so no copy is made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    WithProfile,
    WithoutProfile,
}

/// The result of a command, and what to write before the caller gets it.
pub(super) struct Decision {
    pub written: Written,
    pub effects: Effects,
}

/// What the file of a command decides, before `validate_only` and the request id are considered.
struct Verdict {
    outcome: WriteOutcome,
    mpid: Option<Mpid>,
    place: Place,
    /// Encoded `Profile`, if the caller reads it.
    profile: Option<Bytes>,
    subscription: Option<Box<SubscriptionState>>,
    /// See [`Written::detail`].
    detail: Bytes,
    effects: Effects,
}

/// Decides a command. Writes nothing.
///
/// # Errors
/// [`StoreError`] if the command is refused.
pub(super) fn decide(state: &State<'_, '_>, command: &Command, reply: Reply) -> Result<Decision, StoreError> {
    let context = Context::new(state, command, reply);
    match &command.change {
        Change::Create(create) => decide_once(&context, |context| create::decide(context, create)),
        Change::Update(update) => decide_once(&context, |context| update::decide(context, update)),
        Change::Delete(delete) => decide_once(&context, |context| delete::decide(context, delete)),
        Change::CreateSubscription(create) => decide_once(&context, |context| subscription::create(context, create)),
        Change::UpdateSubscription(settings) => {
            decide_once(&context, |context| subscription::update(context, settings))
        }
        Change::DeleteSubscription(delete) => decide_once(&context, |context| subscription::delete(context, delete)),
        Change::SeekSubscription(seek) => decide_once(&context, |context| subscription::seek(context, seek)),
        Change::OpenStream(name) => decide_once(&context, |context| subscription::open(context, name)),
        Change::Acknowledge(acknowledge) => {
            decide_once(&context, |context| subscription::acknowledge(context, acknowledge))
        }
        Change::Trim(trim) => trim::decide(&context, trim),
        Change::Erase(erase) => decide_once(&context, |context| erase::decide(context, erase)),
        Change::EraseEvents(erase) => decide_once(&context, |context| erase::rewrite(context, erase)),
        Change::Identify(identify) => decide_once(&context, |context| identify::decide(context, identify)),
        Change::Merge(merge) => decide_once(&context, |context| merge::decide(context, merge)),
        Change::Unmerge(unmerge) => decide_once(&context, |context| unmerge::decide(context, *unmerge)),
        Change::UpdateIdentitySettings(update) => {
            decide_once(&context, |context| identity_settings::decide(context, update))
        }
        Change::CreateAudience(create) => decide_once(&context, |context| audience::create(context, create)),
        Change::DeleteAudience(delete) => decide_once(&context, |context| audience::delete(context, *delete)),
        Change::ChangeMembers(change) => decide_once(&context, |context| members::decide(context, change)),
        Change::WorkOnAudience(work) => decide_once(&context, |context| work::decide(context, *work)),
        Change::Expire(expire) => decide_once(&context, |context| expire::decide(context, *expire)),
    }
}

/// Decides the command of a caller, which may repeat a request or only ask what would happen.
fn decide_once(
    context: &Context<'_, '_>,
    decide: impl FnOnce(&Context<'_, '_>) -> Result<Verdict, StoreError>,
) -> Result<Decision, StoreError> {
    let earlier = request::earlier(context)?;
    if let Some(first) = request::first_answer(context, earlier.as_ref())? {
        return Ok(Decision { written: first, effects: Effects::default() });
    }
    let mut verdict = decide(context)?;
    if context.command.validate_only {
        context.found_workspace(&mut verdict.effects)?;
        return Ok(verdict.preview());
    }
    let mut decision = verdict.decided();
    request::remember(context, earlier.as_ref(), &mut decision)?;
    context.found_workspace(&mut decision.effects)?;
    Ok(decision)
}

impl Verdict {
    /// Nothing changes.
    fn unchanged(mpid: Option<Mpid>, place: Place, profile: Option<Bytes>) -> Self {
        let (outcome, effects) = (WriteOutcome::Unchanged, Effects::default());
        Self { outcome, mpid, place, profile, subscription: None, detail: Bytes::new(), effects }
    }

    /// A profile changes, and the caller is not told how it is now.
    fn wrote(outcome: WriteOutcome, mpid: Mpid, place: Place, effects: Effects) -> Self {
        Self { outcome, effects, ..Self::unchanged(Some(mpid), place, None) }
    }

    fn decided(self) -> Decision {
        let Self { outcome, mpid, place, profile, subscription, detail, effects } = self;
        Decision { written: Written { outcome, place: Some(place), mpid, profile, subscription, detail }, effects }
    }

    /// Makes the result of `validate_only`: that of the write, without the place and the etag that only a write gives.
    fn preview(self) -> Decision {
        let changes = !self.effects.is_empty();
        let without_etag = |bytes: Bytes| {
            let mut profile = Profile::decode(bytes).expect("it was just encoded");
            profile.etag.clear();
            Bytes::from(profile.encode_to_vec())
        };
        let profile = if changes { self.profile.map(without_etag) } else { self.profile };
        let Self { outcome, mpid, subscription, detail, .. } = self;
        let written = Written { outcome, place: None, mpid, profile, subscription, detail };
        Decision { written, effects: Effects::default() }
    }
}
