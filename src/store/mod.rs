//! Profiles, their identities and the log of their changes, in one redb file.
//!
//! - Every change is a [`Command`] on one queue, into which `lane` lets it, and which one thread applies: `writer`
//!   batches, `decide` checks, `apply` writes. A reply means that the change is on disk.
//! - Reads never go through the writer: [`reader`] holds a snapshot that is replaced after each commit.
//! - `tables` is the layout of the file, `rows` that of its values.
//!
//! Nothing outside this module knows redb. Deliberately absent: a cache of our own (redb has one), and a second index
//! over the log (the events of one profile are linked).

mod apply;
pub mod command;
mod decide;
pub mod error;
mod lane;
pub mod reader;
mod rows;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use apply::Committed;
pub use command::{Change, Command, RequestId, Written};
pub use error::{OpenError, StoreError};
pub use reader::{EventPage, EventRef, LogBounds, Snapshot};

use crate::config::StoreConfig;
use crate::model::{Limits, LogId, Micros, ProfileKey, Workspace};
use lane::{Lane, Ticket};
use reader::SnapshotTables;
use writer::{IMPORT_BATCH_COMMANDS, Job, Waiting, Writer};

/// What imports may have in the queue: enough to fill a batch while another is written, and the memory that records of
/// some 700 bytes take for that.
pub const IMPORT_COMMANDS: usize = 2 * IMPORT_BATCH_COMMANDS;
const IMPORT_BYTES: usize = 32 << 20;
/// The file in the data directory.
const FILE: &str = "cameo.redb";

/// The number by which a workspace is known inside the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkspaceId(pub(crate) u32);

/// What the writer, the readers and the handle share.
#[derive(Debug)]
struct Shared {
    /// `None` once the store is closed.
    snapshot: ArcSwapOption<SnapshotTables>,
    /// All workspaces; each is added after the commit of its first write.
    workspaces: RwLock<HashMap<Workspace, WorkspaceId>>,
    /// Cancelled when the writer cannot go on.
    failed: CancellationToken,
}

/// A handle on the store: one per process. Closed by [`Store::close`].
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    log: LogId,
    queue: mpsc::Sender<Job>,
    calls: Lane,
    imports: Lane,
    closing: AtomicBool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store in `config.data_dir`, and creates it if it is not there. `on_commit` is called by the writer,
    /// in order, with the events of each commit, after they are on disk and before anybody is answered.
    ///
    /// # Errors
    /// [`OpenError`] if the directory or the file cannot be used.
    pub fn open(
        config: &StoreConfig,
        limits: Limits,
        on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::start(open_database(config)?, config, limits, on_commit)
    }

    /// On a database that is open.
    fn start(
        database: Database,
        config: &StoreConfig,
        limits: Limits,
        on_commit: impl FnMut(LogId, &[Committed]) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let log = tables::initialize(&database)?;
        let transaction = database.begin_read()?;
        let failed = CancellationToken::new();
        let shared = Arc::new(Shared {
            workspaces: RwLock::new(tables::workspaces(&transaction)?),
            snapshot: ArcSwapOption::from_pointee(SnapshotTables::open(&transaction, failed.clone())?),
            failed,
        });
        // A slot for each ticket: whoever has one never waits for the queue.
        let (queue, jobs) = mpsc::channel(config.queue_commands + IMPORT_COMMANDS);
        let calls = Lane::new(config.queue_commands, config.queue_bytes);
        let imports = Lane::new(IMPORT_COMMANDS, IMPORT_BYTES);
        let writer = Writer::new(database, jobs, Arc::clone(&shared), config, log, limits, Box::new(on_commit));
        let writer = std::thread::Builder::new().name("writer".into()).spawn(move || writer.run())?;
        let closing = AtomicBool::new(false);
        Ok(Self { shared, log, queue, calls, imports, closing, writer: Mutex::new(Some(writer)) })
    }

    /// Names the log that this store keeps.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log
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
    /// queued. What it answers resolves as [`Store::write`] does, but without the profile.
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
        let (reply, answer) = oneshot::channel();
        self.queue.send(job(Waiting { command: Box::new(command), reply, ticket })).await.map_err(|_| self.gone())?;
        Ok(async { answer.await.unwrap_or_else(|_| Err(self.gone())) })
    }

    /// Gives `read` the wire bytes of a profile in the latest committed state; see [`Snapshot::profile`].
    ///
    /// # Errors
    /// [`StoreError::ProfileNotFound`], or another if a row cannot be read.
    pub fn find<T>(
        &self,
        workspace: &Workspace,
        key: &ProfileKey,
        now: Micros,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, StoreError> {
        let Some(workspace) = self.workspace_id(workspace) else { return Err(StoreError::not_found(key)) };
        self.snapshot()?.find(workspace, key, now, read)
    }

    /// The latest committed state.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        self.shared.snapshot.load_full().map(Snapshot::new).ok_or(StoreError::Closed)
    }

    /// The id of a workspace; `None` until its first write.
    #[must_use]
    pub fn workspace_id(&self, workspace: &Workspace) -> Option<WorkspaceId> {
        self.shared.workspaces.read().unwrap_or_else(PoisonError::into_inner).get(workspace).copied()
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
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    fn gone(&self) -> StoreError {
        // A writer that ends without being asked to has failed, whether it has come to saying so or not.
        let in_order = self.closing.load(Ordering::SeqCst) && !self.shared.failed.is_cancelled();
        if in_order { StoreError::Closed } else { StoreError::Failed }
    }
}

fn open_database(config: &StoreConfig) -> Result<Database, OpenError> {
    let directory = &config.data_dir;
    create_directory(directory).map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
    let database = Database::builder().set_cache_size(config.cache_bytes).create(directory.join(FILE))?;
    File::open(directory)?.sync_all()?; // redb syncs the file, but not the entry that leads to it.
    Ok(database)
}

/// Makes a directory and those above it, each with an entry that survives a loss of power.
fn create_directory(directory: &Path) -> std::io::Result<()> {
    if directory.as_os_str().is_empty() || directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_directory(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}
