//! Checks that a store agrees with itself: `cameo check`.
//!
//! - `rows`: every row verifies, in order, and belongs to a workspace.
//! - `profiles`: every index against the profiles, both ways, and the profiles that were absorbed.
//! - `log`: each log without holes, and the chains of its events.
//! - `merges`: the index of the identities in records of merges, both ways.
//! - `others`: audiences, subscriptions, and the results of requests.
//! - `report` is what was found. It names workspaces, mpids and sequences, and no value of a person.
//!
//! What always holds:
//! - A check changes nothing, and goes on after a problem.
//! - It needs little memory: it walks over one table at a time, and looks up the rest. Of an index it looks up what the
//!   profiles say that it should hold. Only if it holds more than that, it is walked too, for the rows that are too
//!   many.
//! - A row that does not verify is reported once, as that, and not for what it lacks.
//!
//! Deliberately absent: repair. An index could be rebuilt, but what else damaged it is unknown: restore a backup.

mod log;
mod merges;
mod others;
mod profiles;
mod report;
mod rows;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::backup::{RestoreError, restore};
use super::error::{OpenError, StoreError};
use super::open::{self, FILE};
use super::rows::{FormerLogs, Head, Kind, OwnerKey, OwnerRow, Secret};
use super::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, MEMBERS, MERGES, PROFILES, PROGRESS, REMEMBERED,
    REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS, WORKSPACES, guarded,
};
use super::{WorkspaceId, logs};
use report::Problems;
pub use report::{CheckReport, Finding};

/// Memory for pages. The lookups of a check are in no order.
const CACHE_BYTES: usize = 256 << 20;
/// A backup is restored beside its file, in a directory with this after the file's name.
const SCRATCH: &str = ".check";

/// Why a check was not made.
#[allow(missing_docs)] // The messages explain the fields.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no store to check.
    #[error("there is no store in {path}: check --data-dir")]
    Absent { path: PathBuf },
    /// A server has the store open.
    #[error("a server has the store open in {path}: stop it first, or check a backup of the store")]
    Locked { path: PathBuf },
    /// The backup cannot be opened.
    #[error("cannot open {path}: {cause}")]
    Unreadable { path: PathBuf, cause: std::io::Error },
    /// A directory is in the way.
    #[error(
        "{path} exists: another command checks the backup, or one was interrupted. If none is running, remove it; it \
         holds what the backup holds"
    )]
    Scratch { path: PathBuf },
    /// The store, or a restored copy, cannot be made or opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The backup could not be restored.
    #[error(transparent)]
    Restore(RestoreError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// What a check looks at.
struct Store {
    secret: Secret,
    /// The heads of the logs, by workspace number from 1.
    heads: Vec<Head>,
    profiles: ReadOnlyTable<(u32, i64), &'static [u8]>,
    identities: ReadOnlyTable<&'static OwnerKey, &'static [u8; OwnerRow::LENGTH]>,
    events: ReadOnlyTable<(u32, u64), &'static [u8]>,
    requests: Bytes,
    request_ages: Bytes,
    subscriptions: Bytes,
    progress: Bytes,
    skipped: Bytes,
    audiences: Bytes,
    members: Bytes,
    expiries: Bytes,
    merges: Bytes,
    absorbed: Bytes,
    remembered: Bytes,
}

type Bytes = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Checks the store in a directory, which no process may have open. `on_progress` gets what is checked next.
///
/// # Errors
/// [`CheckError`] if it cannot be checked. What is wrong with it is in the report.
pub fn check(directory: &Path, on_progress: impl FnMut(&'static str)) -> Result<CheckReport, CheckError> {
    let path = directory.join(FILE);
    if !path.exists() {
        return Err(CheckError::Absent { path: directory.to_owned() });
    }
    let _lock = open::lock(directory).map_err(|error| match error {
        OpenError::Locked { path } => CheckError::Locked { path },
        other => other.into(),
    })?;
    match open::open_unchanged(&path, CACHE_BYTES) {
        Ok((database, origin, former)) => check_database(&database, origin.secret, &former, on_progress),
        Err(OpenError::Damaged { what, .. }) => {
            let mut problems = Problems::default();
            problems.add("parts that the store cannot be opened without, and that are damaged", || what);
            Ok(CheckReport { rows: Vec::new(), findings: problems.findings() })
        }
        Err(other) => Err(other.into()),
    }
}

/// Checks a backup: that it is whole, and the store that it makes. That is made beside the file, and removed again.
///
/// # Errors
/// [`CheckError`] if it cannot be checked. What is wrong with it is in the report.
pub fn check_backup(file: &Path, mut on_progress: impl FnMut(&'static str)) -> Result<CheckReport, CheckError> {
    let backup = File::open(file).map_err(|cause| CheckError::Unreadable { path: file.to_owned(), cause })?;
    let mut path = file.to_owned().into_os_string();
    path.push(SCRATCH);
    let scratch = Scratch::create(path.into())?;
    on_progress("the file");
    match restore(BufReader::new(backup), &scratch.0, |_| {}) {
        Ok(_) => check(&scratch.0, on_progress),
        Err(RestoreError::Backup(bad)) => {
            let mut problems = Problems::default();
            problems.add("the backup cannot be used", || bad.to_string());
            Ok(CheckReport { rows: Vec::new(), findings: problems.findings() })
        }
        Err(other) => Err(CheckError::Restore(other)),
    }
}

/// A directory for the store that a backup makes. It is removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(path: PathBuf) -> Result<Self, CheckError> {
        if path.exists() {
            return Err(CheckError::Scratch { path });
        }
        open::create_directory(&path).map_err(|cause| OpenError::Directory { path: path.clone(), cause })?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "the copy of a backup that was checked remains");
        }
    }
}

/// Checks a database that is open.
pub(super) fn check_database(
    database: &Database,
    secret: Secret,
    former: &FormerLogs,
    mut on_progress: impl FnMut(&'static str),
) -> Result<CheckReport, CheckError> {
    let state = database.begin_read().map_err(StoreError::from)?;
    let mut problems = Problems::default();
    let heads = heads(&state, &mut problems)?;
    on_progress("rows");
    let rows = rows::check(&state, heads.as_ref().map(Vec::len), &mut problems)?;
    let counted =
        rows.iter().filter(|table| table.kind != Kind::Meta).map(|table| (table.kind.name(), table.rows)).collect();
    if let Some(heads) = heads {
        let store = Store::open(&state, secret, heads)?;
        log::check_former(&store, former, &mut problems);
        let damaged = |kind| rows.iter().any(|table| table.kind == kind && table.damaged > 0);
        for (what, kind, check) in PASSES {
            on_progress(what);
            pass(kind, &mut problems, |problems| check(&store, &damaged, problems))?;
        }
    }
    Ok(CheckReport { rows: counted, findings: problems.findings() })
}

/// A pass: it gets whether a table has damaged rows.
type Pass = fn(&Store, &dyn Fn(Kind) -> bool, &mut Problems) -> Result<(), StoreError>;

/// The passes, with the table that each walks over.
const PASSES: [(&str, Kind, Pass); 7] = [
    ("profiles and indexes", Kind::Profile, profiles::check),
    ("records of merges", Kind::Merge, merges::check),
    ("logs", Kind::Event, log::check),
    ("chains of events", Kind::Event, log::check_chains),
    ("audiences", Kind::Audience, others::check_audiences),
    ("subscriptions", Kind::Subscription, others::check_subscriptions),
    ("requests", Kind::Request, others::check_requests),
];

/// Runs a pass. One that meets a damaged page ends there, and that is reported.
fn pass(
    kind: Kind,
    problems: &mut Problems,
    run: impl FnOnce(&mut Problems) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    match guarded(kind, || run(problems)) {
        Err(StoreError::Corrupt { .. }) => {
            problems.add("pages that cannot be read, so that the check is not complete", || kind.name().to_owned());
            Ok(())
        }
        other => other,
    }
}

/// Reads the workspaces and the heads of their logs. `None` if they do not fit together.
fn heads(state: &ReadTransaction, problems: &mut Problems) -> Result<Option<Vec<Head>>, StoreError> {
    let read = guarded(Kind::Workspace, || logs::read(&state.open_table(WORKSPACES)?, &state.open_table(HEADS)?));
    match read {
        Ok((names, heads)) => {
            let mut names: Vec<_> = names.into_iter().collect();
            names.sort_unstable_by_key(|(_, id)| *id);
            problems.name(names.into_iter().map(|(name, _)| name).collect());
            Ok(Some(heads))
        }
        Err(StoreError::Corrupt { table, .. }) => {
            let what = "workspaces and heads of logs that do not fit together, so that the check is not complete";
            problems.add(what, || table.to_owned());
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

impl Store {
    fn open(state: &ReadTransaction, secret: Secret, heads: Vec<Head>) -> Result<Self, StoreError> {
        Ok(Self {
            secret,
            heads,
            profiles: state.open_table(PROFILES)?,
            identities: state.open_table(IDENTITIES)?,
            events: state.open_table(EVENTS)?,
            requests: state.open_table(REQUESTS)?,
            request_ages: state.open_table(REQUEST_AGES)?,
            subscriptions: state.open_table(SUBSCRIPTIONS)?,
            progress: state.open_table(PROGRESS)?,
            skipped: state.open_table(SKIPPED)?,
            audiences: state.open_table(AUDIENCES)?,
            members: state.open_table(MEMBERS)?,
            expiries: state.open_table(EXPIRIES)?,
            merges: state.open_table(MERGES)?,
            absorbed: state.open_table(ABSORBED)?,
            remembered: state.open_table(REMEMBERED)?,
        })
    }

    /// The head of a workspace's log. `None` if there is no such workspace, which is reported with the rows.
    fn head(&self, workspace: WorkspaceId) -> Option<Head> {
        (workspace.0 as usize).checked_sub(1).and_then(|at| self.heads.get(at)).copied()
    }

    /// All workspaces, with the heads of their logs.
    fn logs(&self) -> impl Iterator<Item = (WorkspaceId, Head)> {
        (1..).map(WorkspaceId).zip(self.heads.iter().copied())
    }
}

/// The workspace at the start of a key.
fn workspace_in(key: &[u8]) -> WorkspaceId {
    WorkspaceId(key.first_chunk().map_or(0, |id| u32::from_be_bytes(*id)))
}
