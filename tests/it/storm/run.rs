//! The storm: writers, subscribers, and a server that is restarted under them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use cameo::proto::v1::admin_service_client::AdminServiceClient;
use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use super::clients::Subscriber;
use super::draw::SHARD_COUNTS;
use super::log::Log;
use super::recording::Recording;
use super::validator::validate;
use super::violation::Violation;
use super::writers::write;
use crate::harness::*;

const WRITERS: usize = 4;

/// How large a storm is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub seed: u64,
    pub clients: u64,
    /// How many streams each of them opens, besides the last, which reads to the end.
    pub streams: usize,
    /// How often each writer writes.
    pub writes: usize,
    pub restarts: usize,
}

impl Size {
    pub fn of(clients: u64) -> Self {
        Self { seed: 0, clients, streams: 8, writes: 300, restarts: 3 }
    }
}

/// Where the server is.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    addr: SocketAddr,
    /// Whether nothing more will be written.
    pub is_over: bool,
}

/// What writers and subscribers share.
#[derive(Clone)]
pub struct Shared {
    pub stages: Arc<watch::Sender<Stage>>,
    pub writes: Arc<watch::Sender<usize>>,
    written: Arc<Mutex<String>>,
}

impl Shared {
    pub fn note_written(&self, cursor: String) {
        *self.written.lock().unwrap() = cursor;
    }

    /// The cursor of a recent write whose response has come.
    pub fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }
}

/// A connection that is made at the first call, which fails if the server is being restarted.
pub fn connect(stages: &mut watch::Receiver<Stage>) -> Client {
    let addr = stages.borrow_and_update().addr;
    let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy();
    Client {
        profiles: ProfileServiceClient::new(channel.clone()),
        events: EventServiceClient::new(channel.clone()),
        admin: AdminServiceClient::new(channel),
    }
}

/// A connection to the next server.
pub async fn reconnect(stages: &mut watch::Receiver<Stage>) -> Client {
    within(stages.changed()).await.unwrap();
    connect(stages)
}

/// Runs a storm, and validates what each of its subscribers recorded. The error says which one found what.
pub async fn storm(size: Size) -> Result<Seen, (String, Violation)> {
    let mut server = TestServer::start_with(|config| config.feed.max_streams_per_client = 10_000).await;
    let start = server.client().await.list(list_request()).await.unwrap().cursor;
    let mut log = Log::new(start.clone());
    let mut truth = Truth { log: &mut log, cursor: start };
    let shared = Shared {
        stages: Arc::new(watch::Sender::new(Stage { addr: server.addr, is_over: false })),
        writes: Arc::default(),
        written: Arc::default(),
    };

    let mut writers = JoinSet::new();
    for (n, seed) in (0..WRITERS).zip(size.seed..) {
        writers.spawn(write(seed ^ ((n as u64) << 32), size.writes, shared.clone()));
    }
    let mut subscribers = JoinSet::new();
    for n in 0..size.clients {
        let subscriber = Subscriber::new(n, size.seed, shared.clone());
        subscribers.spawn(subscriber.run(size.streams));
    }
    for nth in 1..=size.restarts {
        let due = nth * size.writes * WRITERS / (size.restarts + 1);
        within(shared.writes.subscribe().wait_for(|writes| *writes >= due)).await.unwrap();
        truth.read_on(&server.client().await).await.map_err(of_the_log)?;
        server = server.restart().await;
        shared.stages.send_modify(|stage| stage.addr = server.addr);
    }
    within(writers.join_all()).await;
    truth.read_on(&server.client().await).await.map_err(of_the_log)?;
    shared.stages.send_modify(|stage| stage.is_over = true);
    let recordings = within(subscribers.join_all()).await;
    for count in SHARD_COUNTS {
        let shards = shards(&server.client().await, count).await;
        log.learn_shards(count, &shards).map_err(of_the_log)?;
    }
    server.stop().await;
    let mut seen = Seen::default();
    for (name, recording) in recordings {
        validate(&log, &recording).map_err(|violation| (name, violation))?;
        seen.count(&recording);
    }
    Ok(seen)
}

fn of_the_log(violation: Violation) -> (String, Violation) {
    ("the log".into(), violation)
}

/// Reads the log as it grows, so that it knows what retention removes later.
struct Truth<'a> {
    log: &'a mut Log,
    cursor: String,
}

impl Truth<'_> {
    async fn read_on(&mut self, client: &Client) -> Result<(), Violation> {
        loop {
            let start = page_after(&self.cursor);
            let page =
                client.list(ListEventsRequest { start, page_size: LARGEST_PAGE, ..list_request() }).await.unwrap();
            for event in &page.events {
                let request = GetEventRequest { sequence: event.sequence, ..get_event_request() };
                let found = client.events.clone().get_event(request).await.unwrap().into_inner();
                if found.event.as_ref() != Some(event) {
                    return Err(Violation::Altered { sequence: event.sequence });
                }
                self.log.push(event, found.cursor)?;
            }
            self.cursor = page.cursor;
            if page.caught_up {
                return Ok(());
            }
        }
    }
}

fn get_event_request() -> GetEventRequest {
    GetEventRequest { workspace: WORKSPACE.into(), ..GetEventRequest::default() }
}

/// The profiles of the events that each shard lists.
async fn shards(client: &Client, count: u32) -> Vec<BTreeSet<i64>> {
    let mut shards = Vec::new();
    for index in 0..count {
        let request =
            ListEventsRequest { shard: Some(Shard { index, count }), page_size: LARGEST_PAGE, ..list_request() };
        let events = client.pages(request).await.concat();
        shards.push(events.iter().map(|event| event.mpid).collect());
    }
    shards
}

/// What the subscribers of a storm read, so that a storm without wind is noticed.
#[derive(Debug, Default)]
pub struct Seen {
    pub streams: usize,
    pub durable_streams: usize,
    pub acknowledgements: usize,
    pub events: usize,
    pub left: usize,
    pub deleted: usize,
    /// Events and profiles of snapshots that a CEL expression selected.
    pub by_expression: usize,
    pub snapshots: usize,
    /// Streams that began in the middle of a snapshot.
    pub resumed_snapshots: usize,
    pub heartbeats: usize,
}

impl Seen {
    fn count(&mut self, recording: &Recording) {
        self.acknowledgements += recording.confirmed.len();
        for connection in &recording.connections {
            self.streams += 1;
            self.durable_streams += usize::from(matches!(connection.start, Some(Start::Subscription(_))));
            let is_resumed = matches!(connection.start, Some(Start::Cursor(_)));
            for message in connection.messages.iter().filter_map(|response| response.message.as_ref()) {
                let is_selected = matches!(message, Message::Event(_) | Message::SnapshotProfile(_));
                self.by_expression += usize::from(is_selected && !connection.view.filter.expression.is_empty());
                match message {
                    Message::Opened(opened) => self.resumed_snapshots += usize::from(opened.snapshot && is_resumed),
                    Message::Event(event) => {
                        self.events += 1;
                        self.left += usize::from(event.r#match() == FilterMatch::Left);
                        self.deleted += usize::from(event.profile.is_none());
                    }
                    Message::SnapshotComplete(_) => self.snapshots += 1,
                    Message::Heartbeat(_) => self.heartbeats += 1,
                    Message::SnapshotProfile(_) | Message::CaughtUp(_) => {}
                }
            }
        }
    }
}
