//! The upkeep of memberships in the background: they end when their time is over, and follow what becomes of their
//! audience.
//!
//! - `agenda`: what there is to do, and when. The writer adds to it after each commit.
//! - `survey`: finds what there was to do when the store was opened.
//! - `sweep`: ends memberships. `work`: gives members of an audience its name, or removes them.
//!
//! What always holds:
//! - What a step changes is decided by its command: see `apply::expire` and `apply::work`. Here is only decided when to
//!   ask. All state is in the rows, so the upkeep goes on after a restart.
//! - Workspaces take turns, and few commands are under way at a time. They go the way of imports, so calls come first.
//! - What fails rests for a while, and is logged at most once a minute.

mod agenda;
mod survey;
mod sweep;
mod work;

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio_util::sync::CancellationToken;

pub(super) use agenda::{Agenda, Due};

use super::error::StoreError;
use super::{Store, Written};
use crate::command::{Change, Command};
use crate::model::{Limits, Workspace};
use crate::proto::storage::StepTaken;

/// The time between two looks at the agenda. A membership ends at most about this much too late.
const PERIOD: Duration = Duration::from_millis(200);
/// The most profiles of one command. Larger ones would be done sooner, but calls wait for their commits.
const MOST: usize = 32;
/// How long something is left alone that failed: the disk is full, or a page is damaged.
const REST: Duration = Duration::from_secs(60);

impl Store {
    /// Ends memberships and works on audiences until `stop` is cancelled or the store ends. The server runs it once.
    pub async fn keep_up(self: Arc<Self>, stop: CancellationToken) {
        let upkeep = async {
            tokio::join!(
                survey::run(Arc::clone(&self)),
                sweep::Sweep::new(Arc::clone(&self)).run(),
                work::AudienceWork::new(Arc::clone(&self)).run(),
            );
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.failed().cancelled() => {}
            () = upkeep => {}
        }
    }

    /// Queues a command of the upkeep.
    async fn take_step(
        &self,
        workspace: Workspace,
        change: Change,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        let command = Command {
            workspace,
            stamp: self.stamp(),
            actor: None,
            request: None,
            silent: false,
            validate_only: false,
            // A profile may get a longer name of an audience although it is as large as the limit.
            limits: Limits { profile_bytes: usize::MAX, ..Limits::default() },
            change,
        };
        self.import(command).await
    }
}

/// Returns how many damaged rows a step has met.
fn damaged(written: &Written) -> u64 {
    StepTaken::decode(&*written.detail).map_or(0, |taken| taken.damaged)
}
