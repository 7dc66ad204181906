//! The single writer: every change is one command on one queue.
//!
//! - A batch is what queued up while the previous batch was being written. Its commands share one transaction and one
//!   commit. So a lone caller waits for no one else, and many callers share the cost of the disk.
//! - Calls come first, and imports fill the rest of the batch. Each lane is served in order.
//! - The order is: commit, replace the snapshot, tell the feed, reply to the callers. So a reply or an event means that
//!   the change is on disk, and a caller that has its reply can read its own write.
//! - If redb cannot write or sync, the batch fails and the writer ends. A failed fsync is never retried.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use super::super::apply::{Reply, Written};
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::open::DirectoryLock;
use super::super::read::SnapshotTables;
use super::super::rows::Origin;
use super::super::{Committed, Shared};
use super::Ticket;
use super::batch::{self, Batch, Disk};
use crate::command::Command;
use crate::model::LogId;
use crate::proto::v1::WriteOutcome;
use crate::telemetry::metrics::{CommandOutcome, StoreMetrics};

/// The most commands in a batch that has calls. A larger batch would delay its first caller and gain little: at this
/// size the commit is already a small part of the batch's cost.
const BATCH_COMMANDS: usize = 512;
/// The most commands in a batch of imports alone. New profiles lie far apart in the file, so a commit is costly:
/// batches of 4,096 load 1.7 times as many profiles a second as batches of 512. A call that arrives meanwhile waits for
/// a quarter of a second.
pub(in crate::store) const IMPORT_BATCH_COMMANDS: usize = 4_096;
/// Import commands that a batch takes even if it is full of calls, so that imports make progress.
const IMPORT_SHARE: usize = 64;

/// See [`super::super::Store::open`].
pub(in crate::store) type OnCommit = Box<dyn FnMut(LogId, &[Committed]) + Send>;
type Answer = oneshot::Sender<Result<Written, StoreError>>;

/// An entry of the queue.
pub(in crate::store) enum Job {
    Call(Waiting),
    Import(Waiting),
    Close,
}

/// A command whose caller waits for the result.
pub(in crate::store) struct Waiting {
    pub command: Box<Command>,
    pub answer: Answer,
    pub ticket: Ticket,
}

pub(in crate::store) struct Writer {
    pub database: Arc<Database>,
    pub jobs: mpsc::Receiver<Job>,
    pub shared: Arc<Shared>,
    pub disk: Disk,
    pub origin: Origin,
    pub logs: Logs,
    pub on_commit: OnCommit,
    pub metrics: StoreMetrics,
    /// The lock on the data directory. It is released after the file is closed. `None` in tests.
    pub _lock: Option<DirectoryLock>,
}

/// The writer and the commands that it has taken off the queue.
struct Work {
    writer: Writer,
    /// Calls, oldest first.
    calls: VecDeque<Waiting>,
    /// Commands of imports, oldest first.
    imports: VecDeque<Waiting>,
    /// The most commands in the next batch. It shrinks after a batch that met a damaged page, until only the commands
    /// that need the page are refused.
    most: usize,
    /// Whether to end once these commands are done.
    closing: bool,
}

impl Writer {
    /// Starts the writer's thread.
    pub fn spawn(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("writer".into()).spawn(move || self.run())
    }

    /// Serves the queue until the store is closed or fails.
    fn run(self) {
        // However this ends, later reads and writes are refused. A panic counts as a failure.
        let end = EndOfWriter { shared: Arc::clone(&self.shared), failed: true };
        let mut work =
            Work { writer: self, calls: VecDeque::new(), imports: VecDeque::new(), most: usize::MAX, closing: false };
        while work.take_jobs() {
            if let Err(error) = work.serve() {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed; the process must end");
                // Before the replies, so that a caller that gets one sees a failed store.
                end.shared.failed.cancel();
                let waiting = work.calls.drain(..).chain(work.imports.drain(..));
                waiting.for_each(|waiting| waiting.answer(&work.writer.metrics, Err(StoreError::Failed)));
                return;
            }
        }
        end.in_order();
    }
}

impl Work {
    /// Waits for a command, and takes all others that are queued: no more than there are tickets. Returns `false` if
    /// there are none and the writer should end.
    fn take_jobs(&mut self) -> bool {
        while self.is_idle() && !self.closing {
            match self.writer.jobs.blocking_recv() {
                Some(job) => self.take(job),
                None => return false,
            }
        }
        while !self.closing {
            match self.writer.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(_) => break,
            }
        }
        !self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.imports.is_empty()
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Call(waiting) => self.calls.push_back(waiting),
            Job::Import(waiting) => self.imports.push_back(waiting),
            Job::Close => self.closing = true,
        }
    }

    /// Commits a batch of the waiting commands, and replies to their callers.
    fn serve(&mut self) -> Result<(), StoreError> {
        let room = self.writer.disk.room();
        let (calls, imports) = self.batch();
        let with_profile = self.calls.iter().take(calls).map(|waiting| (&*waiting.command, Reply::WithProfile));
        let without = self.imports.iter().take(imports).map(|waiting| (&*waiting.command, Reply::WithoutProfile));
        let Writer { database, origin, logs, metrics, .. } = &mut self.writer;
        match batch::commit(database, *origin, logs, room, metrics, with_profile.chain(without))? {
            Batch::Done { answers, committed, wrote } => {
                if wrote {
                    self.publish(&committed)?;
                }
                self.answer(calls, answers);
                self.most = self.most.saturating_mul(2);
            }
            Batch::Dropped if calls + imports > 1 => self.most = usize::midpoint(calls, imports),
            Batch::Dropped => {
                self.answer(calls, vec![Err(batch::damaged())]);
                self.most = self.most.saturating_mul(2);
            }
        }
        Ok(())
    }

    /// Returns how many of the waiting calls and imports go into the next batch.
    fn batch(&self) -> (usize, usize) {
        let calls = self.calls.len().min(BATCH_COMMANDS).min(self.most);
        let room = match calls {
            0 => IMPORT_BATCH_COMMANDS,
            calls => (BATCH_COMMANDS - calls).max(IMPORT_SHARE),
        };
        (calls, self.imports.len().min(room).min(self.most - calls))
    }

    /// Replies to the batch's callers: first to its `calls` calls, then to its imports. A batch that was full early has
    /// fewer answers than commands, and the rest keep waiting.
    fn answer(&mut self, calls: usize, answers: Vec<Result<Written, StoreError>>) {
        let answered = answers.len();
        let metrics = &self.writer.metrics;
        metrics.batch(answered);
        let mut answers = answers.into_iter();
        for (waiting, answer) in self.calls.drain(..calls.min(answered)).zip(answers.by_ref()) {
            waiting.answer(metrics, answer);
        }
        for (waiting, answer) in self.imports.drain(..answered.saturating_sub(calls)).zip(answers) {
            waiting.answer(metrics, answer);
        }
    }

    fn publish(&mut self, committed: &[Committed]) -> Result<(), StoreError> {
        let Writer { database, shared, origin, logs, on_commit, metrics, .. } = &mut self.writer;
        metrics.events(committed.len());
        let snapshot = SnapshotTables::open(&database.begin_read()?, origin.secret)?;
        shared.snapshot.store(Some(Arc::new(snapshot)));
        logs.commit(); // After the snapshot, so that it has every workspace that a reader can find.
        on_commit(origin.log, committed);
        Ok(())
    }
}

impl Waiting {
    fn answer(self, metrics: &StoreMetrics, answer: Result<Written, StoreError>) {
        metrics.command(outcome_of(&answer)); // Before the reply, so that a caller with its reply finds it counted.
        drop(self.ticket); // First, so that a caller with its reply finds its place in the queue free.
        let _ = self.answer.send(answer); // Errors are ignored: the caller may have gone away.
    }
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
            | StoreError::TooManyWorkspaces { .. },
        ) => CommandOutcome::Refused,
    }
}

/// Makes the store refuse reads and writes when the writer ends.
struct EndOfWriter {
    shared: Arc<Shared>,
    failed: bool,
}

impl EndOfWriter {
    /// The writer ends because the store was closed.
    fn in_order(mut self) {
        self.failed = false;
    }
}

impl Drop for EndOfWriter {
    fn drop(&mut self) {
        if self.failed {
            self.shared.failed.cancel();
        }
        self.shared.snapshot.store(None); // The file is closed once the last reader has dropped its snapshot.
    }
}
