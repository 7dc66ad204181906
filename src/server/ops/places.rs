//! The places of the operators' connections.
//!
//! When all are taken, one connection makes room for a new one:
//! - It has sent no request, or has not read its response within [`READ`]. One whose request is served keeps its place.
//! - Of those it is one of the peer that holds the most places, and the oldest of them. So a peer that opens many
//!   connections closes its own, and keeps the others out only by sending real requests.
//!
//! Peers with many addresses can still close each other's connections before they have sent a request.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Time in which a response is to be read, if the place is wanted.
const READ: Duration = Duration::from_secs(2);
/// How often a new connection looks for one that can make room.
const LOOK: Duration = Duration::from_millis(100);

/// The places. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
}

/// The connections, the oldest first.
#[derive(Default)]
struct Held {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    peer: IpAddr,
    stage: Stage,
    /// Tells it to make room.
    wanted: CancellationToken,
}

/// How far a connection is.
enum Stage {
    /// It has sent no request yet.
    Silent,
    /// Its request is served.
    Served,
    /// Its response is ready since then.
    Responded(Instant),
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
        Self { free: Arc::new(Semaphore::new(places)), held: Arc::default() }
    }

    /// A place for a new connection of `peer`. It waits until another connection has ended or made room.
    pub async fn take(&self, peer: IpAddr) -> Place {
        let permit = loop {
            if self.free.available_permits() == 0 {
                self.held().make_room(Instant::now());
            }
            if let Ok(permit) = timeout(LOOK, Arc::clone(&self.free).acquire_owned()).await {
                break permit.expect("it is never closed");
            }
        };
        let (places, wanted) = (self.clone(), CancellationToken::new());
        let connection = Connection { peer: peer.to_canonical(), stage: Stage::Silent, wanted: wanted.clone() };
        let mut held = self.held();
        held.next += 1;
        let number = held.next;
        held.connections.insert(number, connection);
        drop(held);
        Place { number, wanted, places, _permit: permit }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Tells a connection to make room, unless one is about to.
    fn make_room(&self, now: Instant) {
        let connections = || self.connections.iter();
        if connections().any(|(_, connection)| connection.wanted.is_cancelled()) {
            return;
        }
        let mut places = HashMap::<_, usize>::new();
        connections().for_each(|(_, connection)| *places.entry(connection.peer).or_default() += 1);
        let can = connections().filter(|(_, connection)| connection.can_make_room(now));
        if let Some((_, connection)) = can.max_by_key(|(number, of)| (places[&of.peer], Reverse(**number))) {
            connection.wanted.cancel();
        }
    }
}

impl Connection {
    fn can_make_room(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Silent => true,
            Stage::Served => false,
            Stage::Responded(since) => now.duration_since(since) >= READ,
        }
    }
}

impl Place {
    /// Completes when another connection needs the place.
    pub async fn is_wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// The connection has a request: it keeps its place.
    pub fn serves(&self) {
        self.is(Stage::Served);
    }

    /// The response is ready: the connection keeps its place for as long as a peer needs to read it.
    pub fn responds(&self) {
        self.is(Stage::Responded(Instant::now()));
    }

    fn is(&self, stage: Stage) {
        if let Some(connection) = self.places.held().connections.get_mut(&self.number) {
            connection.stage = stage;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::FutureExt;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const FLOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

    fn is_wanted(place: &Place) -> bool {
        place.is_wanted().now_or_never().is_some()
    }

    async fn hold<const N: usize>(places: &Places, peers: [IpAddr; N]) -> Vec<Place> {
        let mut held = Vec::new();
        for peer in peers {
            held.push(places.take(peer).await);
        }
        held
    }

    #[tokio::test]
    async fn the_oldest_that_is_silent_makes_room() {
        let places = Places::new(3);
        let mut held = hold(&places, [PEER; 3]).await;
        held[0].serves();
        let mut take = std::pin::pin!(places.take(PEER));
        assert!(take.as_mut().now_or_never().is_none(), "the second has not gone yet");
        assert!(!is_wanted(&held[0]) && is_wanted(&held[1]) && !is_wanted(&held[2]));
        drop(held.remove(1));
        assert!(take.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_flood_closes_its_own_connections() {
        let places = Places::new(4);
        let mut held = hold(&places, [PEER, FLOOD, FLOOD, FLOOD]).await;
        for _ in 0..10 {
            let mut take = std::pin::pin!(places.take(FLOOD));
            assert!(take.as_mut().now_or_never().is_none());
            assert!(!is_wanted(&held[0]) && is_wanted(&held[1]) && !is_wanted(&held[2]));
            drop(held.remove(1));
            held.push(take.await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_not_read_makes_room_after_a_while() {
        let places = Places::new(2);
        let held = hold(&places, [PEER; 2]).await;
        held.iter().for_each(Place::serves);
        let mut take = std::pin::pin!(places.take(PEER));
        assert!(timeout(10 * READ, take.as_mut()).await.is_err() && !held.iter().any(is_wanted), "both are served");
        held[1].responds();
        assert!(timeout(READ / 2, take.as_mut()).await.is_err() && !is_wanted(&held[1]));
        assert!(timeout(READ, take.as_mut()).await.is_err() && !is_wanted(&held[0]) && is_wanted(&held[1]));
        drop(held);
        let taken = take.await;
        assert!(!is_wanted(&taken));
    }

    #[tokio::test]
    async fn one_that_has_gone_is_not_asked_for_its_place() {
        let places = Places::new(2);
        drop(places.take(PEER).await);
        let held = hold(&places, [PEER; 2]).await;
        assert!(places.take(PEER).now_or_never().is_none());
        assert!(is_wanted(&held[0]) && !is_wanted(&held[1]));
    }
}
