//! The read pool: reads that may load many pages from disk, on threads that serve no other call.
//!
//! - Each class of reads has a bound of its own, so a flood of one class leaves the threads of the others free.
//! - Within a class, waiting reads are taken in turn by workspace, and of each workspace the oldest first. So a flood of
//!   one workspace delays another by at most one read for each workspace that waits.
//! - The line holds the reads themselves, and the threads take them from it. So a turn never waits for a caller: a call
//!   that nothing polls any more, because its connection does not read, holds up no other.
//! - A read that is not waited for any more leaves the line at once. So no more reads wait than there are calls.
//! - A read keeps its turn until it has ended, also if its caller is gone: its thread is busy until then.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::model::Workspace;

/// The classes of reads that are bounded apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadClass {
    /// A page of profiles or of events.
    Scan,
    /// Many lookups by key.
    Batch,
    /// The events that a subscriber reads next.
    Feed,
    /// What operators ask.
    Status,
}

/// The threads that read, as turns of each class.
#[derive(Debug)]
pub(in crate::store) struct Pool {
    scans: Arc<Gate>,
    batches: Arc<Gate>,
    feed: Arc<Gate>,
    status: Arc<Gate>,
}

/// The turns of one class, and the reads that wait for one.
#[derive(Debug)]
struct Gate(Mutex<Line>);

#[derive(Debug)]
struct Line {
    /// Turns that are not taken. There are none while reads wait.
    free: usize,
    /// The waiting reads of each workspace, oldest first. A read without a workspace has an empty name.
    waiting: BTreeMap<String, BTreeMap<u64, Read>>,
    /// The workspace that was served last.
    served: String,
    /// The number of the next read that waits.
    next: u64,
    is_closed: bool,
}

/// A read that has not begun. It sends its outcome to its caller. Dropped instead, it tells the caller that the pool is
/// closed.
struct Read(Box<dyn FnOnce() + Send>);

/// The place of a waiting read in the line. It is given up when it is dropped.
struct Place<'a> {
    gate: &'a Gate,
    workspace: &'a str,
    number: u64,
}

impl Pool {
    /// A pool for this many reads of each class at a time.
    pub fn new(turns: usize) -> Self {
        let gate = || Arc::new(Gate::new(turns));
        Self { scans: gate(), batches: gate(), feed: gate(), status: gate() }
    }

    /// Runs a read when its turn has come, and returns its result, or what it panicked with. `None` if the pool is
    /// closed.
    pub async fn run<T: Send + 'static>(
        &self,
        class: ReadClass,
        workspace: Option<&Workspace>,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<thread::Result<T>> {
        let (read, outcome) = Read::new(read);
        let _place = self.gate(class).enter(workspace.map_or("", Workspace::as_str), read);
        outcome.await.ok()
    }

    /// Refuses the reads that wait and those that come later.
    pub fn close(&self) {
        for gate in [&self.scans, &self.batches, &self.feed, &self.status] {
            gate.close();
        }
    }

    fn gate(&self, class: ReadClass) -> &Arc<Gate> {
        match class {
            ReadClass::Scan => &self.scans,
            ReadClass::Batch => &self.batches,
            ReadClass::Feed => &self.feed,
            ReadClass::Status => &self.status,
        }
    }
}

/// A read is always dropped outside the lock: it may hold much.
impl Gate {
    fn new(turns: usize) -> Self {
        let (waiting, served) = (BTreeMap::new(), String::new());
        Self(Mutex::new(Line { free: turns, waiting, served, next: 0, is_closed: false }))
    }

    /// Begins a read if a turn is free, and lets it wait otherwise.
    fn enter<'a>(self: &'a Arc<Self>, workspace: &'a str, read: Read) -> Option<Place<'a>> {
        let mut line = self.line();
        if line.is_closed {
            return None;
        }
        if line.free == 0 {
            let number = line.join(workspace, read);
            return Some(Place { gate: self, workspace, number });
        }
        line.free -= 1;
        drop(line);
        let gate = Arc::clone(self);
        tokio::task::spawn_blocking(move || gate.serve(read));
        None
    }

    /// One turn, on a thread: runs this read, and then those that wait, until there are none. No read panics, so a turn
    /// is lost only with the runtime, if that ends before the thread begins.
    fn serve(&self, first: Read) {
        let mut next = Some(first);
        while let Some(read) = next {
            read.run();
            next = self.next();
        }
    }

    /// The read whose turn it is. If none waits, the turn is free again.
    fn next(&self) -> Option<Read> {
        let mut line = self.line();
        let next = line.leave_first();
        if next.is_none() {
            line.free += 1;
        }
        next
    }

    fn close(&self) {
        let mut line = self.line();
        line.is_closed = true;
        let refused = std::mem::take(&mut line.waiting);
        drop(line);
        drop(refused);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn join(&mut self, workspace: &str, read: Read) -> u64 {
        let number = self.next;
        self.next += 1;
        self.waiting.entry(workspace.to_owned()).or_default().insert(number, read);
        number
    }

    /// Removes the read whose turn it is: the oldest of the workspace after the one that was served last.
    fn leave_first(&mut self) -> Option<Read> {
        let after = (Bound::Excluded(self.served.as_str()), Bound::Unbounded);
        let workspace = self.waiting.range::<str, _>(after).next().or_else(|| self.waiting.iter().next())?.0.clone();
        let number = *self.waiting[&workspace].keys().next().expect("a workspace without reads is not in the line");
        self.served.clone_from(&workspace);
        self.leave(&workspace, number)
    }

    /// Removes a read; `None` if it has left already.
    fn leave(&mut self, workspace: &str, number: u64) -> Option<Read> {
        let reads = self.waiting.get_mut(workspace)?;
        let read = reads.remove(&number);
        if reads.is_empty() {
            self.waiting.remove(workspace);
        }
        read
    }
}

impl Read {
    /// A read, and its outcome.
    fn new<T: Send + 'static>(
        read: impl FnOnce() -> T + Send + 'static,
    ) -> (Self, oneshot::Receiver<thread::Result<T>>) {
        let (sender, outcome) = oneshot::channel();
        let read = move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(read))); // An error means that the caller is gone.
        };
        (Self(Box::new(read)), outcome)
    }

    fn run(self) {
        (self.0)();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let read = self.gate.line().leave(self.workspace, self.number);
        drop(read); // `None` if its turn has come.
    }
}

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Read")
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    /// Far longer than any of these reads takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    type Waiting = Pin<Box<dyn Future<Output = Option<thread::Result<()>>>>>;

    /// A call that has asked for its read and is not polled again. Its read must wait.
    fn wait(pool: &Arc<Pool>, class: ReadClass, workspace: &str, read: impl FnOnce() + Send + 'static) -> Waiting {
        let (pool, workspace) = (Arc::clone(pool), Workspace::parse(&format!("a/b/{workspace}")).unwrap());
        let mut waiting: Waiting = Box::pin(async move { pool.run(class, Some(&workspace), read).await });
        assert!((&mut waiting).now_or_never().is_none(), "no turn is free");
        waiting
    }

    /// Reads that hold every turn of a class until they are told to end.
    struct Held {
        end: Vec<mpsc::Sender<()>>,
        calls: Vec<Waiting>,
    }

    impl Held {
        fn all(pool: &Arc<Pool>, class: ReadClass, turns: usize) -> Self {
            let mut held = Self { end: Vec::new(), calls: Vec::new() };
            for _ in 0..turns {
                let (end, ends) = mpsc::channel::<()>();
                let (begin, begun) = mpsc::channel();
                let read = move || {
                    begin.send(()).unwrap();
                    let _ = ends.recv(); // Until the sender is dropped.
                };
                held.calls.push(wait(pool, class, "held", read));
                begun.recv_timeout(PATIENCE).expect("its turn is free");
                held.end.push(end);
            }
            held
        }
    }

    async fn done(call: Waiting) -> Option<thread::Result<()>> {
        tokio::time::timeout(PATIENCE, call).await.expect("it has its turn")
    }

    fn free(pool: &Pool) -> usize {
        pool.feed.line().free
    }

    fn waiting(pool: &Pool) -> usize {
        pool.feed.line().waiting.values().map(BTreeMap::len).sum()
    }

    #[tokio::test]
    async fn workspaces_take_turns_and_each_is_served_in_order() {
        let pool = Arc::new(Pool::new(1));
        let held = Held::all(&pool, ReadClass::Feed, 1);
        let served = Arc::new(Mutex::new(Vec::new()));
        let names = ["a", "a", "a", "b", "c", "b"];
        let calls: Vec<_> = names
            .into_iter()
            .enumerate()
            .map(|read| {
                let served = Arc::clone(&served);
                wait(&pool, ReadClass::Feed, read.1, move || served.lock().unwrap().push(read))
            })
            .collect();
        drop(held);
        for call in calls {
            done(call).await.unwrap().unwrap();
        }
        assert_eq!(*served.lock().unwrap(), [(0, "a"), (3, "b"), (4, "c"), (1, "a"), (5, "b"), (2, "a")]);
    }

    /// The transport stops polling a call whose connection does not read.
    #[tokio::test]
    async fn a_read_begins_in_its_turn_though_nothing_polls_its_call() {
        const UNPOLLED: usize = 100;
        let pool = Arc::new(Pool::new(2));
        let held = Held::all(&pool, ReadClass::Feed, 2);
        let unpolled: Vec<_> = (0..UNPOLLED).map(|_| wait(&pool, ReadClass::Feed, "a", || ())).collect();
        let [same, other] = ["a", "b"].map(|name| wait(&pool, ReadClass::Feed, name, || ()));
        drop(held);
        done(other).await.unwrap().unwrap();
        done(same).await.unwrap().unwrap();
        for call in unpolled {
            done(call).await.unwrap().unwrap(); // And the results are kept.
        }
    }

    #[tokio::test]
    async fn a_read_that_is_not_waited_for_gives_up_its_place() {
        let pool = Arc::new(Pool::new(1));
        let held = Held::all(&pool, ReadClass::Feed, 1);
        let first = wait(&pool, ReadClass::Feed, "a", || ());
        let content = Arc::new(());
        let kept = Arc::clone(&content);
        let second = wait(&pool, ReadClass::Feed, "a", move || panic!("nothing waits for {kept:?}"));
        let third = wait(&pool, ReadClass::Feed, "b", || ());
        drop(second);
        assert_eq!(waiting(&pool), 2);
        assert_eq!(Arc::strong_count(&content), 1, "what it held is freed");
        drop(held);
        done(first).await.unwrap().unwrap();
        done(third).await.unwrap().unwrap();
        assert_eq!(waiting(&pool), 0);
    }

    /// Its thread is busy until then.
    #[tokio::test]
    async fn a_read_keeps_its_turn_until_it_has_ended() {
        let pool = Arc::new(Pool::new(1));
        let mut held = Held::all(&pool, ReadClass::Feed, 1);
        held.calls.clear(); // The caller is gone.
        let next = wait(&pool, ReadClass::Feed, "a", || ());
        assert_eq!((free(&pool), waiting(&pool)), (0, 1));
        drop(held);
        done(next).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_turn_is_passed_on_after_a_panic_and_free_after_the_last_read() {
        let pool = Arc::new(Pool::new(1));
        let held = Held::all(&pool, ReadClass::Feed, 1);
        let panics = wait(&pool, ReadClass::Feed, "a", || panic!("a bug"));
        let next = wait(&pool, ReadClass::Feed, "a", || ());
        drop(held);
        assert!(done(panics).await.unwrap().is_err());
        done(next).await.unwrap().unwrap();
        let freed = async {
            while free(&pool) == 0 {
                tokio::task::yield_now().await; // The caller may learn of the end first.
            }
        };
        tokio::time::timeout(PATIENCE, freed).await.unwrap();
        assert_eq!(free(&pool), 1);
    }

    #[tokio::test]
    async fn a_pool_that_closes_refuses_those_who_wait() {
        let pool = Arc::new(Pool::new(1));
        let mut held = Held::all(&pool, ReadClass::Feed, 1);
        let waiting = wait(&pool, ReadClass::Feed, "a", || panic!("the pool is closed"));
        pool.close();
        assert!(waiting.now_or_never().unwrap().is_none());
        assert!(pool.run(ReadClass::Feed, None, || ()).now_or_never().unwrap().is_none());
        held.end.clear();
        for running in held.calls {
            done(running).await.expect("it had its turn").unwrap();
        }
    }

    #[tokio::test]
    async fn the_classes_are_apart() {
        let pool = Arc::new(Pool::new(1));
        let classes = [ReadClass::Scan, ReadClass::Batch, ReadClass::Feed, ReadClass::Status];
        let held = classes.map(|class| Held::all(&pool, class, 1));
        let waiting = classes.map(|class| wait(&pool, class, "a", || ())); // It has one turn.
        drop(held);
        for call in waiting {
            done(call).await.unwrap().unwrap();
        }
    }
}
