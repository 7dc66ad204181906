//! Streams that nothing polls: what the watchdog frees, and what it leaves alone. The tests tell it the time.

use std::sync::Weak;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;

use super::super::open::SEGMENT_TIMEOUT;
use super::super::segment::Segment;
use super::super::*;
use super::service::*;
use crate::model::cursor::Start;

fn segment(frames: &Frames) -> Weak<Segment> {
    frames.open.segment().expect("it has events left")
}

fn stalled(frame: Option<Result<bytes::Bytes, FeedError>>) -> String {
    match frame {
        Some(Err(FeedError::Stalled { cursor })) => cursor.to_string(),
        other => panic!("{other:?}"),
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
