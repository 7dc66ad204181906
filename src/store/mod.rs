//! Profiles, their identities and the log of their changes, in one redb file.
//!
//! - Every change is a [`Command`] on one queue. `write` batches them on one thread; `apply` decides each, as a pure
//!   function of the store and the command, one file per command; `effects` is what a decision
//!   comes to, and `logs` is what the writer knows of the workspaces and
//!   the ends of their logs. An answer means that the change is on disk.
//! - Reads never go through the writer: `read` holds a snapshot that is replaced after each commit.
//! - `tables` is the layout of the file, `rows` that of its values; `open` verifies what every call depends on, `pages`
//!   what redb depends on, `migrate` brings older files up, `scrub` walks over all rows in the background, and `backend` is the file itself.
//!
//! Nothing outside this module knows redb. Deliberately absent: a cache of our own (redb has one), and a second index
//! over the log (the events of one profile are linked).

mod apply;
mod backend;
mod effects;
pub mod error;
mod logs;
mod migrate;
mod open;
mod pages;
mod read;
mod rows;
mod scrub;
mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use redb::ReadableDatabase;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::{ContextV7, Timestamp, Uuid};

pub use apply::Written;
pub use error::{OpenError, Past, StoreError};
pub use read::{EventPage, EventRef, LogBounds, Lookups, PageSize, Snapshot};
pub use scrub::ScrubReport;

use crate::clock::Clock;
use crate::command::{Command, Stamp};
use crate::config::StoreConfig;
use crate::model::cursor::{CursorSpace, Start};
use crate::model::page_token::PageStart;
use crate::model::{EventKind, Filter, LogId, Micros, Mpid, ProfileKey, Sequence, Workspace};
use logs::{Logs, Workspaces};
use open::Opened;
use read::{History, SnapshotTables, Walks};
use scrub::Scrubber;
use write::{Disk, IMPORT_BATCH_COMMANDS, Job, Lane, Ticket, Waiting, Writer};

/// What imports may have in the queue: enough to fill a batch while another is written, and the memory that records of
/// some 700 bytes take for that.
pub const IMPORT_COMMANDS: usize = 2 * IMPORT_BATCH_COMMANDS;
const IMPORT_BYTES: usize = 32 << 20;
/// Bytes of a page of redb.
const PAGE: usize = 4_096;

/// The number by which a workspace is known inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(u32);

/// An event that was appended, and is on disk.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The workspace whose log it is in.
    pub workspace: Workspace,
    /// Its number there.
    pub id: WorkspaceId,
    /// Its number.
    pub sequence: Sequence,
    /// Of which profile.
    pub mpid: Mpid,
    /// What happened to it.
    pub kind: EventKind,
    /// See `Event.silent`.
    pub silent: bool,
    /// Encoded `Event`.
    pub event: bytes::Bytes,
}

/// What the writer, the readers and the handle share.
#[derive(Debug)]
struct Shared {
    /// `None` once the store is closed.
    snapshot: ArcSwapOption<SnapshotTables>,
    /// All workspaces; each is added after the commit of its first write.
    workspaces: Arc<Workspaces>,
    /// Cancelled when the writer cannot go on.
    failed: CancellationToken,
}

/// How much room the store takes, and has. What the file system does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Workspaces that were written to.
    pub workspaces: usize,
    /// Bytes of the file.
    pub file_bytes: Option<u64>,
    /// Bytes that its disk has free.
    pub free_bytes: Option<u64>,
}

/// A handle on the store: one per process. Closed by [`Store::close`].
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    log: LogId,
    clock: Clock,
    event_ids: Mutex<ContextV7>,
    queue: mpsc::Sender<Job>,
    calls: Lane,
    imports: Lane,
    walks: Walks,
    scrubber: Mutex<Option<Scrubber>>,
    path: PathBuf,
    disk: Disk,
    closing: AtomicBool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in `config.data_dir`, and creates it if it is not there. `on_commit` is called by the writer,
    /// in order, with the events of each commit, after they are on disk and before any caller is answered.
    ///
    /// # Errors
    /// [`OpenError`] if the directory or the file cannot be used.
    pub fn open(
        config: &StoreConfig,
        on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(open::open(config)?, config, on_commit)
    }

    fn start(
        opened: Opened,
        config: &StoreConfig,
        on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let Opened { database, lock, path, facts } = opened;
        let of_store = |error| OpenError::of(&path, error);
        let database = Arc::new(database);
        let transaction = database.begin_read().map_err(|error| of_store(error.into()))?;
        let tables = SnapshotTables::open(&transaction, facts.origin.secret).map_err(|error| of_store(error.into()))?;
        let clock = Clock::new(facts.uptime, facts.latest_event());
        let workspaces = Arc::new(Workspaces::new(facts.workspaces));
        let snapshot = ArcSwapOption::from_pointee(tables);
        let shared =
            Arc::new(Shared { snapshot, workspaces: Arc::clone(&workspaces), failed: CancellationToken::new() });
        // A slot for each ticket: a caller that has one never waits for the queue.
        let (queue, jobs) = mpsc::channel(config.queue_commands + IMPORT_COMMANDS);
        let scrubber = Scrubber::start(Arc::clone(&database), config.scrub_rate).map_err(OpenError::Thread)?;
        let disk = Disk { directory: config.data_dir.clone(), min_free_bytes: config.min_free_bytes };
        let writer = Writer {
            database,
            jobs,
            shared: Arc::clone(&shared),
            disk: disk.clone(),
            origin: facts.origin,
            logs: Logs::new(workspaces, facts.heads),
            on_commit: Box::new(on_commit),
            _lock: lock,
        };
        let writer = std::thread::Builder::new().name("writer".into()).spawn(move || writer.run());
        Ok(Self {
            shared,
            log: facts.origin.log,
            clock,
            event_ids: Mutex::new(ContextV7::new()),
            queue,
            calls: Lane::new(config.queue_commands, config.queue_bytes),
            imports: Lane::new(IMPORT_COMMANDS, IMPORT_BYTES),
            walks: Walks::default(),
            scrubber: Mutex::new(Some(scrubber)),
            path,
            disk,
            closing: AtomicBool::new(false),
            writer: Mutex::new(Some(writer.map_err(OpenError::Thread)?)),
        })
    }

    /// The cursors of a workspace's log.
    #[must_use]
    pub fn cursors(&self, workspace: &Workspace) -> CursorSpace {
        CursorSpace::new(self.log, workspace)
    }

    /// The time of day: see [`Clock::now`].
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Reads the clocks for a command, and draws the id of its event.
    pub fn stamp(&self) -> Stamp {
        let time = self.clock.now();
        let micros = time.get().max(0).cast_unsigned();
        let nanos = u32::try_from(micros % 1_000_000).unwrap_or_default() * 1_000;
        let event_id = Uuid::new_v7(Timestamp::from_unix(&self.event_ids, micros / 1_000_000, nanos));
        Stamp { time, uptime: self.clock.uptime(), event_id }
    }

    /// Applies a command. The answer means that it is on disk, and that every read from now on sees it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing changed, unless it is [`StoreError::Failed`].
    pub async fn write(&self, command: Command) -> Result<Written, StoreError> {
        let ticket = self.calls.try_enter(command.weight())?;
        self.send(command, ticket, Job::Call).await?.await
    }

    /// Queues a command of an import as soon as there is room; commands are applied in the order in which they are
    /// queued. What it returns resolves as [`Store::write`] does, but without the profile.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`]: nothing was queued.
    pub async fn import(
        &self,
        command: Command,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        let ticket = self.imports.enter(command.weight()).await?;
        self.send(command, ticket, Job::Import).await
    }

    async fn send(
        &self,
        command: Command,
        ticket: Ticket,
        job: fn(Waiting) -> Job,
    ) -> Result<impl Future<Output = Result<Written, StoreError>>, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(job(Waiting { command: Box::new(command), answer, ticket })).await.map_err(|_| self.gone())?;
        Ok(async { answered.await.unwrap_or_else(|_| Err(self.gone())) })
    }

    /// Gives `read` the wire bytes of a profile in the latest committed state; see [`Snapshot::profile`].
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`] or [`StoreError::Corrupt`].
    pub fn find<T>(
        &self,
        workspace: &Workspace,
        key: &ProfileKey,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        self.lookups(workspace)?.find(key, read)
    }

    /// Several lookups, all in one state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn lookups(&self, workspace: &Workspace) -> Result<Lookups, StoreError> {
        let workspace = self.workspace_id(workspace);
        Ok(Lookups::new(self.snapshot()?, workspace, self.now()))
    }

    /// A page of a workspace's profiles: see [`Snapshot::profiles`].
    ///
    /// # Errors
    /// As of that.
    pub fn list_profiles(
        &self,
        workspace: &Workspace,
        start: PageStart,
        size: PageSize,
        take: impl FnMut(&[u8]) -> Result<usize, StoreError>,
    ) -> Result<Option<Mpid>, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Ok(None) };
        self.snapshot()?.profiles(workspace, start, self.now(), size, take)
    }

    /// A page of a workspace's log, or of one profile's history if the filter asks for one: see [`Snapshot::events`].
    ///
    /// # Errors
    /// As of that, and [`StoreError::Invalid`] if the start is no place in the log.
    pub fn list_events(
        &self,
        workspace: &Workspace,
        start: &Start,
        filter: &Filter,
        size: PageSize,
        take: impl FnMut(EventRef<'_>) -> Result<usize, StoreError>,
    ) -> Result<EventPage, StoreError> {
        let cursors = self.cursors(workspace);
        let Some(workspace) = self.workspace_id(workspace) else {
            let LogBounds { floor, head } = LogBounds::default();
            return Ok(EventPage { through: cursors.resolve(start, floor, head)?, complete: true });
        };
        let snapshot = self.snapshot()?;
        let bounds = snapshot.log_bounds(workspace)?;
        let after = cursors.resolve(start, bounds.floor, bounds.head)?;
        snapshot.check_held(workspace, bounds, after)?;
        match filter.single_mpid() {
            Some(mpid) => {
                let history = History { workspace, mpid, after, through: bounds.head, filter };
                snapshot.history(&self.walks, history, size, take)
            }
            None => snapshot.events(workspace, after, bounds.head, filter, size, take),
        }
    }

    /// The latest committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`] or [`StoreError::Failed`].
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.shared.snapshot.load_full().map(Snapshot::new).ok_or_else(|| self.gone())
    }

    /// Runs a read that may ask the disk for much, on a thread that serves no other call.
    ///
    /// # Errors
    /// What `read` returns, or [`StoreError::Panicked`].
    pub async fn on_read_pool<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || read(&store)).await.unwrap_or_else(|ended| {
            let error = if ended.is_panic() { StoreError::Panicked } else { StoreError::Closed };
            Err(error.into())
        })
    }

    /// The id of a workspace; `None` until its first write.
    #[must_use]
    pub fn workspace_id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.shared.workspaces.id(workspace)
    }

    /// How much room the store takes, and has. Asks the file system.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            workspaces: self.shared.workspaces.count(),
            file_bytes: self.path.metadata().ok().map(|file| file.len()),
            free_bytes: self.disk.free_bytes(),
        }
    }

    /// What the scrubber has seen.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        let scrubber = self.scrubber.lock().unwrap_or_else(PoisonError::into_inner);
        scrubber.as_ref().map(Scrubber::report).unwrap_or_default()
    }

    /// Cancelled when the store has failed for good: the process should end, and be started anew.
    #[must_use]
    pub fn failed(&self) -> &CancellationToken {
        &self.shared.failed
    }

    /// Writes what is queued, and closes the file. Reads and writes that come later are refused.
    pub async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let _ = self.queue.send(Job::Close).await; // Fails if the writer has ended, which is what we want.
        let scrubber = self.scrubber.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = tokio::task::spawn_blocking(move || {
            drop(scrubber);
            writer.map(JoinHandle::join)
        });
        let _ = ended.await;
    }

    fn gone(&self) -> StoreError {
        // A writer that ends without being asked to has failed, whether it has come to saying so or not.
        let in_order = self.closing.load(Ordering::SeqCst) && !self.shared.failed.is_cancelled();
        if in_order { StoreError::Closed } else { StoreError::Failed }
    }
}
