//! The sides of a comparison, which take turns.

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;

use crate::child::Child;
use crate::client::{Outcome, Work, callers, closed_loop, connect};
use crate::figures::{count, float, median, micros_of, quantile};
use crate::fixture::Fixture;
use crate::plan::Plan;

/// How long a side runs to fill the caches, for each million profiles. This is enough to touch nearly every page, one
/// profile at a time.
const WARM_UP_PER_MILLION: Duration = Duration::from_secs(15);

/// What the clients of a side do.
#[tonic::async_trait]
pub trait Calls: Send + Sync {
    /// Calls for `duration`. The same seed makes the same requests.
    async fn run(&self, duration: Duration, seed: u64) -> anyhow::Result<Outcome>;
}

/// Clients that call over gRPC.
pub struct GrpcCalls<W> {
    channels: Vec<Channel>,
    clients: usize,
    work: Arc<W>,
}

impl<W: Work> GrpcCalls<W> {
    pub async fn connect(server: &Child, connections: usize, clients: usize, work: W) -> anyhow::Result<Self> {
        Ok(Self { channels: connect(server.addr, connections).await?, clients, work: Arc::new(work) })
    }
}

#[tonic::async_trait]
impl<W: Work> Calls for GrpcCalls<W> {
    async fn run(&self, duration: Duration, seed: u64) -> anyhow::Result<Outcome> {
        closed_loop(callers(&self.channels, self.clients, &self.work), duration, seed).await
    }
}

/// A server, its clients, and the results of each round.
pub struct Side<'a> {
    name: String,
    server: &'a Child,
    calls: Box<dyn Calls + 'a>,
    /// Profiles per call.
    batch: u32,
    rounds: Vec<Round>,
}

struct Round {
    outcome: Outcome,
    /// CPU time of the server per profile, in microseconds. Unlike the rate, it does not depend on the client or on
    /// other programs.
    processor: f64,
}

impl<'a> Side<'a> {
    /// A side whose calls ask for one profile each.
    pub fn new(name: impl Into<String>, server: &'a Child, calls: impl Calls + 'a) -> Self {
        Self::of_batches(1, name, server, calls)
    }

    /// A side whose calls ask for `batch` profiles each.
    pub fn of_batches(batch: u32, name: impl Into<String>, server: &'a Child, calls: impl Calls + 'a) -> Self {
        Self { name: name.into(), server, calls: Box::new(calls), batch, rounds: Vec::new() }
    }

    async fn turn(&mut self, duration: Duration, seed: u64) -> anyhow::Result<()> {
        let before = self.server.processor_time()?;
        let outcome = self.calls.run(duration, seed).await?;
        let processor = micros_of(self.server.processor_time()?.saturating_sub(before));
        let processor = processor / (float(outcome.calls) * f64::from(self.batch));
        self.rounds.push(Round { outcome, processor });
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Profiles per second in each round.
    fn rates(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| round.outcome.per_second() * f64::from(self.batch))
    }

    /// The median of profiles per second.
    pub fn rate(&self) -> f64 {
        median(self.rates())
    }

    /// Profiles per second relative to the other side: the median of the ratios of the rounds.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        median(self.rates().zip(other.rates()).map(|(ours, theirs)| ours / theirs))
    }

    /// A row of a table: name, rate, ratio, p50, p99 and CPU time of the server.
    pub fn row(&self, ratio: String) -> Vec<String> {
        let latencies = || self.rounds.iter().map(|round| &round.outcome.latency);
        vec![
            self.name.clone(),
            count(self.rate()),
            ratio,
            quantile(latencies(), 0.5),
            quantile(latencies(), 0.99),
            format!("{:.1} µs", median(self.rounds.iter().map(|round| round.processor))),
        ]
    }
}

/// How long each side runs before the measurement starts.
pub fn warm_up(fixture: &Fixture) -> Duration {
    WARM_UP_PER_MILLION.mul_f64(float(fixture.profiles) / 1e6)
}

/// Fills the caches, then gives each side one turn in every round. Every side goes first equally often.
pub async fn take_turns(sides: &mut [Side<'_>], warm_up: Duration, plan: Plan) -> anyhow::Result<()> {
    for side in &mut *sides {
        side.turn(warm_up, 0).await?;
        side.rounds.clear();
    }
    for round in 1..=plan.rounds {
        for turn in 0..sides.len() {
            let next = (usize::try_from(round)? + turn) % sides.len();
            sides[next].turn(plan.duration, round.into()).await?;
        }
    }
    Ok(())
}
