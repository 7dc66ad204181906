//! Events to subscribers: how many per second, how soon, and what they cost the server, beside other logs.
//!
//! The delay of an event is measured in two ways, both with the clock of this program:
//! - from when its write was sent, until a subscriber has the event. This includes the commit and all waiting;
//! - from when the writer has its response, which is sent after the commit. An event that arrives before the response
//!   counts as 0.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::figures::{Latency, count, float, latency, median, micros_of, quantile};
use crate::fixture::{Fixture, SAMPLES};
use crate::log::cameo::Cameo;
use crate::log::{Last, Log, Reader, Spread, Start, Tally, Writer, now, others};
use crate::plan::Plan;
use crate::profiles::Dice;
use crate::report::Report;

/// A round of all logs takes half a minute.
const MAX_ROUNDS: u32 = 7;
const SUBSCRIBERS: [usize; 4] = [1, 100, 1_000, 10_000];
const MAX_PER_CONNECTION: usize = 1_000;
const CONNECTIONS: usize = 10;
/// The most deliveries per second, and the most writes per second, at the steady rate. Both are well below what the
/// servers can do, so that no queue is measured.
const STEADY_DELIVERIES: usize = 20_000;
const STEADY_WRITES: usize = 100;
/// Deliveries for each second of a turn at saturation, and the most events that they are made of.
const SATURATED_DELIVERIES: usize = 2_000_000;
const SATURATED_EVENTS: usize = 5_000;
/// Writers, each with one write in flight.
const WRITERS: usize = 64;
/// Deliveries of a turn whose times are kept, over all subscribers.
const SAMPLED: usize = 20_000;
/// How long to wait until the last subscriber has received the last event.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// So many per second, without waiting for the responses of earlier ones.
    Steady { per_second: usize, duration: Duration },
    /// So many, as fast as the server takes them.
    Saturated { events: usize },
}

impl Rate {
    pub fn steady(subscribers: usize, duration: Duration) -> Self {
        Self::Steady { per_second: STEADY_WRITES.min(STEADY_DELIVERIES / subscribers), duration }
    }

    fn saturated(subscribers: usize, duration: Duration) -> Self {
        let seconds = usize::try_from(duration.as_secs()).unwrap_or(usize::MAX);
        let events = seconds.saturating_mul(SATURATED_EVENTS.min(SATURATED_DELIVERIES / subscribers));
        Self::Saturated { events }
    }

    fn events(self) -> usize {
        match self {
            Self::Steady { per_second, duration } => {
                per_second * usize::try_from(duration.as_secs()).unwrap_or(usize::MAX)
            }
            Self::Saturated { events } => events,
        }
    }
}

/// The times of a write, in microseconds since 1970.
struct Written {
    sequence: u64,
    sent: i64,
    answered: i64,
}

/// A log with open subscribers and writers.
pub struct Crowd<'a> {
    log: &'a dyn Log,
    is_reference: bool,
    subscribers: usize,
    readers: Vec<Box<dyn Reader>>,
    writers: Vec<Box<dyn Writer>>,
    rounds: Vec<Round>,
}

pub struct Round {
    events: u64,
    deliveries: u64,
    /// The time until the last subscriber had received the last event.
    elapsed: Duration,
    /// CPU time of the server.
    processor: Duration,
    since_sent: Latency,
    since_answered: Latency,
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Cameo::start(fixture).await?;
    let (_, messages) = cameo.messages(usize::try_from(SAMPLES)?).await?;
    let mut logs: Vec<Box<dyn Log>> = vec![Box::new(cameo)];
    logs.extend(others(fixture, &messages).await?);
    let rounds = plan.rounds.min(MAX_ROUNDS);
    let (mut steady, mut saturated) = (Vec::new(), Vec::new());
    for subscribers in SUBSCRIBERS {
        eprintln!("{subscribers} subscribers");
        let mut crowds = Vec::new();
        for (nth, log) in logs.iter().enumerate() {
            crowds.push(Crowd::open(&**log, nth > 0, subscribers).await?);
        }
        take_turns(&mut crowds, Rate::steady(subscribers, plan.duration), rounds).await?;
        steady.extend(tell_delays(&crowds, report));
        take_turns(&mut crowds, Rate::saturated(subscribers, plan.duration), rounds).await?;
        saturated.extend(tell_deliveries(&crowds, report));
    }
    for log in logs {
        log.stop().await?;
    }
    report.table("Events at a steady rate", &DELAYS, &steady);
    report.table("Events as fast as the writers can", &DELIVERIES, &saturated);
    Ok(())
}

/// A log that cannot do it is left out, and said so. Cameo must do it.
async fn take_turns(crowds: &mut Vec<Crowd<'_>>, rate: Rate, rounds: u32) -> anyhow::Result<()> {
    for round in 0..=rounds {
        for mut crowd in std::mem::take(crowds) {
            if round <= 1 {
                crowd.rounds.clear(); // The first round filled the caches, or was of another rate.
            }
            match crowd.turn(rate).await {
                Ok(turn) => crowd.rounds.push(turn),
                Err(error) if crowd.is_reference => {
                    eprintln!("{crowd} failed: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            }
            crowds.push(crowd);
        }
    }
    Ok(())
}

impl<'a> Crowd<'a> {
    pub async fn open(log: &'a dyn Log, is_reference: bool, subscribers: usize) -> anyhow::Result<Self> {
        let connections = subscribers.div_ceil(MAX_PER_CONNECTION).max(CONNECTIONS.min(subscribers));
        let readers = log.readers(Start::Now, Spread { subscribers, connections }).await?;
        let writers = log.writers(WRITERS).await?;
        Ok(Self { log, is_reference, subscribers, readers, writers, rounds: Vec::new() })
    }

    /// Writes events, and waits until every subscriber has all of them.
    pub async fn turn(&mut self, rate: Rate) -> anyhow::Result<Round> {
        let last = Last::unknown();
        let every = (rate.events() * self.subscribers).div_ceil(SAMPLED) as u64;
        let mut running = JoinSet::new();
        for reader in self.readers.drain(..) {
            running.spawn(receive(reader, last.clone(), Tally::sampling(every)));
        }
        let (start, processor) = (Instant::now(), self.log.server().processor_time()?);
        let dice = &mut Dice::new(now().cast_unsigned());
        let mut written = vec![write(&mut *self.writers[0], dice).await?];
        let before = written[0].sequence - 1;
        match rate {
            Rate::Steady { per_second, duration } => {
                self.write_steadily(per_second, duration, dice, &mut written).await?;
            }
            Rate::Saturated { events } => self.write_saturating(events, dice, &mut written).await?,
        }
        // A subscriber that has the event of the following write is done.
        last.set(before + written.len() as u64 + 1);
        written.push(write(&mut *self.writers[0], dice).await?);
        let received = timeout(DELIVERY_TIMEOUT, running.join_all()).await.context("subscribers are too far behind")?;
        let elapsed = start.elapsed();
        let processor = self.log.server().processor_time()?.saturating_sub(processor);
        let received: Vec<_> = received.into_iter().collect::<anyhow::Result<_>>()?;
        let (readers, tallies): (_, Vec<_>) = received.into_iter().unzip();
        self.readers = readers;
        let events = written.len() as u64;
        let deliveries = tallies.iter().map(|tally| tally.events).sum();
        ensure!(deliveries == events * self.subscribers as u64, "every subscriber received every event");
        let (since_sent, since_answered) = delays(&tallies, &written)?;
        Ok(Round { events, deliveries, elapsed, processor, since_sent, since_answered })
    }

    async fn write_steadily(
        &mut self,
        per_second: usize,
        duration: Duration,
        dice: &mut Dice,
        written: &mut Vec<Written>,
    ) -> anyhow::Result<()> {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(per_second)?);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let end = Instant::now() + duration;
        let mut writes = JoinSet::new();
        while Instant::now() < end {
            ticks.tick().await;
            let mut writer = match self.writers.pop() {
                Some(idle) => idle,
                None => self.join(&mut writes, written).await?.context("a write in flight")?,
            };
            let mut dice = Dice::new(dice.roll());
            writes.spawn(async move { Ok((write(&mut *writer, &mut dice).await?, writer)) });
        }
        while let Some(writer) = self.join(&mut writes, written).await? {
            self.writers.push(writer);
        }
        Ok(())
    }

    /// Waits for a write, and returns its writer.
    async fn join(
        &self,
        writes: &mut JoinSet<anyhow::Result<(Written, Box<dyn Writer>)>>,
        written: &mut Vec<Written>,
    ) -> anyhow::Result<Option<Box<dyn Writer>>> {
        let Some(done) = writes.join_next().await else { return Ok(None) };
        let (done, writer) = done??;
        written.push(done);
        Ok(Some(writer))
    }

    async fn write_saturating(
        &mut self,
        events: usize,
        dice: &mut Dice,
        written: &mut Vec<Written>,
    ) -> anyhow::Result<()> {
        let begun = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for mut writer in self.writers.drain(..) {
            let (begun, mut dice) = (Arc::clone(&begun), Dice::new(dice.roll()));
            running.spawn(async move {
                let mut written = Vec::new();
                while begun.fetch_add(1, Ordering::Relaxed) < events as u64 {
                    written.push(write(&mut *writer, &mut dice).await?);
                }
                anyhow::Ok((written, writer))
            });
        }
        while let Some(done) = running.join_next().await {
            let (all, writer) = done??;
            written.extend(all);
            self.writers.push(writer);
        }
        Ok(())
    }
}

async fn receive(
    mut reader: Box<dyn Reader>,
    last: Last,
    mut tally: Tally,
) -> anyhow::Result<(Box<dyn Reader>, Tally)> {
    reader.receive(&last, &mut tally).await?;
    Ok((reader, tally))
}

async fn write(writer: &mut dyn Writer, dice: &mut Dice) -> anyhow::Result<Written> {
    let sent = now();
    let sequence = writer.write(dice).await?;
    Ok(Written { sequence, sent, answered: now() })
}

/// The delays of the sampled deliveries: since the write was sent, and since its response was received.
fn delays(tallies: &[Tally], written: &[Written]) -> anyhow::Result<(Latency, Latency)> {
    let written: HashMap<u64, &Written> = written.iter().map(|written| (written.sequence, written)).collect();
    let (mut since_sent, mut since_answered) = (latency(), latency());
    for (sequence, received) in tallies.iter().flat_map(|tally| &tally.samples) {
        let written = written.get(sequence).context("every event was written here")?;
        since_sent.record((received - written.sent).try_into().unwrap_or(0))?;
        since_answered.record((received - written.answered).try_into().unwrap_or(0))?;
    }
    Ok((since_sent, since_answered))
}

impl Round {
    /// Events per second.
    fn writes(&self) -> f64 {
        float(self.events) / self.elapsed.as_secs_f64()
    }

    /// Deliveries per second.
    fn rate(&self) -> f64 {
        float(self.deliveries) / self.elapsed.as_secs_f64()
    }

    /// CPU time of the server for each delivery, in microseconds.
    fn processor(&self) -> f64 {
        micros_of(self.processor) / float(self.deliveries)
    }
}

/// Quantiles of the delays since the write was sent.
fn since_sent<const N: usize>(rounds: &[Round], quantiles: [f64; N]) -> [String; N] {
    quantiles.map(|q| quantile(rounds.iter().map(|round| &round.since_sent), q))
}

/// Quantiles of the delays since the response was received.
pub fn since_answered<const N: usize>(rounds: &[Round], quantiles: [f64; N]) -> [String; N] {
    quantiles.map(|q| quantile(rounds.iter().map(|round| &round.since_answered), q))
}

const DELAYS: [&str; 9] = [
    "Subscribers",
    "log",
    "writes/s",
    "write sent to event received, p50",
    "p99",
    "p99.9",
    "response received to event received, p50",
    "p99",
    "p99.9",
];

fn tell_delays(crowds: &[Crowd<'_>], report: &mut Report) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for crowd in crowds {
        let measured = since_answered(&crowd.rounds, [0.5, 0.99]).join(", p99 ");
        report.claim(format!("{crowd}, steady writes: response to event"), format!("p50 {measured}"), "");
        let mut row = crowd.names();
        row.push(count(median(crowd.rounds.iter().map(Round::writes))));
        row.extend(since_sent(&crowd.rounds, [0.5, 0.99, 0.999]));
        row.extend(since_answered(&crowd.rounds, [0.5, 0.99, 0.999]));
        rows.push(row);
    }
    rows
}

const DELIVERIES: [&str; 6] =
    ["Subscribers", "log", "writes/s", "deliveries/s", "Cameo relative to this", "CPU of the server per delivery"];

fn tell_deliveries(crowds: &[Crowd<'_>], report: &mut Report) -> Vec<Vec<String>> {
    let rates = |crowd: &Crowd<'_>| -> Vec<f64> { crowd.rounds.iter().map(Round::rate).collect() };
    let cameo = rates(&crowds[0]);
    let mut rows = Vec::new();
    for crowd in crowds {
        let (theirs, processor) = (rates(crowd), median(crowd.rounds.iter().map(Round::processor)));
        let ratio = median(cameo.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        let (rate, processor) = (count(median(theirs)), format!("{processor:.2} µs"));
        report.claim(format!("{crowd}, all writers"), format!("{rate} deliveries/s, {processor} of CPU each"), "");
        let mut row = crowd.names();
        row.push(count(median(crowd.rounds.iter().map(Round::writes))));
        row.extend([rate, format!("{ratio:.2}"), processor]);
        rows.push(row);
    }
    rows
}

impl Crowd<'_> {
    fn names(&self) -> Vec<String> {
        vec![count(float(self.subscribers as u64)), self.log.name().to_owned()]
    }
}

impl fmt::Display for Crowd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} subscribers of {}", count(float(self.subscribers as u64)), self.log.name())
    }
}
