//! Streams that wait: what wakes them, and when. The tests move the clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Poll;

use futures_util::{FutureExt, StreamExt};
use prost_types::FieldMask;
use tokio::time::{advance, pause, resume};

use super::super::frame::messages;
use super::super::*;
use super::service::*;
use super::{segment, workspace};
use crate::command::{Begin, Change, CreateSubscription, DeleteSubscription, SeekSubscription, UpdateSubscription};
use crate::model::cursor::Start;
use crate::model::{Client, Mask, Micros, Place, Settings, SubscriptionName};
use crate::proto::v1::Subscription;
use crate::proto::v1::subscribe_response::Message;

/// Passes time, in which nothing else happens.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

/// What the stream has to send now.
fn due(frames: &mut Frames) -> Option<Message> {
    let run = frames.next().now_or_never()?.expect("it goes on").unwrap();
    let [message] = &messages(&run)[..] else { panic!("one message") };
    message.message.clone()
}

/// The clock of heartbeats runs from the last message.
#[tokio::test]
async fn a_heartbeat_comes_when_nothing_was_sent_for_its_interval() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    catch_up(&mut frames).await;
    pass(HEARTBEAT * 2 / 3).await;
    assert_eq!(due(&mut frames), None);
    service.create(EVENTS + 1).await;
    assert_eq!(event(&mut frames).await.0, EVENTS.cast_unsigned() + 1);
    pass(HEARTBEAT * 2 / 3).await;
    assert_eq!(due(&mut frames), None, "an event was sent meanwhile");
    pass(HEARTBEAT * 2 / 3).await;
    assert!(matches!(due(&mut frames), Some(Message::Heartbeat(_))));
    pass(HEARTBEAT * 2 / 3).await;
    assert_eq!(due(&mut frames), None);
    pass(HEARTBEAT * 2 / 3).await;
    assert!(matches!(due(&mut frames), Some(Message::Heartbeat(_))));
}

/// A client that hears nothing for long takes its stream for dead. The stream says where it starts once it has read the
/// first events, or when a heartbeat would be due.
#[tokio::test]
async fn a_heartbeat_comes_also_while_the_stream_waits_for_the_log() {
    let service = Service::start().await;
    let held = service.hold_loads();
    let mut frames = service.subscribe(Start::Earliest);
    let cursor = |frames: &mut Frames| {
        let run = frames.next().now_or_never()?.expect("it goes on").unwrap();
        let [message] = &messages(&run)[..] else { panic!("one message") };
        Some(message.cursor.clone())
    };
    assert_eq!(cursor(&mut frames), None);
    pass(HEARTBEAT + Duration::from_secs(1)).await;
    let opened = cursor(&mut frames);
    assert!(opened.is_some());
    for _ in 0..2 {
        assert_eq!(cursor(&mut frames), None);
        pass(HEARTBEAT + Duration::from_secs(1)).await;
        assert_eq!(cursor(&mut frames), opened, "nothing has been delivered yet");
    }
    drop(held);
    assert_eq!(event(&mut frames).await.0, 1);
}

#[tokio::test]
async fn a_stream_that_waits_for_the_log_is_ended_when_it_is_too_old() {
    let max_stream_age = HEARTBEAT / 3;
    let service = Service::start_with(FeedConfig { max_stream_age, ring_bytes: 0, ..FeedConfig::default() }).await;
    let _held = service.hold_loads();
    let mut frames = service.subscribe(Start::Earliest);
    assert_eq!(due(&mut frames), None);
    pass(max_stream_age * 2).await;
    assert!(matches!(due(&mut frames), Some(Message::Opened(_))));
    let end = frames.next().now_or_never().expect("it is too old, although its batch still waits");
    assert!(matches!(end, Some(Err(FeedError::TooOld { .. }))), "{end:?}");
}

#[tokio::test]
async fn a_stream_that_waits_is_woken_when_it_is_too_old() {
    let max_stream_age = HEARTBEAT * 3 / 2;
    let service = Service::start_with(FeedConfig { max_stream_age, ..FeedConfig::default() }).await;
    let mut frames = service.subscribe(Start::Earliest);
    catch_up(&mut frames).await;
    pass(HEARTBEAT + Duration::from_secs(1)).await;
    assert!(matches!(due(&mut frames), Some(Message::Heartbeat(_))));
    let transport = Arc::new(Transport::default());
    assert!(transport.poll(&mut frames).is_pending());
    pass(HEARTBEAT * 2 / 3).await; // It may be a tenth older than the limit.
    assert!(transport.is_woken(), "before the next heartbeat");
    assert!(matches!(transport.poll(&mut frames), Poll::Ready(Some(Err(FeedError::TooOld { .. })))));
}

#[tokio::test]
async fn a_stream_that_loses_its_subscription_is_woken_at_once() {
    let service = Service::start().await;
    let (of, name) = (workspace(0), SubscriptionName::parse("name", "crm").unwrap());
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let attach = |stream| service.feed.attach(&of, &name, stream, peer, Micros::new(7), Place::START.into());
    let transport = Arc::new(Transport::default());
    let mut streams = [1, 2].map(|stream| service.subscribe_with(Start::Now, Mask::default(), Some(attach(stream))));
    let [taken_over, deleted] = &mut streams;
    assert!(matches!(transport.poll(taken_over), Poll::Ready(Some(Ok(_)))), "it is open");
    assert!(matches!(transport.poll(taken_over), Poll::Ready(Some(Err(FeedError::TakenOver { .. })))));
    for _ in ["opened", "caught up"] {
        assert!(transport.poll(deleted).is_ready());
    }
    assert!(transport.poll(deleted).is_pending());
    assert!(!transport.is_woken());
    service.feed.detach(&of, &name, 3, Detached::Deleted);
    assert!(transport.is_woken());
    assert!(matches!(transport.poll(deleted), Poll::Ready(Some(Err(FeedError::Deleted { .. })))));
}

/// The caller of a change may give up before the writer gets to it, or lose its connection.
#[tokio::test]
async fn a_stream_ends_with_the_change_of_its_subscription_also_if_the_caller_has_gone() {
    let service = Service::start().await;
    let (of, name) = (workspace(0), SubscriptionName::parse("name", "crm").unwrap());
    let settings = |key: &str| {
        let user_attribute_keys = vec![key.to_owned()];
        let subscription = Subscription { name: name.to_string(), user_attribute_keys, ..Subscription::default() };
        Box::new(Settings::parse("subscription", subscription, None).unwrap())
    };
    let create = CreateSubscription { settings: settings("plan"), start: Begin::Earliest };
    service.write(Change::CreateSubscription(create)).await;
    let delete = DeleteSubscription { name: name.clone(), allow_missing: false };
    let changes = [
        (Change::OpenStream(name.clone()), Detached::TakenOver),
        (Change::SeekSubscription(SeekSubscription { name: name.clone(), to: Begin::Now }), Detached::TakenOver),
        (
            Change::UpdateSubscription(UpdateSubscription { settings: settings("ltv"), paths: Vec::new() }),
            Detached::TakenOver,
        ),
        (Change::DeleteSubscription(delete), Detached::Deleted),
    ];
    for (change, expected) in changes {
        service.write(Change::OpenStream(name.clone())).await;
        let number = service.store.subscription(&of, &name).unwrap().stream;
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let stream = service.feed.attach(&of, &name, number, peer, Micros::new(7), Place::START.into());
        assert_eq!(stream.ended(), None);

        let _ = service.write(change.clone()).now_or_never(); // The caller goes away.
        let later = DeleteSubscription { name: SubscriptionName::parse("name", "none").unwrap(), allow_missing: true };
        service.write(Change::DeleteSubscription(later)).await;

        assert_eq!(stream.ended(), Some(expected), "{change:?}");
    }
}

/// Events in memory were made by this process, but a mistake in them must not end in an endless loop, nor be hidden.
#[tokio::test]
async fn a_malformed_event_in_memory_ends_a_stream_with_the_cursor_past_it() {
    let service = Service::start_with(FeedConfig::default()).await;
    let mask = Mask::parse(Some(FieldMask { paths: vec!["mpid".into()] }), Vec::new(), None).unwrap();
    let mut frames = service.subscribe_with(Start::Now, mask, None);
    let malformed = EVENTS.cast_unsigned() + 1;
    let channel = service.channel().upgrade().unwrap();
    service.feed.keep(&channel, vec![segment(malformed..=malformed)]);
    channel.advance(Place::after(malformed));
    let ended = loop {
        match frames.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let FeedError::Damaged { past } = ended else { panic!("{ended:?}") };
    assert_eq!(past.to_string(), service.store.cursors(&workspace(0)).at(Place::after(malformed)).to_string());
}

#[test]
fn each_client_has_places_of_its_own() {
    let feed = Feed::new(FeedConfig { max_streams_per_client: 1, ..FeedConfig::default() });
    let client = |last| Client::Address(IpAddr::from([192, 0, 2, last]));
    let first = feed.enter(client(1)).unwrap();
    assert!(matches!(feed.enter(client(1)), Err(FeedError::TooManyStreams { limit: 1 })));
    let second = feed.enter(client(2)).unwrap();
    drop(first);
    drop(feed.enter(client(1)).unwrap());
    drop(second);
    assert!(feed.streams.is_empty());
}
