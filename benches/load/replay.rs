//! Replay: subscribers that start with the oldest event, beside other logs.
//!
//! Each log holds one event for each profile. A turn begins before the subscribers connect, and ends when they have
//! all events, or after [`LIMIT`].

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::figures::{count, float, median, micros_of};
use crate::fixture::{Fixture, SAMPLES};
use crate::log::cameo::Cameo;
use crate::log::etcd::Etcd;
use crate::log::nats::Nats;
use crate::log::{Last, Log, Reader, Spread, Start, Tally};
use crate::plan::Plan;
use crate::report::Report;

const READERS: [usize; 2] = [1, 10];
const MAX_ROUNDS: u32 = 3;
/// The longest turn.
const LIMIT: Duration = Duration::from_secs(30);

/// One turn.
struct Round {
    /// Events that all subscribers received.
    events: u64,
    elapsed: Duration,
    /// CPU time of the server.
    processor: Duration,
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Cameo::start(fixture).await?;
    let (messages, _) = cameo.messages(usize::try_from(SAMPLES)?).await?;
    let mut rows = measure_log(Box::new(cameo), fixture, plan, report).await?;
    eprintln!("filling etcd");
    if let Some(etcd) = Etcd::start(fixture, &messages).await? {
        etcd.fill(fixture.profiles).await?;
        rows.extend(measure_log(Box::new(etcd), fixture, plan, report).await?);
    }
    eprintln!("filling NATS");
    if let Some(nats) = Nats::filled(fixture, &messages, fixture.profiles).await? {
        rows.extend(measure_log(Box::new(nats), fixture, plan, report).await?);
    }
    let columns = ["Log", "readers", "events/s of all readers", "of each reader", "CPU of the server per event"];
    report.table(&format!("Replay of {} events", count(float(fixture.profiles))), &columns, &rows);
    Ok(())
}

async fn measure_log(
    log: Box<dyn Log>,
    fixture: &Fixture,
    plan: Plan,
    report: &mut Report,
) -> anyhow::Result<Vec<Vec<String>>> {
    let last = log.before_first() + fixture.profiles;
    let mut rows = Vec::new();
    for readers in READERS {
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds.min(MAX_ROUNDS) {
            rounds.push(replay(&*log, readers, last).await?);
        }
        let rate = median(rounds.iter().map(|round| float(round.events) / round.elapsed.as_secs_f64()));
        let processor = median(rounds.iter().map(|round| micros_of(round.processor) / float(round.events)));
        let (name, readers) = (log.name(), u32::try_from(readers)?);
        report.claim(format!("Replay by {readers} readers of {name}"), format!("{} events/s", count(rate)), "");
        let each = count(rate / f64::from(readers));
        rows.push(vec![name.to_owned(), readers.to_string(), count(rate), each, format!("{processor:.2} µs")]);
    }
    log.stop().await?;
    Ok(rows)
}

async fn replay(log: &dyn Log, readers: usize, last: u64) -> anyhow::Result<Round> {
    let (start, processor) = (Instant::now(), log.server().processor_time()?);
    let spread = Spread { subscribers: readers, connections: readers };
    let mut running = JoinSet::new();
    for reader in log.readers(Start::Earliest, spread).await? {
        running.spawn(read(reader, last, start + LIMIT));
    }
    let events = running.join_all().await.into_iter().sum::<anyhow::Result<u64>>()?;
    let processor = log.server().processor_time()?.saturating_sub(processor);
    Ok(Round { events, elapsed: start.elapsed(), processor })
}

/// Returns how many events it received.
async fn read(mut reader: Box<dyn Reader>, last: u64, end: Instant) -> anyhow::Result<u64> {
    let mut tally = Tally::sampling(u64::MAX);
    if let Ok(read) = timeout_at(end.into(), reader.receive(&Last::known(last), &mut tally)).await {
        read?;
    }
    Ok(tally.events)
}
