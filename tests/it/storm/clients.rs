//! A subscriber of the storm: it opens a stream, reads some of it at its own pace, goes away, and comes back.

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use prost_types::FieldMask;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::Status;

use super::draw::{self, one_in};
use super::gone::is_gone;
use super::recording::{Connection, Recording, View};
use super::run::{Shared, Stage, connect, reconnect};
use crate::harness::*;

/// The most messages that it reads of a stream before it goes away.
const MESSAGES: usize = 150;
/// And of some of them.
const FEW_MESSAGES: usize = 16;

pub struct Subscriber {
    name: String,
    rng: StdRng,
    shared: Shared,
    stages: watch::Receiver<Stage>,
    client: Client,
    view: View,
    recording: Recording,
    /// The last cursor that it was sent.
    cursor: Option<String>,
    durable: Option<Durable>,
}

/// A durable subscription, as its subscriber knows it.
struct Durable {
    stream: u64,
    /// The place whose acknowledgement was confirmed, and those that were asked for since without an answer.
    places: Vec<String>,
    /// What the stream has sent.
    sent: Vec<String>,
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

    /// Opens so many streams, and then one that reads to the end of the log.
    pub async fn run(mut self, streams: usize) -> (String, Recording) {
        if one_in(&mut self.rng, 3) {
            self.create_subscription().await;
        }
        for _ in 0..streams {
            self.stream(false).await;
        }
        within(self.stages.wait_for(|stage| stage.is_over)).await.unwrap();
        self.client = connect(&mut self.stages);
        self.stream(true).await;
        (self.name, self.recording)
    }

    async fn create_subscription(&mut self) {
        let View { filter, mask, keys, shard } = self.view.clone();
        let subscription = Subscription {
            name: self.name.clone(),
            filter: Some(filter),
            read_mask: Some(FieldMask { paths: mask }),
            user_attribute_keys: keys,
            shard,
            ..Subscription::default()
        };
        let start = match self.rng.random_range(0..3) {
            0 => None,
            1 => Some(create_subscription_request::Start::Earliest(true)),
            _ => Some(create_subscription_request::Start::Snapshot(true)),
        };
        let request = CreateSubscriptionRequest {
            workspace: WORKSPACE.into(),
            subscription: Some(subscription),
            start,
            request_id: self.name.clone(),
            ..CreateSubscriptionRequest::default()
        };
        loop {
            match self.client.events.clone().create_subscription(request.clone()).await {
                Ok(created) => {
                    let places = vec![created.into_inner().subscription.unwrap().acknowledged_cursor];
                    self.durable = Some(Durable { stream: 0, places, sent: Vec::new() });
                    return;
                }
                Err(status) => self.gone(&status).await,
            }
        }
    }

    /// Waits for the next server.
    async fn gone(&mut self, status: &Status) {
        assert!(is_gone(status), "{}: {status:?}", self.name);
        self.client =
            if self.stages.borrow().is_over { connect(&mut self.stages) } else { reconnect(&mut self.stages).await };
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
    /// Opens a stream, reads it and leaves it. The last one is read to the end.
    async fn stream(&mut self, is_last: bool) {
        let until_caught_up = is_last || one_in(&mut self.rng, 3);
        let start = self.start();
        loop {
            let written = self.shared.written();
            match within(self.client.subscribe(self.request(start.clone(), until_caught_up))).await {
                Ok(stream) => return self.read(stream, start, written, until_caught_up, is_last).await,
                Err(status) => self.gone(&status).await,
            }
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

    async fn read(
        &mut self,
        mut stream: Stream,
        start: Option<Start>,
        written: String,
        until_caught_up: bool,
        is_last: bool,
    ) {
        // Some go away early, while they read a snapshot.
        let is_early =
            one_in(&mut self.rng, 3) || matches!(&start, Some(Start::Snapshot(_))) && one_in(&mut self.rng, 2);
        let most = if is_early { FEW_MESSAGES } else { MESSAGES };
        let count = if is_last { usize::MAX } else { self.rng.random_range(1..most) };
        let acknowledged = self.durable.as_ref().map(|durable| durable.places.clone()).unwrap_or_default();
        let (view, messages) = (self.view.clone(), Vec::new());
        self.recording.connections.push(Connection { start, view, written, acknowledged, messages });
        let is_slow = one_in(&mut self.rng, 4);
        let mut over = self.stages.clone(); // Of its own: `stages` must not miss the next server.
        for _ in 0..count {
            let next = tokio::select! {
                next = stream.next() => next,
                // The last stream reads the rest.
                _ = over.wait_for(|stage| stage.is_over), if !until_caught_up => return,
            };
            match next {
                Ok(Some(message)) => self.took(message).await,
                Ok(None) => return assert!(until_caught_up, "{}: the stream ended by itself", self.name),
                Err(status) => return self.gone(&status).await,
            }
            if is_slow {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn took(&mut self, message: SubscribeResponse) {
        self.cursor = Some(message.cursor.clone());
        if let Some(durable) = &mut self.durable {
            if let Some(Message::Opened(opened)) = &message.message {
                durable.stream = opened.stream;
                durable.sent.clear();
                durable.places = vec![message.cursor.clone()];
            }
            durable.sent.push(message.cursor.clone());
        }
        self.recording.connections.last_mut().expect("it was opened").messages.push(message);
        if self.durable.is_some() && one_in(&mut self.rng, 8) {
            self.acknowledge().await;
        }
    }

    /// Acknowledges what it has read, or a part of that, even if it acknowledged more before.
    async fn acknowledge(&mut self) {
        let Some(durable) = &mut self.durable else { return };
        let back = if one_in(&mut self.rng, 3) { self.rng.random_range(0..durable.sent.len()) } else { 0 };
        let cursor = durable.sent[durable.sent.len() - 1 - back].clone();
        let request = AcknowledgeRequest {
            workspace: WORKSPACE.into(),
            subscription: self.name.clone(),
            stream: durable.stream,
            cursor: cursor.clone(),
            ..AcknowledgeRequest::default()
        };
        match within(self.client.events.clone().acknowledge(request)).await {
            Ok(response) => {
                let place = response.into_inner().acknowledged_cursor;
                durable.places = vec![place.clone()];
                self.recording.confirmed.push(place);
            }
            // It may have been committed. The stream ends too, and then the next server is waited for.
            Err(status) => {
                assert!(is_gone(&status), "{}: {status:?}", self.name);
                durable.places.push(cursor);
            }
        }
    }
}
