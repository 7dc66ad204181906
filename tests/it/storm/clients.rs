//! A subscriber of the storm: it opens a stream, reads some of it at its own pace, goes away, and comes back.

use std::time::{Duration, SystemTime};

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use prost_types::FieldMask;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::Status;

use super::draw::{self, one_in};
use super::durable::Durable;
use super::gone::is_gone;
use super::recording::{Connection, Received, Recording};
use super::retention::{self, Expired};
use super::run::{Shared, Stage, connect, next_server};
use super::view::View;
use crate::harness::*;

/// The most messages that it reads of a stream before it goes away.
const MESSAGES: usize = 150;
/// And of some of them.
const FEW_MESSAGES: usize = 16;
/// What some clients do with a message takes so long. The log grows meanwhile.
const SLOW: Duration = Duration::from_millis(2);

pub struct Subscriber {
    pub name: String,
    pub rng: StdRng,
    pub shared: Shared,
    stages: watch::Receiver<Stage>,
    pub client: Client,
    pub view: View,
    pub recording: Recording,
    /// The last cursor that it was sent.
    cursor: Option<String>,
    pub durable: Option<Durable>,
}

/// How one of its streams is read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    until_caught_up: bool,
    /// The last one is read to its end.
    is_last: bool,
}

impl Subscriber {
    pub fn new(n: u64, seed: u64, shared: Shared) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(n));
        let mut stages = shared.stages.subscribe();
        let client = connect(&mut stages);
        let view = draw::view(&mut rng);
        let (name, recording) = (format!("subscriber-{n}"), Recording::default());
        Self { name, rng, shared, stages, client, view, recording, cursor: None, durable: None }
    }

    /// Opens so many streams, and then one that reads to the end of the log. It may stay away until the next server has
    /// come, and perhaps removed what it had not read.
    pub async fn run(mut self, streams: usize) -> (String, Recording) {
        if self.rng.random_ratio(2, 5) {
            self.create_subscription().await;
        }
        for _ in 0..streams {
            if one_in(&mut self.rng, 10) {
                self.client = next_server(&mut self.stages).await;
            }
            self.stream(false).await;
        }
        within(self.stages.wait_for(|stage| stage.is_over)).await.unwrap();
        self.client = connect(&mut self.stages);
        self.stream(true).await;
        (self.name, self.recording)
    }

    /// Waits for the next server.
    pub async fn gone(&mut self, status: &Status) {
        assert!(is_gone(status), "{}: {status:?}", self.name);
        self.client = next_server(&mut self.stages).await;
    }

    /// Where the next stream starts: mostly where the last one was left.
    fn start(&mut self) -> Option<Start> {
        if self.durable.is_some() {
            return Some(Start::Subscription(self.name.clone()));
        }
        match self.cursor.clone() {
            Some(cursor) if !one_in(&mut self.rng, 5) => Some(Start::Cursor(cursor)),
            _ => draw::start(&mut self.rng),
        }
    }
}

impl Subscriber {
    /// Opens a stream, reads it and leaves it.
    async fn stream(&mut self, is_last: bool) {
        let reading = Reading { until_caught_up: is_last || one_in(&mut self.rng, 3), is_last };
        while !self.try_stream(reading).await {}
    }

    /// Returns false if another is to be opened.
    async fn try_stream(&mut self, reading: Reading) -> bool {
        let mut connection = self.connection();
        let request = self.request(connection.start.clone(), reading.until_caught_up);
        let refusal = match within(self.client.subscribe(request)).await {
            Ok(stream) => {
                self.recording.connections.push(connection);
                let is_read = self.read(stream, reading).await;
                return is_read || !reading.is_last;
            }
            Err(refusal) => refusal,
        };
        match Expired::of(&refusal) {
            Some(expired) => {
                connection.expired = Some(self.with_floor(expired).await);
                self.recording.connections.push(connection);
                self.begin_again().await;
            }
            None => self.gone(&refusal).await,
        }
        false
    }

    /// The stream that it asks for next.
    fn connection(&mut self) -> Connection {
        let now = SystemTime::now();
        Connection {
            start: self.start(),
            view: self.view.clone(),
            written: self.shared.written(),
            acknowledged: self.durable.as_ref().map(|durable| durable.acknowledged.clone()),
            floors: self.shared.floor()..=u64::MAX,
            snapshot_read: now..=now,
            messages: Vec::new(),
            expired: None,
        }
    }

    fn request(&self, start: Option<Start>, until_caught_up: bool) -> SubscribeRequest {
        let request =
            SubscribeRequest { start, until_caught_up, heartbeat_interval: seconds(1), ..subscribe_request() };
        if self.durable.is_some() {
            return request;
        }
        let View { filter, mask, keys, shard } = self.view.clone();
        let read_mask = Some(FieldMask { paths: mask });
        SubscribeRequest { filter: Some(filter), read_mask, user_attribute_keys: keys, shard, ..request }
    }

    /// Returns whether it read as much as it wanted.
    async fn read(&mut self, mut stream: Stream, reading: Reading) -> bool {
        let count = if reading.is_last { usize::MAX } else { self.messages() };
        let is_slow = one_in(&mut self.rng, 4);
        let mut over = self.stages.clone(); // Of its own: `stages` must not miss the next server.
        for _ in 0..count {
            let next = tokio::select! {
                next = stream.next() => next,
                // The last stream reads the rest.
                _ = over.wait_for(|stage| stage.is_over), if !reading.until_caught_up => return true,
            };
            match next {
                Ok(Some(message)) => self.took(message).await,
                Ok(None) => {
                    assert!(reading.until_caught_up, "{}: the stream ended by itself", self.name);
                    return true;
                }
                Err(status) => {
                    self.ended(&status).await;
                    return false;
                }
            }
            if is_slow {
                tokio::time::sleep(SLOW).await; // The pace itself.
            }
        }
        true
    }

    /// How many messages it reads of a stream. Some go away early, and all while they read a snapshot.
    fn messages(&mut self) -> usize {
        let is_snapshot = matches!(self.last().start, Some(Start::Snapshot(_)));
        let is_early = is_snapshot || one_in(&mut self.rng, 3);
        self.rng.random_range(1..if is_early { FEW_MESSAGES } else { MESSAGES })
    }

    async fn took(&mut self, message: SubscribeResponse) {
        let at = SystemTime::now();
        self.cursor = Some(message.cursor.clone());
        if let Some(Message::Opened(opened)) = &message.message {
            let before = *self.last().floors.start();
            let after = self.floor().await;
            self.last().floors = before..=after;
            if let Some(durable) = &mut self.durable {
                durable.opened(opened, &message.cursor, before);
            }
        }
        if let Some(Message::SnapshotProfile(_) | Message::SnapshotComplete(_)) = &message.message {
            let asked = *self.last().snapshot_read.start();
            self.last().snapshot_read = asked..=SystemTime::now();
        }
        if let Some(durable) = &mut self.durable {
            durable.was_sent(&message.cursor);
        }
        self.last().messages.push(Received { response: message, at });
        if self.durable.is_some() && one_in(&mut self.rng, 8) {
            self.acknowledge().await;
        }
    }

    /// The stream has ended with an error.
    async fn ended(&mut self, status: &Status) {
        match Expired::of(status) {
            Some(expired) => {
                let expired = self.with_floor(expired).await;
                self.last().expired = Some(expired);
            }
            None => self.gone(status).await,
        }
    }

    /// What it does when retention has overtaken it.
    async fn begin_again(&mut self) {
        if self.durable.is_some() {
            self.seek().await;
        }
        self.cursor = None;
    }

    fn last(&mut self) -> &mut Connection {
        self.recording.connections.last_mut().expect("one was opened")
    }

    async fn with_floor(&self, expired: Expired) -> Expired {
        self.shared.note_floor(expired.floor());
        Expired { floor_after: self.floor().await, ..expired }
    }

    /// The sequence of the last event that is gone; the largest number if the server is.
    async fn floor(&self) -> u64 {
        match within(self.client.status(WORKSPACE)).await {
            Ok(status) => {
                let floor = retention::floor(&status.log.expect("a workspace has a log"));
                self.shared.note_floor(floor);
                floor
            }
            Err(status) => {
                assert!(is_gone(&status), "{}: {status:?}", self.name);
                u64::MAX
            }
        }
    }
}
