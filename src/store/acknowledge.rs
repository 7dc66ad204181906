//! Acknowledgements of durable subscriptions, coalesced.
//!
//! - Of each stream at most one acknowledgement is on its way to the writer. Those that come meanwhile wait, and the next
//!   one that goes acknowledges as far as any of them asked for. So a hundred callers cost two commands, not a hundred.
//! - One that names skipped events is never joined with others: it is judged, and refused, by itself.
//! - They enter the queue as imports do: they fill commits, and never keep calls out.
//! - Each caller has its answer after the commit. A caller that goes away holds up no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Store;
use super::error::StoreError;
use crate::command::{Acknowledge, Change, Command};
use crate::model::{Limits, Place, Position, SubscriptionName, Workspace};

/// The streams whose acknowledgements are on their way. One without has no entry.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements(Mutex<HashMap<Key, Arc<Coalesced>>>);

/// The workspace, the subscription and the number of the stream.
type Key = (Workspace, SubscriptionName, u64);

/// The acknowledgements of one stream.
#[derive(Debug)]
struct Coalesced {
    /// The furthest position that a caller has asked for.
    wanted: Mutex<Position>,
    /// Whose turn it is, and the furthest position that was acknowledged meanwhile.
    turn: tokio::sync::Mutex<Option<Position>>,
}

/// A caller's share of the entry of a stream.
struct Entry<'a> {
    all: &'a Acknowledgements,
    key: Key,
    /// Always there until it is dropped.
    coalesced: Option<Arc<Coalesced>>,
}

impl Store {
    /// Acknowledges what a stream of a subscription has delivered, and returns the acknowledged position.
    ///
    /// # Errors
    /// [`StoreError::SubscriptionNotFound`], [`StoreError::TakenOver`], [`StoreError::Invalid`] for a skipped event that
    /// cannot be, or those of [`Store::import`].
    pub async fn acknowledge(
        &self,
        workspace: Workspace,
        acknowledge: Acknowledge,
        limits: Limits,
    ) -> Result<Position, StoreError> {
        let Acknowledge { name, stream, position, skipped } = acknowledge;
        let joins = skipped.is_empty();
        let entry = self.acknowledgements.enter((workspace.clone(), name.clone(), stream));
        if joins {
            entry.coalesced().want(position);
        }
        let mut done = entry.coalesced().turn.lock().await;
        if let Some(done) = done.filter(|done| joins && *done >= position) {
            return Ok(done);
        }
        let position = if joins { entry.coalesced().wanted().max(position) } else { position };
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
        *done = Some(acknowledged);
        Ok(acknowledged)
    }
}

impl Acknowledgements {
    fn enter(&self, key: Key) -> Entry<'_> {
        let mut all = self.all();
        let new = || Coalesced { wanted: Mutex::new(Place::START.into()), turn: tokio::sync::Mutex::new(None) };
        let coalesced = Arc::clone(all.entry(key.clone()).or_insert_with(|| Arc::new(new())));
        drop(all);
        Entry { all: self, key, coalesced: Some(coalesced) }
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
    fn want(&self, position: Position) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = position.max(*wanted);
    }

    fn wanted(&self) -> Position {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    fn coalesced(&self) -> &Coalesced {
        self.coalesced.as_ref().expect("it is not dropped")
    }
}

impl Drop for Entry<'_> {
    /// The last to leave removes the entry.
    fn drop(&mut self) {
        let mut all = self.all.all();
        self.coalesced = None;
        if all.get(&self.key).is_some_and(|entry| Arc::strong_count(entry) == 1) {
            all.remove(&self.key);
        }
    }
}
