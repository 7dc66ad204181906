//! Where a stream starts if retention removes events between its opening and its first read.

use futures_util::StreamExt;

use super::super::frame::messages;
use super::super::*;
use super::service::{EVENTS, PATIENCE, Service};
use super::workspace;
use crate::model::cursor::Start;
use crate::model::{Micros, Place};
use crate::proto::v1::subscribe_response::Message;
use crate::proto::v1::{Opened, SubscribeResponse};
use crate::store::StoreError;

/// The messages of the next run of frames.
async fn run(frames: &mut Frames) -> Result<Vec<SubscribeResponse>, FeedError> {
    let run = tokio::time::timeout(PATIENCE, frames.next()).await.expect("there is one");
    run.unwrap().map(|run| messages(&run))
}

async fn opened(frames: &mut Frames) -> Opened {
    match &run(frames).await.unwrap()[..] {
        [SubscribeResponse { message: Some(Message::Opened(opened)), .. }] => *opened,
        other => panic!("{other:?}"),
    }
}

async fn sequence(frames: &mut Frames) -> u64 {
    match &run(frames).await.unwrap()[..] {
        [SubscribeResponse { message: Some(Message::Event(event)), .. }] => event.sequence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_without_a_cursor_starts_with_what_retention_has_left() {
    for start in [Start::Earliest, Start::Since(Place::START, Micros::new(1))] {
        let service = Service::start().await;
        let mut frames = service.subscribe(start);

        service.trim(2).await;

        assert_eq!(opened(&mut frames).await.after_sequence, 2);
        for next in 3..=EVENTS.cast_unsigned() {
            assert_eq!(sequence(&mut frames).await, next);
        }
    }
}

/// Events may be written between the search for a time and the opening of the stream, and be too early all the same.
#[tokio::test]
async fn a_time_is_looked_for_again_in_what_was_written_since_the_search() {
    let head = EVENTS.cast_unsigned();
    for (time, after) in [(Micros::new(1), head - 2), (Micros::new(i64::MAX), head)] {
        let service = Service::start().await;
        let mut frames = service.subscribe(Start::Since(Place::after(head - 2), time));
        assert_eq!(opened(&mut frames).await.after_sequence, after);
    }
}

#[tokio::test]
async fn a_stream_without_a_cursor_starts_at_the_end_of_an_emptied_log() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    service.trim(usize::MAX).await;
    assert_eq!(opened(&mut frames).await.after_sequence, EVENTS.cast_unsigned());
}

/// What the stream has said stays true: the first events are in its hands by then.
#[tokio::test]
async fn a_stream_that_has_said_where_it_starts_delivers_from_there() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Earliest);
    assert_eq!(opened(&mut frames).await.after_sequence, 0);
    service.trim(2).await;
    assert_eq!(sequence(&mut frames).await, 1);
}

#[tokio::test]
async fn a_snapshot_that_retention_has_overtaken_is_taken_anew() {
    let service = Service::start().await;
    let mut frames = service.subscribe(Start::Snapshot);
    service.create(EVENTS + 1).await;
    service.trim(usize::MAX).await;

    let Opened { after_sequence, snapshot, .. } = opened(&mut frames).await;

    assert_eq!((after_sequence, snapshot), (EVENTS.cast_unsigned() + 1, true));
    for mpid in 1..=EVENTS + 1 {
        let run = run(&mut frames).await.unwrap();
        let [SubscribeResponse { message: Some(Message::SnapshotProfile(profile)), .. }] = &run[..] else {
            panic!("{run:?}");
        };
        assert_eq!(profile.mpid, mpid);
    }
}

#[tokio::test]
async fn a_cursor_that_retention_overtakes_has_expired() {
    let service = Service::start().await;
    let cursor = service.store.cursors(&workspace(0)).at(Place::after(1)).to_string();
    let mut frames = service.subscribe(Start::after(cursor));
    service.trim(2).await;
    assert_eq!(opened(&mut frames).await.after_sequence, 1);
    assert!(matches!(run(&mut frames).await, Err(FeedError::Store(StoreError::Expired { .. }))));
}
