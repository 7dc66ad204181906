//! The single writer: every change is one command on one queue.
//!
//! - A batch is what has queued up while the batch before was written; it shares one transaction and one commit, so a
//!   lone caller waits for nobody, and many share the cost of the disk.
//! - In this order: commit, replace the snapshot, tell the feed, answer. So an answer and an event mean that the change
//!   is on disk, and whoever was answered reads his own write.
//! - A command that is refused was refused before its first write; the rest of its batch goes on.
//! - If redb cannot read or write, the batch fails and the writer ends: an fsync that failed is not tried again.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use redb::{Database, ReadableDatabase};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::apply::{Heads, Rules, Written, apply};
use super::command::Command;
use super::error::StoreError;
use super::reader::SnapshotTables;
use super::tables::Tables;
use super::{Shared, WorkspaceId};
use crate::config::StoreConfig;
use crate::model::{EventKind, Limits, LogId, Mpid, Sequence, Workspace};

/// Commands of one batch. More would make the first of them wait longer for little: at this size the commit itself is
/// a small part of the batch's cost.
const BATCH_COMMANDS: usize = 512;

/// An event that is on disk.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where.
    pub workspace: Workspace,
    pub(super) id: WorkspaceId,
    /// Its number.
    pub sequence: Sequence,
    /// Of which profile.
    pub mpid: Mpid,
    /// What happened to it.
    pub kind: EventKind,
    /// Encoded `Event`.
    pub event: Bytes,
}

/// See [`super::Store::open`].
pub(super) type OnCommit = Box<dyn FnMut(LogId, &[Committed]) + Send>;
type Reply = oneshot::Sender<Result<Written, StoreError>>;

/// An entry of the queue.
pub(super) enum Job {
    Write {
        command: Box<Command>,
        reply: Reply,
        /// Its share of the queue's bytes, until it is answered.
        permit: OwnedSemaphorePermit,
    },
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
}

/// Commands that share a transaction.
struct Batch {
    writes: Vec<(Box<Command>, Reply, OwnedSemaphorePermit)>,
    close: bool,
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
        }
    }

    /// Until the store is closed or fails.
    pub fn run(mut self) {
        // However this ends, readers and writers are refused from then on; a panic counts as a failure.
        let end = EndOfWriter { shared: Arc::clone(&self.shared), failed: true };
        while let Some(batch) = self.next_batch() {
            let close = batch.close;
            if !self.serve(batch) {
                return;
            }
            if close {
                break;
            }
        }
        end.in_order();
    }

    fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch { writes: Vec::new(), close: false };
        let mut job = Some(self.jobs.blocking_recv()?);
        while let Some(next) = job {
            match next {
                Job::Write { command, reply, permit } => batch.writes.push((command, reply, permit)),
                Job::Close => batch.close = true,
            }
            let full = batch.close || batch.writes.len() == BATCH_COMMANDS;
            job = if full { None } else { self.jobs.try_recv().ok() };
        }
        Some(batch)
    }

    /// Answers every command of a batch. Whether the writer can go on.
    fn serve(&mut self, batch: Batch) -> bool {
        if batch.writes.is_empty() {
            return true;
        }
        if let Err((free, required)) = self.check_disk() {
            for (_, reply, _) in batch.writes {
                let _ = reply.send(Err(StoreError::DiskFull { free, required }));
            }
            return true;
        }
        match self.commit(&batch) {
            Ok(answers) => {
                for ((_, reply, _), answer) in batch.writes.into_iter().zip(answers) {
                    let _ = reply.send(answer); // A caller that is gone does not want it.
                }
                true
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed; the process must end");
                // Before the replies, so that whoever gets one sees a store that has failed.
                self.shared.failed.cancel();
                for (_, reply, _) in batch.writes {
                    let _ = reply.send(Err(StoreError::Failed));
                }
                false
            }
        }
    }

    /// Refuses to write while the disk is nearly full, with what is free and what must be: redb cannot go on after a
    /// write that failed, and then neither could reads.
    fn check_disk(&self) -> Result<(), (u64, u64)> {
        let Ok(disk) = rustix::fs::statvfs(&self.data_dir) else { return Ok(()) };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < self.min_free_bytes { Err((free, self.min_free_bytes)) } else { Ok(()) }
    }

    fn commit(&mut self, batch: &Batch) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let mut transaction = self.database.begin_write()?;
        // Two-phase commit: whichever part of a commit reaches the disk, one whole state is there. Quick-repair: after
        // a crash the store opens at once, without a walk over all of it. See the README for what each costs.
        transaction.set_two_phase_commit(true);
        transaction.set_quick_repair(true);
        let mut committed = Vec::with_capacity(batch.writes.len());
        let mut answers = Vec::with_capacity(batch.writes.len());
        {
            let mut tables = Tables::open(&transaction)?;
            for (command, _, _) in &batch.writes {
                let answer = apply(&mut tables, &mut self.heads, &self.rules, command, &mut committed);
                match answer {
                    Err(error) if !error.is_refusal() => return Err(error),
                    answer => answers.push(answer),
                }
            }
        }
        if committed.is_empty() && !batch.writes.iter().any(|(command, _, _)| command.request.is_some()) {
            transaction.abort()?;
            return Ok(answers);
        }
        transaction.commit()?;
        self.publish(&committed)?;
        Ok(answers)
    }

    fn publish(&mut self, committed: &[Committed]) -> Result<(), StoreError> {
        let snapshot = SnapshotTables::open(&self.database.begin_read()?)?;
        self.shared.snapshot.store(Some(Arc::new(snapshot)));
        for event in committed.iter().filter(|event| event.sequence == 1) {
            let mut workspaces = self.shared.workspaces.write().unwrap_or_else(PoisonError::into_inner);
            workspaces.insert(event.workspace.clone(), event.id);
        }
        (self.on_commit)(self.rules.log, committed);
        Ok(())
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
