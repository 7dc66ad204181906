//! Where a stream starts, and what its filter lets through.

use std::collections::BTreeMap;

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use prost_types::Timestamp;

use crate::harness::*;

const VIP: i64 = 7;
const OTHER: i64 = 8;

fn join(audience: i64) -> ProfilePatch {
    ProfilePatch { join_audiences: vec![member(audience, None)], ..Default::default() }
}

fn leave(audience: i64) -> ProfilePatch {
    ProfilePatch { leave_audiences: vec![audience], ..Default::default() }
}

async fn patch(client: &Client, mpid: i64, patch: ProfilePatch) {
    client.update_with(upsert_request(mpid, patch)).await.unwrap();
}

#[allow(clippy::unnecessary_wraps)] // It is an optional field.
fn from_snapshot() -> Option<subscribe_request::Start> {
    Some(subscribe_request::Start::Snapshot(true))
}

/// The messages of a stream up to `caught_up`.
async fn until_caught_up(client: &Client, request: SubscribeRequest) -> Vec<SubscribeResponse> {
    let mut stream = client.subscribe(SubscribeRequest { until_caught_up: true, ..request }).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = stream.next().await.unwrap() {
        messages.push(message);
    }
    messages
}

fn profiles_of(messages: &[SubscribeResponse]) -> Vec<Profile> {
    let profile = |message: &SubscribeResponse| match &message.message {
        Some(Message::SnapshotProfile(profile)) => Some(profile.clone()),
        _ => None,
    };
    messages.iter().filter_map(profile).collect()
}

fn events_of(messages: &[SubscribeResponse]) -> Vec<Event> {
    let event = |message: &SubscribeResponse| match &message.message {
        Some(Message::Event(event)) => Some(event.clone()),
        _ => None,
    };
    messages.iter().filter_map(event).collect()
}

/// The profiles that the events up to one make.
fn folded(log: &[Event], through: u64) -> BTreeMap<i64, Profile> {
    let mut profiles = BTreeMap::new();
    for event in log.iter().filter(|event| event.sequence <= through) {
        match &event.profile {
            Some(profile) => profiles.insert(event.mpid, profile.clone()),
            None => profiles.remove(&event.mpid),
        };
    }
    profiles
}

/// Snapshot meets stream exactly: while profiles are created, changed, deleted and created again during the snapshot,
/// it is what the events up to its place made, and the events after it follow. So it is from each of its cursors.
#[tokio::test]
async fn a_snapshot_meets_the_stream_exactly() {
    const PROFILES: i64 = 200;
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=PROFILES {
        client.create(padded(mpid)).await.unwrap();
    }
    client.delete(50).await.unwrap();
    let mut stream = client.subscribe_from(from_snapshot()).await;
    let (_, opened) = stream.opened().await;
    let (of, mut cursors, mut taken) = (opened.after_sequence, Vec::new(), Vec::new());
    assert!(opened.snapshot);
    for _ in 0..20 {
        let (cursor, Message::SnapshotProfile(profile)) = stream.message().await else { panic!("a profile") };
        cursors.push(cursor);
        taken.push(profile);
    }
    for mpid in (5..=PROFILES).step_by(5) {
        match mpid % 4 {
            0 => drop(client.delete(mpid).await),
            1 => patch(&client, mpid, increment("visits")).await,
            2 => {
                patch(&client, mpid, join(VIP)).await;
                patch(&client, mpid, set([("plan", text("pro"))])).await;
                patch(&client, mpid, ProfilePatch { clear_user_attributes: true, ..leave(VIP) }).await;
            }
            _ => {
                client.delete(mpid).await.unwrap();
                client.create(with_mpid(mpid)).await.unwrap();
            }
        }
    }
    patch(&client, PROFILES + 1, increment("visits")).await;
    let log = client.log().await;
    let expected: Vec<_> = folded(&log, of).into_values().collect();
    let complete = loop {
        match stream.message().await {
            (cursor, Message::SnapshotProfile(profile)) => {
                cursors.push(cursor);
                taken.push(profile);
            }
            (_, Message::SnapshotComplete(complete)) => break complete,
            (_, other) => panic!("{other:?}"),
        }
    };
    assert_eq!((taken.clone(), complete.sequence), (expected.clone(), of));
    let later: Vec<_> = log.iter().filter(|event| event.sequence > of).cloned().collect();
    for event in &later {
        assert_eq!(stream.event().await.1, *event);
    }
    let server = server.restart().await;
    let client = server.client().await;
    for (at, cursor) in cursors.iter().enumerate().step_by(13) {
        let request = SubscribeRequest { start: after(cursor), ..subscribe_request() };
        let messages = until_caught_up(&client, request).await;
        assert_eq!(profiles_of(&messages), expected[at + 1..], "resumed after profile {at}");
        assert_eq!(events_of(&messages), later);
    }
}

#[tokio::test]
async fn a_snapshot_until_caught_up_is_an_export() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let unborn = until_caught_up(&client, SubscribeRequest { start: from_snapshot(), ..subscribe_request() }).await;
    assert!(profiles_of(&unborn).is_empty() && unborn.len() == 3, "opened, complete, caught up");
    for mpid in [-5, 3, 9] {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    let read_mask = mask(&["is_opted_out"]); // Nobody is. The mpid is there whatever the mask names.
    let request = SubscribeRequest { start: from_snapshot(), read_mask, ..subscribe_request() };
    let messages = until_caught_up(&client, request).await;
    let expected: Vec<_> = [-5, 3, 9].map(|mpid| Profile { mpid, ..Default::default() }).into();
    assert_eq!(profiles_of(&messages), expected);

    let mut pages = Vec::new();
    let mut start = Some(list_events_request::Start::Snapshot(true));
    loop {
        let page = client.list(ListEventsRequest { start, page_size: 2, ..list_request() }).await.unwrap();
        pages.extend(mpids_of(&page.snapshot_profiles));
        assert!(page.events.is_empty());
        if page.caught_up {
            break;
        }
        start = page_after(&page.cursor);
    }
    assert_eq!(pages, [-5, 3, 9]);
}

/// Only what matches the filter, by mpid, by audience and by shard.
#[tokio::test]
async fn a_snapshot_has_what_matches_the_filter() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=40 {
        let audience = if mpid % 4 == 0 { VIP } else { OTHER };
        patch(&client, mpid, join(audience)).await;
    }
    let snapshot = |filter: EventFilter, shard| {
        let request = SubscribeRequest { start: from_snapshot(), filter: Some(filter), shard, ..subscribe_request() };
        let client = client.clone();
        async move { mpids_of(&profiles_of(&until_caught_up(&client, request).await)) }
    };
    let vips: Vec<_> = (4..=40).step_by(4).collect();
    assert_eq!(snapshot(EventFilter { audience_ids: vec![VIP], ..Default::default() }, None).await, vips);
    assert_eq!(snapshot(of_profiles(&[30, 2, 99]).unwrap(), None).await, [2, 30]);
    let mut shares = Vec::new();
    for index in 0..3 {
        shares.extend(snapshot(EventFilter::default(), Some(Shard { index, count: 3 })).await);
    }
    shares.sort_unstable();
    assert_eq!(shares, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_time_starts_with_the_first_event_at_or_after_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..9 {
        patch(&client, ADA, increment("visits")).await;
    }
    let log = client.log().await;
    let first_at_or_after = |time: &Timestamp| {
        let is_late = |event: &&Event| {
            let at = event.time.as_ref().unwrap();
            (at.seconds, at.nanos) >= (time.seconds, time.nanos)
        };
        log.iter().find(is_late).map(|event| event.sequence)
    };
    let mut times: Vec<_> = log.iter().map(|event| event.time.unwrap()).collect();
    times.extend(times.clone().iter().map(|time| Timestamp { nanos: time.nanos + 1, ..*time }));
    times.extend([Timestamp { seconds: 0, nanos: 0 }, from_now(std::time::Duration::from_secs(60))]);
    for time in times {
        let start = Some(subscribe_request::Start::Time(time));
        let messages = until_caught_up(&client, SubscribeRequest { start, ..subscribe_request() }).await;
        let expected = first_at_or_after(&time);
        assert_eq!(events_of(&messages).first().map(|event| event.sequence), expected);
        let start = Some(list_events_request::Start::Time(time));
        let page = client.list(ListEventsRequest { start, ..list_request() }).await.unwrap();
        assert_eq!(page.events.first().map(|event| event.sequence), expected);
    }
}

/// A filtered copy stays right: a profile that enters, stays and leaves is told of, a delete of one that matched too, and
/// nothing else. On the stream from memory, on that from the log, and on pages.
#[tokio::test]
async fn a_filtered_copy_stays_right() {
    use FilterMatch::{Entered, Left, Stayed};
    let server = TestServer::start().await;
    let client = server.client().await;
    let filter = Some(EventFilter { audience_ids: vec![VIP], ..Default::default() });
    let request = SubscribeRequest { filter: filter.clone(), ..subscribe_request() };
    let mut live = client.subscribe(request.clone()).await.unwrap();
    live.opened().await;
    patch(&client, ADA, increment("visits")).await; // 1: outside
    patch(&client, ADA, join(VIP)).await; // 2: enters
    patch(&client, ADA, increment("visits")).await; // 3: stays
    patch(&client, ADA, join(OTHER)).await; // 4: stays
    patch(&client, ADA, leave(VIP)).await; // 5: leaves
    patch(&client, ADA, increment("visits")).await; // 6: outside
    client.delete(ADA).await.unwrap(); // 7: outside
    patch(&client, GRACE, join(VIP)).await; // 8: enters
    client.delete(GRACE).await.unwrap(); // 9: leaves
    let expected = [(2, Entered), (3, Stayed), (4, Stayed), (5, Left), (8, Entered), (9, Left)];
    let said = |events: &[Event]| -> Vec<_> { events.iter().map(|event| (event.sequence, event.r#match())).collect() };
    let mut from_memory = Vec::new();
    for _ in expected {
        from_memory.push(live.event().await.1);
    }
    assert_eq!(said(&from_memory), expected);
    let from_log = until_caught_up(&client, SubscribeRequest { start: earliest(), ..request }).await;
    assert_eq!(said(&events_of(&from_log)), expected);
    let page = client.list(ListEventsRequest { filter, ..list_request() }).await.unwrap();
    assert_eq!((said(&page.events), page.caught_up), (expected.to_vec(), true));
}

/// `changed_fields` and `changed_user_attributes` select by what changed. Deletes, and what enters or leaves, come
/// whatever changed.
#[tokio::test]
async fn changed_fields_select_what_changed() {
    let server = TestServer::start().await;
    let client = server.client().await;
    patch(&client, ADA, set([("plan", text("free"))])).await; // 1: plan
    patch(&client, ADA, set([("color", text("red"))])).await; // 2: another attribute
    patch(&client, ADA, join(VIP)).await; // 3: audiences, and enters
    patch(&client, ADA, set([("plan", text("pro"))])).await; // 4: plan
    patch(&client, ADA, set([("color", text("blue"))])).await; // 5: another attribute
    client.delete(ADA).await.unwrap(); // 6
    let sequences = |filter: EventFilter| {
        let client = client.clone();
        async move {
            let request = SubscribeRequest { start: earliest(), filter: Some(filter), ..subscribe_request() };
            let messages = until_caught_up(&client, request).await;
            sequences_of(&events_of(&messages))
        }
    };
    let plan = || EventFilter { changed_user_attributes: vec!["plan".into()], ..Default::default() };
    assert_eq!(sequences(plan()).await, [1, 4, 6]);
    let audiences = EventFilter { changed_fields: mask(&["audience_memberships"]), ..plan() };
    assert_eq!(sequences(audiences).await, [1, 3, 4, 6]);
    assert_eq!(
        sequences(EventFilter { changed_fields: mask(&["user_attributes"]), ..Default::default() }).await,
        [1, 2, 4, 5, 6]
    );
    assert_eq!(sequences(EventFilter { audience_ids: vec![VIP], ..plan() }).await, [3, 4, 6]);
}

/// Consumers share the work: each event goes to one shard, and those of a profile all go to the same.
#[tokio::test]
async fn shards_share_the_events_and_keep_the_order_of_each_profile() {
    const COUNT: u32 = 4;
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..3 {
        for mpid in 1..=20 {
            patch(&client, mpid, increment("visits")).await;
        }
    }
    let (mut all, mut owner) = (Vec::new(), BTreeMap::new());
    for index in 0..COUNT {
        let shard = Some(Shard { index, count: COUNT });
        let request = SubscribeRequest { start: earliest(), shard, ..subscribe_request() };
        let events = events_of(&until_caught_up(&client, request).await);
        assert!(events.is_sorted_by_key(|event| event.sequence));
        assert!(events.iter().all(|event| *owner.entry(event.mpid).or_insert(index) == index));
        let page = client.list(ListEventsRequest { shard, ..list_request() }).await.unwrap();
        assert_eq!(page.events, events);
        all.extend(sequences_of(&events));
    }
    all.sort_unstable();
    assert_eq!(all, (1..=60).collect::<Vec<_>>());
}

/// Streams with a mask and a filter see the same from memory as from the log.
#[tokio::test]
async fn equal_views_see_the_same_from_memory_and_from_the_log() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let filter =
        Some(EventFilter { audience_ids: vec![VIP], types: vec!["profile.updated".into()], ..Default::default() });
    let request = SubscribeRequest { filter, read_mask: mask(&["mpid", "user_attributes"]), ..subscribe_request() };
    let request = SubscribeRequest { user_attribute_keys: vec!["visits".into()], ..request };
    let mut live = Vec::new();
    for _ in 0..3 {
        let mut stream = client.subscribe(request.clone()).await.unwrap();
        stream.opened().await;
        live.push(stream);
    }
    for mpid in 1..=5 {
        patch(&client, mpid, ProfilePatch { set_user_attributes: Some(map([("plan", text("pro"))])), ..join(VIP) })
            .await;
        patch(&client, mpid, increment("visits")).await;
    }
    let from_log = events_of(&until_caught_up(&client, SubscribeRequest { start: earliest(), ..request }).await);
    assert_eq!(sequences_of(&from_log), [2, 4, 6, 8, 10]);
    for event in &from_log {
        let profile = event.profile.as_ref().unwrap();
        assert!(attribute(profile, "visits").is_some() && attribute(profile, "plan").is_none());
        assert_eq!(event.r#match(), FilterMatch::Stayed);
        for stream in &mut live {
            assert_eq!(stream.event().await.1, *event);
        }
    }
}

/// Equal views are shared, and unequal ones are not: streams with other filters and other masks, side by side, each see
/// from memory what a page with the same filter and mask lists.
#[tokio::test]
async fn streams_with_unequal_filters_or_masks_see_each_their_own() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let of = |audience| Some(EventFilter { audience_ids: vec![audience], ..Default::default() });
    let requests = [
        (None, None, ""),
        (None, mask(&["mpid"]), ""),
        (None, mask(&["mpid", "etag"]), ""),
        (None, mask(&["user_attributes"]), "visits"),
        (None, mask(&["user_attributes"]), "plan"),
        (Some(EventFilter { omit_silent: true, ..Default::default() }), None, ""),
        (of(VIP), None, ""),
        (of(VIP), mask(&["mpid"]), ""),
        (of(OTHER), mask(&["mpid"]), ""),
        (of(OTHER), mask(&["user_attributes"]), "plan"),
    ];
    let mut streams = Vec::new();
    for (filter, read_mask, key) in requests {
        let user_attribute_keys = if key.is_empty() { Vec::new() } else { vec![key.to_owned()] };
        let list = ListEventsRequest { filter, read_mask, user_attribute_keys, ..list_request() };
        let ListEventsRequest { filter, read_mask, user_attribute_keys, .. } = list.clone();
        let request = SubscribeRequest { filter, read_mask, user_attribute_keys, ..subscribe_request() };
        let mut stream = client.subscribe(request).await.unwrap();
        stream.opened().await;
        streams.push((stream, list));
    }
    let plan = |name| Some(map([("plan", text(name))]));
    patch(&client, ADA, ProfilePatch { set_user_attributes: plan("free"), ..join(VIP) }).await;
    patch(&client, GRACE, ProfilePatch { set_user_attributes: plan("pro"), ..join(OTHER) }).await;
    patch(&client, ADA, increment("visits")).await;
    client
        .import(vec![ImportProfilesRequest { silent: true, ..record(by_mpid(GRACE), increment("visits")) }])
        .await
        .unwrap();
    patch(&client, GRACE, leave(OTHER)).await;
    let both = vec![member(VIP, None), member(OTHER, None)];
    patch(&client, ALAN, ProfilePatch { join_audiences: both, ..Default::default() }).await; // Every stream sees it.
    for (mut stream, list) in streams {
        let listed = client.list(list.clone()).await.unwrap().events;
        let mut seen = Vec::new();
        while seen.last().is_none_or(|event: &Event| event.sequence < 6) {
            seen.push(stream.event().await.1);
        }
        assert_eq!(seen, listed, "{list:?}");
    }
}

/// The events of one commit are read together, but each has its own cursor.
#[tokio::test]
async fn a_stream_that_resumes_within_a_commit_repeats_none_of_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(owner_of(email("ada"), ADA)).await.unwrap(); // 1
    client.create(with_mpid(GRACE)).await.unwrap(); // 2
    let mut live = client.listen().await;
    client.update(GRACE, take([email("ada")])).await.unwrap(); // 3, in which Ada loses it, and 4
    let (first, event) = live.event().await;
    assert_eq!(event.sequence, 3);
    for read_mask in [None, mask(&["mpid"])] {
        let request = SubscribeRequest { start: after(&first), read_mask, ..subscribe_request() };
        assert_eq!(client.subscribe(request).await.unwrap().event().await.1.sequence, 4);
    }
}

/// A page has as many profiles as were asked for, those that match, and of each its mpid and what the mask names.
#[tokio::test]
async fn pages_of_a_snapshot_heed_the_size_the_filter_and_the_mask() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=10 {
        patch(&client, mpid, join(if mpid % 2 == 0 { VIP } else { OTHER })).await;
    }
    let request = ListEventsRequest {
        start: Some(list_events_request::Start::Snapshot(true)),
        filter: Some(EventFilter { audience_ids: vec![VIP], ..Default::default() }),
        read_mask: mask(&["is_opted_out"]), // Nobody is.
        page_size: 2,
        ..list_request()
    };
    let (mut pages, mut next) = (Vec::new(), request.clone());
    loop {
        let page = client.list(next).await.unwrap();
        if page.caught_up {
            break;
        }
        next = ListEventsRequest { start: page_after(&page.cursor), ..request.clone() };
        pages.push(page.snapshot_profiles);
    }
    let page = |mpids: [i64; 2]| mpids.map(|mpid| Profile { mpid, ..Default::default() }).to_vec();
    assert_eq!(pages[..2], [page([2, 4]), page([6, 8])]);
    assert_eq!(mpids_of(&pages.concat()), [2, 4, 6, 8, 10]);

    let small = limits(|limits| limits.response_bytes = 1);
    let server = TestServer::reopen_with(server.stop().await, small).await;
    let page = server.client().await.list(ListEventsRequest { page_size: 10, ..request }).await.unwrap();
    assert_eq!(mpids_of(&page.snapshot_profiles), [2], "the last may exceed the bytes");
}

/// A stream that has been open for as long as streams may be ends with its cursor, and a resume loses nothing.
#[tokio::test]
async fn a_stream_that_is_too_old_ends_with_its_cursor() {
    let server =
        TestServer::start_with(|config| config.feed.max_stream_age = std::time::Duration::from_millis(50)).await;
    let client = server.client().await;
    let (mut seen, mut start) = (Vec::new(), earliest());
    for visit in 1..=20 {
        patch(&client, ADA, increment("visits")).await;
        while seen.len() < visit {
            let mut stream = client.subscribe_from(start.clone()).await;
            loop {
                match stream.next().await {
                    Ok(Some(SubscribeResponse { cursor, message })) => {
                        start = after(&cursor);
                        if let Some(Message::Event(event)) = message {
                            seen.push(event.sequence);
                            break;
                        }
                    }
                    Ok(None) => panic!("it ends with an error"),
                    Err(ended) => {
                        assert_eq!(reason(&ended), "STREAM_TOO_OLD");
                        assert_eq!(after(&metadata(&ended, "cursor")), start);
                        break;
                    }
                }
            }
        }
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_has_only_so_many_streams() {
    let server = TestServer::start_with(|config| config.feed.max_streams_per_client = 2).await;
    let client = server.client().await;
    let (first, _second) = (client.listen().await, client.listen().await);
    let refused = client.subscribe(subscribe_request()).await.map(|_| ());
    assert_refused(refused, tonic::Code::ResourceExhausted, "QUOTA_EXCEEDED", "");
    drop(first);
    within(async { while client.subscribe(subscribe_request()).await.is_err() {} }).await;
}
