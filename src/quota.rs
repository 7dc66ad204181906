//! How much one client may ask for, so that it leaves room for others.
//!
//! - Calls: so many begin in a second. A further one is refused, and told when to come again. What is large counts as
//!   several: one more for each 16 KiB of its request and its response.
//! - Writes: so many are in flight. One that its client has given up is, until the store has done it.
//! - Imports: so many bytes in a second. Nothing is refused: the server reads no faster, and HTTP/2 holds the sender
//!   back. A refusal would only make the sender begin again.
//!
//! [`crate::feed`] counts the streams of a client itself. A client that asks for nothing takes no memory here.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::QuotaConfig;
use crate::model::Client;
use crate::refusal::Refusal;

/// Bytes of a request or a response that count as one more call.
const CALL_BYTES: usize = 16 << 10;
/// The time in which a rate gives a whole burst.
const BURST: Duration = Duration::from_secs(1);
/// The time in which a client has paid all that it may owe in calls. Several callers may share a name or an address: what
/// one of them lists must not keep the others out for long.
const MOST_OWED: Duration = Duration::from_secs(10);
/// More than any import can owe: records and running imports are both bounded.
const UNBOUNDED: Duration = Duration::from_secs(24 * 60 * 60);
/// The clients that a rate remembers before it first forgets those that it has nothing to say of.
const REMEMBERED: usize = 1_024;

/// What clients may ask for, and what they have in flight.
#[derive(Debug)]
pub struct Quotas {
    calls: Option<Rate>,
    imports: Option<Rate>,
    most_writes: usize,
    /// One without writes has no entry.
    writes: Mutex<HashMap<Client, usize>>,
}

/// A write in flight. It ends when this is dropped.
#[derive(Debug)]
pub struct WritePlace {
    quotas: Arc<Quotas>,
    client: Client,
}

/// So many units in a second, which is also the size of a burst.
///
/// A client can owe units, because what a call costs is known only when it has been served. That is why this is not one
/// of the limiters of `governor`.
#[derive(Debug)]
struct Rate {
    per_second: NonZeroU32,
    /// What it lets a client owe at most, as the time in which it is paid.
    most_owed: Duration,
    clients: Mutex<Clients>,
}

#[derive(Debug)]
struct Clients {
    /// When each has a whole burst again. Without an entry, it has one.
    full_at: HashMap<Client, Instant>,
    /// How many there must be for the next look at whom to forget.
    forget_at: usize,
}

impl Quotas {
    /// Quotas of these sizes.
    #[must_use]
    pub fn new(config: &QuotaConfig) -> Arc<Self> {
        let QuotaConfig { max_call_rate_per_client, max_writes_per_client, max_import_rate_per_client } = *config;
        Arc::new(Self {
            calls: NonZeroU32::new(max_call_rate_per_client).map(|rate| Rate::new(rate, MOST_OWED)),
            imports: NonZeroU32::new(max_import_rate_per_client).map(|rate| Rate::new(rate, UNBOUNDED)),
            most_writes: max_writes_per_client,
            writes: Mutex::default(),
        })
    }

    /// Counts a call.
    ///
    /// # Errors
    /// The refusal of one too many.
    pub fn call(&self, client: &Client) -> Result<(), Refusal> {
        let Some(calls) = &self.calls else { return Ok(()) };
        calls.take(client, 1, Instant::now()).map_err(Refusal::client_rate_limited)
    }

    /// Counts a message of a call that has been admitted: as further calls, if it is large.
    pub fn message(&self, client: &Client, bytes: usize) {
        let more = bytes / CALL_BYTES;
        if let Some(calls) = self.calls.as_ref().filter(|_| more > 0) {
            calls.owe(client, more, Instant::now());
        }
    }

    /// Takes a place for a write. `None` if there is no limit.
    ///
    /// # Errors
    /// The refusal of one too many.
    pub fn write(self: &Arc<Self>, client: &Client) -> Result<Option<WritePlace>, Refusal> {
        if self.most_writes == 0 {
            return Ok(None);
        }
        let mut writes = self.writes();
        let in_flight = writes.entry(client.clone()).or_default();
        if *in_flight >= self.most_writes {
            return Err(Refusal::too_many_writes(self.most_writes));
        }
        *in_flight += 1;
        drop(writes);
        Ok(Some(WritePlace { quotas: Arc::clone(self), client: client.clone() }))
    }

    /// Takes this many bytes of what a client may import now, if there are as many.
    #[must_use]
    pub fn may_import(&self, client: &Client, bytes: usize) -> bool {
        self.imports.as_ref().is_none_or(|imports| imports.take(client, bytes, Instant::now()).is_ok())
    }

    /// Waits until a client may import this many bytes more: the wait covers these bytes, and what its other imports
    /// still owe.
    pub async fn import(&self, client: &Client, bytes: usize) {
        if let Some(imports) = &self.imports {
            let wait = imports.owe(client, bytes, Instant::now());
            tokio::time::sleep(wait).await;
        }
    }

    fn writes(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WritePlace {
    fn drop(&mut self) {
        let mut writes = self.quotas.writes();
        if let Some(in_flight) = writes.get_mut(&self.client) {
            *in_flight -= 1;
            if *in_flight == 0 {
                writes.remove(&self.client);
            }
        }
    }
}

impl Rate {
    fn new(per_second: NonZeroU32, most_owed: Duration) -> Self {
        let clients = Clients { full_at: HashMap::new(), forget_at: REMEMBERED };
        Self { per_second, most_owed, clients: Mutex::new(clients) }
    }

    /// Takes units, if the client has as many.
    ///
    /// # Errors
    /// How long to wait, if it has not.
    fn take(&self, client: &Client, units: usize, now: Instant) -> Result<(), Duration> {
        let mut clients = self.clients();
        let full_at = clients.full_at(client, now);
        let then = *full_at + self.time_of(units);
        let wait = then.saturating_duration_since(now + BURST);
        if !wait.is_zero() {
            return Err(wait);
        }
        *full_at = then;
        Ok(())
    }

    /// Takes units, also those that the client does not have yet. Returns how long it takes until it has them.
    fn owe(&self, client: &Client, units: usize, now: Instant) -> Duration {
        let mut clients = self.clients();
        let full_at = clients.full_at(client, now);
        *full_at = (*full_at + self.time_of(units)).min(now + BURST + self.most_owed);
        full_at.saturating_duration_since(now + BURST)
    }

    /// The time in which a client gets so many units.
    fn time_of(&self, units: usize) -> Duration {
        let nanos = units as u64 * 1_000_000_000 / u64::from(self.per_second.get());
        Duration::from_nanos(nanos)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    /// When a client has a whole burst again: now, if it has one.
    fn full_at(&mut self, client: &Client, now: Instant) -> &mut Instant {
        self.forget(now);
        let full_at = self.full_at.entry(client.clone()).or_insert(now);
        *full_at = now.max(*full_at);
        full_at
    }

    /// Forgets those that have a whole burst again, when there are many.
    fn forget(&mut self, now: Instant) {
        if self.full_at.len() >= self.forget_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.forget_at = (2 * self.full_at.len()).max(REMEMBERED);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::proto::v1::ErrorReason;

    fn quotas(change: impl FnOnce(&mut QuotaConfig)) -> Arc<Quotas> {
        let mut config = QuotaConfig::default();
        change(&mut config);
        Quotas::new(&config)
    }

    fn caller(name: &str) -> Client {
        Client::Caller(name.into())
    }

    #[test]
    fn without_quotas_nothing_is_refused_or_remembered() {
        let quotas = quotas(|_| ());
        for _ in 0..10_000 {
            quotas.call(&caller("a")).unwrap();
            assert!(quotas.write(&caller("a")).unwrap().is_none());
        }
        assert!(quotas.writes().is_empty());
    }

    #[test]
    fn a_client_has_a_burst_of_calls_and_leaves_those_of_others_alone() {
        let quotas = quotas(|config| config.max_call_rate_per_client = 3);
        for client in [caller("a"), caller("b"), Client::from(IpAddr::V4(Ipv4Addr::LOCALHOST))] {
            for _ in 0..3 {
                quotas.call(&client).unwrap();
            }
            let refusal = quotas.call(&client).unwrap_err();
            assert_eq!(refusal.reason, ErrorReason::RateLimited);
        }
    }

    #[test]
    fn a_client_has_so_many_writes_in_flight_and_no_more() {
        let quotas = quotas(|config| config.max_writes_per_client = 2);
        let first = quotas.write(&caller("a")).unwrap();
        let second = quotas.write(&caller("a")).unwrap();
        assert_eq!(quotas.write(&caller("a")).unwrap_err().reason, ErrorReason::RateLimited);
        let other = quotas.write(&caller("b")).unwrap();
        drop(first);
        let third = quotas.write(&caller("a")).unwrap();
        assert!(quotas.write(&caller("a")).is_err());
        drop((second, third, other));
        assert!(quotas.writes().is_empty(), "who writes nothing takes no memory");
    }

    fn rate(per_second: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_second).unwrap(), MOST_OWED)
    }

    #[test]
    fn a_client_gets_its_units_back_one_after_another() {
        let (rate, client, start) = (rate(3), caller("a"), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        (0..3).for_each(|_| rate.take(&client, 1, start).unwrap());
        let wait = rate.take(&client, 1, start).unwrap_err();
        assert_eq!(wait.as_millis(), 333);
        assert!(rate.take(&client, 1, after(333)).is_err() && rate.take(&client, 1, after(334)).is_ok());
        assert!(rate.take(&client, 1, after(334)).is_err(), "the wait was for one");
        assert!(rate.take(&client, 3, after(1_999)).is_ok(), "after a second without a call, there is a burst");
        assert!(rate.take(&client, 4, after(100_000)).is_err(), "there never is more than a burst");
    }

    #[test]
    fn a_client_pays_what_it_owes_before_it_gets_more() {
        let (rate, client, start) = (rate(10), caller("a"), Instant::now());
        assert_eq!(rate.owe(&client, 10, start), Duration::ZERO, "it has a burst");
        assert_eq!(rate.owe(&client, 20, start), Duration::from_secs(2));
        assert_eq!(rate.take(&client, 1, start), Err(Duration::from_millis(2_100)));
        assert!(rate.take(&client, 1, start + Duration::from_millis(2_099)).is_err());
        assert!(rate.take(&client, 1, start + Duration::from_millis(2_100)).is_ok());
        assert!(rate.take(&caller("b"), 10, start).is_ok());
        assert_eq!(rate.owe(&client, 1_000, start), MOST_OWED, "a debt is bounded, because others may share the name");
        assert_eq!(rate.take(&client, 1, start), Err(MOST_OWED + Duration::from_millis(100)));
    }

    #[test]
    fn a_large_message_counts_as_several_calls() {
        let quotas = quotas(|config| config.max_call_rate_per_client = 100);
        let left = |client: &Client| (0..1_000).take_while(|_| quotas.call(client).is_ok()).count();
        for (name, bytes, calls) in [("a", CALL_BYTES - 1, 0), ("b", CALL_BYTES, 1), ("c", 5 * CALL_BYTES - 1, 4)] {
            (0..10).for_each(|_| quotas.message(&caller(name), bytes));
            let left = left(&caller(name)); // A machine that stands still gives some back.
            assert!((100 - 10 * calls..110 - 10 * calls).contains(&left), "{bytes} {left}");
        }
    }

    #[test]
    fn clients_that_have_a_whole_burst_again_are_forgotten() {
        let (rate, start) = (rate(1_000), Instant::now());
        for nth in 0..100 * REMEMBERED {
            let now = start + Duration::from_millis(2 * nth as u64); // A call is forgotten after a millisecond.
            rate.take(&caller(&nth.to_string()), 1, now).unwrap();
            assert!(rate.clients().full_at.len() <= REMEMBERED + 1);
        }
    }

    #[test]
    fn clients_that_have_no_whole_burst_are_remembered() {
        let (rate, start) = (rate(1), Instant::now());
        (0..3 * REMEMBERED).for_each(|nth| rate.take(&caller(&nth.to_string()), 1, start).unwrap());
        assert!((0..3 * REMEMBERED).all(|nth| rate.take(&caller(&nth.to_string()), 1, start).is_err()));
    }

    #[tokio::test]
    async fn an_import_waits_for_as_long_as_its_bytes_take() {
        let quotas = quotas(|config| config.max_import_rate_per_client = 1_000);
        let start = Instant::now();
        quotas.import(&caller("a"), 1_000).await; // The burst.
        assert!(!quotas.may_import(&caller("a"), 100) && quotas.may_import(&caller("a"), 0));
        quotas.import(&caller("a"), 100).await;
        assert!(start.elapsed() >= Duration::from_millis(99), "{:?}", start.elapsed());
        assert!(!quotas.may_import(&caller("b"), 1_001) && quotas.may_import(&caller("b"), 1_000));
        let start = Instant::now();
        quotas.import(&caller("b"), 200).await;
        assert!(start.elapsed() >= Duration::from_millis(199), "{:?}", start.elapsed());
        let start = Instant::now();
        quotas.import(&caller("c"), 1_200).await; // More than a burst.
        assert!(start.elapsed() >= Duration::from_millis(199), "{:?}", start.elapsed());
    }
}
