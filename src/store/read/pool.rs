//! The read pool: reads that may load many pages from disk, on threads that serve no other call.
//!
//! - Each class of reads has a bound of its own, so a flood of one class leaves the threads of the others free.
//! - Within a class, waiting reads are taken in turn by workspace, and of each workspace the oldest first. So a flood of
//!   one workspace delays another by at most one read for each workspace that waits.
//! - A read that is not waited for any more leaves the line at once. So no more reads wait than there are calls.
//! - A read keeps its turn until it has ended, also if its caller is gone: its thread is busy until then.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The right to read. When it is dropped, it goes to the oldest read of the next workspace.
#[derive(Debug)]
pub(in crate::store) struct Turn(Arc<Gate>);

/// The turns of one class, and the reads that wait for one.
#[derive(Debug)]
struct Gate(Mutex<Line>);

#[derive(Debug)]
struct Line {
    /// Turns that are not taken. There are none while reads wait.
    free: usize,
    /// The waiting reads of each workspace, oldest first. A read without a workspace has an empty name.
    waiting: BTreeMap<String, BTreeMap<u64, oneshot::Sender<()>>>,
    /// The workspace that was served last.
    served: String,
    /// The number of the next read that waits.
    next: u64,
    is_closed: bool,
}

/// A place in the line. It is given up when it is dropped.
struct Place<'a> {
    gate: &'a Arc<Gate>,
    workspace: String,
    number: u64,
    /// Resolves when the turn has come, or fails when the pool is closed.
    turn: oneshot::Receiver<()>,
    is_done: bool,
}

impl Pool {
    /// A pool for this many reads of each class at a time.
    pub fn new(turns: usize) -> Self {
        let gate = || Arc::new(Gate::new(turns));
        Self { scans: gate(), batches: gate(), feed: gate(), status: gate() }
    }

    /// Waits for a turn. `None` if the pool is closed.
    pub async fn enter(&self, class: ReadClass, workspace: Option<&Workspace>) -> Option<Turn> {
        self.gate(class).enter(workspace.map_or("", Workspace::as_str)).await
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

impl Gate {
    fn new(turns: usize) -> Self {
        let (waiting, served) = (BTreeMap::new(), String::new());
        Self(Mutex::new(Line { free: turns, waiting, served, next: 0, is_closed: false }))
    }

    async fn enter(self: &Arc<Self>, workspace: &str) -> Option<Turn> {
        let place = {
            let mut line = self.line();
            if line.is_closed {
                return None;
            }
            if line.free > 0 {
                line.free -= 1;
                return Some(Turn(Arc::clone(self)));
            }
            let (number, turn) = line.join(workspace);
            Place { gate: self, workspace: workspace.to_owned(), number, turn, is_done: false }
        };
        place.wait().await
    }

    /// Gives a turn to the next read that waits.
    fn pass_on(&self) {
        let mut line = self.line();
        match line.leave_first() {
            // Its place cannot be given up meanwhile: that takes the lock too.
            Some(turn) => turn.send(()).expect("a read that waits receives"),
            None => line.free += 1,
        }
    }

    fn close(&self) {
        let mut line = self.line();
        line.is_closed = true;
        line.waiting.clear();
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn join(&mut self, workspace: &str) -> (u64, oneshot::Receiver<()>) {
        let (sender, turn) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.waiting.entry(workspace.to_owned()).or_default().insert(number, sender);
        (number, turn)
    }

    /// Removes the read whose turn it is: the oldest of the workspace after the one that was served last.
    fn leave_first(&mut self) -> Option<oneshot::Sender<()>> {
        let after = (Bound::Excluded(self.served.as_str()), Bound::Unbounded);
        let workspace = self.waiting.range::<str, _>(after).next().or_else(|| self.waiting.iter().next())?.0.clone();
        let number = *self.waiting[&workspace].keys().next().expect("a workspace without reads is not in the line");
        self.served.clone_from(&workspace);
        self.leave(&workspace, number)
    }

    /// Removes a read; `None` if it has left already.
    fn leave(&mut self, workspace: &str, number: u64) -> Option<oneshot::Sender<()>> {
        let reads = self.waiting.get_mut(workspace)?;
        let turn = reads.remove(&number);
        if reads.is_empty() {
            self.waiting.remove(workspace);
        }
        turn
    }
}

impl Place<'_> {
    async fn wait(mut self) -> Option<Turn> {
        let turn = (&mut self.turn).await;
        self.is_done = true;
        turn.ok().map(|()| Turn(Arc::clone(self.gate)))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.is_done || self.gate.line().leave(&self.workspace, self.number).is_some() {
            return;
        }
        self.gate.pass_on(); // The turn had come, and nothing waited for it any more.
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Waiting = Pin<Box<dyn Future<Output = Option<Turn>>>>;

    /// A read that has joined the line.
    fn wait(gate: &Arc<Gate>, workspace: &'static str) -> Waiting {
        let gate = Arc::clone(gate);
        let mut waiting: Waiting = Box::pin(async move { gate.enter(workspace).await });
        assert!((&mut waiting).now_or_never().is_none(), "no turn is free");
        waiting
    }

    fn gate(turns: usize) -> (Arc<Gate>, Vec<Turn>) {
        let gate = Arc::new(Gate::new(turns));
        let turns = (0..turns).map(|_| gate.enter("").now_or_never().unwrap().unwrap()).collect();
        (gate, turns)
    }

    #[test]
    fn workspaces_take_turns_and_each_is_served_in_order() {
        let (gate, mut turns) = gate(1);
        let names = ["a", "a", "a", "b", "c", "b"];
        let mut waiting: Vec<_> = names.iter().map(|name| Some(wait(&gate, name))).collect();
        let mut served = Vec::new();
        for _ in names {
            turns.clear(); // Passes the turn on.
            for (index, read) in waiting.iter_mut().enumerate() {
                if let Some(turn) = read.as_mut().and_then(FutureExt::now_or_never) {
                    turns.push(turn.unwrap());
                    served.push((names[index], index));
                    *read = None;
                }
            }
            assert_eq!(turns.len(), 1, "one at a time");
        }
        assert_eq!(served, [("a", 0), ("b", 3), ("c", 4), ("a", 1), ("b", 5), ("a", 2)]);
    }

    #[test]
    fn a_read_that_is_not_waited_for_gives_up_its_place() {
        let (gate, turns) = gate(1);
        let (first, second, mut third) = (wait(&gate, "a"), wait(&gate, "a"), wait(&gate, "b"));
        drop(second);
        assert_eq!(gate.line().waiting.len(), 2);
        drop(turns); // The first has its turn.
        drop(first); // And never looks at it.
        let turn = (&mut third).now_or_never().expect("it is the next").unwrap();
        assert!(gate.line().waiting.is_empty());
        drop(turn);
        assert_eq!(gate.line().free, 1);
    }

    #[test]
    fn a_pool_that_closes_refuses_those_who_wait() {
        let (gate, turns) = gate(1);
        let mut waiting = wait(&gate, "a");
        gate.close();
        assert!((&mut waiting).now_or_never().unwrap().is_none());
        assert!(gate.enter("a").now_or_never().unwrap().is_none());
        drop(turns);
    }

    #[test]
    fn the_classes_are_apart() {
        let pool = Pool::new(1);
        let workspace = Workspace::parse("a/b/c").unwrap();
        let enter = |class| pool.enter(class, Some(&workspace)).now_or_never();
        let classes = [ReadClass::Scan, ReadClass::Batch, ReadClass::Feed, ReadClass::Status];
        let turns = classes.map(|class| enter(class).expect("its turn is free").unwrap());
        assert!(classes.into_iter().all(|class| enter(class).is_none()), "it has one turn");
        drop(turns);
    }
}
