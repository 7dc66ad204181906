//! How much a stream reads at once: a segment of events, or a page of a snapshot.

use prost_types::FieldMask;

use super::super::frame::messages;
use super::super::segment::{SEGMENT_BYTES, SEGMENT_EVENTS};
use super::super::view::Views;
use super::super::*;
use super::service::*;
use super::{super::snapshot, workspace};
use crate::model::cursor::Start;
use crate::model::{Filter, Mask, Place};
use crate::store::PageSize;

/// Three times as many bytes as a segment holds.
const PROFILES: i64 = 20;
/// A segment ends with the event that fills it, which has 20,000 bytes.
const MOST: usize = SEGMENT_BYTES + 24_000;

async fn service() -> Service {
    let service = Service::start().await;
    for mpid in EVENTS + 1..=PROFILES {
        service.create(mpid).await;
    }
    service
}

#[tokio::test]
async fn a_stream_reads_a_bounded_segment_of_the_log() {
    let service = service().await;
    let mask = Mask::parse(Some(FieldMask { paths: vec!["user_attributes".into()] }), Vec::new(), None).unwrap();
    for mask in [Mask::default(), mask] {
        let mut frames = service.subscribe_with(Start::Earliest, mask, None);
        event(&mut frames).await;
        let held = frames.open.segment().unwrap().upgrade().unwrap().weight();
        assert!((SEGMENT_BYTES..=MOST).contains(&held), "{held}");
    }
}

#[tokio::test]
async fn what_is_committed_is_kept_in_bounded_segments() {
    let service = service().await;
    let committed = service.committed.lock().unwrap();
    let segments = Segment::encode(service.store.cursors(&workspace(0)), &committed);
    assert!(segments.iter().all(|segment| segment.weight() <= MOST));
    assert_eq!(segments.iter().map(|segment| segment.entries.len()).sum::<usize>(), committed.len());
}

/// And each run of its frames ends at the position that it says, from which the snapshot can be resumed.
#[tokio::test]
async fn a_stream_reads_a_bounded_page_of_a_snapshot() {
    let service = service().await;
    let (cursors, of) = (service.store.cursors(&workspace(0)), Place::after(PROFILES.cast_unsigned()));
    let view = Views::new(&Arc::default()).join(Filter::default(), Mask::default());
    let size = PageSize { items: SEGMENT_EVENTS, bytes: SEGMENT_BYTES };
    let page = snapshot::read(&service.store, &workspace(0), cursors, of, None, &view, size).unwrap();
    let (mut from, mut bytes, mut last) = (0, 0, None);
    while let (Some(run), position) = page.take(&mut from, 50_000) {
        assert_eq!(messages(&run).last().unwrap().cursor, cursors.at(position).to_string());
        bytes += run.len();
        last = Some(position);
    }
    assert!((SEGMENT_BYTES..=MOST).contains(&bytes), "{bytes}");
    assert_eq!(Some(page.take(&mut from, 1).1), last, "there are more");
}
