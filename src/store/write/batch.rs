//! One batch: commands that share a transaction, and its commit.
//!
//! - Each command is decided whole, then written. One that is refused has written nothing, and the others go on.
//! - A batch is bounded in commands, in the bytes that it keeps until it is answered, and in the pages that it makes
//!   dirty. Its last command may pass either of the latter.
//! - If redb finds a damaged page while it writes, nothing of the batch is kept: its commands are tried again in smaller
//!   ones, so that only those that need the page are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use redb::{Database, WriteTransaction};

use super::super::apply::{Reply, State, Written, decide};
use super::super::effects::Effects;
use super::super::error::StoreError;
use super::super::logs::Logs;
use super::super::rows::Origin;
use super::super::tables::Tables;
use super::super::{Committed, PAGE};
use crate::command::Command;

/// Bytes of events and answers that a batch keeps until it is answered.
const HELD_BYTES: usize = 8 << 20;
/// Bytes of the pages that a batch makes dirty, where the disk has room: what a commit of 4,096 imported records of two
/// identities each takes, twice.
const DIRTY_BYTES: usize = 128 << 20;

/// The disk that the store lies on.
#[derive(Debug, Clone)]
pub(in crate::store) struct Disk {
    pub directory: PathBuf,
    /// Writes are refused where less is free, because redb cannot go on after a write that failed, and then neither
    /// could reads.
    pub min_free_bytes: u64,
}

/// What the disk has to spare for a batch.
#[derive(Debug, Clone, Copy)]
pub(super) enum Room {
    /// Pages of so many bytes.
    Enough(usize),
    Full {
        free: u64,
        required: u64,
    },
}

/// What became of a batch.
pub(super) enum Batch {
    /// It is on disk, or nothing was to be written. The answers of the first commands that it was given.
    Done { answers: Vec<Result<Written, StoreError>>, committed: Vec<Committed>, wrote: bool },
    /// Nothing of it was kept, because redb met a damaged page.
    Dropped,
}

/// A batch as it fills.
struct Filling {
    answers: Vec<Result<Written, StoreError>>,
    committed: Vec<Committed>,
    held: usize,
    dirty: usize,
}

/// Why writing stops.
enum Stop {
    /// A page is damaged, and nothing has been committed.
    Damaged,
    /// The store cannot go on.
    Failed(StoreError),
}

impl Disk {
    /// `None` if the file system does not tell.
    pub(in crate::store) fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// How much the next batch may take. A batch may use half of what must stay free, since it is bounded by an estimate.
    pub(super) fn room(&self) -> Room {
        let required = self.min_free_bytes;
        let Some(free) = self.free_bytes() else { return Room::Enough(DIRTY_BYTES) };
        if free < required {
            return Room::Full { free, required };
        }
        let spare = (free - required).saturating_add(required / 2);
        Room::Enough(usize::try_from(spare).map_or(DIRTY_BYTES, |spare| spare.min(DIRTY_BYTES)))
    }
}

/// Applies the commands in order until the batch is full, and commits them.
///
/// # Errors
/// [`StoreError`] if the store cannot go on: whether the batch was kept is unknown.
pub(super) fn commit<'c>(
    database: &Database,
    origin: Origin,
    logs: &mut Logs,
    room: Room,
    commands: impl Iterator<Item = (&'c Command, Reply)>,
) -> Result<Batch, StoreError> {
    let mut transaction = database.begin_write()?;
    // Whichever part of a commit reaches the disk, one whole state is there. Quick repair turns it on by itself; it is
    // said because the store rests on it. Costs a commit of one update 28 %, of 256 updates 1 %: see benches/README.md.
    transaction.set_two_phase_commit(true);
    // After a crash the store opens at once, without a walk over all of it, which took 6 s for 2.3 GB. Costs a
    // commit of one update 52 %, of 256 updates 2 %.
    transaction.set_quick_repair(true);
    let filled = catch_unwind(AssertUnwindSafe(|| fill(&transaction, origin, logs, room, commands)));
    match filled.unwrap_or(Err(Stop::Damaged)) {
        Ok(Filling { answers, committed, dirty, .. }) => {
            let wrote = dirty > 0;
            if wrote {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(Batch::Done { answers, committed, wrote })
        }
        Err(Stop::Damaged) => {
            logs.discard();
            transaction.abort()?;
            Ok(Batch::Dropped)
        }
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn fill<'c>(
    transaction: &WriteTransaction,
    origin: Origin,
    logs: &mut Logs,
    room: Room,
    commands: impl Iterator<Item = (&'c Command, Reply)>,
) -> Result<Filling, Stop> {
    let mut tables = Tables::open(transaction).map_err(|error| Stop::of(error.into()))?;
    let mut filling = Filling { answers: Vec::new(), committed: Vec::new(), held: 0, dirty: 0 };
    for (command, reply) in commands {
        let state = State { origin, tables: &tables, logs };
        let decided = catch_unwind(AssertUnwindSafe(|| decide(&state, command, reply)));
        match decided.unwrap_or(Err(StoreError::Panicked)) {
            Ok(decision) if decision.effects.is_empty() => filling.answer(decision.written),
            Ok(decision) => match room {
                Room::Full { free, required } => filling.answers.push(Err(StoreError::DiskFull { free, required })),
                Room::Enough(_) => {
                    tables.write(&decision.effects).map_err(|error| Stop::of(error.into()))?;
                    if let Some(workspace) = decision.effects.workspace {
                        logs.apply(workspace, decision.effects.born.as_ref(), decision.effects.head);
                    }
                    filling.take(command, decision.effects);
                    filling.answer(decision.written);
                }
            },
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
        self.held += written.profile.as_ref().map_or(0, bytes::Bytes::len);
        self.answers.push(Ok(written));
    }

    fn take(&mut self, command: &Command, effects: Effects) {
        self.dirty += effects.dirty_bytes();
        self.held += effects.held_bytes();
        let Some(id) = effects.workspace else { return };
        self.committed.extend(effects.events.into_iter().map(|event| Committed {
            workspace: command.workspace.clone(),
            id,
            sequence: event.sequence,
            mpid: event.mpid,
            kind: event.kind,
            silent: event.silent,
            event: event.event,
        }));
    }

    fn is_full(&self, room: Room) -> bool {
        let pages = match room {
            Room::Enough(pages) => pages,
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

/// What a command that a damaged page stands in the way of is answered.
pub(super) fn damaged() -> StoreError {
    StoreError::corrupt("page")
}
