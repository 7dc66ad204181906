//! One batch: commands that share a transaction, and its commit.
//!
//! - Each command is first decided completely, then written. A refused command has written nothing, and the batch
//!   continues with the next.
//! - A batch takes what the queue gives it, until the bytes that it holds for its callers, or the pages that it makes
//!   dirty, reach their limit. Its last command may exceed either.
//! - If redb meets a damaged page while it writes, the whole batch is dropped. The writer then retries its commands in
//!   smaller batches, so that only the commands that need the page are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, WriteTransaction};

use super::super::apply::{State, Written, decide};
use super::super::disk::Disk;
use super::super::effects::Effects;
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::rows::{EventRow, Origin};
use super::super::tables::Tables;
use super::super::upkeep::Due;
use super::super::{Committed, EndedStreams, PAGE, WorkspaceId};
use super::queue::Taking;
use crate::command::Command;
use crate::model::Workspace;
use crate::telemetry::metrics::StoreMetrics;

/// The most bytes of events and replies that a batch holds until its callers have their replies.
const HELD_BYTES: usize = 8 << 20;
/// The most bytes of pages that a batch may make dirty if the disk has room: twice what a commit of 4,096 imported
/// records with two identities each takes.
const DIRTY_BYTES: usize = 128 << 20;

/// The disk space that a batch may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// The batch may make pages of this many bytes dirty, `pages`. Its last command may exceed that, but not `spare`, what
    /// the disk has room for.
    Enough { pages: usize, spare: u64, free: u64, required: u64 },
    /// Nothing may be written: `free` bytes are left, and `required` bytes must stay free.
    Full { free: u64, required: u64 },
}

/// The outcome of a batch.
pub(super) enum Batch {
    /// The batch is on disk, or there was nothing to write. `answers` has the results of the commands that were taken, in
    /// order. `effects` is what they wrote, if it is to be kept.
    Done {
        answers: Vec<Result<Written, StoreError>>,
        committed: Vec<Committed>,
        /// The workspaces whose logs have lost values.
        erased: Vec<Workspace>,
        /// The streams of subscriptions that it has ended.
        ended: Vec<EndedStreams>,
        /// What it leaves to do for the upkeep.
        due: Vec<Due>,
        trimmed: usize,
        /// `None` if there was nothing to write.
        synced: Option<Synced>,
        effects: Vec<Effects>,
    },
    /// redb met a damaged page, and nothing of the batch was kept.
    Dropped,
}

/// What it took to put a batch on disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Synced {
    /// Bytes of the pages that it made dirty, as they were reckoned.
    pub bytes: usize,
    /// How long the disk took.
    pub duration: Duration,
}

/// A batch while it fills.
#[derive(Default)]
struct Filling {
    answers: Vec<Result<Written, StoreError>>,
    committed: Vec<Committed>,
    erased: Vec<Workspace>,
    ended: Vec<EndedStreams>,
    /// What the commands wrote. `None` if it is not kept.
    effects: Option<Vec<Effects>>,
    due: Vec<Due>,
    trimmed: usize,
    held: usize,
    dirty: usize,
}

/// Why writing stops.
enum Stop {
    /// A page is damaged, and nothing has been committed.
    Damaged,
    /// The store cannot continue.
    Failed(StoreError),
}

impl Room {
    /// Returns how much space the next batch may use: what the disk has above the space that must stay free, and half
    /// of that space. The other half is kept because the size of a batch is only estimated.
    pub fn on(disk: &Disk) -> Self {
        let required = disk.min_free_bytes;
        let Some(free) = disk.free_bytes() else {
            return Self::Enough { pages: DIRTY_BYTES, spare: u64::MAX, free: u64::MAX, required };
        };
        if free < required {
            return Self::Full { free, required };
        }
        let spare = (free - required).saturating_add(required / 2);
        let pages = usize::try_from(spare).map_or(DIRTY_BYTES, |spare| spare.min(DIRTY_BYTES));
        Self::Enough { pages, spare, free, required }
    }

    /// Refuses what the disk has no room for. A command may be large: it may change a thousand profiles.
    fn of(self, filling: &Filling, effects: &Effects) -> Result<(), StoreError> {
        match self {
            Self::Full { free, required } => Err(StoreError::DiskFull { free, required }),
            Self::Enough { spare, free, required, .. } => {
                let dirty = (filling.dirty + effects.dirty_bytes()) as u64;
                if dirty <= spare { Ok(()) } else { Err(StoreError::DiskFull { free, required }) }
            }
        }
    }
}

/// Applies the commands in order until the batch is full, and commits them. `keep` asks for their effects.
///
/// # Errors
/// [`StoreError`] if the store cannot continue. Whether the batch was kept is then unknown.
pub(super) fn commit(
    database: &Database,
    origin: Origin,
    logs: &mut Logs,
    room: Room,
    metrics: &StoreMetrics,
    commands: &mut Taking<'_>,
    keep: bool,
) -> Result<Batch, StoreError> {
    let mut transaction = database.begin_write()?;
    // Whichever part of a commit reaches the disk, the file holds one whole state. Quick repair turns this on by
    // itself, but the store depends on it, so it is set here too. It costs a commit of one update 28 %, and one of 256
    // updates 1 %: see docs/benchmarks.md.
    transaction.set_two_phase_commit(true);
    // After a crash the store opens at once. Otherwise redb would walk over the whole file: 6 s for 2.3 GB. It costs a
    // commit of one update 52 %, and one of 256 updates 2 %.
    transaction.set_quick_repair(true);
    let filled = catch_unwind(AssertUnwindSafe(|| fill(&transaction, origin, logs, room, commands, keep)));
    match filled.unwrap_or(Err(Stop::Damaged)) {
        Ok(Filling { answers, committed, erased, ended, due, effects, trimmed, dirty, .. }) => {
            let synced = if dirty > 0 {
                let begun = Instant::now();
                transaction.commit()?;
                let duration = begun.elapsed();
                metrics.commit(duration);
                Some(Synced { bytes: dirty, duration })
            } else {
                transaction.abort()?;
                None
            };
            let effects = effects.unwrap_or_default();
            Ok(Batch::Done { answers, committed, erased, ended, due, trimmed, synced, effects })
        }
        Err(Stop::Damaged) => {
            logs.discard();
            transaction.abort()?;
            Ok(Batch::Dropped)
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Decides and writes the commands until the batch is full, then writes the heads of the logs.
fn fill(
    transaction: &WriteTransaction,
    origin: Origin,
    logs: &mut Logs,
    room: Room,
    commands: &mut Taking<'_>,
    keep: bool,
) -> Result<Filling, Stop> {
    let mut tables = Tables::open(transaction).map_err(|error| Stop::of(error.into()))?;
    let mut filling = Filling { effects: keep.then(Vec::new), ..Filling::default() };
    while let Some((command, reply)) = commands.next(filling.dirty) {
        let state = State { origin, tables: &tables, logs };
        let decided = catch_unwind(AssertUnwindSafe(|| decide(&state, command, reply)));
        match decided.unwrap_or(Err(StoreError::Panicked)) {
            Ok(decision) if decision.effects.is_empty() => filling.answer(decision.written),
            Ok(decision) => {
                if let Err(full) = room.of(&filling, &decision.effects) {
                    filling.answers.push(Err(full));
                } else {
                    tables.write(&decision.effects).map_err(|error| Stop::of(error.into()))?;
                    if let Some(workspace) = decision.effects.workspace {
                        logs.apply(workspace, decision.effects.born.as_ref(), decision.effects.head);
                    }
                    filling.take(command, decision.effects);
                    filling.answer(decision.written);
                }
            }
            Err(error @ (StoreError::Storage(_) | StoreError::Failed)) => return Err(Stop::Failed(error)),
            Err(refusal) => filling.answers.push(Err(refusal)),
        }
        if filling.is_full(room) {
            break;
        }
    }
    for (workspace, head) in logs.changed() {
        tables.set_head(workspace, head).map_err(|error| Stop::of(error.into()))?;
        filling.dirty += PAGE;
    }
    Ok(filling)
}

impl Filling {
    fn answer(&mut self, written: Written) {
        self.held += written.profile.as_ref().map_or(0, Bytes::len);
        self.answers.push(Ok(written));
    }

    fn take(&mut self, command: &Command, mut effects: Effects) {
        self.dirty += effects.dirty_bytes();
        self.held += effects.held_bytes();
        self.trimmed += effects.trimmed.len();
        let Some(id) = effects.workspace else { return };
        self.strip(id, command, &effects);
        self.ended.extend(effects.ended.take());
        if effects.next_end.is_some() || !effects.works.is_empty() {
            let (workspace, next_end, works) = (command.workspace.clone(), effects.next_end, effects.works.clone());
            self.due.push(Due { workspace, id, next_end, works });
        }
        self.committed.extend(effects.events.iter().map(|event| Committed {
            workspace: command.workspace.clone(),
            id,
            sequence: event.sequence,
            mpid: event.mpid,
            kind: event.kind,
            silent: event.silent,
            other: event.other,
            event: event.event.clone(),
        }));
        if let Some(kept) = &mut self.effects {
            kept.push(effects);
        }
    }

    /// Events of this batch that lose values before the feed has them.
    fn strip(&mut self, id: WorkspaceId, command: &Command, effects: &Effects) {
        if effects.rewritten.is_empty() {
            return;
        }
        self.erased.push(command.workspace.clone());
        for (sequence, row) in &effects.rewritten {
            let committed = self.committed.iter_mut().find(|event| event.id == id && event.sequence == *sequence);
            if let (Some(event), Ok(row)) = (committed, EventRow::read(id, *sequence, row)) {
                (event.kind, event.event) = (row.kind, Bytes::copy_from_slice(row.event));
            }
        }
    }

    fn is_full(&self, room: Room) -> bool {
        let pages = match room {
            Room::Enough { pages, .. } => pages,
            Room::Full { .. } => usize::MAX,
        };
        self.held >= HELD_BYTES || self.dirty >= pages
    }
}

impl Stop {
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { .. } => Self::Damaged,
            other => Self::Failed(other),
        }
    }
}

/// The result of a command that needs a damaged page.
pub(super) fn damaged() -> StoreError {
    StoreError::corrupt("page")
}
