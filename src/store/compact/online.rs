//! Compacts an open store, which serves reads and writes meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::alone::Work;
use super::super::error::{OpenError, StoreError};
use super::super::rows::Origin;
use super::super::write::Job;
use super::super::{Shared, Store};
use super::copy::{self, Position};
use super::{Bounds, CompactError, Compacted, NewFile, Swap, Tail, Target, reopen};

/// The most tail that the compaction applies in the writer's place, in bytes: a few milliseconds of work.
const SHORT_TAIL: usize = 256 << 10;
/// How often the tail is applied before the writer takes over although it is not short. A busy writer then pauses for
/// as long as one of its own batches takes.
const ROUNDS: usize = 16;

/// The compaction of an open store, if one is running.
#[derive(Debug, Default)]
pub(in crate::store) struct Compactor {
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Cancelled when the store is being closed.
    closing: CancellationToken,
}

impl Compactor {
    fn start(&self, run: impl FnOnce() + Send + 'static) -> Result<(), CompactError> {
        let thread = std::thread::Builder::new().name("compactor".into()).spawn(run);
        let thread = thread.map_err(OpenError::Thread)?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Ends the compaction. The returned function waits for that.
    pub fn close(&self) -> impl FnOnce() + Send + use<> {
        self.closing.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        move || drop(thread.map(JoinHandle::join))
    }
}

impl Store {
    /// Rewrites the file, so that no value remains in it that was removed before this call. Reads and writes go on
    /// meanwhile. Once it has begun it does not need this future, and ends early only if `stop` is cancelled or the
    /// store is closed.
    ///
    /// # Errors
    /// [`CompactError`]. Nothing has changed.
    pub async fn compact(&self, stop: CancellationToken) -> Result<Compacted, CompactError> {
        let target = NewFile::on(self.disk.clone(), self.cache_bytes);
        self.compact_to(target, Bounds::default(), stop).await
    }

    pub(in crate::store) async fn compact_to(
        &self,
        target: impl Target + 'static,
        bounds: Bounds,
        stop: CancellationToken,
    ) -> Result<Compacted, CompactError> {
        let running = self.alone.begin(Work::Compaction)?;
        let (answer, answered) = oneshot::channel();
        let online = Online {
            shared: Arc::clone(&self.shared),
            origin: self.origin,
            queue: self.queue.downgrade(),
            stops: [stop, self.compactor.closing.clone()],
            bounds,
        };
        self.compactor.start(move || {
            let result = catch_unwind(AssertUnwindSafe(|| online.run(Box::new(target))));
            let result = result.unwrap_or(Err(CompactError::Panicked));
            log(&result);
            drop(running); // Before the reply, so that the caller may start the next one.
            let _ = answer.send(result); // An error means that the caller has gone away.
        })?;
        answered.await.unwrap_or(Err(CompactError::Panicked))
    }
}

fn log(result: &Result<Compacted, CompactError>) {
    match result {
        Ok(Compacted { bytes_before, bytes_after, duration, pause }) => tracing::info!(
            bytes_before,
            bytes_after,
            seconds = duration.as_secs_f64(),
            pause_ms = pause.as_secs_f64() * 1e3,
            "compacted the store"
        ),
        Err(error) => tracing::warn!(error = error as &dyn std::error::Error, "the store was not compacted"),
    }
}

/// A compaction of an open store.
struct Online {
    shared: Arc<Shared>,
    origin: Origin,
    /// The queue of the writer. It does not keep the writer waiting for more jobs.
    queue: mpsc::WeakSender<Job>,
    stops: [CancellationToken; 2],
    bounds: Bounds,
}

impl Online {
    fn run(&self, mut target: Box<dyn Target>) -> Result<Compacted, CompactError> {
        let (begun, bytes_before) = (Instant::now(), target.used_bytes());
        target.check_room(bytes_before)?;
        let tail = Arc::new(Tail::new(self.bounds.tail_bytes));
        let (ready, is_ready) = oneshot::channel();
        self.send(Job::Keep(Arc::downgrade(&tail), ready))?;
        is_ready.blocking_recv().map_err(|_| CompactError::Closed)?;
        let new = target.create()?;
        self.copy(&new, &tail, &*target)?;
        new.close().map_err(StoreError::from)?; // This also trims the file.
        let bytes_after = target.new_bytes();
        let new = reopen(&mut *target, self.origin)?;
        self.catch_up(&new, &tail)?;
        let pause = self.swap(new, tail, target)?;
        Ok(Compacted { bytes_before, bytes_after, duration: begun.elapsed(), pause })
    }

    /// Copies all rows.
    fn copy(&self, new: &Database, tail: &Tail, target: &dyn Target) -> Result<(), CompactError> {
        let mut position = Position::START;
        loop {
            self.check_stops()?;
            target.check_room(0)?;
            // This state is not older than what was applied from the tail.
            let old = self.shared.database.get().ok_or(CompactError::Closed)?;
            let state = old.begin_read().map_err(StoreError::from)?;
            if !position.advance(&state, new, &self.bounds)? {
                return Ok(());
            }
            if tail.bytes() > self.bounds.apply_bytes {
                copy::apply(&tail.take()?.0, new)?;
            }
        }
    }

    /// Applies the tail until little is left of it.
    fn catch_up(&self, new: &Database, tail: &Tail) -> Result<(), CompactError> {
        for _ in 0..ROUNDS {
            self.check_stops()?;
            let (batches, bytes) = tail.take()?;
            copy::apply(&batches, new)?;
            if bytes <= SHORT_TAIL && tail.bytes() <= SHORT_TAIL {
                break;
            }
        }
        Ok(())
    }

    /// Has the writer put the new file in place, and closes the other one. Returns how long the writer took.
    fn swap(&self, new: Database, tail: Arc<Tail>, target: Box<dyn Target>) -> Result<Duration, CompactError> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Swap(Box::new(Swap { new, tail, target, answer })))?;
        let (pause, left) = answered.blocking_recv().map_err(|_| CompactError::Closed)?;
        left.close(|| self.is_stopped());
        pause
    }

    fn send(&self, job: Job) -> Result<(), CompactError> {
        let queue = self.queue.upgrade().ok_or(CompactError::Closed)?;
        queue.blocking_send(job).map_err(|_| CompactError::Closed)
    }

    fn check_stops(&self) -> Result<(), CompactError> {
        if self.is_stopped() { Err(CompactError::Closed) } else { Ok(()) }
    }

    fn is_stopped(&self) -> bool {
        self.stops.iter().any(CancellationToken::is_cancelled)
    }
}
