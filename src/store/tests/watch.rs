//! When exactly a store tells of events and answers its callers: between which calls to its disk.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::disk::Disk;
use crate::command::Command;
use crate::model::LogId;
use crate::store::{Committed, Store, StoreError, Written};

/// How far a store has come.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Calls to the disk so far.
    pub operations: usize,
    /// Batches of which it has told.
    pub batches: usize,
}

/// A batch of which the store has told.
#[derive(Debug, Clone)]
pub struct Told {
    /// Calls to the disk before that.
    pub operations: usize,
    pub events: Vec<Committed>,
}

/// Notes when the store tells of events and when it answers. It does so on the writer's own thread, so the writer makes no
/// further call to the disk before that.
#[derive(Debug, Clone)]
pub struct Watch {
    disk: Disk,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Watch {
    pub fn new(disk: &Disk) -> Self {
        Self { disk: disk.clone(), told: Arc::default() }
    }

    /// Goes to the store as `on_commit`.
    pub fn listener(&self) -> impl FnMut(LogId, &[Committed]) + Send + 'static {
        let Self { disk, told } = self.clone();
        move |_, events| told.lock().unwrap().push(Told { operations: disk.operations(), events: events.to_vec() })
    }

    fn now(&self) -> Moment {
        Moment { operations: self.disk.operations(), batches: self.told.lock().unwrap().len() }
    }

    /// Every batch so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

/// The caller's end of a write.
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

/// The answer to a write, and when it was given.
pub type Answer = (Result<Written, StoreError>, Moment);

/// Queues all of them at once, in this order, and waits for their answers.
pub fn write_together(store: &Store, commands: &[Command], watch: &Watch) -> Vec<Answer> {
    answers_to(commands.iter().map(|command| store.write(command.clone())), watch)
}

/// Starts all of them at once, in this order, and waits for their answers.
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

/// Closes a store outside of any runtime.
pub fn close(store: &Store) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close());
}
