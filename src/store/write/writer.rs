//! The single writer: every change is one command on one queue.
//!
//! - A batch is what has queued up while the batch before was written; it shares one transaction and one commit, so a
//!   lone caller does not wait for others, and many share the cost of the disk.
//! - Calls go before imports, which fill the batch. Each lane is served in order.
//! - In this order: commit, replace the snapshot, tell the feed, answer. So an answer and an event mean that the change
//!   is on disk, and a caller who was answered reads its own write.
//! - If redb cannot write or sync, the batch fails and the writer ends: an fsync that failed is not tried again.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use super::super::apply::{Reply, Written};
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::read::SnapshotTables;
use super::super::rows::Origin;
use super::super::{Committed, Shared};
use super::Ticket;
use super::batch::{self, Batch, Disk};
use crate::command::Command;
use crate::model::LogId;

/// Commands of a batch that has calls. More would make the first of them wait longer for little: at this size the
/// commit itself is a small part of the batch's cost.
const BATCH_COMMANDS: usize = 512;
/// Commands of a batch of imports alone. New profiles lie far apart, so that what a commit costs is not small: one of
/// 4,096 loads 1.7 times as many a second as one of 512. A call that comes meanwhile waits for a quarter of a second.
pub(in crate::store) const IMPORT_BATCH_COMMANDS: usize = 4_096;
/// Commands of imports in a batch that is full of calls: so that imports go on.
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

/// A command that waits for its answer.
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
    /// Of the data directory; given up after the file is closed. `None` in tests.
    pub _lock: Option<File>,
}

/// The writer at work.
struct Work {
    writer: Writer,
    /// Taken off the queue, oldest first.
    calls: VecDeque<Waiting>,
    /// The same, of imports.
    imports: VecDeque<Waiting>,
    /// Commands of a batch at most: fewer after one that met a damaged page, so that only those that need it are refused.
    most: usize,
    /// Whether to end when all of them are answered.
    closing: bool,
}

impl Writer {
    /// Until the store is closed or fails.
    pub fn run(self) {
        // However this ends, readers and writers are refused from then on; a panic counts as a failure.
        let end = EndOfWriter { shared: Arc::clone(&self.shared), failed: true };
        let mut work =
            Work { writer: self, calls: VecDeque::new(), imports: VecDeque::new(), most: usize::MAX, closing: false };
        while work.take_jobs() {
            if let Err(error) = work.serve() {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed; the process must end");
                // Before the answers, so that a caller who gets one sees a store that has failed.
                end.shared.failed.cancel();
                let waiting = work.calls.drain(..).chain(work.imports.drain(..));
                waiting.for_each(|waiting| waiting.answer(Err(StoreError::Failed)));
                return;
            }
        }
        end.in_order();
    }
}

impl Work {
    /// Waits for a command, and takes those that wait with it: there are no more than tickets. Whether there is one.
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

    /// Commits a batch of those that wait, and answers them.
    fn serve(&mut self) -> Result<(), StoreError> {
        let room = self.writer.disk.room();
        let (calls, imports) = self.batch();
        let with_profile = self.calls.iter().take(calls).map(|waiting| (&*waiting.command, Reply::WithProfile));
        let without = self.imports.iter().take(imports).map(|waiting| (&*waiting.command, Reply::WithoutProfile));
        let Writer { database, origin, logs, .. } = &mut self.writer;
        match batch::commit(database, *origin, logs, room, with_profile.chain(without))? {
            Batch::Done { answers, committed, wrote } => {
                if wrote {
                    self.publish(&committed)?;
                }
                self.answer(calls, answers);
                self.most = self.most.saturating_mul(2);
            }
            Batch::Dropped if calls + imports > 1 => self.most = usize::midpoint(calls, imports),
            Batch::Dropped => {
                tracing::error!("a write met a damaged page of the store, and is refused");
                self.answer(calls, vec![Err(batch::damaged())]);
                self.most = self.most.saturating_mul(2);
            }
        }
        Ok(())
    }

    /// How many of the calls and of the imports that wait are in the next batch.
    fn batch(&self) -> (usize, usize) {
        let calls = self.calls.len().min(BATCH_COMMANDS).min(self.most);
        let room = match calls {
            0 => IMPORT_BATCH_COMMANDS,
            calls => (BATCH_COMMANDS - calls).max(IMPORT_SHARE),
        };
        (calls, self.imports.len().min(room).min(self.most - calls))
    }

    /// Answers the first of the calls, of which the batch had so many, and then of the imports.
    fn answer(&mut self, calls: usize, answers: Vec<Result<Written, StoreError>>) {
        let answered = answers.len();
        let mut answers = answers.into_iter();
        for (waiting, answer) in self.calls.drain(..calls.min(answered)).zip(answers.by_ref()) {
            waiting.answer(answer);
        }
        for (waiting, answer) in self.imports.drain(..answered.saturating_sub(calls)).zip(answers) {
            waiting.answer(answer);
        }
    }

    fn publish(&mut self, committed: &[Committed]) -> Result<(), StoreError> {
        let Writer { database, shared, origin, logs, on_commit, .. } = &mut self.writer;
        let snapshot = SnapshotTables::open(&database.begin_read()?, origin.secret)?;
        shared.snapshot.store(Some(Arc::new(snapshot)));
        logs.commit(); // Afterwards: a workspace that a reader knows is in the snapshot.
        on_commit(origin.log, committed);
        Ok(())
    }
}

impl Waiting {
    fn answer(self, answer: Result<Written, StoreError>) {
        drop(self.ticket); // First, so that a caller who is answered finds its place free.
        let _ = self.answer.send(answer); // A caller that is gone does not want it.
    }
}

/// Closes the doors when the writer ends.
struct EndOfWriter {
    shared: Arc<Shared>,
    failed: bool,
}

impl EndOfWriter {
    fn in_order(mut self) {
        self.failed = false;
    }
}

impl Drop for EndOfWriter {
    fn drop(&mut self) {
        if self.failed {
            self.shared.failed.cancel();
        }
        self.shared.snapshot.store(None); // So that the last reader, not the process, holds the file open.
    }
}
