//! Streams that nothing polls: what the watchdog frees, and what it leaves alone. The tests tell it the time.

use std::net::Ipv4Addr;
use std::sync::{Weak, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tempfile::TempDir;
use tokio::time::Instant;

use super::super::frame::messages;
use super::super::open::SEGMENT_TIMEOUT;
use super::super::segment::Segment;
use super::super::*;
use super::workspace;
use crate::command::{Change, Command, Create};
use crate::config::StoreConfig;
use crate::model::cursor::Start;
use crate::model::{Filter, Limits, Mask, Mpid, NewProfile};
use crate::proto::v1::Profile;
use crate::proto::v1::subscribe_response::Message;
use crate::store::{ReadClass, StoreError};

const STALL: Duration = Duration::from_secs(300);
/// How many profiles the log begins with.
const EVENTS: i64 = 5;
/// Far longer than anything in these tests takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store with a feed that keeps no recent events, so that only subscribers hold segments. It loads one segment at a
/// time.
pub(super) struct Service {
    store: Arc<Store>,
    feed: Feed,
    start: Instant,
    _dir: TempDir,
}

impl Service {
    pub(super) async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let feed = Feed::new(FeedConfig { ring_bytes: 0, stall_timeout: STALL, ..FeedConfig::default() });
        let publisher = feed.clone();
        let data_dir = dir.path().join("data");
        let config = StoreConfig { data_dir, scrub_rate: 0, read_concurrency: 1, ..StoreConfig::default() };
        let store = Store::open(&config, move |log, events| publisher.publish(log, events)).unwrap();
        let service = Self { store: Arc::new(store), feed, start: Instant::now(), _dir: dir };
        for mpid in 1..=EVENTS {
            service.create(mpid).await;
        }
        service
    }

    /// Writes one event, of which a run holds no second.
    async fn create(&self, mpid: i64) {
        let note = Value { kind: Some(Kind::StringValue("x".repeat(20_000))) };
        let user_attributes = Some(Struct { fields: [("note".to_owned(), note)].into() });
        let profile = Profile { user_attributes, ..Profile::default() };
        let profile = Box::new(NewProfile::parse(profile, &Limits::default()).unwrap());
        let create = Create { profile, mpid: Mpid::new(mpid).unwrap(), drawn: false };
        let command = Command {
            workspace: workspace(0),
            stamp: self.store.stamp(),
            actor: None,
            request: None,
            silent: false,
            validate_only: false,
            limits: Limits::default(),
            change: Change::Create(create),
        };
        self.store.write(command).await.unwrap();
    }

    fn subscribe(&self, start: Start) -> Frames {
        self.subscribe_beating(start, Duration::from_secs(60))
    }

    pub(super) fn subscribe_beating(&self, start: Start, heartbeat: Duration) -> Frames {
        let subscribe = Subscribe {
            workspace: workspace(0),
            start,
            filter: Filter::parse(None).unwrap(),
            mask: Mask::parse(None, Vec::new()).unwrap(),
            heartbeat,
            until_caught_up: false,
            attachment: None,
        };
        let place = self.feed.enter(Ipv4Addr::LOCALHOST.into()).unwrap();
        self.feed.serve(self.feed.open(Arc::clone(&self.store), subscribe).unwrap(), place)
    }

    /// A stream from the earliest event that has delivered one event.
    async fn with_one_event(&self) -> Frames {
        let mut frames = self.subscribe(Start::Earliest);
        assert_eq!(event(&mut frames).await.0, 1);
        frames
    }

    /// Holds up every load of a segment until the sender is dropped.
    pub(super) fn hold_loads(&self) -> mpsc::Sender<()> {
        let (end, ends) = mpsc::channel::<()>();
        let read = move |_: &Store| {
            let _ = ends.recv();
            Ok::<_, StoreError>(())
        };
        let store = Arc::clone(&self.store);
        let mut held = Box::pin(async move { store.on_read_pool(ReadClass::Feed, None, read).await });
        assert!((&mut held).now_or_never().is_none());
        end
    }

    /// Lets the watchdog look now, and again after this time.
    fn look_after(&self, idle: Duration) {
        self.feed.look(self.start);
        self.feed.look(self.start + idle);
    }

    fn channel(&self) -> Weak<Channel> {
        self.feed.channels().by_workspace.get(&workspace(0)).unwrap().clone()
    }
}

/// The sequence of the next event, and its cursor.
pub(super) async fn event(frames: &mut Frames) -> (u64, String) {
    loop {
        let run = tokio::time::timeout(PATIENCE, frames.next()).await.expect("there is an event");
        let [response] = &messages(&run.unwrap().unwrap())[..] else { panic!("a run has one event of this size") };
        if let Some(Message::Event(event)) = &response.message {
            return (event.sequence, response.cursor.clone());
        }
    }
}

/// Polls until there is nothing to send.
async fn catch_up(frames: &mut Frames) {
    while event(frames).await.0 < EVENTS.cast_unsigned() {}
    while frames.next().now_or_never().is_some() {} // The notice that the stream has caught up.
}

fn segment(frames: &Frames) -> Weak<Segment> {
    frames.open.segment().expect("it has events left")
}

fn stalled(frame: Option<Result<bytes::Bytes, FeedError>>) -> String {
    match frame {
        Some(Err(FeedError::Stalled { cursor })) => cursor.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The side of the transport that is woken.
#[derive(Default)]
struct Transport(Notify);

impl Transport {
    /// Polls a new stream until it waits for its first segment. Loads must be held up meanwhile.
    fn poll_until_loading(self: &Arc<Self>, frames: &mut Frames) {
        let waker = Waker::from(Arc::clone(self));
        let mut context = Context::from_waker(&waker);
        assert!(frames.poll_next_unpin(&mut context).is_ready(), "it is open");
        assert!(frames.poll_next_unpin(&mut context).is_pending(), "and loads");
    }

    async fn woken(&self) {
        tokio::time::timeout(PATIENCE, self.0.notified()).await.expect("the segment is loaded");
    }
}

impl Wake for Transport {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_stream_that_is_not_polled_is_ended_and_its_memory_is_freed_at_once() {
    let service = Service::start().await;
    let mut frames = service.with_one_event().await;
    let (channel, segment) = (service.channel(), segment(&frames));
    service.feed.look(service.start);
    service.feed.look(service.start + SEGMENT_TIMEOUT / 2);
    assert!(channel.upgrade().is_some() && segment.upgrade().is_some());

    service.feed.look(service.start + STALL);

    assert!(channel.upgrade().is_none() && segment.upgrade().is_none(), "before any poll");
    let cursor = stalled(frames.next().await);
    assert!(frames.next().await.is_none());
    let mut resumed = service.subscribe(Start::after(cursor));
    for sequence in 2..=EVENTS.cast_unsigned() {
        assert_eq!(event(&mut resumed).await.0, sequence);
    }
}

/// A client may open a stream whose window is closed from the start.
#[tokio::test]
async fn a_stream_that_was_never_polled_is_ended() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    service.look_after(STALL);
    assert!(service.channel().upgrade().is_none());
    stalled(frames.next().await);
}

#[tokio::test]
async fn a_segment_is_given_up_early_and_read_again() {
    let service = Service::start().await;
    let mut frames = service.with_one_event().await;
    let segment = segment(&frames);
    service.look_after(SEGMENT_TIMEOUT);
    assert!(segment.upgrade().is_none());
    for sequence in 2..=EVENTS.cast_unsigned() {
        assert_eq!(event(&mut frames).await.0, sequence, "nothing is missing, and nothing comes twice");
    }
}

#[tokio::test]
async fn a_stream_that_is_polled_between_looks_is_not_idle() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    for nth in 0..EVENTS {
        service.feed.look(service.start + STALL * u32::try_from(nth).unwrap());
        assert_eq!(event(&mut frames).await.0, nth.cast_unsigned() + 1);
    }
}

/// The transport waits for the stream, and not the stream for the transport.
#[tokio::test]
async fn a_stream_without_events_is_never_ended() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    catch_up(&mut frames).await;
    service.look_after(100 * STALL);
    service.create(EVENTS + 1).await;
    assert_eq!(event(&mut frames).await.0, EVENTS.cast_unsigned() + 1);
}

/// A client may close its window while the transport waits for an event. The transport then leaves the stream alone.
#[tokio::test]
async fn a_stream_that_was_woken_and_is_not_polled_is_ended() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    catch_up(&mut frames).await;
    service.create(EVENTS + 1).await;
    service.look_after(STALL);
    assert!(service.channel().upgrade().is_none());
    let mut resumed = service.subscribe(Start::after(stalled(frames.next().await)));
    assert_eq!(event(&mut resumed).await.0, EVENTS.cast_unsigned() + 1);
}

/// A client whose window is closed makes the transport ask for the first segment, and then for nothing.
#[tokio::test]
async fn loads_that_nothing_polls_hold_up_no_other() {
    const UNREAD: usize = 20;
    let service = Service::start().await;
    let held = service.hold_loads();
    let mut unread: Vec<_> = (0..UNREAD).map(|_| service.subscribe(Start::Earliest)).collect();
    let transport = Arc::new(Transport::default());
    for frames in &mut unread {
        transport.poll_until_loading(frames);
    }
    let mut read = service.subscribe(Start::Earliest);
    drop(held);
    catch_up(&mut read).await; // The turns go on without the watchdog.
    for frames in &mut unread {
        assert_eq!(event(frames).await.0, 1, "and the others have lost nothing");
    }
}

#[tokio::test]
async fn a_segment_that_is_loaded_and_not_taken_is_given_up_and_read_again() {
    let service = Service::start().await;
    let held = service.hold_loads();
    let mut frames = service.subscribe(Start::Earliest);
    let transport = Arc::new(Transport::default());
    transport.poll_until_loading(&mut frames);
    drop(held);
    transport.woken().await;
    let loading = Arc::strong_count(&service.store);
    service.look_after(SEGMENT_TIMEOUT);
    assert_eq!(Arc::strong_count(&service.store), loading - 1, "the load is dropped");
    for sequence in 1..=EVENTS.cast_unsigned() {
        assert_eq!(event(&mut frames).await.0, sequence);
    }
}

/// The transport waits for the segment, however long its turn takes to come.
#[tokio::test]
async fn a_stream_whose_load_waits_for_its_turn_is_left_alone() {
    let service = Service::start().await;
    let held = service.hold_loads();
    let mut frames = service.subscribe(Start::Earliest);
    let transport = Arc::new(Transport::default());
    transport.poll_until_loading(&mut frames);
    service.look_after(STALL);
    drop(held);
    transport.woken().await;
    assert_eq!(event(&mut frames).await.0, 1);
}

/// The watchdog must not stop for a stream whose lock the transport holds.
#[tokio::test]
async fn a_stream_that_is_being_polled_is_passed_over() {
    let service = Service::start().await;
    let mut frames = service.with_one_event().await;
    {
        let _polled = frames.open.lock();
        service.look_after(STALL);
    }
    assert_eq!(event(&mut frames).await.0, 2);
}

#[tokio::test]
async fn a_dropped_stream_leaves_nothing_behind() {
    let service = Service::start().await;
    let frames = service.with_one_event().await;
    let (channel, open) = (service.channel(), Arc::downgrade(&frames.open));
    drop(frames);
    assert!(channel.upgrade().is_none() && open.upgrade().is_none());
    assert!(service.feed.streams.is_empty());
}

#[tokio::test]
async fn a_drain_ends_the_watchdog() {
    let service = Service::start().await;
    let feed = service.feed.clone();
    let watch = feed.watch();
    tokio::pin!(watch);
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(watch.as_mut().poll(&mut context), Poll::Pending);
    service.feed.drain();
    watch.await;
}
