//! What streams and pages of events say.

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use uuid::Uuid;

use crate::harness::*;

const CREATED: &str = "profile.created";
const UPDATED: &str = "profile.updated";
const DELETED: &str = "profile.deleted";

/// How many seconds pass between heartbeats if the subscriber does not say.
const DEFAULT_HEARTBEAT: i64 = 15;
/// How many rows the server reads for one page at most.
const ROWS_PER_PAGE: u64 = 10_000;

/// Appends this many events of one profile to the log. If there is no such profile, the first creates it.
async fn visit(client: &Client, mpid: i64, times: usize) {
    for _ in 0..times {
        client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_says_where_it_began_and_when_it_has_caught_up() {
    let server = TestServer::start().await;
    let client = server.client().await;
    visit(&client, ADA, 3).await;

    let mut stream = client.subscribe_from(earliest()).await;
    let (_, opened) = stream.opened().await;
    assert_eq!((opened.after_sequence, opened.head_sequence), (0, 3));
    assert_eq!(opened.heartbeat_interval.unwrap().seconds, DEFAULT_HEARTBEAT);
    let (_, events) = stream.catch_up().await;
    assert_eq!(sequences_of(&events), [1, 2, 3]);
    assert_eq!(events, client.log().await, "ListEvents lists the same");

    let mut live = client.subscribe_from(None).await;
    assert_eq!(live.opened().await.1.after_sequence, 3);
    assert!(matches!(live.message().await.1, Message::CaughtUp(CaughtUp { head_sequence: 3 })));
    visit(&client, GRACE, 1).await;
    assert_eq!(live.event().await.1.mpid, GRACE);
    assert_eq!(stream.event().await.1.mpid, GRACE);
}

#[tokio::test]
async fn a_stream_may_begin_before_the_workspace_does() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    let (cursor, opened) = stream.opened().await;
    assert_eq!((opened.after_sequence, opened.head_sequence), (0, 0));

    visit(&client, ADA, 2).await;

    assert_eq!(stream.sequences(2).await, [1, 2]);
    assert_eq!(client.subscribe_from(after(&cursor)).await.sequences(2).await, [1, 2]);
}

/// A client that has stored no cursor yet needs no special case.
#[tokio::test]
async fn an_empty_cursor_means_earliest() {
    let server = TestServer::start().await;
    let client = server.client().await;
    visit(&client, ADA, 2).await;

    assert_eq!(client.subscribe_from(after("")).await.sequences(2).await, [1, 2]);

    let page = client.list(ListEventsRequest { start: page_after(""), ..list_request() }).await.unwrap();
    assert_eq!(sequences_of(&page.events), [1, 2]);
}

#[tokio::test]
async fn an_event_says_what_happened_and_who_asked_for_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = CreateProfileRequest {
        profile: Some(with_attributes(ADA, [("plan", text("free"))])),
        request_id: "first".into(),
        ..create_request()
    };
    let created = client.create_with(request).await.unwrap();
    client.delete(ADA).await.unwrap();

    let log = client.log().await;
    let [creation, deletion] = &log[..] else { panic!("two events") };
    assert_eq!((&*creation.r#type, &*deletion.r#type), (CREATED, DELETED));
    assert_eq!(creation.profile, created.profile);
    assert_eq!(creation.previous, None);
    assert_eq!(creation.changed_fields, mask(&["user_attributes"]));
    assert_eq!(creation.changed_user_attributes, ["plan"]);
    assert_eq!(creation.time, created.profile.as_ref().unwrap().update_time);
    assert_eq!((&*creation.request_id, &*creation.actor), ("first", ""));
    assert_eq!(deletion.profile, None);
    assert_eq!(deletion.previous, created.profile);
    assert_eq!((creation.mpid, deletion.mpid), (ADA, ADA));
    assert_ne!(creation.id, deletion.id);
    assert!(Uuid::parse_str(&creation.id).unwrap().get_version_num() == 7, "ids sort by time");
}

#[tokio::test]
async fn a_filter_and_a_mask_trim_what_is_delivered() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in [ADA, GRACE, ALAN] {
        client.create(with_attributes(mpid, [("plan", text("free")), ("city", text("London"))])).await.unwrap();
        client.update(mpid, set([("plan", text("pro"))])).await.unwrap();
    }
    client.delete(GRACE).await.unwrap();
    let filter =
        EventFilter { types: vec![UPDATED.into(), DELETED.into()], mpids: vec![GRACE, ALAN], ..EventFilter::default() };
    let request = SubscribeRequest {
        start: earliest(),
        filter: Some(filter.clone()),
        read_mask: mask(&["mpid", "user_attributes"]),
        user_attribute_keys: vec!["city".into()],
        until_caught_up: true,
        ..subscribe_request()
    };
    let mut stream = client.subscribe(request.clone()).await.unwrap();
    let (_, events) = stream.catch_up().await;
    assert!(stream.next().await.unwrap().is_none(), "it ends with OK");

    assert_eq!(sequences_of(&events), [4, 6, 7]);
    let trimmed = with_attributes(GRACE, [("city", text("London"))]);
    assert_eq!(events[0].profile.as_ref(), Some(&trimmed));
    assert_eq!(events[0].changed_user_attributes, ["plan"], "the names of what changed are never trimmed");
    assert_eq!(events[2].previous.as_ref(), Some(&trimmed));
    let page = ListEventsRequest {
        filter: Some(filter),
        read_mask: request.read_mask,
        user_attribute_keys: request.user_attribute_keys,
        ..list_request()
    };
    assert_eq!(client.list(page).await.unwrap().events, events);
}

#[tokio::test]
async fn each_path_of_a_mask_gives_the_field_that_it_names_of_both_profiles_in_an_event() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(distinct()).await.unwrap();
    let whole = client.update(SAMPLE_MPID, increment("visits")).await.unwrap().profile.unwrap();
    client.delete(SAMPLE_MPID).await.unwrap();

    for path in profile_fields() {
        let request = SubscribeRequest { start: earliest(), read_mask: mask(&[&path]), ..subscribe_request() };
        let (_, events) = client.subscribe(request).await.unwrap().catch_up().await;
        let [_, update, deletion] = &events[..] else { panic!("three events") };
        assert_eq!(update.profile, Some(only(&path, &whole)), "{path}");
        assert_eq!(deletion.previous, Some(only(&path, &whole)), "{path}");
        let request = ListEventsRequest { read_mask: mask(&[&path]), ..list_request() };
        assert_eq!(client.list(request).await.unwrap().events, events, "{path}");
    }
}

#[tokio::test]
async fn until_caught_up_ends_where_the_log_ended_when_it_began() {
    const EVENTS: usize = 200;
    let server = TestServer::start().await;
    let client = server.client().await;
    visit(&client, ADA, EVENTS).await;
    let head = EVENTS as u64;
    for (filter, head, expected) in [(None, head, EVENTS), (of_profiles(&[GRACE]), head + 1, 1)] {
        let request = SubscribeRequest { start: earliest(), filter, until_caught_up: true, ..subscribe_request() };
        let mut stream = client.subscribe(request).await.unwrap();
        assert_eq!(stream.opened().await.1.head_sequence, head);
        visit(&client, GRACE, 1).await; // It matches, but must not be delivered.
        let (_, events) = stream.catch_up().await;
        assert_eq!(events.len(), expected);
        assert!(stream.next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn pages_of_events_follow_each_other_and_a_stream_takes_their_cursor() {
    let server = TestServer::start().await;
    let client = server.client().await;
    visit(&client, ADA, 5).await;
    let mut request = ListEventsRequest { page_size: 2, ..list_request() };
    let mut cursor = String::new();
    for (sequences, last) in [(vec![1, 2], false), (vec![3, 4], false), (vec![5], true)] {
        let page = client.list(request.clone()).await.unwrap();
        assert_eq!((sequences_of(&page.events), page.caught_up), (sequences, last));
        cursor = page.cursor;
        request.start = page_after(&cursor);
    }
    let mut stream = client.subscribe_from(after(&cursor)).await;
    visit(&client, ADA, 1).await;
    assert_eq!(stream.event().await.1.sequence, 6);
}

#[tokio::test]
async fn a_profiles_history_is_whole_across_deletion_and_rebirth() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..2 {
        visit(&client, ADA, 2).await;
        visit(&client, GRACE, 3).await;
        client.delete(ADA).await.unwrap();
    }
    let mut request = ListEventsRequest { filter: of_profiles(&[ADA]), page_size: 4, ..list_request() };
    let first = client.list(request.clone()).await.unwrap();
    assert_eq!(sequences_of(&first.events), [1, 2, 6, 7]);
    assert!(!first.caught_up);
    request.start = page_after(&first.cursor);
    let second = client.list(request).await.unwrap();
    assert_eq!(sequences_of(&second.events), [8, 12]);
    assert!(second.caught_up);
}

/// The events of the log that a filter lets through. Pages of one event and a stream must agree on them.
async fn filtered(client: &Client, filter: EventFilter) -> Vec<u64> {
    let filter = Some(filter);
    let pages = client.pages(ListEventsRequest { filter: filter.clone(), page_size: 1, ..list_request() }).await;
    let mut stream =
        client.subscribe(SubscribeRequest { start: earliest(), filter, ..subscribe_request() }).await.unwrap();
    let events = pages.concat();
    assert_eq!(stream.catch_up().await.1, events, "ListEvents lists the same");
    sequences_of(&events)
}

#[tokio::test]
async fn a_profiles_history_heeds_the_rest_of_the_filter() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let silent = ImportProfilesRequest { silent: true, ..record(by_mpid(ADA), increment("visits")) };
    client.import(vec![silent.clone()]).await.unwrap(); // 1
    visit(&client, ADA, 1).await; // 2
    visit(&client, GRACE, 2).await; // 3 and 4
    client.import(vec![silent]).await.unwrap(); // 5
    client.delete(ADA).await.unwrap(); // 6
    visit(&client, ADA, 1).await; // 7

    let history = |types: &[&str], omit_silent| {
        let types = types.iter().map(ToString::to_string).collect();
        filtered(&client, EventFilter { mpids: vec![ADA], types, omit_silent, ..EventFilter::default() })
    };
    assert_eq!(history(&[], false).await, [1, 2, 5, 6, 7]);
    assert_eq!(history(&[CREATED], false).await, [1, 7]);
    assert_eq!(history(&[UPDATED], false).await, [2, 5]);
    assert_eq!(history(&[CREATED, DELETED], false).await, [1, 6, 7]);
    assert_eq!(history(&[], true).await, [2, 6, 7]);
    assert_eq!(history(&[UPDATED], true).await, [2]);
}

/// The history includes the event in which a profile lost an identity. That event is part of the taker's commit.
#[tokio::test]
async fn a_profiles_history_is_whole_across_a_take_of_its_identities() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let hers = [email("ada"), email("countess")];
    client.create(Profile { user_identities: hers.into(), ..with_mpid(ADA) }).await.unwrap(); // 1
    client.create(owner_of(email("grace"), GRACE)).await.unwrap(); // 2
    visit(&client, ADA, 1).await; // 3
    client.update(GRACE, take([email("ada")])).await.unwrap(); // 4, in which Ada loses an email, and 5
    visit(&client, ADA, 1).await; // 6
    visit(&client, ALAN, 1).await; // 7
    // 8 and 9, in which Ada and Grace lose an email each, and 10.
    client.update(ALAN, take([email("countess"), email("grace")])).await.unwrap();
    client.delete(ADA).await.unwrap(); // 11
    visit(&client, GRACE, 1).await; // 12

    let log = client.log().await;
    for (mpid, length) in [(ADA, 6), (GRACE, 4), (ALAN, 2)] {
        let own: Vec<_> = log.iter().filter(|event| event.mpid == mpid).map(|event| event.sequence).collect();
        assert_eq!(own.len(), length);
        let history = filtered(&client, EventFilter { mpids: vec![mpid], ..EventFilter::default() }).await;
        assert_eq!(history, own, "profile {mpid}");
    }
}

/// The server reads at most 10,000 rows for a page. A page without an event is the last only if nothing follows it.
#[tokio::test]
async fn pages_go_on_past_very_many_events_that_do_not_match() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let updates = (0..=ROWS_PER_PAGE).map(|_| record(by_mpid(ADA), increment("visits"))).collect();
    client.import(updates).await.unwrap();
    client.delete(ADA).await.unwrap();

    for mpids in [vec![], vec![ADA], vec![ADA, GRACE]] {
        let types = vec![DELETED.into()];
        let deletions = filtered(&client, EventFilter { types, mpids: mpids.clone(), ..EventFilter::default() });
        assert_eq!(deletions.await, [ROWS_PER_PAGE + 2], "of {mpids:?}");
    }
}

#[tokio::test]
async fn a_silent_stream_has_heartbeats_whose_cursor_moves_on() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request =
        SubscribeRequest { heartbeat_interval: seconds(1), filter: of_profiles(&[GRACE]), ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    let (opened_at, _) = stream.opened().await;
    assert!(matches!(stream.message().await.1, Message::CaughtUp(_)));
    visit(&client, ADA, 3).await; // None of it matches.

    // The first heartbeat may come between the writes.
    within(async {
        loop {
            let (cursor, heartbeat) = stream.message().await;
            assert!(matches!(heartbeat, Message::Heartbeat(Heartbeat { time: Some(_) })));
            let mut resumed = client.subscribe_from(after(&cursor)).await;
            if resumed.opened().await.1.after_sequence == 3 {
                assert_ne!(cursor, opened_at);
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_says_how_often_its_heartbeats_come() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for interval in [1, 60] {
        let request = SubscribeRequest { heartbeat_interval: seconds(interval), ..subscribe_request() };
        let opened = client.subscribe(request).await.unwrap().opened().await.1;
        assert_eq!(opened.heartbeat_interval, seconds(interval));
    }
}

#[tokio::test]
async fn workspaces_have_logs_of_their_own() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for (workspace, events) in [(WORKSPACE, 2), (OTHER_WORKSPACE, 3), (WORKSPACE, 1)] {
        for _ in 0..events {
            client.create_with(CreateProfileRequest { workspace: workspace.into(), ..create_request() }).await.unwrap();
        }
    }
    for workspace in [WORKSPACE, OTHER_WORKSPACE] {
        let request = ListEventsRequest { workspace: workspace.into(), ..list_request() };
        let events = client.list(request).await.unwrap().events;
        assert_eq!(sequences_of(&events), [1, 2, 3], "{workspace}");
    }
    let request = ListEventsRequest { workspace: "never/written/to".into(), ..list_request() };
    let nothing = client.list(request).await.unwrap();
    assert!(nothing.events.is_empty() && nothing.caught_up);
}
