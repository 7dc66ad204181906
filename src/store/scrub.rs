//! The scrubber: it walks over the tables, slowly, in the background, and reports what does not verify.
//!
//! A lookup verifies what it finds. What it does not come by, or what a rotten key hides from it, only a walk finds. It
//! reads a few rows at a time, each time of the latest state, so that it pins no pages and stands in nobody's way.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use redb::{Database, Key, Range, ReadTransaction, ReadableDatabase, StorageError, Value};

use super::WorkspaceId;
use super::error::StoreError;
use super::rows::{AgeRow, EventRow, HeadRow, Kind, OwnerRow, ProfileRow, RequestRow, WorkspaceRow, stored_mpid};
use super::tables::{EVENTS, HEADS, IDENTITIES, PROFILES, REQUEST_AGES, REQUESTS, WORKSPACES, guarded};
use crate::model::Sequence;

/// Rows read at a time.
const STEP_ROWS: u32 = 256;

/// What the scrubber has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Walks over the whole store since it was opened.
    pub passes: u64,
    /// Rows that were verified since it was opened.
    pub rows: u64,
    /// Rows, or pages of rows, that did not verify: in the last whole walk, or in this one if it has found more.
    pub damaged: u64,
}

/// The running scrubber. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Scrubber {
    seen: Arc<Seen>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    passes: AtomicU64,
    rows: AtomicU64,
    damaged_in_this_pass: AtomicU64,
    damaged_in_last_pass: AtomicU64,
}

/// After which row of a table to go on.
#[derive(Debug, Clone, PartialEq)]
enum At {
    Start(Kind),
    Profile(u32, i64),
    Identity([u8; 20]),
    Event(u32, u64),
    Bytes(Kind, Vec<u8>),
    Head(u32),
}

/// What a step came to.
struct Step {
    rows: u64,
    damaged: u64,
    /// `None` at the end of the table.
    next: Option<At>,
}

impl Scrubber {
    /// Verifies so many rows a second; 0 for none.
    pub fn start(database: Arc<Database>, rows_per_second: u32) -> std::io::Result<Self> {
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = channel();
        let pause = Duration::from_secs(1).mul_f64(f64::from(STEP_ROWS) / f64::from(rows_per_second.max(1)));
        let thread = if rows_per_second > 0 {
            let seen = Arc::clone(&seen);
            let walk = move || walk(&database, &seen, pause, &stopped);
            Some(std::thread::Builder::new().name("scrubber".into()).spawn(walk)?)
        } else {
            None
        };
        Ok(Self { seen, stop: Some(stop), thread })
    }

    pub fn report(&self) -> ScrubReport {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        ScrubReport {
            passes: read(&self.seen.passes),
            rows: read(&self.seen.rows),
            damaged: read(&self.seen.damaged_in_this_pass).max(read(&self.seen.damaged_in_last_pass)),
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

fn walk(database: &Database, seen: &Seen, pause: Duration, stopped: &Receiver<()>) {
    let mut at = At::Start(Kind::Workspace);
    while matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
        let kind = at.kind();
        let step = guarded(kind, || step(&database.begin_read()?, &at));
        let step = step.unwrap_or(Step { rows: 0, damaged: 1, next: None }); // The rest of the table cannot be read.
        seen.rows.fetch_add(step.rows, Ordering::Relaxed);
        if seen.add_damaged(step.damaged) {
            tracing::error!(table = kind.name(), damaged = step.damaged, "stored records are corrupt");
        }
        at = match step.next {
            Some(next) => next,
            None => next_table(kind).unwrap_or_else(|| seen.finish_pass()),
        };
    }
}

impl Seen {
    /// Whether there is more damage than the last pass found: what it told of is not told again with every pass.
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

/// The facts about the file are verified when it is opened.
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
        Kind::Meta => Ok(Step { rows: 0, damaged: 0, next: None }),
        Kind::Workspace => {
            let sound = |name: &[u8], row: &[u8]| WorkspaceRow::read(name, row).is_ok();
            bytes(at, |after| Ok(transaction.open_table(WORKSPACES)?.range::<&[u8]>(after)?), sound)
        }
        Kind::Request => {
            let sound = |key: &[u8], row: &[u8]| RequestRow::read(key, row).is_ok();
            bytes(at, |after| Ok(transaction.open_table(REQUESTS)?.range::<&[u8]>(after)?), sound)
        }
        Kind::RequestAge => {
            let sound = |key: &[u8], row: &[u8]| AgeRow::check(key, row).is_ok();
            bytes(at, |after| Ok(transaction.open_table(REQUEST_AGES)?.range::<&[u8]>(after)?), sound)
        }
        Kind::Head => {
            let after = if let At::Head(id) = at { Bound::Excluded(*id) } else { Bound::Unbounded };
            let rows = transaction.open_table(HEADS)?.range::<u32>((after, Bound::Unbounded))?;
            check(rows, At::Head, |id, row| (id, HeadRow::read(WorkspaceId(id), row).is_ok()))
        }
        Kind::Profile => {
            let after = if let At::Profile(of, mpid) = at { Bound::Excluded((*of, *mpid)) } else { Bound::Unbounded };
            let rows = transaction.open_table(PROFILES)?.range::<(u32, i64)>((after, Bound::Unbounded))?;
            check(
                rows,
                |(of, mpid)| At::Profile(of, mpid),
                |(of, mpid), row| {
                    let read = |mpid| ProfileRow::read(WorkspaceId(of), mpid, row).is_ok();
                    ((of, mpid), stored_mpid(mpid, Kind::Profile).is_ok_and(read))
                },
            )
        }
        Kind::Event => {
            let after = if let At::Event(of, number) = at { Bound::Excluded((*of, *number)) } else { Bound::Unbounded };
            let rows = transaction.open_table(EVENTS)?.range::<(u32, u64)>((after, Bound::Unbounded))?;
            check(
                rows,
                |(of, number)| At::Event(of, number),
                |(of, number), row| {
                    let read = |sequence| EventRow::read(WorkspaceId(of), sequence, row).is_ok();
                    ((of, number), Sequence::new(number).is_some_and(read))
                },
            )
        }
        Kind::Identity => {
            let after = if let At::Identity(key) = at { Bound::Excluded(key) } else { Bound::Unbounded };
            let rows = transaction.open_table(IDENTITIES)?.range::<&[u8; 20]>((after, Bound::Unbounded))?;
            check(rows, At::Identity, |key, row| (*key, OwnerRow::read(key, row).is_ok()))
        }
    }
}

type ByteRows = Range<'static, &'static [u8], &'static [u8]>;

fn bytes(
    at: &At,
    rows: impl FnOnce((Bound<&[u8]>, Bound<&[u8]>)) -> Result<ByteRows, StoreError>,
    sound: impl Fn(&[u8], &[u8]) -> bool,
) -> Result<Step, StoreError> {
    let kind = at.kind();
    let after = if let At::Bytes(_, key) = at { Bound::Excluded(&**key) } else { Bound::Unbounded };
    let rows = rows((after, Bound::Unbounded))?;
    check(rows, |key| At::Bytes(kind, key), |key, row| (key.to_vec(), sound(key, row)))
}

/// Verifies some rows, of which each must follow the one before.
fn check<K: Key + 'static, V: Value + 'static, O: PartialOrd>(
    mut rows: Range<'_, K, V>,
    at: impl FnOnce(O) -> At,
    read: impl for<'a> Fn(K::SelfType<'a>, V::SelfType<'a>) -> (O, bool),
) -> Result<Step, StoreError> {
    let (mut step, mut last_sound, mut last) = (Step { rows: 0, damaged: 0, next: None }, None, None);
    for row in rows.by_ref().take(STEP_ROWS as usize) {
        let (key, value) = row.map_err(|error: StorageError| StoreError::from(error))?;
        let (key, sound) = read(key.value(), value.value());
        step.rows += 1;
        if sound && last_sound.as_ref().is_none_or(|last| *last < key) {
            last_sound = Some(key);
        } else {
            step.damaged += 1;
            last = Some(key);
        }
    }
    // Where a whole step is damaged, there is nothing better than to go on after its end.
    let more = step.rows == u64::from(STEP_ROWS);
    step.next = last_sound.or(last).filter(|_| more).map(at);
    Ok(step)
}
