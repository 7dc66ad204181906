//! Streams that read while people are erased, one after another. What was read before an erasure is not sent, and all
//! the same each stream gets on.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::time::{advance, pause, resume};

use super::super::frame::messages;
use super::super::segment::SEGMENT_BYTES;
use super::super::*;
use super::service::*;
use super::workspace;
use crate::model::cursor::Start;
use crate::model::{Filter, Mask, Mpid, Place, Position};
use crate::proto::v1::subscribe_response::Message;
use crate::proto::v1::{EventFilter, SubscribeResponse};

/// The bytes of an event, give or take its frame.
const EVENT: usize = 20_000;

fn log_start() -> Position {
    Place::START.into()
}

fn snapshot_start() -> Position {
    Position::Snapshot { of: Place::after(EVENTS.cast_unsigned()), after: None }
}

/// The next event's or profile's number.
async fn next(frames: &mut Frames) -> u64 {
    loop {
        let run = tokio::time::timeout(PATIENCE, frames.next()).await.expect("the stream gets on").unwrap().unwrap();
        match &messages(&run)[..] {
            [SubscribeResponse { message: Some(Message::Event(event)), .. }] => return event.sequence,
            [SubscribeResponse { message: Some(Message::SnapshotProfile(profile)), .. }] => {
                return profile.mpid.cast_unsigned();
            }
            _ => {}
        }
    }
}

/// Lets a stream read its next batch, and erases somebody before it can send it.
async fn overtake(service: &Service, frames: &mut Frames) {
    let (held, transport) = (service.hold_loads(), Arc::new(Transport::default()));
    transport.poll_until_loading(frames);
    drop(held);
    transport.woken().await;
    service.erase();
}

/// A stream at a position, which has said where it starts.
async fn opened(service: &Service, at: Position, filter: Filter) -> Frames {
    let mut frames = service.open(Start::From(at), filter, Mask::default(), None);
    frames.next().await.unwrap().unwrap();
    frames
}

#[tokio::test]
async fn a_read_may_wait_for_its_turn_while_people_are_erased() {
    for start in [log_start(), snapshot_start()] {
        let service = Service::start().await;
        let mut frames = opened(&service, start, Filter::default()).await;
        let before = service.hold_loads();
        Arc::new(Transport::default()).poll_until_loading(&mut frames);
        let _after = service.hold_later_loads(); // The stream has one turn.

        service.erase();
        drop(before);

        assert_eq!(next(&mut frames).await, 1);
    }
}

#[tokio::test]
async fn batches_shrink_while_erasures_overtake_them_and_grow_again() {
    let service = Service::start().await;
    for mpid in EVENTS + 1..=4 * EVENTS {
        service.create(mpid).await;
    }
    let mut frames = opened(&service, log_start(), Filter::default()).await;
    let held = |frames: &Frames| frames.open.segment().unwrap().upgrade().map(|segment| segment.entries.len());

    for _ in 0..2 {
        overtake(&service, &mut frames).await;
    }

    let quarter = (SEGMENT_BYTES / 4).div_ceil(EVENT);
    assert_eq!(next(&mut frames).await, 1);
    assert_eq!(held(&frames), Some(quarter));
    let more = quarter as u64 + 1;
    for sequence in 2..=more {
        assert_eq!(next(&mut frames).await, sequence);
    }
    assert_eq!(held(&frames), Some(SEGMENT_BYTES.div_ceil(EVENT)));
}

/// However many erasures overtook its batches, the next has something.
#[tokio::test]
async fn a_stream_gets_on_after_many_erasures() {
    for start in [log_start(), snapshot_start()] {
        let service = Service::start().await;
        let mut frames = opened(&service, start, Filter::default()).await;
        for _ in 0..u64::BITS {
            overtake(&service, &mut frames).await;
        }
        for number in 1..=EVENTS.cast_unsigned() {
            assert_eq!(next(&mut frames).await, number, "nothing is missing, and nothing comes twice");
        }
    }
}

/// A filter that matches little makes a read long.
#[tokio::test]
async fn what_a_batch_passed_over_is_not_read_again() {
    let [before_last, last] = [EVENTS - 1, EVENTS].map(|mpid| Mpid::new(mpid).unwrap());
    let filter = Filter::parse(Some(EventFilter { mpids: vec![last.get()], ..EventFilter::default() }), None).unwrap();
    let snapshot_of = snapshot_start().place();
    for (start, passed) in [
        (log_start(), Place::after(before_last.get().cast_unsigned()).into()),
        (snapshot_start(), Position::Snapshot { of: snapshot_of, after: Some(before_last) }),
    ] {
        let service = Service::start().await;
        let mut frames = opened(&service, start, filter.clone()).await;

        overtake(&service, &mut frames).await;

        let _held = service.hold_loads();
        assert!(frames.next().now_or_never().is_none());
        pause();
        advance(HEARTBEAT + Duration::from_secs(1)).await;
        resume();
        let run = frames.next().now_or_never().expect("a heartbeat").unwrap().unwrap();
        let [SubscribeResponse { message: Some(Message::Heartbeat(_)), cursor, .. }] = &messages(&run)[..] else {
            panic!("{run:?}");
        };
        assert_eq!(*cursor, service.store.cursors(&workspace(0)).at(passed).to_string());
    }
}
