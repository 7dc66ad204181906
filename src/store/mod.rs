//! The store: profiles, their identities and the log of their changes, in one redb file.
//!
//! In reading order:
//! - `tables` lists the tables of the file, and `rows` defines the encoding of their values.
//! - `acknowledge` joins the acknowledgements of subscriptions.
//! - `write` is the queue of commands and the one thread that commits them in batches. `kept` is what calls keep while
//!   they have commands there.
//! - `apply` decides what a command does, one file per command. `effects` is the result of a decision: the rows and
//!   events to write. `logs` is what the writer knows of the workspaces and the ends of their logs.
//! - `read` serves reads from a snapshot, which is replaced after each commit. `reading` is how the handle offers them.
//! - `open` opens the file and verifies what every call depends on. `pages` verifies what redb depends on, `migrate`
//!   upgrades files of older versions, and `backend` is the file as redb sees it.
//! - `resolution` has the rules by which identities name a profile. `erasing` runs the commands of an erasure, and
//!   `erasure` plans what an erasure removes from the log.
//! - `retention` removes old events in the background. `upkeep` ends memberships there, and works on audiences.
//!   `failures` is how both report what fails.
//! - `compact` rewrites the file, so that no removed value remains in it. `current` is the database in use, which a
//!   compaction replaces.
//! - `scrub` verifies all rows in the background. `observe` is what operators see of the store. `error` lists the
//!   reasons why a call or the opening fails.
//!
//! What always holds:
//! - Every change is one [`Command`] on one queue, and its decision is a pure function of the store and the command.
//! - When a write returns, its change is on disk.
//! - Reads never go through the writer.
//! - Nothing outside this module knows redb.
//!
//! Deliberately absent: a cache of our own, because redb has one; and a second index over the log, because each event
//! links to the previous event of its profile.

mod acknowledge;
mod alone;
mod apply;
mod backend;
mod backup;
mod check;
mod compact;
mod current;
mod disk;
mod effects;
mod erasing;
mod erasure;
pub mod error;
mod failures;
mod kept;
mod logs;
mod migrate;
mod observe;
mod open;
mod pages;
mod read;
mod reading;
mod resolution;
mod retention;
mod rows;
mod scrub;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;
mod visit;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::{ContextV7, Timestamp, Uuid};

pub use apply::{MemberResult, SubscriptionState, Written};
pub use backup::{
    Backup, BackupError, BackupProgress, BackupSummary, BadBackup, Piece, RestoreError, backup_offline, restore,
    verify as verify_backup,
};
pub use check::{CheckError, CheckReport, Finding, check, check_backup};
pub use compact::{CompactError, Compacted, compact as compact_offline};
pub use error::{OpenError, Past, Problem, StoreError};
pub use kept::{Kept, keep};
pub use observe::CacheUse;
pub use read::{
    AsOf, EventPage, EventRef, Found, Identified, ListedEvents, Listing, LogBounds, Lookups, PageSize, ReadClass,
    Snapshot, Subject, SubscriptionView,
};
pub use scrub::ScrubReport;
pub use write::LaneUse;

use crate::clock::Clock;
use crate::command::{Command, Stamp};
use crate::config::StoreConfig;
use crate::model::cursor::{CursorSpace, KnownCursors};
use crate::model::{EventKind, LogId, Micros, Mpid, Sequence, SubscriptionName, Workspace};
use crate::telemetry::metrics::{CommandOutcome, StoreMetrics};
use crate::telemetry::traces::{self, Traces};
use acknowledge::Acknowledgements;
use alone::Alone;
use compact::Compactor;
use current::{Held, InUse};
use disk::Disk;
use logs::{Logs, Workspaces};
use open::Opened;
use read::{Pool, SnapshotTables, Walks};
use rows::{FormerLogs, Origin, Secret};
use scrub::Scrubber;
use upkeep::Agenda;
use write::{IMPORT_BATCH_COMMANDS, Job, Lane, Ticket, Waiting, Writer};

/// The most import commands in the queue: enough to fill one batch while another is being written.
pub const IMPORT_COMMANDS: usize = 2 * IMPORT_BATCH_COMMANDS;
/// The most memory that queued import commands may take, in bytes: enough for [`IMPORT_COMMANDS`] records of about 700
/// bytes each.
const IMPORT_BYTES: usize = 32 << 20;
/// Bytes of the smallest page of redb.
const PAGE: usize = 4_096;
const MICROS_PER_SECOND: u64 = 1_000_000;
const NANOS_PER_MICRO: u32 = 1_000;

/// The number that stands for a workspace inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(u32);

/// An event that is on disk.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The workspace whose log holds the event.
    pub workspace: Workspace,
    /// The number of that workspace inside the file.
    pub id: WorkspaceId,
    /// The event's number in the log.
    pub sequence: Sequence,
    /// The profile that changed.
    pub mpid: Mpid,
    /// What happened to the profile.
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// The profile that was absorbed, if the event is that of a merge.
    pub other: Option<Mpid>,
    /// Encoded `Event`.
    pub event: bytes::Bytes,
}

/// Streams of a subscription that a command has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedStreams {
    /// The workspace of the subscription.
    pub workspace: Workspace,
    /// The name of the subscription.
    pub name: SubscriptionName,
    /// Those with lower numbers have ended.
    pub below: u64,
    /// Whether the subscription was deleted. Otherwise a newer stream took over, or its place or its settings changed.
    pub deleted: bool,
}

/// What a commit tells the feed.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'c> {
    /// The new events, in order.
    pub events: &'c [Committed],
    /// The workspaces whose logs have lost values. What was read of them before must not be sent any more.
    pub erased: &'c [Workspace],
    /// The streams that may acknowledge nothing more, in the order of the commands.
    pub ended: &'c [EndedStreams],
}

/// What the writer, the readers and the handle share.
#[derive(Debug)]
struct Shared {
    /// The latest committed state. `None` once the store is closed.
    snapshot: ArcSwapOption<SnapshotTables>,
    /// The database of that state.
    database: InUse,
    /// All workspaces. A new one is added after its first write is committed.
    workspaces: Arc<Workspaces>,
    /// What the upkeep has to do.
    agenda: Agenda,
    /// Cancelled when the writer cannot continue.
    failed: CancellationToken,
}

/// How much space the store uses, and how much its disk has left. `None` where the file system does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Workspaces that have been written to.
    pub workspaces: usize,
    /// Size of the file, in bytes.
    pub file_bytes: Option<u64>,
    /// Free space on the disk that holds it, in bytes.
    pub free_bytes: Option<u64>,
}

/// A handle on the store: one per process. [`Store::close`] closes it.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    origin: Origin,
    /// The logs that it continues.
    former: FormerLogs,
    clock: Clock,
    event_ids: Mutex<ContextV7>,
    metrics: StoreMetrics,
    queue: mpsc::Sender<Job>,
    calls: Lane,
    imports: Lane,
    acknowledgements: Acknowledgements,
    walks: Walks,
    reads: Pool,
    scrubber: Mutex<Option<Scrubber>>,
    compactor: Compactor,
    /// The compaction or the backup that is running.
    alone: Alone,
    cache_bytes: usize,
    path: PathBuf,
    disk: Disk,
    closing: AtomicBool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in `config.data_dir`, and creates it if it does not exist. The writer calls `on_commit` with the
    /// events of each commit, in order, after they are on disk and before any caller gets its result.
    ///
    /// # Errors
    /// [`OpenError`] if the directory or the file cannot be used.
    pub fn open(
        config: &StoreConfig,
        on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_traced(config, Traces::default(), on_commit)
    }

    /// The same. Commits have spans in `traces`.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_traced(
        config: &StoreConfig,
        traces: Traces,
        on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(open::open(config)?, config, traces, on_commit)
    }

    fn start(
        opened: Opened,
        config: &StoreConfig,
        traces: Traces,
        on_commit: impl FnMut(LogId, Commit<'_>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let Opened { database, lock, path, facts } = opened;
        let held = Held::new(database);
        let clock = Clock::new(facts.uptime, facts.latest_event());
        let shared = Shared::open(&held, facts.origin.secret, Workspaces::new(facts.workspaces));
        let shared = Arc::new(shared.map_err(|error| OpenError::of(&path, error))?);
        // The queue has a slot for each ticket, so a caller with a ticket never waits for a slot.
        let (queue, jobs) = mpsc::channel(config.queue_commands + IMPORT_COMMANDS);
        let scrubber = Scrubber::start(Arc::clone(&shared), config.scrub_rate).map_err(OpenError::Thread)?;
        let disk = Disk { directory: config.data_dir.clone(), min_free_bytes: config.min_free_bytes };
        let metrics = StoreMetrics::default();
        let writer = Writer {
            held,
            tail: Weak::new(),
            jobs,
            shared: Arc::clone(&shared),
            disk: disk.clone(),
            origin: facts.origin,
            logs: Logs::new(Arc::clone(&shared.workspaces), facts.heads),
            on_commit: Box::new(on_commit),
            metrics: metrics.clone(),
            traces,
            _lock: lock,
        };
        Ok(Self {
            shared,
            origin: facts.origin,
            former: facts.former,
            clock,
            event_ids: Mutex::new(ContextV7::new()),
            metrics,
            queue,
            calls: Lane::new(config.queue_commands, config.queue_bytes),
            imports: Lane::new(IMPORT_COMMANDS, IMPORT_BYTES),
            acknowledgements: Acknowledgements::default(),
            walks: Walks::default(),
            reads: Pool::new(config.reads()),
            scrubber: Mutex::new(Some(scrubber)),
            compactor: Compactor::default(),
            alone: Alone::default(),
            cache_bytes: config.cache_bytes,
            path,
            disk,
            closing: AtomicBool::new(false),
            writer: Mutex::new(Some(writer.spawn().map_err(OpenError::Thread)?)),
        })
    }

    /// The cursors of a workspace's log.
    #[must_use]
    pub fn cursors(&self, workspace: &Workspace) -> CursorSpace {
        CursorSpace::new(self.origin.log, workspace)
    }

    /// Parses cursors of a workspace's log, and of the logs that it continues since it was restored from a backup.
    #[must_use]
    pub fn known_cursors(&self, workspace: &Workspace) -> KnownCursors {
        KnownCursors::new(self.cursors(workspace), self.former.of(self.workspace_id(workspace)))
    }

    /// The time of day: see [`Clock::now`].
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Reads the clocks for a command, and makes the id of its event.
    pub fn stamp(&self) -> Stamp {
        let time = self.clock.now();
        let micros = time.get().max(0).cast_unsigned();
        let nanos = u32::try_from(micros % MICROS_PER_SECOND).unwrap_or_default() * NANOS_PER_MICRO;
        let event_id = Uuid::new_v7(Timestamp::from_unix(&self.event_ids, micros / MICROS_PER_SECOND, nanos));
        Stamp { time, uptime: self.clock.uptime(), event_id }
    }

    /// Applies a command. When this returns `Ok`, the change is on disk and every later read sees it.
    ///
    /// # Errors
    /// [`StoreError`]. Nothing changed, except that after [`StoreError::Failed`] the outcome is unknown.
    pub async fn write(&self, command: Command) -> Result<Written, StoreError> {
        let weight = command.weight();
        let ticket = self.calls.try_enter(&command.workspace, weight);
        let ticket = ticket.inspect_err(|_| self.metrics.command(CommandOutcome::Overloaded))?;
        self.send(command, weight, ticket, Job::Call).await?.await
    }

    /// Queues a command of an import as soon as there is room. Commands are applied in the order in which they were
    /// queued. The returned future resolves as [`Store::write`] does, but without the profile.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`]. Nothing was queued.
    pub async fn import(
        &self,
        command: Command,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        let weight = command.weight();
        let ticket = self.imports.enter(weight).await?;
        self.send(command, weight, ticket, Job::Import).await
    }

    async fn send(
        &self,
        command: Command,
        weight: usize,
        ticket: Ticket,
        job: fn(Waiting) -> Job,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        let (answer, answered) = oneshot::channel();
        let span = traces::current().inspect(|span| span.queued());
        let waiting = Waiting { command: Box::new(command), weight, answer, ticket, kept: kept::kept(), span };
        self.queue.send(job(waiting)).await.map_err(|_| self.gone())?;
        Ok(async { answered.await.unwrap_or_else(|_| Err(self.gone())) })
    }

    /// Returns the latest committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.shared.snapshot.load_full().map(Snapshot::new).ok_or_else(|| self.gone())
    }

    /// Runs a read that may load many pages from disk, on a thread that serves no other call. It waits for the turn of
    /// `workspace` among the reads of its class. Once it waits, it runs in its turn even if nothing polls the future. If
    /// the future is dropped first, it does not run.
    ///
    /// # Errors
    /// What `read` returns, [`StoreError::Panicked`], or [`StoreError::Closed`] if the store closes meanwhile.
    pub async fn on_read_pool<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        self: &Arc<Self>,
        class: ReadClass,
        workspace: Option<&Workspace>,
        read: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let store = Arc::clone(self);
        let read = move || {
            let _running = store.metrics.read();
            read(&store)
        };
        match self.reads.run(class, workspace, read).await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(StoreError::Panicked.into()),
            None => Err(self.gone().into()),
        }
    }

    /// The id of a workspace; `None` until its first write.
    #[must_use]
    pub fn workspace_id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.shared.workspaces.id(workspace)
    }

    /// Returns how much space the store uses and has left. This queries the file system.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            workspaces: self.shared.workspaces.count(),
            file_bytes: self.path.metadata().ok().map(|file| file.len()),
            free_bytes: self.disk.free_bytes(),
        }
    }

    /// Returns what the scrubber has found.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        let scrubber = self.scrubber.lock().unwrap_or_else(PoisonError::into_inner);
        scrubber.as_ref().map(Scrubber::report).unwrap_or_default()
    }

    /// Cancelled when the store has failed for good. The process should then exit and be restarted.
    #[must_use]
    pub fn failed(&self) -> &CancellationToken {
        &self.shared.failed
    }

    /// Commits what is queued, then closes the file. Later reads and writes are refused.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.reads.close();
        let compaction_ended = self.compactor.close();
        let _ = self.queue.send(Job::Close).await; // An error means that the writer has already ended.
        let scrubber = self.scrubber.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = tokio::task::spawn_blocking(move || {
            drop(scrubber);
            compaction_ended();
            writer.map(JoinHandle::join)
        });
        let _ = ended.await;
    }

    /// Why the writer no longer responds.
    fn gone(&self) -> StoreError {
        // If `close` was not called, the writer has failed, even if it has not yet cancelled `failed`.
        let in_order = self.closing.load(Ordering::SeqCst) && !self.shared.failed.is_cancelled();
        if in_order { StoreError::Closed } else { StoreError::Failed }
    }
}

impl Shared {
    /// Opens the first snapshot.
    fn open(held: &Held, secret: Secret, workspaces: Workspaces) -> Result<Self, StoreError> {
        let snapshot = ArcSwapOption::from_pointee(held.snapshot(secret)?);
        Ok(Self {
            snapshot,
            database: InUse::new(held),
            workspaces: Arc::new(workspaces),
            agenda: Agenda::default(),
            failed: CancellationToken::new(),
        })
    }
}
