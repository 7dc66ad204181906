//! The places of the operators' connections.
//!
//! When all are taken, the oldest connection without a request makes room for a new one. One with a request keeps its
//! place until its response is sent. So peers that say nothing, however many there are, keep no operator waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// The places. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    silent: Arc<Mutex<Silent>>,
}

/// The connections without a request, the oldest first. Each is told by its token to make room.
#[derive(Default)]
struct Silent {
    next: u64,
    connections: BTreeMap<u64, CancellationToken>,
}

/// The place of one connection.
pub(super) struct Place {
    number: u64,
    wanted: CancellationToken,
    places: Places,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub fn new(places: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(places)), silent: Arc::default() }
    }

    /// A place for a new connection. It waits only while all others have requests, or until one has made room.
    pub async fn take(&self) -> Place {
        if self.free.available_permits() == 0 {
            self.make_room();
        }
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("it is never closed");
        let (places, wanted) = (self.clone(), CancellationToken::new());
        let mut silent = self.silent();
        silent.next += 1;
        let number = silent.next;
        silent.connections.insert(number, wanted.clone());
        drop(silent);
        Place { number, wanted, places, _permit: permit }
    }

    fn make_room(&self) {
        if let Some((_, oldest)) = self.silent().connections.pop_first() {
            oldest.cancel();
        }
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Completes when another connection needs the place.
    pub async fn is_wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// The connection has a request: it keeps its place.
    pub fn keep(&self) {
        self.places.silent().connections.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.keep(); // It cannot make room any more.
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_wanted(place: &Place) -> bool {
        place.is_wanted().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_oldest_that_is_silent_makes_room() {
        let places = Places::new(3);
        let (first, second, third) = (places.take().await, places.take().await, places.take().await);
        first.keep();
        let mut take = std::pin::pin!(places.take());
        assert!(take.as_mut().now_or_never().is_none(), "the second has not gone yet");
        assert!(!is_wanted(&first) && is_wanted(&second) && !is_wanted(&third));
        drop(second);
        assert!(take.now_or_never().is_some());
    }

    #[tokio::test]
    async fn none_with_a_request_makes_room() {
        let places = Places::new(2);
        let held = [places.take().await, places.take().await];
        held.iter().for_each(Place::keep);
        let mut take = std::pin::pin!(places.take());
        assert!(take.as_mut().now_or_never().is_none() && !held.iter().any(is_wanted));
        drop(held);
        let taken = take.await;
        assert!(!is_wanted(&taken));
    }

    #[tokio::test]
    async fn one_that_has_gone_is_not_asked_for_its_place() {
        let places = Places::new(2);
        drop(places.take().await);
        let held = [places.take().await, places.take().await];
        assert!(places.take().now_or_never().is_none());
        assert!(is_wanted(&held[0]) && !is_wanted(&held[1]));
    }
}
