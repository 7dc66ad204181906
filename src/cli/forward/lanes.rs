//! Delivers the messages of the stream in lanes, and acknowledges what is done.
//!
//! - The events of one profile are in one lane, and a lane delivers one at a time: they arrive in order.
//! - A snapshot and events are never on their way at once: a profile of the snapshot may not tell whose it is.
//! - While too much waits to be acknowledged, the stream is not read.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::deliver::Receiver;
use super::event::{CloudEvents, Delivery};
use super::ledger::{Acknowledgement, Key, Ledger};
use super::retry::{Failure, NotBefore, Outcome, Policy};
use super::stream::{self, News};
use crate::proto::v1::SubscribeResponse;
use crate::proto::v1::subscribe_response::Message;
use crate::telemetry::traces::Trace;

/// How many messages may wait to be acknowledged.
const MAX_WAITING: usize = 1_024;
/// How many bytes may wait to be delivered. One more event is taken while they are fewer.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// How often a forwarder that has no room asks whether the subscription is still its own: the messages that it does not
/// read hide the end of its stream.
const CHECK: Duration = Duration::from_secs(5);
/// How long the requests in flight may take when the forwarder ends.
const END_TIME: Duration = Duration::from_secs(10);
/// How long the last acknowledgements may then take.
const LAST_ACKNOWLEDGEMENT_TIME: Duration = Duration::from_secs(5);

/// How events are delivered.
pub struct Lanes {
    pub receiver: Arc<Receiver>,
    pub cloud_events: CloudEvents,
    pub policy: Policy,
    pub concurrency: usize,
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub delivered: u64,
    pub skipped: u64,
    pub failed_attempts: u64,
    pub acknowledgements: u64,
}

/// What a lane says of its deliveries.
enum Said {
    Failed,
    Ended { key: Key, bytes: usize, outcome: Outcome },
}

struct Engine<A, F> {
    ledger: Ledger,
    lanes: Vec<mpsc::UnboundedSender<Delivery>>, // `MAX_WAITING` bounds them.
    cloud_events: CloudEvents,
    waiting_bytes: usize,
    /// How many deliveries have begun and not ended.
    unfinished: usize,
    /// The snapshot that they are of. None: they are events.
    unfinished_of: Option<u64>,
    /// The place of the snapshot that the stream delivers.
    snapshot: u64,
    /// The message that there was no room for. While its permit lives, the stream is not read.
    held: Option<(Box<SubscribeResponse>, OwnedSemaphorePermit)>,
    /// Dropped once everything up to the cursor behind damaged events is acknowledged. Then the next stream is opened.
    damage: Option<OwnedSemaphorePermit>,
    /// Whether the stream broke and the next one is not open yet. Nothing is acknowledged meanwhile: the server may have
    /// opened the next one already, and would refuse it.
    is_broken: bool,
    /// What acknowledges the place where the stream began, which changes nothing.
    check: Acknowledgement,
    next_check: Instant,
    acknowledge: A,
    sent: Option<(u64, Pin<Box<F>>)>,
    refusals: u32,
    not_before: Instant,
    summary: Summary,
}

impl Lanes {
    /// Runs until the news end or `ending` is cancelled. Then the requests in flight are finished and acknowledged.
    ///
    /// # Errors
    /// Why the forwarder cannot go on. What was delivered is acknowledged as far as possible.
    pub async fn run<A, F>(
        self,
        mut news: mpsc::UnboundedReceiver<News>,
        acknowledge: A,
        ending: &CancellationToken,
    ) -> (Summary, anyhow::Result<()>)
    where
        A: FnMut(Acknowledgement) -> F,
        F: Future<Output = Result<(), Status>>,
    {
        let (says, mut said) = mpsc::unbounded_channel(); // Each delivery is one of `MAX_WAITING`, its failures aside.
        let stop = ending.child_token();
        let (mut tasks, not_before) = (JoinSet::new(), NotBefore::now());
        let lanes = (0..self.concurrency).map(|_| {
            let (sender, deliveries) = mpsc::unbounded_channel();
            let (receiver, not_before) = (self.receiver.clone(), not_before.clone());
            tasks.spawn(lane(receiver, self.policy, not_before, deliveries, says.clone(), stop.clone()));
            sender
        });
        let mut engine = Engine {
            ledger: Ledger::default(),
            lanes: lanes.collect(),
            cloud_events: self.cloud_events,
            waiting_bytes: 0,
            unfinished: 0,
            unfinished_of: None,
            snapshot: 0,
            held: None,
            damage: None,
            is_broken: false,
            check: Acknowledgement::default(),
            next_check: Instant::now(),
            acknowledge,
            sent: None,
            refusals: 0,
            not_before: Instant::now(),
            summary: Summary::default(),
        };
        drop(says);
        let mut ended = engine.run(&mut news, &mut said, ending).await;
        drop(news);
        stop.cancel();
        let last = engine.finish(&mut said).await;
        if ended.is_ok() {
            ended = last;
        }
        (engine.summary, ended)
    }
}

/// Delivers one at a time.
async fn lane(
    receiver: Arc<Receiver>,
    policy: Policy,
    mut not_before: NotBefore,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    says: mpsc::UnboundedSender<Said>,
    stop: CancellationToken,
) {
    while let Some(delivery) = deliveries.recv().await {
        let trace = Trace::default();
        let attempt = |number| attempt(&receiver, &delivery, &trace, &says, number);
        let outcome = policy.run(&mut not_before, &stop, attempt).await;
        if outcome == Outcome::Gone {
            stop.cancel(); // For the other lanes too.
        }
        let _ = says.send(Said::Ended { key: delivery.key, bytes: delivery.body.len(), outcome });
    }
}

async fn attempt(
    receiver: &Receiver,
    delivery: &Delivery,
    trace: &Trace,
    says: &mpsc::UnboundedSender<Said>,
    number: u32,
) -> Result<(), Failure> {
    let attempted = receiver.attempt(delivery, trace, number).await;
    if let Err(Failure { reason, retry_after, .. }) = &attempted {
        tracing::warn!(id = delivery.id, attempt = number, reason, ?retry_after, "a delivery failed");
        let _ = says.send(Said::Failed); // An error means that the forwarder is gone, as in `lane`.
    }
    attempted
}

impl<A, F> Engine<A, F>
where
    A: FnMut(Acknowledgement) -> F,
    F: Future<Output = Result<(), Status>>,
{
    async fn run(
        &mut self,
        news: &mut mpsc::UnboundedReceiver<News>,
        said: &mut mpsc::UnboundedReceiver<Said>,
        ending: &CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            self.take_held()?;
            if self.ledger.is_empty() {
                self.damage = None;
            }
            if !self.is_broken {
                self.send();
            }
            let wake = if self.held.is_some() { self.not_before.max(self.next_check) } else { self.not_before };
            tokio::select! {
                biased;
                () = ending.cancelled() => return Ok(()),
                Some(said) = said.recv() => self.hear(said)?,
                news = news.recv() => match news {
                    Some(news) => self.learn(news),
                    None => return Ok(()),
                },
                // After the news: an acknowledgement that is refused because our own stream broke is no reason to end.
                outcome = outcome(&mut self.sent) => self.settle(outcome)?,
                () = sleep_until(wake), if wake > Instant::now() => {}
            }
        }
    }

    /// Waits for the requests in flight, and acknowledges what is done.
    async fn finish(&mut self, said: &mut mpsc::UnboundedReceiver<Said>) -> anyhow::Result<()> {
        self.lanes.clear();
        self.held = None;
        let mut ended = Ok(());
        let deadline = Instant::now() + END_TIME;
        while let Ok(Some(said)) = timeout_at(deadline, said.recv()).await {
            ended = ended.and(self.hear(said));
        }
        let deadline = Instant::now() + LAST_ACKNOWLEDGEMENT_TIME;
        loop {
            self.not_before = Instant::now(); // There is no time for another try.
            self.send();
            if self.sent.is_none() {
                return ended;
            }
            let last = timeout_at(deadline, outcome(&mut self.sent)).await;
            let (stream, last) = last.context("the server did not confirm the last acknowledgement")?;
            let failed = last.is_err();
            self.settle((stream, last))?;
            if failed {
                return ended.and(Err(anyhow!("the last acknowledgement failed: its events will be delivered again")));
            }
        }
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Broke => (self.is_broken, self.held) = (true, None),
            News::Damage(past, permit) => {
                self.ledger.pass(past);
                self.damage = Some(permit);
            }
            News::Message(message, permit) => self.held = Some((message, permit)), // It is taken in the next round.
        }
    }

    /// Takes the message that was held, if its time has come.
    fn take_held(&mut self) -> anyhow::Result<()> {
        match self.held.take() {
            Some((message, _permit)) if self.fits(&message) => self.take(*message),
            held => {
                self.held = held;
                Ok(())
            }
        }
    }

    /// Whether a message may be taken. An opened stream needs no room.
    fn fits(&self, message: &SubscribeResponse) -> bool {
        let of = match message.message {
            Some(Message::Opened(_)) => return true,
            Some(Message::SnapshotProfile(_)) => Some(self.snapshot),
            Some(Message::Event(_)) => None,
            _ => self.unfinished_of,
        };
        let has_room = self.ledger.len() < MAX_WAITING && self.waiting_bytes < MAX_WAITING_BYTES;
        has_room && (self.unfinished == 0 || self.unfinished_of == of)
    }

    /// A message of the stream.
    fn take(&mut self, response: SubscribeResponse) -> anyhow::Result<()> {
        let cursor = response.cursor;
        let delivery = match response.message {
            Some(Message::Opened(opened)) => {
                self.ledger.open(opened.stream, (!opened.snapshot).then_some(opened.after_sequence));
                self.snapshot = opened.after_sequence;
                self.is_broken = false;
                self.check = Acknowledgement { stream: opened.stream, cursor, skipped: Vec::new() };
                return Ok(());
            }
            Some(Message::Event(event)) => self.cloud_events.change(&event),
            Some(Message::SnapshotProfile(profile)) => self.cloud_events.snapshot(&profile, self.snapshot),
            Some(Message::CaughtUp(_) | Message::Heartbeat(_) | Message::SnapshotComplete(_)) | None => {
                self.ledger.pass(cursor);
                return Ok(());
            }
        };
        let delivery = delivery.context("JSON cannot hold an event")?;
        if self.ledger.arrive(delivery.key.clone(), cursor) {
            self.waiting_bytes += delivery.body.len();
            self.unfinished += 1;
            self.unfinished_of = matches!(delivery.key, Key::Profile(_)).then_some(self.snapshot);
            let hash = xxh3_64(&delivery.mpid.to_le_bytes());
            let lane = usize::try_from(hash % self.lanes.len() as u64).expect("it is the index of a lane");
            self.lanes[lane].send(delivery).map_err(|_| anyhow!("a lane ended"))?;
        }
        Ok(())
    }

    fn hear(&mut self, said: Said) -> anyhow::Result<()> {
        let Said::Ended { key, bytes, outcome } = said else {
            self.summary.failed_attempts += 1;
            return Ok(());
        };
        self.waiting_bytes -= bytes;
        self.unfinished -= 1;
        match outcome {
            Outcome::Delivered => {
                self.summary.delivered += 1;
                self.ledger.delivered(key);
            }
            Outcome::Skipped(reason) => {
                tracing::error!(?key, reason, "an event is skipped");
                self.summary.skipped += 1;
                self.ledger.skipped(key, reason);
            }
            Outcome::Gone => return Err(anyhow!("the receiver wants no more events (HTTP 410)")),
            Outcome::Abandoned => {}
        }
        Ok(())
    }

    /// Sends the next acknowledgement, if there is one and none is on its way.
    fn send(&mut self) {
        if self.sent.is_some() || self.not_before > Instant::now() {
            return;
        }
        let is_due = self.held.is_some() && self.next_check <= Instant::now();
        let Some(next) = self.ledger.next().or_else(|| is_due.then(|| self.check.clone())) else { return };
        self.next_check = Instant::now() + CHECK;
        self.sent = Some((next.stream, Box::pin((self.acknowledge)(next))));
    }

    fn settle(&mut self, (stream, outcome): (u64, Result<(), Status>)) -> anyhow::Result<()> {
        let Err(status) = outcome else {
            self.refusals = 0;
            self.summary.acknowledgements += 1;
            self.ledger.acknowledged(stream);
            return Ok(());
        };
        self.ledger.refused(stream);
        if self.is_broken || !self.ledger.is_open(stream) {
            return Ok(()); // A stream of ours took over from it, or is about to.
        }
        if let Some(stop) = stream::stop_acknowledging(&status) {
            return Err(stop);
        }
        self.refusals += 1;
        let wait = stream::wait(&status, self.refusals);
        tracing::warn!(code = ?status.code(), retry_in = ?wait, "an acknowledgement failed");
        self.not_before = Instant::now() + wait;
        Ok(())
    }
}

/// The outcome of the acknowledgement on its way, and its stream. Without one it waits for ever.
async fn outcome<F: Future<Output = Result<(), Status>>>(
    sent: &mut Option<(u64, Pin<Box<F>>)>,
) -> (u64, Result<(), Status>) {
    let Some((stream, acknowledged)) = sent else { return std::future::pending().await };
    let outcome = (*stream, acknowledged.as_mut().await);
    *sent = None;
    outcome
}
