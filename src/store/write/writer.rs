//! The single writer: every change is one command on one queue.
//!
//! - A batch is what queued up while the previous batch was being written. Its commands share one transaction and one
//!   commit. So a lone caller waits for no one else, and many callers share the cost of the disk.
//! - Workspaces take turns, and so do the small and the large writes of each: see `queue`.
//! - The order is: commit, replace the snapshot, tell the feed, reply to the callers. So a reply or an event means that
//!   the change is on disk, and a caller that has its reply can read its own write.
//! - If redb cannot write or sync, the batch fails and the writer ends. A failed fsync is never retried.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use redb::ReadableDatabase;
use tokio::sync::mpsc;

use super::super::apply::Written;
use super::super::compact::{self, Swap, Tail};
use super::super::current::Held;
use super::super::disk::Disk;
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::open::DirectoryLock;
use super::super::rows::Origin;
use super::super::{Commit, Shared};
use super::batch::{self, Batch, Room, Synced};
use super::job::{self, Job, Waiting};
use super::queue::Queue;
use crate::model::LogId;
use crate::telemetry::metrics::StoreMetrics;
use crate::telemetry::traces::{self, Traces};

/// See [`super::super::Store::open`].
pub(in crate::store) type OnCommit = Box<dyn FnMut(LogId, Commit<'_>) + Send>;

pub(in crate::store) struct Writer {
    pub held: Held,
    /// Where effects are kept while the store is compacted or backed up.
    pub tail: Weak<Tail>,
    pub jobs: mpsc::Receiver<Job>,
    pub shared: Arc<Shared>,
    pub disk: Disk,
    pub origin: Origin,
    pub logs: Logs,
    pub on_commit: OnCommit,
    pub metrics: StoreMetrics,
    pub traces: Traces,
    /// The lock on the data directory. It is released after the file is closed. `None` in tests.
    pub _lock: Option<DirectoryLock>,
}

/// The writer and the commands that it has taken off its channel.
struct Work {
    writer: Writer,
    queue: Queue,
    /// The commands of the current batch.
    taken: Vec<Waiting>,
    /// Whether to end once these commands are done.
    closing: bool,
    /// The last step of a compaction, which comes before the next batch.
    swap: Option<Box<Swap>>,
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
        let queue = Queue::new(Instant::now);
        let mut work = Work { writer: self, queue, taken: Vec::new(), closing: false, swap: None };
        while work.take_jobs() {
            if let Err(error) = work.serve() {
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed; the process must end");
                // Before the replies, so that a caller that gets one sees a failed store.
                end.shared.failed.cancel();
                let waiting = work.taken.drain(..).chain(work.queue.drain());
                waiting.for_each(|waiting| waiting.answer(&work.writer.metrics, Err(StoreError::Failed)));
                return;
            }
        }
        end.in_order();
    }
}

impl Work {
    /// Waits for a command, and takes all others that are queued: no more than there are tickets. Returns `false` if
    /// there is nothing to do and the writer should end.
    fn take_jobs(&mut self) -> bool {
        while self.queue.is_empty() && self.swap.is_none() && !self.closing {
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
        !self.queue.is_empty() || self.swap.is_some()
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Call(waiting) => self.queue.push_call(waiting),
            Job::Import(waiting) => self.queue.push_import(waiting),
            Job::Keep(tail, ready) => {
                self.writer.tail = tail;
                let _ = ready.send(()); // An error means that the compaction has ended.
            }
            Job::Cut(state) => {
                self.writer.tail = Weak::new();
                let _ = state.send(self.writer.held.database.begin_read().map_err(StoreError::from));
            }
            Job::Swap(swap) => self.swap = Some(swap),
            Job::Close => self.closing = true,
        }
    }

    /// Completes a compaction, or commits a batch of the waiting commands and replies to their callers.
    fn serve(&mut self) -> Result<(), StoreError> {
        if let Some(swap) = self.swap.take() {
            let Writer { held, shared, origin, .. } = &mut self.writer;
            return swap.run(held, shared, origin.secret);
        }
        let room = Room::on(&self.writer.disk);
        let span = self.writer.traces.commit();
        let Writer { held, tail, origin, logs, metrics, .. } = &mut self.writer;
        let tail = tail.upgrade();
        let mut commands = self.queue.batch(&mut self.taken);
        match batch::commit(&held.database, *origin, logs, room, metrics, &mut commands, tail.is_some())? {
            Batch::Done { answers, committed, erased, ended, due, trimmed, synced, effects } => {
                if let Some(synced) = synced {
                    if let Some(tail) = tail {
                        let heads = logs.changed().map(|(workspace, head)| (workspace, *head)).collect();
                        tail.push(compact::Batch { effects, heads });
                    }
                    self.publish(Commit { events: &committed, erased: &erased, ended: &ended })?;
                    for due in due {
                        self.writer.shared.agenda.add(due);
                    }
                    if let Some(span) = span {
                        self.end_span(span, synced, committed.len(), &answers);
                    }
                }
                self.queue.widen();
                let metrics = &self.writer.metrics;
                metrics.batch(answers.len());
                metrics.trimmed(trimmed);
                for (waiting, answer) in self.taken.drain(..).zip(answers) {
                    waiting.answer(metrics, answer);
                }
            }
            Batch::Dropped => {
                if let Some(waiting) = commands.undo() {
                    waiting.answer(metrics, Err(batch::damaged()));
                }
            }
        }
        Ok(())
    }

    /// Ends the span of a commit, before the callers that it links to get their replies.
    fn end_span(&self, span: traces::Commit, synced: Synced, events: usize, answers: &[Result<Written, StoreError>]) {
        let Synced { bytes, duration: sync } = synced;
        let committed = traces::Committed { commands: answers.len(), events, bytes, sync };
        let written = self.taken.iter().zip(answers).filter(|(_, answer)| job::is_written(answer));
        span.end(committed, written.filter_map(|(waiting, _)| waiting.span.as_ref()));
    }

    fn publish(&mut self, commit: Commit<'_>) -> Result<(), StoreError> {
        let Writer { held, shared, origin, logs, on_commit, metrics, .. } = &mut self.writer;
        metrics.events(commit.events.len());
        let snapshot = held.snapshot(origin.secret)?;
        shared.snapshot.store(Some(Arc::new(snapshot)));
        logs.commit(); // After the snapshot, so that it has every workspace that a reader can find.
        on_commit(origin.log, commit);
        Ok(())
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
