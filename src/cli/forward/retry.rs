//! Attempts until one succeeds, or until the policy gives up.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// When to try again, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// The back-off after the first failure. It doubles with each failure in a row.
    pub min: Duration,
    /// The longest back-off.
    pub max: Duration,
    /// The number of attempts after which a delivery is given up. None: never.
    pub attempts: Option<u32>,
}

/// Why an attempt failed, without anything that the receiver sent except its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// What the receiver asked for.
    pub retry_after: Option<Duration>,
    /// Whether the receiver has too much to do, so that what it asked for is for every delivery.
    pub is_overload: bool,
    /// Whether the receiver wants no more deliveries at all.
    pub is_final: bool,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// It was given up, for this reason.
    Skipped(String),
    /// The receiver wants no more deliveries.
    Gone,
    /// The forwarder ends: it was not delivered, or at least not confirmed.
    Abandoned,
}

/// When a lane may try again.
#[derive(Debug, Clone)]
pub struct NotBefore {
    lane: Instant,
    /// A receiver with too much to do moves this one.
    all: Arc<Mutex<Instant>>,
}

impl NotBefore {
    pub fn now() -> Self {
        Self { lane: Instant::now(), all: Arc::new(Mutex::new(Instant::now())) }
    }

    fn get(&self) -> Instant {
        self.lane.max(*self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits, also for what another lane is told meanwhile.
    async fn wait(&self) {
        while self.get() > Instant::now() {
            sleep_until(self.get()).await;
        }
    }

    /// Sets the wait of the lane to what the receiver asked for or to the back-off, whichever is longer.
    fn set(&mut self, failure: &Failure, back_off: Duration) {
        let asked = failure.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        self.lane = Instant::now() + asked.max(back_off);
        if failure.is_overload {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            *all = (*all).max(Instant::now() + asked);
        }
    }
}

impl Policy {
    /// Waits between full jitter: a random part of the back-off, so that many senders do not try again together.
    pub fn back_off(&self, failures: u32) -> Duration {
        self.longest(failures).mul_f64(rand::random_range(0.0..=1.0))
    }

    fn longest(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.min.saturating_mul(doubled).min(self.max)
    }

    /// Attempts in turn. No attempt starts before `not_before`, which failures move, nor after `ending` is cancelled. An attempt that has started is waited for.
    pub async fn run<F: Future<Output = Result<(), Failure>>>(
        &self,
        not_before: &mut NotBefore,
        ending: &CancellationToken,
        mut attempt: impl FnMut(u32) -> F,
    ) -> Outcome {
        for number in 1.. {
            tokio::select! {
                biased;
                () = ending.cancelled() => return Outcome::Abandoned,
                () = not_before.wait() => {}
            }
            let Err(failure) = attempt(number).await else { return Outcome::Delivered };
            if failure.is_final {
                return Outcome::Gone;
            }
            if self.attempts.is_some_and(|most| number >= most) {
                not_before.set(&failure, Duration::ZERO); // The next event waits too.
                return Outcome::Skipped(format!("{} after {number} attempts", failure.reason));
            }
            not_before.set(&failure, self.back_off(number));
        }
        unreachable!("the numbers do not end before the attempts do")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const POLICY: Policy = Policy { min: Duration::from_secs(1), max: Duration::from_secs(300), attempts: None };

    fn failure(retry_after: Option<u64>) -> Failure {
        let retry_after = retry_after.map(Duration::from_secs);
        Failure { reason: "HTTP 503".into(), retry_after, is_overload: true, is_final: false }
    }

    /// Runs until the attempts succeed, and returns the waits between them, in seconds.
    async fn waits(policy: Policy, failures: &[Failure]) -> (Outcome, Vec<f64>, Duration) {
        let (mut not_before, times) = (NotBefore::now(), RefCell::new(Vec::new()));
        let outcome = policy
            .run(&mut not_before, &CancellationToken::new(), async |number| {
                times.borrow_mut().push(Instant::now());
                failures.get(number as usize - 1).map_or(Ok(()), |failure| Err(failure.clone()))
            })
            .await;
        let waits = times.borrow().windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        (outcome, waits, not_before.get().saturating_duration_since(Instant::now()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_back_off_doubles_up_to_its_maximum_and_is_jittered() {
        let failures = vec![failure(None); 40];
        let (mut longest, mut shortest) = ([0.0_f64; 40], [f64::MAX; 40]);
        for _ in 0..100 {
            let (outcome, waits, _) = waits(POLICY, &failures).await;
            assert_eq!((outcome, waits.len()), (Outcome::Delivered, 40));
            for (at, wait) in waits.into_iter().enumerate() {
                (longest[at], shortest[at]) = (longest[at].max(wait), shortest[at].min(wait));
            }
        }
        for (at, most) in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0].into_iter().enumerate() {
            assert!(longest[at] <= most + 0.01 && longest[at] > most * 0.8, "{at}: {}", longest[at]);
            assert!(shortest[at] < most * 0.2 + 0.01, "{at}: {}", shortest[at]);
        }
        assert!(longest[39] <= 300.01 && longest[39] > 240.0);
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_honoured_up_to_an_hour() {
        let (_, waits, _) = waits(POLICY, &[failure(Some(60)), failure(Some(1_000_000)), failure(Some(0))]).await;
        assert!((60.0..60.1).contains(&waits[0]) && (3_600.0..3_600.1).contains(&waits[1]), "{waits:?}");
        assert!(waits[2] <= 4.01, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_is_given_up_after_the_last_attempt_and_the_next_one_waits() {
        let policy = Policy { attempts: Some(3), ..POLICY };
        let (outcome, waits, rest) = waits(policy, &vec![failure(Some(30)); 5]).await;
        assert_eq!((outcome, waits.len()), (Outcome::Skipped("HTTP 503 after 3 attempts".into()), 2));
        assert!(rest > Duration::from_secs(29), "{rest:?}");
    }

    /// An overload is the receiver's, so other lanes wait too, even one that waits already. Another failure is the
    /// event's own.
    #[tokio::test(start_paused = true)]
    async fn retry_after_of_an_overload_holds_every_lane() {
        for (is_overload, waits) in [(true, 60), (false, 1)] {
            let (mut one, ending) = (NotBefore::now(), CancellationToken::new());
            let mut other = one.clone();
            let started = Instant::now();
            other.lane = started + Duration::from_secs(1);
            let failure = Failure { is_overload, ..failure(Some(60)) };
            let skip = Policy { attempts: Some(1), ..POLICY };
            let overloaded = skip.run(&mut one, &ending, |_| std::future::ready(Err(failure.clone())));
            let delivered = async {
                POLICY.run(&mut other, &ending, |_| std::future::ready(Ok(()))).await;
                started.elapsed()
            };
            assert_eq!(tokio::join!(delivered, overloaded).0.as_secs(), waits, "{is_overload}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_once_when_the_receiver_is_gone_or_the_forwarder_ends() {
        let gone = Failure { is_final: true, ..failure(None) };
        assert_eq!(waits(POLICY, &[failure(None), gone]).await.0, Outcome::Gone);

        let (ending, mut not_before, mut attempts) = (CancellationToken::new(), NotBefore::now(), 0);
        let started = Instant::now();
        let outcome = POLICY.run(&mut not_before, &ending, |_| {
            attempts += 1;
            ending.cancel();
            std::future::ready(Err(failure(Some(60))))
        });
        assert_eq!(outcome.await, Outcome::Abandoned);
        assert_eq!((attempts, started.elapsed()), (1, Duration::ZERO));
    }
}
