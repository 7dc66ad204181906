//! Backs an open store up, which serves reads and writes meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase};
use tokio::sync::oneshot;

use super::super::alone::{Running, Work};
use super::super::compact::Tail;
use super::super::error::StoreError;
use super::super::read::ReadClass;
use super::super::write::Job;
use super::super::{Shared, Store};
use super::format::{FORMAT, Frames};
use super::rows::{Walk, count};
use super::{BackupError, BackupProgress, Bounds, PIECE_BYTES, changes};
use crate::model::Micros;
use crate::proto::storage::backup_part::Content;
use crate::proto::storage::{BackupHeader, BackupTable, BackupTrailer};

/// How often the tail is sent after the last row although it is not short, before the backup ends with what is left.
const ROUNDS: usize = 16;

/// A piece of a backup: the bytes that follow the piece before.
#[derive(Debug)]
pub struct Piece {
    /// At most 256 KiB.
    pub bytes: Bytes,
    /// How far the backup has come.
    pub progress: BackupProgress,
}

/// A backup while it is made. Dropping it ends it.
#[derive(Debug)]
pub struct Backup {
    store: Arc<Store>,
    /// `None` after the trailer or an error, and while a step runs.
    copy: Option<Copy>,
    /// Whether the trailer was made.
    is_whole: bool,
    ready: VecDeque<Bytes>,
    progress: BackupProgress,
    begun: Instant,
    _running: Running,
}

/// What makes the backup.
#[derive(Debug)]
struct Copy {
    tail: Arc<Tail>,
    frames: Frames,
    walk: Walk,
    /// How often the tail was sent after the last row.
    rounds: usize,
    bounds: Bounds,
}

/// What follows a step.
enum Next {
    Step(Copy),
    /// Everything is copied but the end of the tail.
    Cut(Copy),
}

impl Store {
    /// Begins a backup. It is made as its pieces are asked for.
    ///
    /// # Errors
    /// [`BackupError`] if a backup or a compaction is running, or the store is being closed.
    pub async fn backup(self: &Arc<Self>) -> Result<Backup, BackupError> {
        self.backup_with(Bounds::default()).await
    }

    pub(in crate::store) async fn backup_with(self: &Arc<Self>, bounds: Bounds) -> Result<Backup, BackupError> {
        let running = self.alone.begin(Work::Backup)?;
        let begun = Instant::now();
        let tail = Arc::new(Tail::new(bounds.tail));
        let (ready, is_ready) = oneshot::channel();
        self.send_job(Job::Keep(Arc::downgrade(&tail), ready)).await?;
        is_ready.await.map_err(|_| BackupError::Closed)?;
        let header = BackupHeader {
            format: FORMAT,
            cameo_version: env!("CARGO_PKG_VERSION").into(),
            time: Some(self.now().to_timestamp()),
            log_id: self.origin.log.0,
        };
        let (frames, first) = Frames::begin(header);
        let expected = self.on_read_pool(ReadClass::Scan, None, |store| count(&store.shared.latest()?)).await?;
        let progress = BackupProgress { rows: 0, rows_expected: total(&expected) };
        let copy = Copy { tail, frames, walk: Walk::START, rounds: 0, bounds };
        let ready = [Bytes::from(first)].into();
        let store = Arc::clone(self);
        Ok(Backup { store, copy: Some(copy), is_whole: false, ready, progress, begun, _running: running })
    }

    async fn send_job(&self, job: Job) -> Result<(), BackupError> {
        self.queue.send(job).await.map_err(|_| BackupError::Closed)
    }
}

impl Shared {
    /// The latest committed state, for one step.
    fn latest(&self) -> Result<ReadTransaction, StoreError> {
        let database = self.database.get().ok_or(StoreError::Closed)?;
        Ok(database.begin_read()?)
    }
}

fn total(tables: &[BackupTable]) -> u64 {
    tables.iter().map(|table| table.rows).sum()
}

impl Backup {
    /// Returns the next piece. `None` after the last.
    ///
    /// # Errors
    /// [`BackupError`], which ends the backup.
    pub async fn next(&mut self) -> Result<Option<Piece>, BackupError> {
        loop {
            if let Some(mut frames) = self.ready.pop_front() {
                let bytes = frames.split_to(PIECE_BYTES.min(frames.len()));
                if !frames.is_empty() {
                    self.ready.push_front(frames);
                }
                return Ok(Some(Piece { bytes, progress: self.progress }));
            }
            let Some(copy) = self.copy.take() else {
                return if self.is_whole { Ok(None) } else { Err(BackupError::Closed) };
            };
            self.advance(copy).await?;
        }
    }

    async fn advance(&mut self, copy: Copy) -> Result<(), BackupError> {
        let step = move |store: &Store| copy.step(store);
        let (next, frames) = self.store.on_read_pool(ReadClass::Scan, None, step).await?;
        self.take(frames);
        match next {
            Next::Step(copy) => {
                self.progress.rows = copy.walk.rows;
                self.copy = Some(copy);
            }
            Next::Cut(copy) => self.end(copy).await?,
        }
        Ok(())
    }

    /// Ends the backup with the state between two batches of the writer.
    async fn end(&mut self, copy: Copy) -> Result<(), BackupError> {
        let time = self.store.now(); // Before the cut, so that every write confirmed by then is in the backup.
        let (answer, answered) = oneshot::channel();
        self.store.send_job(Job::Cut(answer)).await?;
        let state = answered.await.map_err(|_| BackupError::Closed)??;
        let finish = move |_: &Store| copy.finish(&state, time);
        let frames = self.store.on_read_pool(ReadClass::Scan, None, finish).await?;
        self.take(frames);
        self.is_whole = true;
        tracing::info!(rows = self.progress.rows, seconds = self.begun.elapsed().as_secs_f64(), "backed up the store");
        Ok(())
    }

    fn take(&mut self, frames: Vec<u8>) {
        if !frames.is_empty() {
            self.ready.push_back(frames.into());
        }
    }
}

impl Copy {
    /// Copies the next rows, and what the writer has committed if it is much.
    fn step(mut self, store: &Store) -> Result<(Next, Vec<u8>), BackupError> {
        let mut frames = Vec::new();
        let rows = self.walk.next(&store.shared.latest()?, self.bounds.step)?;
        let is_last = rows.is_none();
        if let Some(rows) = rows {
            self.frames.put(Content::Rows(rows), &mut frames);
        }
        // The next step reads a state that is not older than what is sent here.
        let is_long = self.tail.bytes() > self.bounds.ahead;
        if is_long {
            self.put_tail(&mut frames)?;
        }
        self.rounds += usize::from(is_last);
        let is_done = is_last && (!is_long || self.rounds >= ROUNDS);
        Ok((if is_done { Next::Cut(self) } else { Next::Step(self) }, frames))
    }

    /// Copies what is left of the tail, and counts the rows of the state that the backup is now.
    fn finish(mut self, state: &ReadTransaction, time: Micros) -> Result<Vec<u8>, BackupError> {
        let tables = count(state)?;
        let mut frames = Vec::new();
        self.put_tail(&mut frames)?;
        let time = Some(time.to_timestamp());
        self.frames.put(Content::Trailer(BackupTrailer { time, tables }), &mut frames);
        Ok(frames)
    }

    fn put_tail(&mut self, frames: &mut Vec<u8>) -> Result<(), BackupError> {
        let (batches, _) = self.tail.take()?;
        for rows in changes::of(&batches) {
            self.frames.put(Content::Rows(rows), frames);
        }
        Ok(())
    }
}
