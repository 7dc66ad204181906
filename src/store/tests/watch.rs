//! Records when a store publishes events and replies to callers: between which calls to its disk.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::disk::Disk;
use crate::command::Command;
use crate::model::LogId;
use crate::store::{Commit, Committed, Store, StoreError, Written};

/// A moment in the run of a store.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Calls to the disk so far.
    pub operations: usize,
    /// Batches that the store has published so far.
    pub batches: usize,
}

/// A batch that the store has published.
#[derive(Debug, Clone)]
pub struct Told {
    /// Calls to the disk before it was published.
    pub operations: usize,
    pub events: Vec<Committed>,
}

/// Notes when the store publishes events and when it replies. It runs on the writer's own thread, so the writer makes
/// no call to the disk in between.
#[derive(Debug, Clone)]
pub struct Watch {
    disk: Disk,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Watch {
    pub fn new(disk: &Disk) -> Self {
        Self { disk: disk.clone(), told: Arc::default() }
    }

    /// The `on_commit` to give to the store.
    pub fn listener(&self) -> impl FnMut(LogId, Commit<'_>) + Send + 'static {
        let Self { disk, told } = self.clone();
        move |_, commit| {
            told.lock().unwrap().push(Told { operations: disk.operations(), events: commit.events.to_vec() });
        }
    }

    fn now(&self) -> Moment {
        Moment { operations: self.disk.operations(), batches: self.told.lock().unwrap().len() }
    }

    /// Every batch that was published so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

/// The caller of a write. It notes when it is woken with the result.
struct Caller {
    watch: Watch,
    answered: Mutex<Option<Moment>>,
    thread: Thread,
}

impl Caller {
    fn new(watch: &Watch) -> Arc<Self> {
        Arc::new(Self { watch: watch.clone(), answered: Mutex::default(), thread: thread::current() })
    }
}

impl Wake for Caller {
    fn wake(self: Arc<Self>) {
        self.answered.lock().unwrap().get_or_insert_with(|| self.watch.now());
        self.thread.unpark();
    }
}

/// The result of a write, and when the caller got it.
pub type Answer = (Result<Written, StoreError>, Moment);

/// Queues all commands at once, in this order, and waits for their results.
pub fn write_together(store: &Store, commands: &[Command], watch: &Watch) -> Vec<Answer> {
    answers_to(commands.iter().map(|command| store.write(command.clone())), watch)
}

/// Starts all writes at once, in this order, and waits for their results.
pub fn answers_to(
    writes: impl Iterator<Item = impl Future<Output = Result<Written, StoreError>>>,
    watch: &Watch,
) -> Vec<Answer> {
    let mut calls: Vec<_> = writes.map(|write| (Box::pin(write), Caller::new(watch), None)).collect();
    loop {
        for (write, caller, answer) in calls.iter_mut().filter(|(.., answer)| answer.is_none()) {
            *answer = answer_to(write.as_mut(), caller);
        }
        if calls.iter().all(|(.., answer)| answer.is_some()) {
            return calls.into_iter().filter_map(|(.., answer)| answer).collect();
        }
        thread::park();
    }
}

fn answer_to(
    write: Pin<&mut impl Future<Output = Result<Written, StoreError>>>,
    caller: &Arc<Caller>,
) -> Option<Answer> {
    let waker = Waker::from(Arc::clone(caller));
    let Poll::Ready(answer) = write.poll(&mut Context::from_waker(&waker)) else { return None };
    let answered = caller.answered.lock().unwrap().unwrap_or_else(|| caller.watch.now());
    Some((answer, answered))
}

/// Closes a store from a test that has no async runtime.
pub fn close(store: &Store) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close());
}
