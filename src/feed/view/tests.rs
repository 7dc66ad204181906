//! What views share, and what becomes of it when nothing uses it.

use prost::Message;
use prost_types::FieldMask;

use super::super::segment::SEGMENT_BYTES;
use super::*;
use crate::model::{EventKind, LogId, Mpid, Sequence, Workspace};
use crate::proto::v1::{Event, EventFilter, Profile};

fn cursors() -> CursorSpace {
    CursorSpace::new(LogId(1), &Workspace::parse("a/b/c").unwrap())
}

/// An encoded event, which creates a profile with this etag.
fn created(sequence: u64, etag: &str) -> Vec<u8> {
    let profile = Some(Profile { mpid: 1, etag: etag.into(), ..Profile::default() });
    Event { sequence, mpid: 1, profile, ..Event::default() }.encode_to_vec()
}

/// A segment of these encoded events.
fn segment(events: &[Vec<u8>]) -> Arc<Segment> {
    let mut filling = Filling::new(cursors());
    for (sequence, event) in (1..).zip(events) {
        let (sequence, mpid) = (Sequence::new(sequence).unwrap(), Mpid::new(1).unwrap());
        filling.push(EventRef { sequence, mpid, kind: EventKind::Created, silent: false, other: None, event });
    }
    Arc::new(filling.finish(Place::after(events.len() as u64)))
}

fn three_events() -> Arc<Segment> {
    segment(&[created(1, "a"), created(2, "b"), created(3, "c")])
}

/// Needs each event decoded.
fn costly() -> Filter {
    Filter::parse(Some(EventFilter { changed_user_attributes: vec!["plan".into()], ..EventFilter::default() }), None)
        .unwrap()
}

/// Needs each event cut.
fn mask(path: &str) -> Mask {
    Mask::parse(Some(FieldMask { paths: vec![path.into()] }), Vec::new(), None).unwrap()
}

fn taken(room: &Room) -> usize {
    room.0.load(Ordering::Relaxed)
}

#[test]
fn equal_subscribers_share_a_view_and_what_it_makes() {
    let views = Views::new(&Arc::default());
    let (view, source) = (views.join(costly(), mask("mpid")), three_events());
    assert!(Arc::ptr_eq(&view, &views.join(costly(), mask("mpid"))));
    assert!(Arc::ptr_eq(&view.of(cursors(), &source), &view.of(cursors(), &source)), "it is made once");
    for (filter, mask) in [(costly(), mask("etag")), (Filter::default(), mask("mpid"))] {
        assert!(!Arc::ptr_eq(&view, &views.join(filter, mask)));
    }
}

#[test]
fn what_views_share_is_freed_once_nothing_has_used_it_for_a_while() {
    let room = Arc::default();
    let views = Views::new(&room);
    let (view, source) = (views.join(costly(), mask("mpid")), three_events());
    let made = Arc::downgrade(&view.of(cursors(), &source));
    let held = Arc::downgrade(&source);
    drop(source);
    views.look();
    assert!(made.upgrade().is_some() && taken(&room) > 0, "it has been used since the last look");
    views.look();
    assert!(made.upgrade().is_none() && held.upgrade().is_none());
    assert_eq!(taken(&room), 0);
}

#[test]
fn dropped_views_give_their_memory_back() {
    let room = Arc::default();
    let views = Views::new(&room);
    let view = views.join(costly(), mask("mpid"));
    view.of(cursors(), &three_events());
    view.of(cursors(), &three_events()); // A later segment, which takes the place of the first.
    assert!(taken(&room) > 0);
    drop((view, views));
    assert_eq!(taken(&room), 0);
}

/// What does not fit is made again for each subscriber.
#[test]
fn views_take_no_more_memory_than_there_is_for_them() {
    let room = Arc::default();
    let views = Views::new(&room);
    let source = segment(&[created(1, &"x".repeat(SEGMENT_BYTES))]);
    let joined: Vec<_> = (1..=ROOM / SEGMENT_BYTES)
        .map(|mpid| {
            let mpids = vec![i64::try_from(mpid).unwrap(), 1];
            let filter = Filter::parse(Some(EventFilter { mpids, ..EventFilter::default() }), None).unwrap();
            let view = views.join(filter, mask("etag"));
            assert_eq!(view.of(cursors(), &source).entries.len(), 1);
            assert!(taken(&room) <= ROOM);
            view
        })
        .collect();
    assert!(taken(&room) > ROOM - 2 * source.weight(), "there is no room for all");
    drop(joined);
}

/// The next read of a subscriber then finds the malformed event first, and reports it.
#[test]
fn a_view_of_a_segment_ends_before_a_malformed_event() {
    let views = Views::new(&Arc::default());
    let source = segment(&[created(1, "a"), vec![0; 100], created(3, "c")]);
    for filter in [Filter::default(), costly()] {
        let seen = views.join(filter, mask("etag")).of(cursors(), &source);
        assert_eq!(seen.through, Place::after(1));
    }
}

#[test]
fn entries_of_dropped_views_are_swept() {
    let views = Views::new(&Arc::default());
    for key in 0..1_000 {
        views.join(Filter::default(), Mask::parse(None, vec![format!("key-{key}")], None).unwrap());
        let shared = views.of.lock().unwrap();
        assert!(shared.views.len() <= SWEEP_AT && shared.cuts.len() <= SWEEP_AT);
    }
}
