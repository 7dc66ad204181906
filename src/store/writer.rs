//! The single writer: every change is one command on one queue.
//!
//! - A batch is what has queued up while the batch before was written; it shares one transaction and one commit, so a
//!   lone caller waits for nobody, and many share the cost of the disk.
//! - Calls go before imports, which fill the batch. Each lane is served in order.
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
use crate::proto::v1::WriteOutcome;

/// Commands of a batch that has calls. More would make the first of them wait longer for little: at this size the
/// commit itself is a small part of the batch's cost.
const BATCH_COMMANDS: usize = 512;
/// Commands of a batch of imports alone. New profiles lie far apart, so that what a commit costs is not small: one of
/// 4,096 loads 1.7 times as many a second as one of 512. A call that comes meanwhile waits for a quarter of a second.
pub(super) const IMPORT_BATCH_COMMANDS: usize = 4_096;
/// What the pages of such a batch take while it is written: some eight for each command. Where the disk has less than this to
/// spare, imports too are committed by [`BATCH_COMMANDS`].
const IMPORT_BATCH_PAGES: u64 = IMPORT_BATCH_COMMANDS as u64 * 8 * 4_096;
/// Commands of imports in a batch that is full of calls: so that imports go on.
const IMPORT_SHARE: usize = 64;
/// Bytes that a batch writes, or answers where nothing changes, before it is committed; its last command may pass it.
/// With the pages around them that stays below the default of what must be free on the disk.
const BATCH_BYTES: usize = 8 << 20;

/// See [`super::Store::open`].
pub(super) type OnCommit = Box<dyn FnMut(LogId, &[Committed]) + Send>;
type Reply = oneshot::Sender<Result<Written, StoreError>>;

/// An entry of the queue.
pub(super) enum Job {
    Call(Waiting),
    Import(Waiting),
    Close,
}

/// A command that waits for its answer.
pub(super) struct Waiting {
    pub command: Box<Command>,
    pub reply: Reply,
    pub ticket: Ticket,
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
    calls: VecDeque<Waiting>,
    /// The same, of imports.
    imports: VecDeque<Waiting>,
    /// Whether to end when all of them are answered.
    closing: bool,
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
            calls: VecDeque::new(),
            imports: VecDeque::new(),
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
                let waiting = self.calls.drain(..).chain(self.imports.drain(..));
                waiting.for_each(|waiting| waiting.answer(Err(StoreError::Failed)));
                return;
            }
        }
        end.in_order();
    }

    /// Waits for a command, and takes those that wait with it: there are no more than tickets. Whether there is one.
    fn take_jobs(&mut self) -> bool {
        while self.is_idle() && !self.closing {
            match self.jobs.blocking_recv() {
                Some(job) => self.take(job),
                None => return false,
            }
        }
        while !self.closing {
            match self.jobs.try_recv() {
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
        let free = self.free_bytes();
        let (calls, imports) = self.batch(free);
        let mut answers = self.commit(calls, imports, free)?.into_iter();
        let answered = answers.len();
        for (waiting, answer) in self.calls.drain(..calls.min(answered)).zip(answers.by_ref()) {
            waiting.answer(answer);
        }
        for (waiting, answer) in self.imports.drain(..answered.saturating_sub(calls)).zip(answers) {
            // Nobody reads it, and it may be large.
            waiting.answer(answer.map(|written| Written { profile: None, ..written }));
        }
        Ok(())
    }

    /// How many of the calls and of the imports that wait are in the next batch.
    fn batch(&self, free: Option<u64>) -> (usize, usize) {
        let calls = self.calls.len().min(BATCH_COMMANDS);
        let spacious = free.is_none_or(|free| free >= self.min_free_bytes.saturating_add(IMPORT_BATCH_PAGES));
        let room = match calls {
            0 if spacious => IMPORT_BATCH_COMMANDS,
            0 => BATCH_COMMANDS,
            calls => (BATCH_COMMANDS - calls).max(IMPORT_SHARE),
        };
        (calls, self.imports.len().min(room))
    }

    /// Of the disk; `None` if it does not tell. Writes are refused while it is nearly full, because redb cannot go on
    /// after a write that failed, and then neither could reads.
    fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.data_dir).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Applies so many of those that wait, or fewer if the batch is full before. Answers those that were applied.
    fn commit(
        &mut self,
        calls: usize,
        imports: usize,
        free: Option<u64>,
    ) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let mut transaction = self.database.begin_write()?;
        // Whichever part of a commit reaches the disk, one whole state is there. Costs a commit of one update 28 %, of
        // 256 updates 1 %: see benches/README.md.
        transaction.set_two_phase_commit(true);
        // After a crash the store opens at once, without a walk over all of it, which took 6 s for 2.3 GB. Costs a
        // commit of one update 52 %, of 256 updates 2 %.
        transaction.set_quick_repair(true);
        let mut progress = Progress::default();
        let mut answers = Vec::with_capacity(calls + imports);
        {
            let mut tables = Tables::open(&transaction)?;
            let required = self.min_free_bytes;
            let may_write = || match free {
                Some(free) if free < required => Err(StoreError::DiskFull { free, required }),
                _ => Ok(()),
            };
            for Waiting { command, .. } in self.calls.iter().take(calls).chain(self.imports.iter().take(imports)) {
                let answer = apply(&mut tables, &mut self.heads, &self.rules, command, &mut progress, may_write);
                if let Ok(Written { outcome: WriteOutcome::Unchanged, profile: Some(profile), .. }) = &answer {
                    progress.bytes += profile.len(); // Nothing to write, but much to hold.
                }
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
