//! How much one client may ask for, so that it leaves room for others.
//!
//! - Calls: so many begin in a second. A further one is refused, and told when to come again.
//! - Writes: so many are in flight.
//! - Imports: so many bytes in a second. Nothing is refused: the server reads no faster, and HTTP/2 holds the sender
//!   back. A refusal would only make the sender begin again.
//!
//! [`crate::feed`] counts the streams of a client itself. A client that asks for nothing takes no memory here.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};

use crate::config::QuotaConfig;
use crate::model::Client;
use crate::refusal::Refusal;

/// When to come again with a write that was one too many: about the time of a few commits.
const WRITE_RETRY: Duration = Duration::from_millis(50);
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
#[derive(Debug)]
struct Rate {
    limiter: RateLimiter<Client, HashMapStateStore<Client>, MonotonicClock, NoOpMiddleware<Instant>>,
    burst: NonZeroU32,
    /// How many clients there must be for the next look at whom to forget.
    forget_at: Mutex<usize>,
}

impl Quotas {
    /// Quotas of these sizes.
    #[must_use]
    pub fn new(config: &QuotaConfig) -> Arc<Self> {
        let QuotaConfig { max_call_rate_per_client, max_writes_per_client, max_import_rate_per_client } = *config;
        Arc::new(Self {
            calls: NonZeroU32::new(max_call_rate_per_client).map(Rate::new),
            imports: NonZeroU32::new(max_import_rate_per_client).map(Rate::new),
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
        calls.take(client, NonZeroU32::MIN).map_err(Refusal::client_rate_limited)
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
            return Err(Refusal::too_many_writes(self.most_writes, WRITE_RETRY));
        }
        *in_flight += 1;
        drop(writes);
        Ok(Some(WritePlace { quotas: Arc::clone(self), client: client.clone() }))
    }

    /// Takes this many bytes of what a client may import now, if there are as many.
    #[must_use]
    pub fn may_import(&self, client: &Client, bytes: usize) -> bool {
        let Some(imports) = &self.imports else { return true };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        NonZeroU32::new(bytes).is_none_or(|bytes| bytes <= imports.burst && imports.take(client, bytes).is_ok())
    }

    /// Waits until a client may import this many bytes more: at most as long as they take at its rate.
    pub async fn import(&self, client: &Client, bytes: usize) {
        let Some(imports) = &self.imports else { return };
        let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
        while let Some(part) = NonZeroU32::new(left.min(imports.burst.get())) {
            match imports.take(client, part) {
                Ok(()) => left -= part.get(),
                Err(wait) => tokio::time::sleep(wait).await,
            }
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
    fn new(per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(per_second);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        Self { limiter, burst: per_second, forget_at: Mutex::new(REMEMBERED) }
    }

    /// Takes units, at most as many as a burst.
    ///
    /// # Errors
    /// How long to wait, if there are not enough.
    fn take(&self, client: &Client, units: NonZeroU32) -> Result<(), Duration> {
        self.forget();
        let wait = |refused: NotUntil<Instant>| refused.wait_time_from(MonotonicClock.now());
        match self.limiter.check_key_n(client, units) {
            Ok(taken) => taken.map_err(wait),
            Err(_) => Ok(()), // More than a burst: no caller asks for that.
        }
    }

    /// Forgets clients that may have a whole burst again: they are as if they had never called.
    fn forget(&self) {
        let mut forget_at = self.forget_at.lock().unwrap_or_else(PoisonError::into_inner);
        if self.limiter.len() >= *forget_at {
            self.limiter.retain_recent();
            *forget_at = (2 * self.limiter.len()).max(REMEMBERED);
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

    #[test]
    fn clients_that_have_a_whole_burst_again_are_forgotten() {
        let rate = Rate::new(NonZeroU32::new(1_000_000_000).unwrap()); // A call is forgotten after a nanosecond.
        for client in 0..100 * REMEMBERED {
            rate.take(&caller(&client.to_string()), NonZeroU32::MIN).unwrap();
            assert!(rate.limiter.len() <= REMEMBERED + 1);
        }
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
