//! The open connections. A new one is served even when there are as many as there may be: the one that has been without
//! a call for longest makes room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::budget::Account;
use super::connection::{Connection, Shared};
use super::descriptors;
use crate::telemetry::metrics::{self, Closed, Metrics, RefusedConnection};

/// Connections beyond the limit, if every connection has a call in flight. Their health checks are served; their other
/// calls are refused with the reason.
const EXTRA: usize = 16;
/// How long a new connection has for its first call before another may take its room. Otherwise a burst of connections
/// would close those that came just before it.
const GRACE: Duration = Duration::from_millis(50);
/// While fewer connections are without a call, none has that time: to wait for each would slow the listener.
const GRACED: usize = 16;
/// How long a connection may hold bytes without progress while others wait for memory.
const STILL: Duration = Duration::from_secs(1);
/// The least that a connection holds to be worth closing: more than a small response. On a machine that stands still for
/// a moment, every connection does.
const WORTH: usize = 4 << 10;
/// How often, at most, connections are searched for one that holds much memory.
const SEARCH_INTERVAL: Duration = Duration::from_millis(50);

/// The open connections and what they share.
#[derive(Debug)]
pub(super) struct Connections {
    shared: Shared,
    most: usize,
    metrics: metrics::Connections,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    by_number: HashMap<u64, Arc<Connection>>,
    next: u64,
    last_search: Instant,
}

/// An open connection. It is counted until this is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection {
    pub connection: Arc<Connection>,
    connections: Arc<Connections>,
    number: u64,
    pub counted: metrics::OpenConnection,
}

impl Connections {
    /// No connections yet. There may be `most`, or as many as there are file descriptors for.
    pub fn new(most: usize, shared: Shared, metrics: &Metrics) -> Arc<Self> {
        let open = Open { by_number: HashMap::new(), next: 0, last_search: Instant::now() };
        let (most, metrics) = (descriptors::connections(most), metrics.connections.clone());
        Arc::new(Self { shared, most, metrics, open: Mutex::new(open) })
    }

    /// How many there may be.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Waits while the connection that would make room is too new for that. The wait is at most [`GRACE`].
    pub(super) async fn wait_for_room(&self) {
        let end = Instant::now() + GRACE;
        loop {
            let due = self.open().room_at(self.most); // The lock ends here.
            match due.map(|due| due.min(end)) {
                Some(due) if due > Instant::now() => sleep_until(due).await,
                _ => return,
            }
        }
    }

    /// Admits a new connection. `None` if there is no room, not even beyond the limit.
    pub(super) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<OpenConnection> {
        let mut open = self.open();
        let is_extra = open.by_number.len() >= self.most && !open.make_room(self.most);
        if open.by_number.len() >= self.most + EXTRA && !open.cut_longest_idle(Connection::is_extra) {
            self.metrics.refused.count(RefusedConnection::TooMany);
            return None;
        }
        let connection = Connection::new(peer, &self.shared, is_extra);
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, Arc::clone(&connection));
        let counted = self.metrics.open();
        Some(OpenConnection { connection, connections: Arc::clone(self), number, counted })
    }

    /// Whether a connection may make any call. One that was beyond the limit may, once there is room.
    pub fn serves(&self, connection: &Connection) -> bool {
        if connection.is_extra() && self.open().make_room(self.most) {
            connection.promote();
        }
        !connection.is_extra()
    }

    /// Closes the connection that holds the most of a budget and has made no progress for a while. Others wait for that
    /// memory.
    pub fn reclaim(&self, account: impl Fn(&Connection) -> &Account) {
        let mut open = self.open();
        if open.last_search.elapsed() < SEARCH_INTERVAL {
            return;
        }
        open.last_search = Instant::now();
        let held = |connection: &Connection| account(connection).held();
        let is_still = |connection: &Connection| !connection.is_cut() && account(connection).still_for() >= STILL;
        let still = open.by_number.values().filter(|connection| held(connection) >= WORTH && is_still(connection));
        if let Some(largest) = still.max_by_key(|connection| held(connection)) {
            tracing::info!(bytes = held(largest), "closed a connection that kept memory and made no progress");
            largest.cut(Closed::Reclaimed);
        }
    }

    /// Counts a connection that the system could not accept.
    pub(super) fn not_accepted(&self) {
        self.metrics.refused.count(RefusedConnection::AcceptFailed);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether one more connection that may make any call has room, now or once the one that has been without a call
    /// for longest is closed. Connections beyond the limit do not count.
    fn make_room(&self, most: usize) -> bool {
        self.has_room(most) || self.cut_longest_idle(is_regular)
    }

    fn has_room(&self, most: usize) -> bool {
        self.by_number.len() < most
            || self.by_number.values().filter(|connection| is_regular(connection)).count() < most
    }

    /// Closes the one of these connections that has been without a call for longest. Returns whether there is one.
    fn cut_longest_idle(&self, which: impl Fn(&Connection) -> bool) -> bool {
        self.longest_idle(which).inspect(|connection| connection.cut(Closed::MadeRoom)).is_some()
    }

    fn longest_idle(&self, which: impl Fn(&Connection) -> bool) -> Option<&Arc<Connection>> {
        self.idle(which).min_by_key(|connection| connection.last_use())
    }

    fn idle(&self, which: impl Fn(&Connection) -> bool) -> impl Iterator<Item = &Arc<Connection>> {
        let open = self.by_number.values();
        open.filter(move |connection| connection.is_idle() && !connection.is_cut() && which(connection))
    }

    /// When the connection that would make room for one more has had its time for a first call. `None` if there is room,
    /// if that connection has made a call, or if too few are without a call.
    fn room_at(&self, most: usize) -> Option<Instant> {
        if self.has_room(most) || self.idle(is_regular).take(GRACED).count() < GRACED {
            return None;
        }
        let longest = self.longest_idle(is_regular)?;
        (!longest.was_used()).then(|| longest.last_use() + GRACE)
    }
}

/// Whether it is one of those that may make any call, and is not being closed.
fn is_regular(connection: &Connection) -> bool {
    !connection.is_extra() && !connection.is_cut()
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.open().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tokio::time::advance;

    use super::*;
    use crate::server::connection::tests::shared;

    const SECOND: Duration = Duration::from_secs(1);
    const PEER: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

    /// Room for so many connections.
    fn connections(most: usize) -> Arc<Connections> {
        Connections::new(most, shared(), &Metrics::default())
    }

    fn admit(connections: &Arc<Connections>) -> OpenConnection {
        connections.admit(PEER.into()).expect("there is room")
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_is_without_a_call_for_longest_makes_room() {
        let connections = connections(3);
        let [first, second, busy] = [(); 3].map(|()| admit(&connections));
        let _call = busy.connection.begin_call(Version::HTTP_2);
        advance(SECOND).await;
        drop(first.connection.begin_call(Version::HTTP_2));
        let new = admit(&connections);
        let are_cut = || [&first, &second, &busy, &new].map(|open| open.connection.is_cut());
        assert_eq!(are_cut(), [false, true, false, false]);
        assert!(!new.connection.is_extra());
        advance(SECOND).await;
        drop(new.connection.begin_call(Version::HTTP_2));
        let newest = admit(&connections);
        assert_eq!(are_cut(), [true, true, false, false]);
        assert!(!newest.connection.is_extra());
    }

    async fn waited(connections: &Connections) -> Duration {
        let begun = Instant::now();
        connections.wait_for_room().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_time_for_a_call_before_it_makes_room() {
        let connections = connections(GRACED);
        let first = admit(&connections);
        let _others: Vec<_> = (2..GRACED).map(|_| admit(&connections)).collect();
        advance(GRACE / 2).await;
        assert_eq!(waited(&connections).await, Duration::ZERO, "there is room");
        let last = admit(&connections);
        assert_eq!(waited(&connections).await, GRACE / 2);
        assert_eq!(waited(&connections).await, Duration::ZERO, "the first has had its time");
        drop(last);
        let _last = admit(&connections);
        let _busy = first.connection.begin_call(Version::HTTP_2);
        assert_eq!(waited(&connections).await, Duration::ZERO, "few are without a call");
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_makes_room_has_had_its_time_although_another_made_its_call_meanwhile() {
        const MOMENT: Duration = Duration::from_millis(10);
        let connections = connections(GRACED);
        let first = admit(&connections);
        advance(MOMENT).await;
        let _others: Vec<_> = (1..GRACED).map(|_| admit(&connections)).collect();
        let call = async {
            tokio::time::sleep(MOMENT).await;
            drop(first.connection.begin_call(Version::HTTP_2));
        };
        assert_eq!(tokio::join!(waited(&connections), call).0, GRACE, "that of the others");
    }

    /// It takes a moment to close.
    #[tokio::test]
    async fn a_connection_that_is_being_closed_takes_no_room() {
        let connections = connections(2);
        let (idle, busy) = (admit(&connections), admit(&connections));
        let _call = busy.connection.begin_call(Version::HTTP_2);
        let new = admit(&connections);
        assert!(idle.connection.is_cut() && !new.connection.is_extra());
        drop(new);
        assert!(!admit(&connections).connection.is_extra());
    }

    #[tokio::test]
    async fn a_few_connections_beyond_the_limit_are_served_and_then_none() {
        let connections = connections(1);
        let busy = admit(&connections);
        let call = busy.connection.begin_call(Version::HTTP_2);
        let extra: Vec<_> = (0..EXTRA).map(|_| admit(&connections)).collect();
        let _calls: Vec<_> = extra.iter().map(|open| open.connection.begin_call(Version::HTTP_2)).collect();
        assert!(extra.iter().all(|open| !connections.serves(&open.connection)));
        assert!(connections.admit(PEER.into()).is_none());
        drop(call);
        assert!(connections.serves(&extra[0].connection) && busy.connection.is_cut());
        assert!(!connections.serves(&extra[1].connection), "there was room for one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_keeps_the_most_memory_is_closed_once_it_stands_still() {
        let connections = connections(9);
        let [tiny, small, large, moving] = [(); 4].map(|()| admit(&connections));
        let are_cut = || [&tiny, &small, &large, &moving].map(|open| open.connection.is_cut());
        let reclaim = || connections.reclaim(|connection| &connection.sending);
        let _tiny = tiny.connection.sending.take(WORTH - 1);
        let _small = small.connection.sending.take(WORTH);
        let _large = large.connection.sending.take(2 * WORTH);
        let mut moves = moving.connection.sending.take(10 * WORTH);
        let mut pass = async |time| {
            advance(time).await;
            drop(std::mem::replace(&mut moves, moving.connection.sending.take(10 * WORTH)));
            connections.open().by_number.values().for_each(|connection| connection.sending.look());
            reclaim();
        };
        pass(SEARCH_INTERVAL).await;
        pass(Duration::from_millis(950)).await;
        assert_eq!(are_cut(), [false; 4]);
        pass(SEARCH_INTERVAL).await;
        assert_eq!(are_cut(), [false, false, true, false]);
        reclaim();
        assert_eq!(are_cut(), [false, false, true, false], "it was searched a moment ago");
        pass(SEARCH_INTERVAL).await;
        assert_eq!(are_cut(), [false, true, true, false]);
        pass(SEARCH_INTERVAL).await;
        assert_eq!(are_cut(), [false, true, true, false]);
    }
}
