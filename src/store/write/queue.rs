//! The commands that wait for the writer, and which of them go into the next batch.
//!
//! - Calls come first, in the order that [`Turns`] gives. Imports fill the rest of the batch, in order.
//! - A batch ends after a number of commands, after a weight of large ones, and after a time. So a call that arrives
//!   during a batch does not wait long, however costly the commands of others are. Imports use long batches only while
//!   there are no calls.
//! - Commands are taken one by one while the batch fills. A command that did not fit was never taken, so it keeps its
//!   place.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::apply::Reply;
use super::job::Waiting;
use super::turns::Turns;
use crate::command::Command;

/// The most commands in a batch that has calls. A larger batch would delay its first caller and gain little: at this
/// size the commit is already a small part of the batch's cost.
const BATCH_COMMANDS: usize = 512;
/// The most commands in a batch of imports alone, while nothing else is written. New profiles lie far apart in the file, so a commit
/// is costly: batches of 4,096 load 1.7 times as many profiles a second as batches of 512. The first call that arrives
/// meanwhile waits for a quarter of a second, or longer if the profiles are large.
pub(in crate::store) const IMPORT_BATCH_COMMANDS: usize = 4_096;
/// Import commands that a batch takes even if it is full of calls, so that imports make progress.
const IMPORT_SHARE: usize = 64;
/// The weight of large calls after which a batch takes no further call. The writer takes about 5 ms for each MiB.
const LARGE_BYTES: usize = 2 << 20;
/// The time after which a batch takes no further call. 512 usual updates take less. But an update of a profile with
/// thousands of small values may take 10 ms, and weigh little itself.
const CALLS_TIME: Duration = Duration::from_millis(20);
/// The time after which a batch of imports alone takes no further record. The disk may be slow, so it is long.
const IMPORTS_TIME: Duration = Duration::from_millis(500);
/// While there are calls, a batch takes no further record after so many bytes of pages: what the disk writes in a few
/// tens of milliseconds. The time alone is no bound: a small record may change a large profile.
const IMPORTS_BYTES: usize = 4 << 20;
/// How long after the last call batches of imports stay small: the next call may arrive while one is written.
const QUIET: Duration = Duration::from_secs(1);

/// The waiting commands.
pub(super) struct Queue {
    calls: Turns,
    /// Commands of imports, oldest first.
    imports: VecDeque<Waiting>,
    /// When the last call was taken.
    last_call: Option<Instant>,
    /// The most commands in the next batch. It shrinks after a batch that met a damaged page, until only the commands
    /// that need the page are refused.
    most: usize,
    /// The clock.
    now: fn() -> Instant,
}

/// The commands of one batch, while they are taken.
pub(super) struct Taking<'q> {
    queue: &'q mut Queue,
    taken: &'q mut Vec<Waiting>,
    /// How many of those taken are calls.
    calls: usize,
    /// The weight of the large calls.
    large: usize,
    begun: Instant,
    /// When the first import was taken.
    imports_begun: Option<Instant>,
}

impl Queue {
    pub fn new(now: fn() -> Instant) -> Self {
        Self { calls: Turns::default(), imports: VecDeque::new(), last_call: None, most: usize::MAX, now }
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.imports.is_empty()
    }

    pub fn push_call(&mut self, waiting: Waiting) {
        self.calls.push(waiting);
    }

    pub fn push_import(&mut self, waiting: Waiting) {
        self.imports.push_back(waiting);
    }

    /// Begins a batch. `taken` gets its commands.
    pub fn batch<'q>(&'q mut self, taken: &'q mut Vec<Waiting>) -> Taking<'q> {
        let begun = (self.now)();
        Taking { queue: self, taken, calls: 0, large: 0, begun, imports_begun: None }
    }

    /// Removes all commands.
    pub fn drain(&mut self) -> impl Iterator<Item = Waiting> + '_ {
        self.calls.drain().chain(self.imports.drain(..))
    }

    /// A batch met no damage.
    pub fn widen(&mut self) {
        self.most = self.most.saturating_mul(2);
    }
}

impl Taking<'_> {
    /// Takes the next command of the batch; `None` if the batch is complete. Those so far make pages of `dirty` bytes dirty.
    pub fn next(&mut self, dirty: usize) -> Option<(&Command, Reply)> {
        let (waiting, reply) = match self.next_call() {
            Some(call) => (call, Reply::WithProfile),
            None => (self.next_import(dirty)?, Reply::WithoutProfile),
        };
        self.taken.push(waiting);
        self.taken.last().map(|waiting| (&*waiting.command, reply))
    }

    /// Puts the commands back, because nothing of the batch was kept. The next batch takes at most half as many. If
    /// there is just one, it cannot be written, and is returned.
    pub fn undo(self) -> Option<Waiting> {
        if self.taken.len() == 1 {
            self.queue.widen();
            return self.taken.pop();
        }
        self.queue.most = self.taken.len() / 2;
        for import in self.taken.drain(self.calls..).rev() {
            self.queue.imports.push_front(import);
        }
        for call in self.taken.drain(..).rev() {
            self.queue.calls.put_back(call);
        }
        None
    }

    fn next_call(&mut self) -> Option<Waiting> {
        let is_full = self.calls >= BATCH_COMMANDS.min(self.queue.most)
            || self.large >= LARGE_BYTES
            || self.imports_begun.is_some()
            || (self.calls > 0 && self.since(self.begun) >= CALLS_TIME);
        if is_full {
            return None;
        }
        let call = self.queue.calls.pop()?;
        self.queue.last_call = Some(self.begun);
        self.calls += 1;
        self.large += if call.is_large() { call.weight } else { 0 };
        Some(call)
    }

    fn next_import(&mut self, dirty: usize) -> Option<Waiting> {
        let imports = self.taken.len() - self.calls;
        let (room, time, bytes) = match self.calls {
            0 if self.is_quiet() => (IMPORT_BATCH_COMMANDS, IMPORTS_TIME, usize::MAX),
            calls => ((BATCH_COMMANDS - calls).max(IMPORT_SHARE), CALLS_TIME, IMPORTS_BYTES),
        };
        let begun = *self.imports_begun.get_or_insert_with(self.queue.now);
        let is_full = imports >= room.min(self.queue.most - self.calls)
            || (imports > 0 && (self.since(begun) >= time || dirty >= bytes));
        if is_full { None } else { self.queue.imports.pop_front() }
    }

    fn is_quiet(&self) -> bool {
        self.queue.last_call.is_none_or(|called| self.begun.duration_since(called) >= QUIET)
    }

    fn since(&self, then: Instant) -> Duration {
        (self.queue.now)().duration_since(then)
    }
}
