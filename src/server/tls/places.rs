//! How many handshakes run at a time.
//!
//! A handshake waits for its peer most of the time, and a peer may never continue it. So a handshake keeps its place
//! only for a while if others wait for one: slow peers do not keep good ones out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Handshakes at a time. Each may hold some 64 KiB that its peer sent, which is the largest message of a handshake. So
/// many pass each [`OWN_TIME`] that a good one has its turn in time, even if all other connections are bad ones: see
/// `a_full_house_passes_in_time`.
pub(super) const HANDSHAKES: usize = 1024;
/// How long a handshake keeps its place when others wait: two round trips around the world, or one and a lost packet.
pub(super) const OWN_TIME: Duration = Duration::from_secs(1);

/// The places of handshakes.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Handshakes that wait for a place and have not been given one. The handshake that leaves a place counts down for
    /// the one that gets it, so that no second one leaves for its sake.
    waiting: AtomicUsize,
    /// Wakes one handshake that has had its time.
    wanted: Notify,
}

/// The place of one handshake.
#[derive(Debug)]
pub(super) struct Place<'p> {
    places: &'p Places,
    since: Instant,
    _permit: OwnedSemaphorePermit, // Dropped after the count.
}

/// A handshake that waits for a place. Dropped, it has given up.
struct Waiting<'p>(&'p Places);

impl Places {
    pub fn new() -> Self {
        Self { free: Arc::new(Semaphore::new(HANDSHAKES)), waiting: AtomicUsize::new(0), wanted: Notify::new() }
    }

    /// Waits for a place. The first to wait is the first to have one.
    pub async fn take(&self) -> Place<'_> {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait().await,
        };
        Place { places: self, since: Instant::now(), _permit: permit }
    }

    async fn wait(&self) -> OwnedSemaphorePermit {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self);
        self.wanted.notify_one();
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        std::mem::forget(waiting);
        permit
    }

    /// One handshake fewer waits. Returns whether there are others.
    fn count_down(&self) -> bool {
        let fewer = |waiting: usize| waiting.checked_sub(1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_ok_and(|before| before > 1)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.count_down();
    }
}

impl Place<'_> {
    /// Completes when the handshake has had its time and another one waits for its place.
    pub async fn is_wanted(&self) {
        sleep_until(self.since + OWN_TIME).await;
        while self.places.waiting.load(Ordering::SeqCst) == 0 {
            self.places.wanted.notified().await;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.places.count_down() {
            self.places.wanted.notify_one(); // When the others began to wait, no handshake may have had its time.
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;
    use crate::config::ServerConfig;

    /// Handshakes that their peers never continue. Each has a place or waits for one, ends when its place is wanted, and
    /// says when that was.
    async fn stuck(places: &Arc<Places>, count: usize) -> JoinSet<Instant> {
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let places = Arc::clone(places);
            tasks.spawn(async move {
                places.take().await.is_wanted().await;
                Instant::now()
            });
        }
        let begun = || HANDSHAKES - places.free.available_permits() + places.waiting.load(Ordering::SeqCst);
        while begun() < count {
            tokio::task::yield_now().await;
        }
        tasks
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_keep_their_places_while_nobody_waits() {
        let places = Arc::new(Places::new());
        let mut stuck = stuck(&places, HANDSHAKES).await;
        assert!(timeout(100 * OWN_TIME, stuck.join_next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_waits_has_the_place_of_one_that_had_its_time() {
        let (places, start) = (Arc::new(Places::new()), Instant::now());
        let mut stuck = stuck(&places, HANDSHAKES).await;
        let _first = places.take().await;
        assert_eq!(start.elapsed(), OWN_TIME);
        assert_eq!(stuck.join_next().await.unwrap().unwrap() - start, OWN_TIME);
        let _second = places.take().await;
        let _third = places.take().await;
        assert_eq!(start.elapsed(), OWN_TIME, "the others have had their time too");
        assert_eq!(std::iter::from_fn(|| stuck.try_join_next()).count(), 2, "no more end than are wanted");
    }

    /// As many as may connect, by default. None of those before the good one continues.
    #[tokio::test(start_paused = true)]
    async fn a_full_house_passes_in_time() {
        let ServerConfig { max_connections, handshake_timeout, .. } = ServerConfig::default();
        let places = Arc::new(Places::new());
        let mut stuck = stuck(&places, max_connections - 1).await;
        assert!(timeout(handshake_timeout, places.take()).await.is_ok());
        stuck.abort_all();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_waiting_wants_no_place() {
        let places = Arc::new(Places::new());
        let mut stuck = stuck(&places, HANDSHAKES).await;
        assert!(timeout(OWN_TIME / 2, places.take()).await.is_err());
        assert!(timeout(100 * OWN_TIME, stuck.join_next()).await.is_err());
    }
}
