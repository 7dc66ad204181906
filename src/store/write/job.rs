//! What callers send to the writer.

use std::sync::{Arc, Weak};

use redb::ReadTransaction;
use tokio::sync::oneshot;

use super::super::apply::Written;
use super::super::compact::{Swap, Tail};
use super::super::error::StoreError;
use super::super::kept::Kept;
use super::lane::Ticket;
use crate::command::{Change, Command};
use crate::proto::v1::WriteOutcome;
use crate::telemetry::metrics::{CommandOutcome, StoreMetrics};
use crate::telemetry::traces::CallSpan;

/// The most that a small command weighs, in bytes.
pub(super) const SMALL: usize = 16 << 10;
/// What each command costs beyond its weight: about a page that it makes dirty.
pub(super) const COMMAND_COST: usize = 4 << 10;

/// A message to the writer.
pub(in crate::store) enum Job {
    Call(Waiting),
    Import(Waiting),
    /// From now on the effects of each batch go to the tail too, as long as it exists. The sender gets a reply.
    Keep(Weak<Tail>, oneshot::Sender<()>),
    /// The tail holds what was committed since, and nothing is added to it any more. The sender gets that state.
    Cut(oneshot::Sender<Result<ReadTransaction, StoreError>>),
    /// A compaction is complete.
    Swap(Box<Swap>),
    Close,
}

/// A command whose caller waits for the result.
pub(in crate::store) struct Waiting {
    pub command: Box<Command>,
    /// The memory that the command takes: see [`Command::weight`].
    pub weight: usize,
    pub answer: oneshot::Sender<Result<Written, StoreError>>,
    pub ticket: Ticket,
    /// What its call keeps.
    pub kept: Option<Kept>,
    /// The span of the call, if that is recorded in a trace.
    pub span: Option<Arc<CallSpan>>,
}

impl Waiting {
    /// Its share of the writer's work.
    pub fn cost(&self) -> usize {
        self.weight + COMMAND_COST
    }

    pub fn is_large(&self) -> bool {
        self.weight > SMALL
    }

    pub fn answer(self, metrics: &StoreMetrics, answer: Result<Written, StoreError>) {
        let is_upkeep = matches!(self.command.change, Change::Trim(_) | Change::Expire(_) | Change::WorkOnAudience(_));
        if !is_upkeep {
            metrics.command(outcome_of(&answer)); // Before the reply, so that a caller with its reply finds it counted.
        }
        drop((self.ticket, self.kept)); // First, so that a caller with its reply finds its place in the queue free.
        let _ = self.answer.send(answer); // Errors are ignored: the caller may have gone away.
    }
}

/// Whether a command has written something, or repeats a request that did.
pub(super) fn is_written(answer: &Result<Written, StoreError>) -> bool {
    outcome_of(answer) == CommandOutcome::Written
}

/// What a command counts as.
fn outcome_of(answer: &Result<Written, StoreError>) -> CommandOutcome {
    match answer {
        Ok(written) if written.place.is_none() || written.outcome == WriteOutcome::Unchanged => {
            CommandOutcome::Unchanged
        }
        Ok(_) => CommandOutcome::Written,
        Err(StoreError::Overloaded) => CommandOutcome::Overloaded,
        Err(StoreError::DiskFull { .. }) => CommandOutcome::DiskFull,
        Err(StoreError::Corrupt { .. } | StoreError::Panicked) => CommandOutcome::Corrupt,
        Err(StoreError::Closed | StoreError::Failed | StoreError::Storage(_)) => CommandOutcome::Failed,
        Err(
            StoreError::ProfileNotFound { .. }
            | StoreError::ProfileExists { .. }
            | StoreError::IdentityTaken { .. }
            | StoreError::EtagMismatch
            | StoreError::RequestIdReused
            | StoreError::Invalid(_)
            | StoreError::Expired { .. }
            | StoreError::SubscriptionNotFound { .. }
            | StoreError::SubscriptionExists { .. }
            | StoreError::TakenOver
            | StoreError::TooManySubscriptions { .. }
            | StoreError::EventNotFound { .. }
            | StoreError::AudienceNotFound { .. }
            | StoreError::AudienceExists { .. }
            | StoreError::AudienceDeleting { .. }
            | StoreError::IdentityConflict { .. }
            | StoreError::MergeSelf
            | StoreError::MergeCycle { .. }
            | StoreError::MergeNotFound { .. }
            | StoreError::MergeNotReversible { .. }
            | StoreError::TooManyEvents
            | StoreError::TooManyWorkspaces { .. },
        ) => CommandOutcome::Refused,
    }
}
