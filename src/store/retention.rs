//! Retention: finds the logs that hold events for too long, or too many, and has them trimmed.
//!
//! - Every [`PERIOD`] it looks at the next [`LOOKED_AT`] workspaces, by name. What it remembers of each is the time of
//!   its oldest event, so a look at a log that has not been trimmed since costs no read of an event.
//! - A log that is due is trimmed by one command after another. Logs that are due take turns, and one command is under
//!   way at a time. The commands go the way of imports, so calls come first.
//! - What is removed is decided by the command: see `apply::trim`. Here is only decided when to ask.
//! - On a disk that is nearly full, trims are refused like all writes: removing rows takes new pages before it frees
//!   any. So `--min-free-bytes` must leave the operator time to make room.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::apply::TRIM_BYTES;
use super::error::StoreError;
use super::failures::Failures;
use super::read::{LogBounds, PageSize, ReadClass, Snapshot};
use super::{Store, WorkspaceId};
use crate::command::{Change, Command, Trim};
use crate::config::StoreConfig;
use crate::model::workspace_page::WorkspacePage;
use crate::model::{Limits, Micros, Place, Workspace};
use crate::proto::v1::WriteOutcome;

/// The time between two looks. An event is removed at most this much too late, and with more than [`LOOKED_AT`]
/// workspaces a little later.
const PERIOD: Duration = Duration::from_secs(1);
/// The most workspaces of one look: it takes a few milliseconds. All of 100,000 workspaces take less than a minute.
const LOOKED_AT: usize = 2_000;
/// The most events that one command removes: about as long as a commit of as many updates takes.
const MOST: usize = 256;
/// How long a log is left alone that a subscription holds. An acknowledgement, or the limit of the hold, frees events at
/// most this much earlier than they are removed.
const HELD_REST: Duration = Duration::from_secs(5);
/// How long a log is left alone from which nothing can be removed: the disk is full, or the log is damaged.
const REST: Duration = Duration::from_secs(60);
/// The time of an oldest event that is damaged, or that was not read yet.
const UNKNOWN: Micros = Micros::new(i64::MIN);

impl Store {
    /// Trims the logs until `stop` is cancelled or the store ends. The server runs it once.
    pub async fn retain(self: Arc<Self>, config: StoreConfig, stop: CancellationToken) {
        let trim = trim(&config);
        if trim.max_age.is_none() && trim.max_bytes.is_none() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.failed().cancelled() => {}
            () = Retention::new(Arc::clone(&self), trim).run() => {}
        }
    }
}

/// The settings as a command carries them. In a setting, 0 means no limit.
fn trim(config: &StoreConfig) -> Trim {
    let age = |age: Duration| (!age.is_zero()).then_some(age);
    let bytes = |bytes: u64| (bytes > 0).then_some(bytes);
    Trim {
        max_age: age(config.retention_age),
        max_bytes: bytes(config.retention_bytes),
        hold_age: age(config.subscription_hold_age),
        hold_bytes: bytes(config.subscription_hold_bytes),
        most: MOST,
    }
}

/// The work of [`Store::retain`].
struct Retention {
    store: Arc<Store>,
    trim: Trim,
    /// Where the next look begins.
    page: WorkspacePage,
    oldest: Oldest,
    /// The logs to trim, in turn.
    due: VecDeque<Workspace>,
    /// The logs that a look passes over.
    passed: HashMap<Workspace, Passed>,
    failures: Failures,
}

/// Why a look passes over a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// It is to be trimmed.
    Due,
    /// Nothing could be removed from it. It rests until then.
    Resting(Instant),
}

/// The floor of each log at some time, and the time of the oldest event that it held then, by the number of the
/// workspace. 16 bytes for each.
#[derive(Debug, Default)]
pub(super) struct Oldest(Vec<(Place, Micros)>);

/// How far a log is past its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    No,
    Yes,
    /// By more than what comes together between two looks, so one command after another is worth its commit.
    Far,
}

impl Retention {
    fn new(store: Arc<Store>, trim: Trim) -> Self {
        Self {
            store,
            trim,
            page: WorkspacePage { prefix: String::new(), after: None },
            oldest: Oldest::default(),
            due: VecDeque::new(),
            passed: HashMap::new(),
            failures: Failures::of("old events could not be removed"),
        }
    }

    /// Works until the store is closed or fails.
    async fn run(mut self) {
        let mut next_look = Instant::now();
        loop {
            let done = if next_look <= Instant::now() {
                next_look = Instant::now() + PERIOD;
                self.look().await
            } else if let Some(workspace) = self.due.pop_front() {
                self.trim(workspace).await
            } else {
                tokio::time::sleep_until(next_look).await;
                Ok(())
            };
            match done {
                Ok(()) => {}
                Err(StoreError::Closed | StoreError::Failed) => return,
                Err(error) => self.failures.add(&error),
            }
        }
    }

    /// Looks at the next workspaces, and lists those that are due.
    async fn look(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        self.passed.retain(|_, passed| *passed == Passed::Due || matches!(passed, Passed::Resting(end) if *end > now));
        let (page, trim, mut oldest) = (self.page.clone(), self.trim, std::mem::take(&mut self.oldest));
        let read = move |store: &Store| {
            let (snapshot, now) = (store.snapshot()?, store.now());
            let (mut due, size) = (Vec::new(), PageSize { items: LOOKED_AT, bytes: usize::MAX });
            let last = snapshot.workspaces(&page, size, |workspace, log| {
                let id = store.workspace_id(workspace);
                if id.is_some_and(|id| oldest.due(&snapshot, id, log, &trim, now) != Due::No) {
                    due.push(workspace.clone());
                }
                1
            })?;
            Ok::<_, StoreError>((due, last, oldest))
        };
        let (due, last, oldest) = self.store.on_read_pool(ReadClass::Status, None, read).await?;
        (self.page.after, self.oldest) = (last, oldest);
        for workspace in due {
            if let Entry::Vacant(entry) = self.passed.entry(workspace) {
                self.due.push_back(entry.key().clone());
                entry.insert(Passed::Due);
            }
        }
        Ok(())
    }

    /// Trims a log once. If it is then still far past its limits, its turn comes again.
    async fn trim(&mut self, workspace: Workspace) -> Result<(), StoreError> {
        let command = Command {
            workspace: workspace.clone(),
            stamp: self.store.stamp(),
            actor: None,
            request: None,
            silent: false,
            validate_only: false,
            limits: Limits::default(),
            change: Change::Trim(self.trim),
        };
        let trimmed = match self.store.import(command).await {
            Ok(written) => written.await,
            Err(error) => Err(error),
        };
        match trimmed {
            Ok(written) if written.outcome == WriteOutcome::Updated => {
                self.passed.remove(&workspace);
                if self.is_far(&workspace).await? {
                    self.passed.insert(workspace.clone(), Passed::Due);
                    self.due.push_back(workspace);
                }
                Ok(())
            }
            unmoved => {
                let is_held = unmoved.is_ok()
                    && !self.store.workspace_id(&workspace).is_some_and(|id| self.oldest.is_damaged(id));
                let rest = if is_held { HELD_REST } else { REST };
                self.passed.insert(workspace, Passed::Resting(Instant::now() + rest));
                unmoved.map(|_| ())
            }
        }
    }

    async fn is_far(&mut self, workspace: &Workspace) -> Result<bool, StoreError> {
        let (name, trim, mut oldest) = (workspace.clone(), self.trim, std::mem::take(&mut self.oldest));
        let read = move |store: &Store| {
            let (snapshot, now) = (store.snapshot()?, store.now());
            let Some(id) = store.workspace_id(&name) else { return Ok((false, oldest)) };
            let due = oldest.due(&snapshot, id, snapshot.log_bounds(id)?, &trim, now);
            Ok::<_, StoreError>((due == Due::Far, oldest))
        };
        let (is_far, oldest) = self.store.on_read_pool(ReadClass::Status, None, read).await?;
        self.oldest = oldest;
        Ok(is_far)
    }
}

impl Oldest {
    /// Returns how far a log is past its limits. It reads the oldest event only if the floor has moved.
    pub fn due(&mut self, snapshot: &Snapshot, id: WorkspaceId, log: LogBounds, trim: &Trim, now: Micros) -> Due {
        if log.floor == log.head {
            return Due::No;
        }
        let oldest = if trim.max_age.is_some() { self.time(snapshot, id, log.floor) } else { now };
        let is_over = |age: Duration, bytes: u64| {
            trim.max_age.is_some_and(|max| oldest.plus(max).plus(age) <= now)
                || trim.max_bytes.is_some_and(|max| log.bytes > max.saturating_add(bytes))
        };
        match (is_over(PERIOD, TRIM_BYTES), is_over(Duration::ZERO, 0)) {
            (true, _) => Due::Far,
            (false, true) => Due::Yes,
            (false, false) => Due::No,
        }
    }

    /// Whether the oldest event of a log was damaged when it was last looked at.
    fn is_damaged(&self, id: WorkspaceId) -> bool {
        self.0.get(id.0 as usize).is_some_and(|(_, time)| *time == UNKNOWN)
    }

    /// Returns the time of the oldest event. If the event is damaged, its time counts as long ago: the command finds
    /// out what can be done.
    fn time(&mut self, snapshot: &Snapshot, id: WorkspaceId, floor: Place) -> Micros {
        let at = id.0 as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, (Place::START, UNKNOWN));
        }
        let known = &mut self.0[at];
        if known.0 != floor || known.1 == UNKNOWN {
            let time = floor.checked_next().and_then(|oldest| snapshot.event_time(id, oldest));
            *known = (floor, time.unwrap_or(UNKNOWN));
        }
        known.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_0_sets_no_limit() {
        let config = StoreConfig {
            retention_age: Duration::ZERO,
            retention_bytes: 0,
            subscription_hold_age: Duration::ZERO,
            subscription_hold_bytes: 0,
            ..StoreConfig::default()
        };
        let Trim { max_age, max_bytes, hold_age, hold_bytes, most: _ } = trim(&config);
        assert_eq!((max_age, max_bytes, hold_age, hold_bytes), (None, None, None, None));
        let day = Duration::from_secs(24 * 60 * 60);
        let Trim { max_age, max_bytes, hold_age, hold_bytes, most: _ } = trim(&StoreConfig::default());
        assert_eq!((max_age, hold_age), (Some(7 * day), Some(30 * day)));
        assert_eq!((max_bytes, hold_bytes), (Some(10 << 30), Some(20 << 30)));
    }
}
