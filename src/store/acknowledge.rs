//! Acknowledgements of durable subscriptions, coalesced.
//!
//! - Of each stream at most one acknowledgement is on its way to the writer. Those that come meanwhile wait, and the next
//!   one that goes acknowledges as far as any of them asked for. So a hundred callers cost two commands, not a hundred.
//! - A caller gets no result of a command that was sent before it called. So it is never told that a place is
//!   acknowledged which a seek had left before.
//! - One that names skipped events is never joined with others: it is judged, and refused, by itself. So is one past the
//!   end of the log.
//! - They enter the queue as imports do: they fill commits, and never keep calls out.
//! - Each caller has its answer after the commit. A caller that goes away holds up no other.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::apply::check_in_log;
use super::error::StoreError;
use crate::command::{Acknowledge, Change, Command};
use crate::model::{Limits, Position, SubscriptionName, Workspace};

/// The streams whose acknowledgements are on their way. One without has no entry.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements(Mutex<HashMap<Key, Arc<Coalesced>>>);

/// The workspace, the subscription and the number of the stream.
type Key = (Workspace, SubscriptionName, u64);

/// The acknowledgements of one stream.
#[derive(Debug, Default)]
struct Coalesced {
    asked: Mutex<Asked>,
    /// Whose turn it is, and the last acknowledgement that was accepted.
    turn: tokio::sync::Mutex<Option<Done>>,
}

/// What the callers ask for that are here.
#[derive(Debug, Default)]
struct Asked {
    /// How many callers have come so far. Each is numbered by those before it.
    callers: u64,
    /// The position that each caller asks for, unless it stands for itself.
    positions: BTreeMap<u64, Position>,
}

/// An acknowledgement that was accepted.
#[derive(Debug, Clone, Copy)]
struct Done {
    acknowledged: Position,
    /// The callers with lower numbers had come when it was sent.
    before: u64,
}

/// A caller's share of the entry of a stream.
struct Entry<'a> {
    all: &'a Acknowledgements,
    key: Key,
    /// Always there until it is dropped.
    coalesced: Option<Arc<Coalesced>>,
    /// The number of the caller.
    caller: u64,
}

impl Store {
    /// Acknowledges what a stream of a subscription has delivered, and returns the acknowledged position.
    ///
    /// # Errors
    /// [`StoreError::SubscriptionNotFound`], [`StoreError::TakenOver`], [`StoreError::Invalid`] for a position or a skipped
    /// event that cannot be, or those of [`Store::import`].
    pub async fn acknowledge(
        &self,
        workspace: Workspace,
        acknowledge: Acknowledge,
        limits: Limits,
    ) -> Result<Position, StoreError> {
        let Acknowledge { name, stream, position, skipped } = acknowledge;
        if let Some(id) = self.workspace_id(&workspace) {
            check_in_log(self.snapshot()?.log_bounds(id)?.head, position)?;
        }
        let joins = skipped.is_empty();
        let key = (workspace.clone(), name.clone(), stream);
        let entry = self.acknowledgements.enter(key, joins.then_some(position));
        let mut done = entry.coalesced().turn.lock().await;
        if let Some(done) = done.filter(|done| joins && done.answers(entry.caller, position)) {
            return Ok(done.acknowledged);
        }
        let (furthest, before) = entry.coalesced().asked().so_far();
        let position = furthest.filter(|_| joins).unwrap_or(position);
        let command = Command {
            workspace,
            stamp: self.stamp(),
            actor: None,
            request: None,
            silent: false,
            validate_only: false,
            limits,
            change: Change::Acknowledge(Acknowledge { name, stream, position, skipped }),
        };
        let written = self.import(command).await?.await?;
        let acknowledged = written.subscription.map_or(position, |subscription| subscription.acknowledged);
        *done = Some(Done { acknowledged, before });
        Ok(acknowledged)
    }
}

impl Acknowledgements {
    fn enter(&self, key: Key, position: Option<Position>) -> Entry<'_> {
        let coalesced = Arc::clone(self.all().entry(key.clone()).or_default());
        let caller = coalesced.asked().add(position);
        Entry { all: self, key, coalesced: Some(coalesced), caller }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Key, Arc<Coalesced>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

impl Coalesced {
    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// Adds a caller, and returns its number.
    fn add(&mut self, position: Option<Position>) -> u64 {
        let caller = self.callers;
        self.callers += 1;
        if let Some(position) = position {
            self.positions.insert(caller, position);
        }
        caller
    }

    /// Returns the furthest position that a caller asks for, and the number that the next caller gets.
    fn so_far(&self) -> (Option<Position>, u64) {
        (self.positions.values().max().copied(), self.callers)
    }
}

impl Done {
    /// Whether this is also the result of a caller. It is not if the caller came later: meanwhile a seek may have moved
    /// the place, or another stream have taken over.
    fn answers(&self, caller: u64, position: Position) -> bool {
        caller < self.before && self.acknowledged >= position
    }
}

impl Entry<'_> {
    fn coalesced(&self) -> &Coalesced {
        self.coalesced.as_ref().expect("it is not dropped")
    }
}

impl Drop for Entry<'_> {
    /// What the caller asked for is joined no longer. The last to leave removes the entry.
    fn drop(&mut self) {
        self.coalesced().asked().positions.remove(&self.caller);
        let mut all = self.all.all();
        self.coalesced = None;
        if all.get(&self.key).is_some_and(|entry| Arc::strong_count(entry) == 1) {
            all.remove(&self.key);
        }
    }
}
