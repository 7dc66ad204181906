//! Ends memberships when their time is over, soon after.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::error::StoreError;
use super::super::failures::Failures;
use super::super::read::ReadClass;
use super::super::{Store, WorkspaceId};
use super::{Due, MOST, PERIOD, REST, damaged};
use crate::command::{Change, Expire};
use crate::model::{Micros, Workspace};
use crate::proto::v1::WriteOutcome;

/// The most workspaces with a command under way. Their commands share commits.
const AT_ONCE: usize = 16;

/// The work of the sweep.
pub(super) struct Sweep {
    store: Arc<Store>,
    /// Workspaces in which no membership could be ended, and until when they rest.
    resting: BTreeMap<WorkspaceId, (Workspace, Instant)>,
    failures: Failures,
    damage: Failures,
}

/// A workspace in which a membership may have ended.
type Ended = (WorkspaceId, Workspace);

impl Sweep {
    pub fn new(store: Arc<Store>) -> Self {
        let failures = Failures::of("memberships that are over could not be ended");
        let damage = Failures::of("memberships that are over ended without an event, because of damaged records");
        Self { store, resting: BTreeMap::new(), failures, damage }
    }

    /// Works until the store is closed or fails.
    pub async fn run(mut self) {
        loop {
            self.wake();
            let ended = self.store.shared.agenda.take_ended(self.store.now(), AT_ONCE);
            if ended.is_empty() {
                tokio::time::sleep(PERIOD).await;
            } else if let Err(StoreError::Closed | StoreError::Failed) = self.end(ended).await {
                return;
            }
        }
    }

    /// Takes a step in each of the workspaces, and notes when the next membership of each ends.
    async fn end(&mut self, ended: Vec<Ended>) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let begun = store.now(); // Before the stamps of the steps: what ends while a step waits is for the next one.
        let mut steps = Vec::with_capacity(ended.len());
        for of in ended {
            let step = store.take_step(of.1.clone(), Change::Expire(Expire { most: MOST })).await;
            steps.push((of, step));
        }
        let mut moved = Vec::with_capacity(steps.len());
        for (of, step) in steps {
            let written = match step {
                Ok(written) => written.await,
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => {
                    if damaged(&written) > 0 {
                        self.damage.add_many(damaged(&written), &StoreError::corrupt("profile"));
                    }
                    moved.push((of, written.outcome == WriteOutcome::Updated));
                }
                Err(error @ (StoreError::Closed | StoreError::Failed)) => return Err(error),
                Err(error) => self.rest(of, &error),
            }
        }
        self.look(moved, begun).await
    }

    /// Notes the next end in each of the workspaces. One that was due when the steps were begun, although its step found
    /// nothing to do, rests.
    async fn look(&mut self, moved: Vec<(Ended, bool)>, begun: Micros) -> Result<(), StoreError> {
        let of: Vec<Ended> = moved.iter().map(|(of, _)| of.clone()).collect();
        let read = move |store: &Store| {
            let snapshot = store.snapshot()?;
            let look = |((id, workspace), has_moved): (Ended, bool)| {
                let next = snapshot.next_end(id);
                ((id, workspace), has_moved, next)
            };
            Ok::<_, StoreError>(moved.into_iter().map(look).collect::<Vec<_>>())
        };
        let looked = match self.store.on_read_pool(ReadClass::Status, None, read).await {
            Ok(looked) => looked,
            Err(error @ (StoreError::Closed | StoreError::Failed)) => return Err(error),
            Err(error) => {
                for of in of {
                    self.rest(of, &error); // It is not on the agenda any more.
                }
                return Ok(());
            }
        };
        for ((id, workspace), has_moved, next) in looked {
            match next {
                Ok(Some(end)) if !has_moved && end <= begun => {
                    self.rest((id, workspace), &StoreError::corrupt("expiry"));
                }
                Ok(next_end) => self.store.shared.agenda.add(Due { workspace, id, next_end, works: Vec::new() }),
                Err(error) => self.rest((id, workspace), &error),
            }
        }
        Ok(())
    }

    fn rest(&mut self, (id, workspace): Ended, error: &StoreError) {
        self.failures.add(error);
        self.resting.insert(id, (workspace, Instant::now() + REST));
    }

    /// Makes workspaces due that have rested.
    fn wake(&mut self) {
        let now = Instant::now();
        let rested = self.resting.iter().filter(|(_, (_, end))| *end <= now).map(|(id, _)| *id);
        for id in rested.collect::<Vec<_>>() {
            let Some((workspace, _)) = self.resting.remove(&id) else { continue };
            let next_end = Some(Micros::new(i64::MIN));
            self.store.shared.agenda.add(Due { workspace, id, next_end, works: Vec::new() });
        }
    }
}
