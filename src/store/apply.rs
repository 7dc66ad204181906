//! What a command does to the store: a pure function of the two.
//!
//! Decide, then write: every check precedes the first write, because a batch shares one transaction, and half a
//! command could not be undone.

use std::collections::HashMap;

use super::WorkspaceId;
use super::command::{Command, Written};
use super::decide::{Decider, Decision, REQUEST_MEMORY, Rules, Step};
use super::error::StoreError;
use super::rows::{EventRow, ProfileRow, RequestRow};
use super::tables::{Head, Tables};
use crate::model::{EventKind, Micros, Mpid, Sequence, Workspace};
use crate::proto::v1::WriteOutcome;

/// Old request ids forgotten by each command that brings a new one: more than one, so that they cannot pile up.
const FORGET_PER_COMMAND: usize = 2;

/// An event that was appended: on disk, once its batch is.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where.
    pub workspace: Workspace,
    pub(super) id: WorkspaceId,
    /// Its number.
    pub sequence: Sequence,
    /// Of which profile.
    pub mpid: Mpid,
    /// What happened to it.
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// Encoded `Event`.
    pub event: bytes::Bytes,
}

/// What a batch has done so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub committed: Vec<Committed>,
    /// Bytes of the rows of profiles and events.
    pub bytes: usize,
    /// Whether there is anything to commit.
    pub wrote: bool,
}

/// The ends of the logs that this store has written to: a cache of [`Tables::head`].
#[derive(Debug, Default)]
pub(super) struct Heads(HashMap<Workspace, Head>);

impl Heads {
    fn get(&mut self, tables: &Tables<'_>, workspace: &Workspace) -> Result<Head, StoreError> {
        if let Some(head) = self.0.get(workspace) {
            return Ok(*head);
        }
        let head = tables.head(workspace)?;
        if head.workspace.is_some() {
            self.0.insert(workspace.clone(), head);
        }
        Ok(head)
    }
}

/// Applies a command. `may_write` is asked before its first write; what was answered before, or is only checked, needs
/// none.
pub(super) fn apply(
    tables: &mut Tables<'_>,
    heads: &mut Heads,
    rules: &Rules,
    command: &Command,
    progress: &mut Progress,
    may_write: impl FnOnce() -> Result<(), StoreError>,
) -> Result<Written, StoreError> {
    let head = heads.get(tables, &command.workspace)?;
    let decider = Decider { tables, head, rules, command, time: command.time.max(head.time) };
    if let Some(first) = decider.first_answer()? {
        return Ok(first);
    }
    let decision = decider.decide()?;
    if command.validate_only {
        return Ok(decision.preview());
    }
    may_write()?;
    write(tables, heads, head, command, decision, progress)
}

fn write(
    tables: &mut Tables<'_>,
    heads: &mut Heads,
    head: Head,
    command: &Command,
    decision: Decision,
    progress: &mut Progress,
) -> Result<Written, StoreError> {
    let Decision { outcome, mpid, sequence, profile, time, steps } = decision;
    let written = Written { outcome, sequence, profile };
    let workspace = match head.workspace {
        Some(workspace) => workspace,
        // Only what is to be remembered brings a workspace into being.
        None if steps.is_empty() && command.request.is_none() => return Ok(written),
        None => tables.intern(&command.workspace)?,
    };
    for step in steps {
        progress.bytes += step.profile.len() + step.event.len();
        progress.committed.push(write_step(tables, workspace, command, step, time)?);
        progress.wrote = true;
    }
    if let Some(request) = &command.request {
        let row = RequestRow { fingerprint: request.fingerprint, time: command.time, mpid, sequence, outcome };
        tables.forget_requests(command.time.saturating_sub(REQUEST_MEMORY), FORGET_PER_COMMAND)?;
        tables.set_request(workspace, &request.id, &row)?;
        progress.wrote = true;
    }
    if outcome != WriteOutcome::Unchanged {
        heads.0.insert(command.workspace.clone(), Head { workspace: Some(workspace), sequence, time });
    }
    Ok(written)
}

fn write_step(
    tables: &mut Tables<'_>,
    workspace: WorkspaceId,
    command: &Command,
    step: Step,
    time: Micros,
) -> Result<Committed, StoreError> {
    for key in &step.unlinked {
        tables.remove_owner(workspace, key, step.mpid)?;
    }
    for key in &step.linked {
        tables.set_owner(workspace, key, step.mpid)?;
    }
    let row = ProfileRow { next_expiry: step.next_expiry, last_event: step.sequence, profile: &step.profile };
    tables.set_profile(workspace, step.mpid, &row.encode(workspace, step.mpid))?;
    let (mpid, kind, silent) = (step.mpid, step.kind, command.silent);
    let row = EventRow { previous: step.previous_event, mpid, time, kind, silent, event: &step.event };
    tables.append_event(workspace, step.sequence, &row.encode(workspace, step.sequence))?;
    Ok(Committed {
        workspace: command.workspace.clone(),
        id: workspace,
        sequence: step.sequence,
        mpid,
        kind,
        silent,
        event: step.event.into(),
    })
}
