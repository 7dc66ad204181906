//! Events to subscribers: how many per second, and how soon.
//!
//! The delay of an event is measured in two ways, both with the clock of this machine:
//! - from `Event.time`, which the server takes when the write arrives, until the event is received. This includes the
//!   commit and all waiting of the write;
//! - from when the writer has received its response, which is sent right after the commit, until the event is received.
//!   If the event arrives before the response, the delay counts as 0.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use cameo::clock::machine_time;
use cameo::model::{Micros, wire};
use cameo::proto::field::{event, subscribe_response, update_profile_response};
use cameo::proto::v1::SubscribeRequest;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use crate::child::Child;
use crate::client::{RawCodec, call, connect};
use crate::figures::{Latency, count, float, latency, median, quantile};
use crate::fixture::Fixture;
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE};
use crate::report::Report;
use crate::update::Update;

const SUBSCRIBERS: [usize; 3] = [1, 100, 1_000];
const STREAMS_PER_CONNECTION: usize = 200;
const MIN_CONNECTIONS: usize = 4;
/// The most deliveries per second, and the most updates per second, at the steady rate. Both are well below what the
/// server can do, so that no queue is measured.
const STEADY_DELIVERIES: usize = 20_000;
const STEADY_UPDATES: usize = 100;
/// Writers at saturation, each with one update in flight.
const WRITERS: usize = 64;
/// A guess of the updates per second at saturation. It decides which deliveries are sampled.
const SATURATED_UPDATES: usize = 1_000;
/// Deliveries per second whose times are kept, over all subscribers.
const SAMPLED: usize = 10_000;
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long to wait until the last subscriber has received the last event.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rate {
    /// This many updates per second, without waiting for the responses of earlier ones.
    Steady(usize),
    /// As many updates as the server accepts.
    Saturated,
}

/// The parts of an event that are read.
struct Seen<'a> {
    cursor: &'a [u8],
    sequence: u64,
    event: &'a [u8],
}

/// When an event was received. All times are microseconds since 1970.
struct Delivery {
    sequence: u64,
    received: i64,
    /// `Event.time`: when the write arrived at the server.
    arrived: i64,
}

/// The results of a subscriber.
struct Account {
    events: u64,
    deliveries: Vec<Delivery>,
    /// The sequences of all events, by cursor. Only the first subscriber keeps them.
    cursors: HashMap<Vec<u8>, u64>,
}

/// When the response to each write was received, by the cursor of its event.
type Answers = HashMap<Vec<u8>, i64>;

struct Round {
    updates: u64,
    deliveries: u64,
    /// The time until the last subscriber had received the last event.
    elapsed: Duration,
    since_arrived: Latency,
    since_answered: Latency,
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(&fixture.store).await?;
    let mut rows = Vec::new();
    for subscribers in SUBSCRIBERS {
        for rate in [Rate::Steady(STEADY_UPDATES.min(STEADY_DELIVERIES / subscribers)), Rate::Saturated] {
            let mut rounds = Vec::new();
            for _ in 0..plan.rounds {
                rounds.push(one_round(fixture, &cameo, subscribers, rate, plan.duration).await?);
            }
            rows.push(tell(subscribers, rate, &rounds, report));
        }
    }
    let columns = [
        "Subscribers, update rate",
        "updates/s",
        "deliveries/s",
        "arrival of the write to receipt of the event, p50",
        "p99",
        "response to the writer to receipt of the event, p50",
        "p99",
    ];
    report.table("Fan-out: events to subscribers", &columns, &rows);
    cameo.stop().await
}

async fn one_round(
    fixture: &Fixture,
    server: &Child,
    subscribers: usize,
    rate: Rate,
    duration: Duration,
) -> anyhow::Result<Round> {
    let connections = subscribers.div_ceil(STREAMS_PER_CONNECTION).max(MIN_CONNECTIONS.min(subscribers));
    let channels = connect(server.addr, connections).await?;
    let last = Arc::new(AtomicU64::new(u64::MAX));
    let mut running = JoinSet::new();
    let every = (subscribers * expected_rate(rate)).div_ceil(SAMPLED) as u64;
    let mut head = 0;
    for (index, channel) in (0..subscribers).zip(channels.iter().cycle()) {
        let stream;
        (stream, head) = subscribe(channel, HEARTBEAT).await?;
        running.spawn(receive(stream, head, Arc::clone(&last), every, index == 0));
    }

    let start = Instant::now();
    let work = Arc::new(Update { profiles: fixture.profiles });
    let writers = connect(server.addr, 1).await?.remove(0);
    let answers = match rate {
        Rate::Steady(rate) => write_steadily(&writers, &work, rate, duration, head).await?,
        Rate::Saturated => write_saturating(&writers, &work, duration, head).await?,
    };
    // A subscriber that has received the event of the following update is done.
    let updates = answers.len() as u64 + 1;
    last.store(head + updates, Ordering::Release);
    call(&mut Grpc::new(writers), &*work, &mut Dice::new(head)).await?;
    let accounts = timeout(DELIVERY_TIMEOUT, running.join_all()).await.context("subscribers are too far behind")?;
    let elapsed = start.elapsed();
    let accounts = accounts.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(accounts.iter().all(|account| account.events == updates), "every subscriber received every event");
    let (since_arrived, since_answered) = delays(&accounts, &answers)?;
    let deliveries = accounts.iter().map(|account| account.events).sum();
    Ok(Round { updates, deliveries, elapsed, since_arrived, since_answered })
}

/// The updates per second to expect. It decides how many deliveries are sampled.
fn expected_rate(rate: Rate) -> usize {
    match rate {
        Rate::Steady(rate) => rate,
        Rate::Saturated => SATURATED_UPDATES,
    }
}

/// Opens a stream, and reads until it has caught up. Returns the stream and the sequence of the latest event.
pub async fn subscribe(channel: &Channel, heartbeat: Duration) -> anyhow::Result<(Streaming<Bytes>, u64)> {
    let request = SubscribeRequest {
        workspace: WORKSPACE.into(),
        heartbeat_interval: Some(heartbeat.try_into()?),
        ..SubscribeRequest::default()
    };
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/cameo.v1.EventService/Subscribe");
    let request = Request::new(Bytes::from(request.encode_to_vec()));
    let mut stream = grpc.server_streaming(request, path, RawCodec).await?.into_inner();
    let mut head = None;
    while head.is_none() {
        use cameo::proto::v1::{SubscribeResponse, subscribe_response::Message};
        let message = stream.message().await?.context("the stream is open")?;
        if let Some(Message::CaughtUp(caught_up)) = SubscribeResponse::decode(message)?.message {
            head = Some(caught_up.head_sequence);
        }
    }
    Ok((stream, head.unwrap_or_default()))
}

/// Receives events up to the sequence `last`, which is set after the writers are done.
async fn receive(
    mut stream: Streaming<Bytes>,
    after: u64,
    last: Arc<AtomicU64>,
    every: u64,
    keeps_cursors: bool,
) -> anyhow::Result<Account> {
    let mut account = Account { events: 0, deliveries: Vec::new(), cursors: HashMap::new() };
    let mut sequence = after;
    while sequence < last.load(Ordering::Acquire) {
        let message = stream.message().await?.context("the stream is open")?;
        let Some(seen) = Seen::read(&message)? else { continue };
        ensure!(seen.sequence == sequence + 1, "event {} came after {sequence}", seen.sequence);
        sequence = seen.sequence;
        account.events += 1;
        if sequence.is_multiple_of(every) {
            let received = now();
            account.deliveries.push(Delivery { sequence, received, arrived: seen.time()? });
        }
        if keeps_cursors {
            account.cursors.insert(seen.cursor.to_vec(), sequence);
        }
    }
    Ok(account)
}

impl<'a> Seen<'a> {
    /// The event of a message; `None` if the message has none. Reads only the start of the event: the profiles come
    /// later.
    fn read(message: &'a [u8]) -> anyhow::Result<Option<Self>> {
        let Some(event) = wire::find(message, subscribe_response::EVENT)? else { return Ok(None) };
        let cursor = wire::find(message, subscribe_response::CURSOR)?.context("a cursor")?;
        let mut fields = wire::fields(event);
        let sequence = loop {
            let field = fields.next().context("a sequence")??;
            if field.tag == event::SEQUENCE {
                break prost::encoding::decode_varint(&mut &field.whole[1..])?;
            }
        };
        Ok(Some(Self { cursor, sequence, event }))
    }

    fn time(&self) -> anyhow::Result<i64> {
        let encoded = wire::find(self.event, event::TIME)?.context("a time")?;
        Ok(Micros::from_timestamp(&prost_types::Timestamp::decode(encoded)?).get())
    }
}

async fn write_steadily(
    channel: &Channel,
    work: &Arc<Update>,
    rate: usize,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Answers> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + duration;
    let mut writes = JoinSet::new();
    let mut nth = seed;
    while Instant::now() < end {
        ticks.tick().await;
        nth += 1;
        let (mut grpc, work, mut dice) = (Grpc::new(channel.clone()), Arc::clone(work), Dice::new(nth));
        writes.spawn(async move { write(&mut grpc, &work, &mut dice).await });
    }
    writes.join_all().await.into_iter().collect()
}

async fn write_saturating(
    channel: &Channel,
    work: &Arc<Update>,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Answers> {
    let end = Instant::now() + duration;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS as u64 {
        let (mut grpc, work) = (Grpc::new(channel.clone()), Arc::clone(work));
        let mut dice = Dice::new((seed << 16) + writer);
        writers.spawn(async move {
            let mut answers = Vec::new();
            while Instant::now() < end {
                answers.push(write(&mut grpc, &work, &mut dice).await?);
            }
            anyhow::Ok(answers)
        });
    }
    let answers: Vec<_> = writers.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(answers.into_iter().flatten().collect())
}

/// Makes a write. Returns the cursor of its event, and when the response was received.
async fn write(grpc: &mut Grpc<Channel>, work: &Update, dice: &mut Dice) -> anyhow::Result<(Vec<u8>, i64)> {
    let answer = call(grpc, work, dice).await?;
    let answered = now();
    let cursor = wire::find(&answer, update_profile_response::CURSOR)?.context("a cursor")?;
    Ok((cursor.to_vec(), answered))
}

/// Microseconds since 1970.
fn now() -> i64 {
    machine_time().unwrap_or_default().get()
}

/// The delays of the sampled deliveries: since the write arrived, and since its response was received.
fn delays(accounts: &[Account], answers: &Answers) -> anyhow::Result<(Latency, Latency)> {
    let keeps_cursors = accounts.iter().find(|account| !account.cursors.is_empty());
    let cursors = &keeps_cursors.context("one subscriber keeps the cursors")?.cursors;
    let answered: HashMap<u64, i64> =
        answers.iter().filter_map(|(cursor, answered)| Some((*cursors.get(cursor)?, *answered))).collect();
    ensure!(answered.len() == answers.len(), "every write has an event with its cursor");
    let (mut since_arrived, mut since_answered) = (latency(), latency());
    for delivery in accounts.iter().flat_map(|account| &account.deliveries) {
        since_arrived.record((delivery.received - delivery.arrived).try_into().unwrap_or(0))?;
        // The last write, which ends the round, has no entry.
        if let Some(answered) = answered.get(&delivery.sequence) {
            since_answered.record((delivery.received - answered).try_into().unwrap_or(0))?;
        }
    }
    Ok((since_arrived, since_answered))
}

fn tell(subscribers: usize, rate: Rate, rounds: &[Round], report: &mut Report) -> Vec<String> {
    let per_second = |of: fn(&Round) -> u64| {
        count(median(rounds.iter().map(|round| float(of(round)) / round.elapsed.as_secs_f64())))
    };
    let (updates, deliveries) = (per_second(|round| round.updates), per_second(|round| round.deliveries));
    let arrived = |q| quantile(rounds.iter().map(|round| &round.since_arrived), q);
    let answered = |q| quantile(rounds.iter().map(|round| &round.since_answered), q);
    let subscribers = match subscribers {
        1 => "1 subscriber".to_owned(),
        many => format!("{} subscribers", count(float(many as u64))),
    };
    let (name, what, measured) = match rate {
        Rate::Steady(rate) => (
            format!("{subscribers}, {rate} updates/s"),
            "time from the response to the writer to the receipt of the event",
            format!("p50 {}, p99 {}", answered(0.5), answered(0.99)),
        ),
        Rate::Saturated => (
            format!("{subscribers}, as many updates as possible"),
            "deliveries",
            format!("{deliveries}/s ({updates} updates/s)"),
        ),
    };
    report.claim(format!("Fan-out to {name}: {what}"), measured, "");
    vec![name, updates, deliveries, arrived(0.5), arrived(0.99), answered(0.5), answered(0.99)]
}
