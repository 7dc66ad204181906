//! The single writer: every change is one command on one queue.
//!
//! - A batch is what has queued up while the batch before was written; it shares one transaction and one commit, so a
//!   lone caller waits for nobody, and many share the cost of the disk.
//! - In this order: commit, replace the snapshot, tell the feed, answer. So an answer and an event mean that the change
//!   is on disk, and whoever was answered reads his own write.
//! - A command that is refused was refused before its first write; the rest of its batch goes on.
//! - If redb cannot read or write, the batch fails and the writer ends: an fsync that failed is not tried again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::apply::{Committed, Heads, Progress, apply};
use super::command::{Command, Written};
use super::decide::Rules;
use super::error::StoreError;
use super::lane::Ticket;
use super::reader::SnapshotTables;
use super::tables::Tables;
use crate::config::StoreConfig;
use crate::model::{Limits, LogId};

/// Commands of one batch. More would make the first of them wait longer for little: at this size the commit itself is
/// a small part of the batch's cost.
pub(super) const BATCH_COMMANDS: usize = 512;
/// Bytes of rows that a batch writes before it is committed; its last command may pass it. With the pages around them
/// that stays below the default of what must be free on the disk.
const BATCH_BYTES: usize = 8 << 20;

/// See [`super::Store::open`].
pub(super) type OnCommit = Box<dyn FnMut(LogId, &[Committed]) + Send>;
type Reply = oneshot::Sender<Result<Written, StoreError>>;

/// An entry of the queue.
pub(super) enum Job {
    Write { command: Box<Command>, reply: Reply, ticket: Ticket },
    Close,
}

pub(super) struct Writer {
    database: Database,
    jobs: mpsc::Receiver<Job>,
    shared: Arc<Shared>,
    data_dir: PathBuf,
    min_free_bytes: u64,
    rules: Rules,
    heads: Heads,
    on_commit: OnCommit,
    /// Taken off the queue, oldest first.
    waiting: VecDeque<Waiting>,
    /// Whether to end when all of them are answered.
    closing: bool,
}

/// A command that waits for its answer.
struct Waiting {
    command: Box<Command>,
    reply: Reply,
    ticket: Ticket,
}

impl Writer {
    pub fn new(
        database: Database,
        jobs: mpsc::Receiver<Job>,
        shared: Arc<Shared>,
        config: &StoreConfig,
        log: LogId,
        limits: Limits,
        on_commit: OnCommit,
    ) -> Self {
        Self {
            database,
            jobs,
            shared,
            data_dir: config.data_dir.clone(),
            min_free_bytes: config.min_free_bytes,
            rules: Rules { log, limits },
            heads: Heads::default(),
            on_commit,
            waiting: VecDeque::new(),
            closing: false,
        }
    }

    /// Until the store is closed or fails.
    pub fn run(mut self) {
        // However this ends, readers and writers are refused from then on; a panic counts as a failure.
        let end = EndOfWriter { shared: Arc::clone(&self.shared), failed: true };
        while self.take_jobs() {
            if let Err(error) = self.serve() {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed; the process must end");
                // Before the replies, so that whoever gets one sees a store that has failed.
                self.shared.failed.cancel();
                self.waiting.drain(..).for_each(|waiting| waiting.answer(Err(StoreError::Failed)));
                return;
            }
        }
        end.in_order();
    }

    /// Waits for a command, and takes those that wait with it. Whether there is one.
    fn take_jobs(&mut self) -> bool {
        while self.waiting.is_empty() && !self.closing {
            match self.jobs.blocking_recv() {
                Some(job) => self.take(job),
                None => return false,
            }
        }
        while self.waiting.len() < BATCH_COMMANDS && !self.closing {
            match self.jobs.try_recv() {
                Ok(job) => self.take(job),
                Err(_) => break,
            }
        }
        !self.waiting.is_empty()
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Write { command, reply, ticket } => self.waiting.push_back(Waiting { command, reply, ticket }),
            Job::Close => self.closing = true,
        }
    }

    /// Commits a batch of those that wait, and answers them.
    fn serve(&mut self) -> Result<(), StoreError> {
        let answers = self.commit()?;
        for (waiting, answer) in self.waiting.drain(..answers.len()).zip(answers) {
            waiting.answer(answer);
        }
        Ok(())
    }

    /// Of the disk; `None` if it does not tell. Writes are refused while it is nearly full, because redb cannot go on after
    /// a write that failed, and then neither could reads.
    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.data_dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Applies those that wait, oldest first, until the batch is full. Answers those that were applied.
    fn commit(&mut self) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let mut transaction = self.database.begin_write()?;
        // Whichever part of a commit reaches the disk, one whole state is there. Costs a commit of one update 28 %, of
        // 256 updates 1 %: see benches/README.md.
        transaction.set_two_phase_commit(true);
        // After a crash the store opens at once, without a walk over all of it, which took 6 s for 2.3 GB. Costs a commit
        // of one update 52 %, of 256 updates 2 %.
        transaction.set_quick_repair(true);
        let mut progress = Progress::default();
        let mut answers = Vec::with_capacity(self.waiting.len());
        {
            let mut tables = Tables::open(&transaction)?;
            let free = self.free_bytes();
            let required = self.min_free_bytes;
            let may_write = || match free {
                Some(free) if free < required => Err(StoreError::DiskFull { free, required }),
                _ => Ok(()),
            };
            for Waiting { command, .. } in &self.waiting {
                let answer = apply(&mut tables, &mut self.heads, &self.rules, command, &mut progress, may_write);
                match answer {
                    Err(error) if !error.is_refusal() => return Err(error),
                    answer => answers.push(answer),
                }
                if progress.bytes >= BATCH_BYTES {
                    break;
                }
            }
        }
        if progress.wrote {
            transaction.commit()?;
            self.publish(&progress.committed)?;
        } else {
            transaction.abort()?;
        }
        Ok(answers)
    }

    fn publish(&mut self, committed: &[Committed]) -> Result<(), StoreError> {
        let snapshot = SnapshotTables::open(&self.database.begin_read()?, self.shared.failed.clone())?;
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        for event in committed.iter().filter(|event| event.sequence == 1) {
            let mut workspaces = self.shared.workspaces.write().unwrap_or_else(PoisonError::into_inner);
            workspaces.insert(event.workspace.clone(), event.id);
        }
        (self.on_commit)(self.rules.log, committed);
        Ok(())
    }
}

impl Waiting {
    fn answer(self, answer: Result<Written, StoreError>) {
        drop(self.ticket); // First, so that whoever is answered finds his place free.
        let _ = self.reply.send(answer); // A caller that is gone does not want it.
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
