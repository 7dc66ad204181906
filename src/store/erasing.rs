//! Erasures that take more than one command.

use std::sync::Arc;

use super::read::ReadClass;
use super::{Store, StoreError, Written};
use crate::command::{Begun, Change, Command, Erase, EraseEvents};
use crate::model::limits::ERASED_EVENTS;
use crate::model::{Invalid, ProfileKey, Workspace};

/// The most events that one reading of the chains finds, without those that tell where else to look.
const PLANNED: usize = if cfg!(test) { 8 } else { 100_000 }; // So that tests read more than once.
/// The most events of merges and of taken identities in the histories that an erasure goes through. A plan holds all of
/// them, at about 100 bytes each.
const TELLING: usize = if cfg!(test) { 1_000 } else { 1_000_000 };
/// The bytes of events after which a command rewrites no other.
const COMMAND_BYTES: usize = 8 << 20;

impl Store {
    /// Erases a profile. If it has more events than one command may rewrite, they are rewritten first, in commands of
    /// their own, and the profile goes with the last. `command` makes a command of the request from a change.
    ///
    /// # Errors
    /// [`StoreError`]. Some events may have been rewritten; the profile is as it was.
    pub async fn erase(
        self: &Arc<Self>,
        erase: &Erase,
        command: impl Fn(Change) -> Command,
    ) -> Result<Written, StoreError> {
        let mut begun = None;
        loop {
            let last = command(Change::Erase(Erase { begun, ..erase.clone() }));
            let workspace = last.workspace.clone();
            match self.write(last).await {
                Err(StoreError::TooManyEvents) => {}
                done => return done,
            }
            let part = |change| Command { request: None, ..command(change) };
            begun = self.erase_events(&workspace, &erase.key, &part).await?;
        }
    }

    /// Rewrites the events that the plan for a profile names. Returns the profile that the key led to, and the place up to
    /// which none is left. `None` if there is no such profile.
    async fn erase_events(
        self: &Arc<Self>,
        workspace: &Workspace,
        key: &ProfileKey,
        part: &impl Fn(Change) -> Command,
    ) -> Result<Option<Begun>, StoreError> {
        loop {
            let (of, key) = (workspace.clone(), key.clone());
            let read = move |store: &Self| {
                let id = store.workspace_id(&of).ok_or(StoreError::Closed)?;
                let snapshot = store.snapshot()?;
                let read_to = snapshot.log_bounds(id)?.head;
                let Some(subject) = snapshot.subject(id, &key)? else { return Ok(None) };
                let plan = snapshot.plan_erasure(id, subject, [PLANNED, TELLING])?;
                Ok::<_, StoreError>(Some((plan, Begun { mpid: subject.0, read_to })))
            };
            let planned = self.on_read_pool(ReadClass::Scan, Some(workspace), read).await?;
            let Some((plan, begun)) = planned else { return Ok(None) };
            Invalid::limit("key", "events of merges and of taken identities in its history", TELLING, plan.telling)?;
            let is_partial = plan.is_partial;
            let commands = plan.into_commands(ERASED_EVENTS, COMMAND_BYTES);
            let is_stuck = is_partial && commands.is_empty();
            for rewrites in commands {
                self.write(part(Change::EraseEvents(EraseEvents { rewrites }))).await?;
            }
            match is_partial {
                false => return Ok(Some(begun)),
                true if is_stuck => return Err(StoreError::TooManyEvents),
                true => {}
            }
        }
    }
}
