//! The scrubber: a background thread that walks slowly over all tables and reports rows that do not verify.
//!
//! - A lookup verifies the row that it finds. Only a walk finds damage in rows that no lookup reads, or whose damaged
//!   key hides them.
//! - Each step reads a few rows of the latest state, in a transaction of its own. So the scrubber pins no pages for
//!   long and delays no call.
//!
//! Deliberately absent: repair. The scrubber only reports.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{
    Key, Range, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, TableDefinition,
    Value,
};

use super::current::InUse;
use super::error::StoreError;
use super::rows::{
    AbsorbedRow, AgeRow, AudienceRow, EventRow, ExpiryRow, HeadRow, IdentitySettingsRow, Kind, MemberRow, MergeRow,
    OwnerKey, OwnerRow, ProfileRow, ProgressRow, RememberedRow, RequestRow, SettingsRow, SkippedRow, WorkspaceRow,
    stored_mpid,
};
use super::tables::{
    ABSORBED, AUDIENCES, EVENTS, EXPIRIES, HEADS, IDENTITIES, IDENTITY_SETTINGS, MEMBERS, MERGES, PROFILES, PROGRESS,
    REMEMBERED, REQUEST_AGES, REQUESTS, SKIPPED, SUBSCRIPTIONS, WORKSPACES, guarded,
};
use super::{Shared, WorkspaceId};
use crate::model::Sequence;

/// The most rows read in one step.
const STEP_ROWS: u32 = 256;
/// The most bytes of values read in one step. The last row may exceed it.
const STEP_BYTES: usize = 1 << 20;

/// What the scrubber has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Completed walks over the whole store since it was opened.
    pub passes: u64,
    /// Rows verified since the store was opened.
    pub rows: u64,
    /// Rows, or pages of rows, that did not verify: in the last completed walk, or in the current one if it has found
    /// more.
    pub damaged: u64,
}

/// The running scrubber. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Scrubber {
    totals: Arc<Totals>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Totals {
    passes: AtomicU64,
    rows: AtomicU64,
    damaged_in_this_pass: AtomicU64,
    damaged_in_last_pass: AtomicU64,
}

/// Where the next step begins: at the start of a table, or after the row with this key.
#[derive(Debug, Clone, PartialEq)]
enum At {
    Start(Kind),
    Profile(u32, i64),
    Identity(OwnerKey),
    Event(u32, u64),
    Bytes(Kind, Vec<u8>),
    Head(u32),
}

/// The result of a step.
struct Step {
    rows: u64,
    damaged: u64,
    /// Where the next step begins. `None` at the end of the table.
    next: Option<At>,
    /// Rows of the table, as redb counts them.
    length: u64,
    /// Rows that were removed from the table so far: at its start and at its end.
    trimmed: u64,
}

/// A row that was read.
struct Seen<K> {
    key: K,
    bytes: usize,
    sound: bool,
}

/// What a walk over one table has counted.
#[derive(Debug, Default)]
struct Count {
    rows: u64,
    /// Rows of the table when the walk began.
    length: u64,
    /// Rows that had been removed from the table by then.
    trimmed: u64,
    /// Whether part of the table could not be read.
    broken: bool,
}

impl Scrubber {
    /// Starts the thread, which verifies `rows_per_second` rows a second. 0 starts no thread.
    pub fn start(shared: Arc<Shared>, rows_per_second: u32) -> std::io::Result<Self> {
        let totals = Arc::new(Totals::default());
        let (stop, stopped) = channel();
        let pause = Duration::from_secs(1).mul_f64(f64::from(STEP_ROWS) / f64::from(rows_per_second.max(1)));
        let thread = if rows_per_second > 0 {
            let totals = Arc::clone(&totals);
            let walk = move || walk(&shared.database, &totals, pause, &stopped);
            Some(std::thread::Builder::new().name("scrubber".into()).spawn(walk)?)
        } else {
            None
        };
        Ok(Self { totals, stop: Some(stop), thread })
    }

    pub fn report(&self) -> ScrubReport {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        ScrubReport {
            passes: read(&self.totals.passes),
            rows: read(&self.totals.rows),
            damaged: read(&self.totals.damaged_in_this_pass).max(read(&self.totals.damaged_in_last_pass)),
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn walk(database: &InUse, totals: &Totals, pause: Duration, stopped: &Receiver<()>) {
    let (mut at, mut count) = (At::Start(Kind::Workspace), Count::default());
    while matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
        let kind = at.kind();
        // A compaction may have replaced the database, but the rows are the same.
        let Some(database) = database.get() else { return };
        let step = match guarded(kind, || step(&database.begin_read()?, &at)) {
            Err(StoreError::Corrupt { .. }) => count.broken(), // The rest of the table cannot be read.
            Err(_) => return,                                  // The store has failed.
            Ok(step) => step,
        };
        let missing = count.add(&at, &step);
        totals.rows.fetch_add(step.rows, Ordering::Relaxed);
        if totals.add_damaged(step.damaged + missing) {
            tracing::error!(table = kind.name(), damaged = step.damaged, missing, "stored records are corrupt");
        }
        at = match step.next {
            Some(next) => next,
            None => next_table(kind).unwrap_or_else(|| totals.finish_pass()),
        };
    }
}

impl Count {
    fn broken(&mut self) -> Step {
        self.broken = true;
        Step { rows: 0, damaged: 1, next: None, length: self.length, trimmed: 0 }
    }

    /// Counts a step. At the end of a table, returns how many of its rows the walk did not reach because a damaged page
    /// above hides them. This works only for tables that never shrink, or whose removed rows are known. Rows added
    /// during the walk, or removed behind it, can make the number too small, but never too large.
    fn add(&mut self, at: &At, step: &Step) -> u64 {
        if matches!(at, At::Start(_)) {
            *self = Self { rows: 0, length: step.length, trimmed: step.trimmed, broken: self.broken };
        }
        self.rows += step.rows;
        let is_counted = matches!(at.kind(), Kind::Workspace | Kind::Head | Kind::Profile | Kind::Event);
        if step.next.is_some() || self.broken || !is_counted {
            self.broken &= step.next.is_some();
            return 0;
        }
        let trimmed = step.trimmed.saturating_sub(self.trimmed);
        self.length.saturating_sub(self.rows).saturating_sub(trimmed)
    }
}

impl Totals {
    /// Returns whether this pass has found more damage than the last one. Only then is it logged, so that known damage
    /// is not logged again with every pass.
    fn add_damaged(&self, damaged: u64) -> bool {
        let before = self.damaged_in_this_pass.fetch_add(damaged, Ordering::Relaxed);
        damaged > 0 && before + damaged > self.damaged_in_last_pass.load(Ordering::Relaxed)
    }

    fn finish_pass(&self) -> At {
        let damaged = self.damaged_in_this_pass.swap(0, Ordering::Relaxed);
        self.damaged_in_last_pass.store(damaged, Ordering::Relaxed);
        self.passes.fetch_add(1, Ordering::Relaxed);
        At::Start(Kind::Workspace)
    }
}

/// Returns the start of the next table. `None` after the last.
fn next_table(kind: Kind) -> Option<At> {
    let next = Kind::ALL.into_iter().skip_while(|other| *other != kind).nth(1);
    next.map(At::Start)
}

impl At {
    fn kind(&self) -> Kind {
        match self {
            Self::Start(kind) | Self::Bytes(kind, _) => *kind,
            Self::Profile(..) => Kind::Profile,
            Self::Identity(_) => Kind::Identity,
            Self::Event(..) => Kind::Event,
            Self::Head(_) => Kind::Head,
        }
    }
}

fn step(transaction: &ReadTransaction, at: &At) -> Result<Step, StoreError> {
    match at.kind() {
        // The facts about the file were verified when it was opened.
        Kind::Meta => Ok(Step { rows: 0, damaged: 0, next: None, length: 0, trimmed: 0 }),
        Kind::Workspace => bytes(transaction, WORKSPACES, at, |name, row| WorkspaceRow::read(name, row).is_ok()),
        Kind::Request => bytes(transaction, REQUESTS, at, |key, row| RequestRow::read(key, row).is_ok()),
        Kind::RequestAge => bytes(transaction, REQUEST_AGES, at, |key, row| AgeRow::check(key, row).is_ok()),
        Kind::Subscription => bytes(transaction, SUBSCRIPTIONS, at, |key, row| SettingsRow::read(key, row).is_ok()),
        Kind::Progress => bytes(transaction, PROGRESS, at, |key, row| ProgressRow::read(key, row).is_ok()),
        Kind::Skipped => bytes(transaction, SKIPPED, at, |key, row| SkippedRow::read(key, row).is_ok()),
        Kind::Audience => bytes(transaction, AUDIENCES, at, |key, row| AudienceRow::read(key, row).is_ok()),
        Kind::Member => bytes(transaction, MEMBERS, at, |key, row| MemberRow::read(key, row).is_ok()),
        Kind::Expiry => bytes(transaction, EXPIRIES, at, |key, row| ExpiryRow::read(key, row).is_ok()),
        Kind::Merge => bytes(transaction, MERGES, at, |key, row| MergeRow::read(key, row).is_ok()),
        Kind::Absorbed => bytes(transaction, ABSORBED, at, |key, row| AbsorbedRow::read(key, row).is_ok()),
        Kind::IdentitySettings => {
            bytes(transaction, IDENTITY_SETTINGS, at, |key, row| IdentitySettingsRow::read(key, row).is_ok())
        }
        Kind::Remembered => bytes(transaction, REMEMBERED, at, |key, row| RememberedRow::read(key, row).is_ok()),
        Kind::Head => heads(transaction, at),
        Kind::Profile => profiles(transaction, at),
        Kind::Event => events(transaction, at),
        Kind::Identity => identities(transaction, at),
    }
}

fn heads(transaction: &ReadTransaction, at: &At) -> Result<Step, StoreError> {
    let after = if let At::Head(id) = at { Bound::Excluded(*id) } else { Bound::Unbounded };
    let table = transaction.open_table(HEADS)?;
    check(table.range::<u32>((after, Bound::Unbounded))?, table.len()?, At::Head, |id, row| Seen {
        key: id,
        bytes: row.len(),
        sound: HeadRow::read(WorkspaceId(id), row).is_ok(),
    })
}

fn profiles(transaction: &ReadTransaction, at: &At) -> Result<Step, StoreError> {
    let after = if let At::Profile(of, mpid) = at { Bound::Excluded((*of, *mpid)) } else { Bound::Unbounded };
    let table = transaction.open_table(PROFILES)?;
    let rows = table.range::<(u32, i64)>((after, Bound::Unbounded))?;
    check(
        rows,
        table.len()?,
        |(of, mpid)| At::Profile(of, mpid),
        |key, row| {
            let read = |mpid| ProfileRow::read(WorkspaceId(key.0), mpid, row).is_ok();
            Seen { key, bytes: row.len(), sound: stored_mpid(key.1, Kind::Profile).is_ok_and(read) }
        },
    )
}

fn events(transaction: &ReadTransaction, at: &At) -> Result<Step, StoreError> {
    let after = if let At::Event(of, number) = at { Bound::Excluded((*of, *number)) } else { Bound::Unbounded };
    let table = transaction.open_table(EVENTS)?;
    let rows = table.range::<(u32, u64)>((after, Bound::Unbounded))?;
    let step = check(
        rows,
        table.len()?,
        |(of, number)| At::Event(of, number),
        |key, row| {
            let read = |sequence| EventRow::read(WorkspaceId(key.0), sequence, row).is_ok();
            Seen { key, bytes: row.len(), sound: Sequence::new(key.1).is_some_and(read) }
        },
    )?;
    let is_edge = matches!(at, At::Start(_)) || step.next.is_none();
    Ok(Step { trimmed: if is_edge { trimmed(transaction)? } else { 0 }, ..step })
}

/// Returns how many events were ever trimmed, from all logs.
fn trimmed(transaction: &ReadTransaction) -> Result<u64, StoreError> {
    let mut trimmed = 0_u64;
    for row in transaction.open_table(HEADS)?.iter()? {
        let (id, row) = row?;
        trimmed = trimmed.saturating_add(HeadRow::read(WorkspaceId(id.value()), row.value())?.floor.get());
    }
    Ok(trimmed)
}

fn identities(transaction: &ReadTransaction, at: &At) -> Result<Step, StoreError> {
    let after = if let At::Identity(key) = at { Bound::Excluded(key) } else { Bound::Unbounded };
    let table = transaction.open_table(IDENTITIES)?;
    let rows = table.range::<&OwnerKey>((after, Bound::Unbounded))?;
    check(rows, table.len()?, At::Identity, |key, row| Seen {
        key: *key,
        bytes: row.len(),
        sound: OwnerRow::read(key, row).is_ok(),
    })
}

/// One step of a table whose keys and values are both bytes.
fn bytes(
    transaction: &ReadTransaction,
    table: TableDefinition<&[u8], &[u8]>,
    at: &At,
    sound: impl Fn(&[u8], &[u8]) -> bool,
) -> Result<Step, StoreError> {
    let kind = at.kind();
    let after = if let At::Bytes(_, key) = at { Bound::Excluded(&**key) } else { Bound::Unbounded };
    let table = transaction.open_table(table)?;
    let rows = table.range::<&[u8]>((after, Bound::Unbounded))?;
    check(
        rows,
        table.len()?,
        |key| At::Bytes(kind, key),
        |key, row| Seen { key: key.to_vec(), bytes: row.len(), sound: sound(key, row) },
    )
}

/// Verifies the rows of one step. Each key must be greater than the one before.
fn check<K: Key + 'static, V: Value + 'static, O: PartialOrd>(
    rows: Range<'_, K, V>,
    length: u64,
    at: impl FnOnce(O) -> At,
    read: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> Seen<O>,
) -> Result<Step, StoreError> {
    let (mut step, mut last_sound) = (Step { rows: 0, damaged: 0, next: None, length, trimmed: 0 }, None);
    let (mut bytes_read, mut more) = (0, false);
    let (mut rows_to_sound, mut damaged_to_sound) = (0, 0);
    for row in rows {
        if step.rows == u64::from(STEP_ROWS) || bytes_read >= STEP_BYTES {
            more = true;
            break;
        }
        let (key, value) = row.map_err(|error: StorageError| StoreError::from(error))?;
        let Seen { key, bytes, sound } = read(key.value(), value.value());
        step.rows += 1;
        bytes_read += bytes;
        if sound && last_sound.as_ref().is_none_or(|last| *last < key) {
            last_sound = Some(key);
            (rows_to_sound, damaged_to_sound) = (step.rows, step.damaged);
        } else {
            step.damaged += 1;
        }
    }
    if more {
        // The next step begins after the last sound key, and is the one that counts the damaged rows behind it.
        step.next = Some(at(last_sound.ok_or(StoreError::corrupt("page"))?));
        (step.rows, step.damaged) = (rows_to_sound, damaged_to_sound);
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts a walk of two steps, and returns how many rows it reports as missing.
    fn missing(kind: Kind, rows: [u64; 2], lengths: [u64; 2]) -> u64 {
        missing_after_trims(kind, rows, lengths, 7)
    }

    /// When the walk begins, 7 rows have been removed, and when it ends, `trimmed`.
    fn missing_after_trims(kind: Kind, rows: [u64; 2], lengths: [u64; 2], trimmed: u64) -> u64 {
        let mut count = Count::default();
        let first = Step { rows: rows[0], damaged: 0, next: Some(At::Profile(1, 1)), length: lengths[0], trimmed: 7 };
        assert_eq!(count.add(&At::Start(kind), &first), 0, "the walk has not ended");
        let at = match kind {
            Kind::Profile => At::Profile(1, 1),
            Kind::Event => At::Event(1, 1),
            _ => At::Identity([0; 20]),
        };
        count.add(&at, &Step { rows: rows[1], damaged: 0, next: None, length: lengths[1], trimmed })
    }

    #[test]
    fn rows_that_a_walk_did_not_reach_are_missing() {
        assert_eq!(missing(Kind::Profile, [256, 44], [300, 300]), 0);
        assert_eq!(missing(Kind::Profile, [256, 40], [300, 300]), 4);
        assert_eq!(missing(Kind::Profile, [256, 40], [300, 310]), 4, "rows were added behind the walk");
        assert_eq!(
            missing(Kind::Profile, [256, 50], [300, 310]),
            0,
            "rows were added ahead of the walk: the next walk reports them"
        );
        assert_eq!(missing(Kind::Identity, [256, 40], [300, 300]), 0, "rows may have been added and removed");
    }

    #[test]
    fn events_that_were_trimmed_before_the_walk_reached_them_are_not_missing() {
        assert_eq!(missing_after_trims(Kind::Event, [256, 40], [300, 300], 7), 4);
        assert_eq!(missing_after_trims(Kind::Event, [256, 40], [300, 296], 11), 0);
        assert_eq!(missing_after_trims(Kind::Event, [256, 40], [300, 297], 10), 1);
        assert_eq!(missing_after_trims(Kind::Event, [256, 44], [300, 200], 107), 0, "behind the walk");
    }

    #[test]
    fn a_table_that_cannot_be_read_to_its_end_reports_no_missing_rows() {
        let mut count = Count::default();
        count.add(
            &At::Start(Kind::Profile),
            &Step { rows: 1, damaged: 0, next: Some(At::Profile(1, 1)), length: 9, trimmed: 0 },
        );
        let broken = count.broken();
        assert_eq!((broken.damaged, count.add(&At::Profile(1, 1), &broken)), (1, 0));
        let whole = Step { rows: 5, damaged: 0, next: None, length: 6, trimmed: 0 };
        assert_eq!(count.add(&At::Start(Kind::Event), &whole), 1, "the next table is counted again");
    }
}
