//! A feed on a real store, and the side of the transport, for tests of streams.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tempfile::TempDir;
use tokio::time::Instant;

use super::super::frame::messages;
use super::super::*;
use super::workspace;
use crate::command::{Change, Command, Create, Trim};
use crate::config::StoreConfig;
use crate::model::cursor::Start;
use crate::model::{Client, Filter, Limits, LogId, Mask, Mpid, NewProfile};
use crate::proto::v1::Profile;
use crate::proto::v1::subscribe_response::Message;
use crate::store::{Commit, Committed, ReadClass, StoreError};

pub const STALL: Duration = Duration::from_secs(300);
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// How many profiles the log begins with.
pub const EVENTS: i64 = 5;
/// Far longer than anything in these tests takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The call that waits for a load.
pub type Hold = Pin<Box<dyn Future<Output = Result<(), StoreError>>>>;

/// A store with a feed that loads one segment at a time.
pub struct Service {
    pub store: Arc<Store>,
    pub feed: Feed,
    /// What was published, in order.
    pub committed: Arc<Mutex<Vec<Committed>>>,
    pub start: Instant,
    _dir: TempDir,
}

impl Service {
    /// Keeps no recent events in memory, so that only subscribers hold segments.
    pub async fn start() -> Self {
        Self::start_with(FeedConfig { ring_bytes: 0, stall_timeout: STALL, ..FeedConfig::default() }).await
    }

    pub async fn start_with(config: FeedConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let feed = Feed::new(config);
        let committed = Arc::<Mutex<Vec<Committed>>>::default();
        let (publisher, collected) = (feed.clone(), Arc::clone(&committed));
        let data_dir = dir.path().join("data");
        let config = StoreConfig { data_dir, scrub_rate: 0, read_concurrency: 1, ..StoreConfig::default() };
        let store = Store::open(&config, move |log, commit| {
            publisher.publish(log, commit);
            collected.lock().unwrap().extend_from_slice(commit.events);
        });
        let store = Arc::new(store.unwrap());
        let service = Self { store, feed, committed, start: Instant::now(), _dir: dir };
        for mpid in 1..=EVENTS {
            service.create(mpid).await;
        }
        service
    }

    /// Writes one event, of which a run holds no second.
    pub async fn create(&self, mpid: i64) {
        let note = Value { kind: Some(Kind::StringValue("x".repeat(20_000))) };
        let user_attributes = Some(Struct { fields: [("note".to_owned(), note)].into() });
        let profile = Profile { user_attributes, ..Profile::default() };
        let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
        self.write(Change::Create(Create { profile, mpid: Mpid::new(mpid).unwrap(), drawn: false })).await;
    }

    /// Removes the oldest events.
    pub async fn trim(&self, most: usize) {
        let max_age = Some(Duration::ZERO);
        self.write(Change::Trim(Trim { max_age, max_bytes: None, hold_age: None, hold_bytes: None, most })).await;
    }

    pub async fn write(&self, change: Change) {
        let command = Command {
            workspace: workspace(0),
            stamp: self.store.stamp(),
            actor: None,
            request: None,
            silent: false,
            validate_only: false,
            limits: Limits::default(),
            change,
        };
        self.store.write(command).await.unwrap();
    }

    pub fn subscribe(&self, start: Start) -> Frames {
        self.subscribe_with(start, Mask::default(), None)
    }

    pub fn subscribe_with(&self, start: Start, mask: Mask, attachment: Option<Attachment>) -> Frames {
        self.open(start, Filter::default(), mask, attachment)
    }

    pub fn open(&self, start: Start, filter: Filter, mask: Mask, attachment: Option<Attachment>) -> Frames {
        let subscribe = Subscribe {
            workspace: workspace(0),
            start,
            filter,
            mask,
            heartbeat: HEARTBEAT,
            until_caught_up: false,
            attachment,
            is_over: None,
        };
        let place = self.feed.enter(Client::Address(Ipv4Addr::LOCALHOST.into())).unwrap();
        self.feed.serve(self.feed.open(Arc::clone(&self.store), subscribe).unwrap(), place)
    }

    /// A stream from the earliest event that has delivered one event.
    pub async fn with_one_event(&self) -> Frames {
        let mut frames = self.subscribe(Start::Earliest);
        assert_eq!(event(&mut frames).await.0, 1);
        frames
    }

    /// Holds up every load of a segment until the sender is dropped.
    pub fn hold_loads(&self) -> mpsc::Sender<()> {
        let (end, begun, _left) = self.hold();
        begun.recv_timeout(PATIENCE).expect("the loads before it end");
        end
    }

    /// Holds up the loads that join the line from now on until it is dropped.
    pub fn hold_later_loads(&self) -> (mpsc::Sender<()>, Hold) {
        let (end, _, held) = self.hold();
        (end, held)
    }

    /// A load that ends when the sender is dropped, and says when it has begun. Until then it leaves the line if the call is
    /// dropped.
    fn hold(&self) -> (mpsc::Sender<()>, mpsc::Receiver<()>, Hold) {
        let (end, ends) = mpsc::channel::<()>();
        let (begin, begun) = mpsc::channel();
        let read = move |_: &Store| {
            let _ = begin.send(());
            let _ = ends.recv();
            Ok::<_, StoreError>(())
        };
        let store = Arc::clone(&self.store);
        let mut held: Hold = Box::pin(async move { store.on_read_pool(ReadClass::Feed, None, read).await });
        assert!((&mut held).now_or_never().is_none());
        (end, begun, held)
    }

    /// Tells the streams that somebody was erased.
    pub fn erase(&self) {
        self.feed.publish(LogId(0), Commit { events: &[], erased: &[workspace(0)], ended: &[] });
    }

    /// Lets the watchdog look now, and again after this time.
    pub fn look_after(&self, idle: Duration) {
        self.feed.look(self.start);
        self.feed.look(self.start + idle);
    }

    pub fn channel(&self) -> Weak<Channel> {
        self.feed.channels().by_workspace.get(&workspace(0)).unwrap().clone()
    }
}

/// The sequence of the next event, and its cursor.
pub async fn event(frames: &mut Frames) -> (u64, String) {
    loop {
        let run = tokio::time::timeout(PATIENCE, frames.next()).await.expect("there is an event");
        let [response] = &messages(&run.unwrap().unwrap())[..] else { panic!("a run has one event of this size") };
        if let Some(Message::Event(event)) = &response.message {
            return (event.sequence, response.cursor.clone());
        }
    }
}

/// Polls until there is nothing to send.
pub async fn catch_up(frames: &mut Frames) {
    while event(frames).await.0 < EVENTS.cast_unsigned() {}
    while frames.next().now_or_never().is_some() {} // The notice that the stream has caught up.
}

/// The side of the transport that is woken.
#[derive(Default)]
pub struct Transport(Notify);

impl Transport {
    /// Polls a stream, which may wake this transport afterwards.
    pub fn poll(self: &Arc<Self>, frames: &mut Frames) -> Poll<Option<Result<Bytes, FeedError>>> {
        let waker = Waker::from(Arc::clone(self));
        frames.poll_next_unpin(&mut Context::from_waker(&waker))
    }

    /// Polls a new stream until it waits for its first segment. Loads must be held up meanwhile.
    pub fn poll_until_loading(self: &Arc<Self>, frames: &mut Frames) {
        assert!(self.poll(frames).is_pending(), "it loads");
    }

    pub async fn woken(&self) {
        tokio::time::timeout(PATIENCE, self.0.notified()).await.expect("it is woken");
    }

    /// Whether it has been woken since the last look.
    pub fn is_woken(&self) -> bool {
        self.0.notified().now_or_never().is_some()
    }
}

impl Wake for Transport {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}
