//! Gives members of an audience its name, or removes them, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::error::StoreError;
use super::super::failures::Failures;
use super::super::{Store, WorkspaceId};
use super::{Due, MOST, PERIOD, REST, damaged};
use crate::command::{Change, WorkOnAudience};
use crate::model::{AudienceId, Workspace};
use crate::proto::v1::WriteOutcome;

/// The most commands under way: they share commits.
const AT_ONCE: usize = 4;

/// The work on audiences.
pub(super) struct AudienceWork {
    store: Arc<Store>,
    /// Audiences on which no work could be done, and until when they rest.
    resting: BTreeMap<(WorkspaceId, AudienceId), (Workspace, Instant)>,
    failures: Failures,
    damage: Failures,
}

type Of = (WorkspaceId, Workspace, AudienceId);

impl AudienceWork {
    pub fn new(store: Arc<Store>) -> Self {
        let failures = Failures::of("the members of an audience could not be changed");
        let damage = Failures::of("members of an audience were passed over, because of damaged records");
        Self { store, resting: BTreeMap::new(), failures, damage }
    }

    /// Works until the store is closed or fails.
    pub async fn run(mut self) {
        loop {
            self.wake();
            let works = self.store.shared.agenda.take_works(AT_ONCE);
            if works.is_empty() {
                tokio::time::sleep(PERIOD).await;
            } else if let Err(StoreError::Closed | StoreError::Failed) = self.work(works).await {
                return;
            }
        }
    }

    /// Takes a step on each of the audiences. If there is more to do, the writer adds it to the agenda again.
    async fn work(&mut self, works: Vec<Of>) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let mut steps = Vec::with_capacity(works.len());
        for of in works {
            let change = Change::WorkOnAudience(WorkOnAudience { id: of.2, most: MOST });
            let step = store.take_step(of.1.clone(), change).await;
            steps.push((of, step));
        }
        for (of, step) in steps {
            let written = match step {
                Ok(written) => written.await,
                Err(error) => Err(error),
            };
            match written {
                Ok(written) if written.outcome == WriteOutcome::Updated => {
                    if damaged(&written) > 0 {
                        self.damage.add_many(damaged(&written), &StoreError::corrupt("profile"));
                    }
                }
                Ok(_) => {} // Somebody else has ended the work.
                Err(error @ (StoreError::Closed | StoreError::Failed)) => return Err(error),
                Err(error) => self.rest(of, &error),
            }
        }
        Ok(())
    }

    fn rest(&mut self, (id, workspace, audience): Of, error: &StoreError) {
        self.failures.add(error);
        self.resting.insert((id, audience), (workspace, Instant::now() + REST));
    }

    /// Puts audiences on the agenda that have rested.
    fn wake(&mut self) {
        let now = Instant::now();
        let rested = self.resting.iter().filter(|(_, (_, end))| *end <= now).map(|(of, _)| *of);
        for (id, audience) in rested.collect::<Vec<_>>() {
            let Some((workspace, _)) = self.resting.remove(&(id, audience)) else { continue };
            self.store.shared.agenda.add(Due { workspace, id, next_end: None, works: vec![audience] });
        }
    }
}
