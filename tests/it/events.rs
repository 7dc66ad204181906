//! What streams and pages of events say.

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;

use crate::harness::*;

/// Creates profile `mpid`, then increments it so that the log has `events` more events.
async fn write(client: &Client, mpid: i64, events: usize) {
    let request = UpdateProfileRequest { allow_missing: true, patch: Some(increment("n")), ..update_request(mpid) };
    for _ in 0..events {
        client.update_with(request.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_says_where_it_began_and_when_it_has_caught_up() {
    let server = TestServer::start().await;
    let client = server.client().await;
    write(&client, 1, 3).await;

    let mut stream = client.subscribe_from(earliest()).await;
    let (_, opened) = stream.opened().await;
    assert_eq!((opened.after_sequence, opened.head_sequence), (0, 3));
    assert_eq!(opened.heartbeat_interval.unwrap().seconds, 15);
    let (_, events) = stream.catch_up().await;
    assert_eq!(sequences_of(&events), [1, 2, 3]);
    assert_eq!(events, client.log().await, "the unary twin lists the same");

    let mut live = client.subscribe_from(None).await;
    assert_eq!(live.opened().await.1.after_sequence, 3);
    assert!(matches!(live.message().await.1, Message::CaughtUp(CaughtUp { head_sequence: 3 })));
    write(&client, 2, 1).await;
    assert_eq!(live.event().await.1.mpid, 2);
    assert_eq!(stream.event().await.1.mpid, 2);
}

#[tokio::test]
async fn a_stream_may_begin_before_the_workspace_does() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(None).await;
    let (cursor, opened) = stream.opened().await;
    assert_eq!((opened.after_sequence, opened.head_sequence), (0, 0));

    write(&client, 1, 2).await;

    assert_eq!(stream.sequences(2).await, [1, 2]);
    assert_eq!(client.subscribe_from(after(&cursor)).await.sequences(2).await, [1, 2]);
}

/// So that a client which has stored no cursor yet needs no special case.
#[tokio::test]
async fn an_empty_cursor_means_earliest() {
    let server = TestServer::start().await;
    let client = server.client().await;
    write(&client, 1, 2).await;

    assert_eq!(client.subscribe_from(after("")).await.sequences(2).await, [1, 2]);

    let start = page_after("");
    let page = client.list(ListEventsRequest { start, ..list_request() }).await.unwrap();
    assert_eq!(page.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn an_event_says_what_happened_and_who_asked_for_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = CreateProfileRequest {
        profile: Some(Profile { user_attributes: Some(map([("a", text("1"))])), ..with_mpid(1) }),
        request_id: "first".into(),
        ..create_request()
    };
    let created = client.create_with(request).await.unwrap();
    client.delete(1).await.unwrap();

    let log = client.log().await;
    let [creation, deletion] = &log[..] else { panic!("two events") };
    assert_eq!((&*creation.r#type, &*deletion.r#type), ("profile.created", "profile.deleted"));
    assert_eq!(creation.profile, created.profile);
    assert_eq!(creation.previous, None);
    assert_eq!(creation.changed_fields, mask(&["user_attributes"]));
    assert_eq!(creation.changed_user_attributes, ["a"]);
    assert_eq!(creation.time, created.profile.as_ref().unwrap().update_time);
    assert_eq!((&*creation.request_id, &*creation.actor), ("first", ""));
    assert_eq!(deletion.profile, None);
    assert_eq!(deletion.previous, created.profile);
    assert_eq!((creation.mpid, deletion.mpid), (1, 1));
    assert_ne!(creation.id, deletion.id);
    assert!(uuid::Uuid::parse_str(&creation.id).unwrap().get_version_num() == 7);
}

#[tokio::test]
async fn a_filter_and_a_mask_trim_what_is_delivered() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=3 {
        let attributes = Some(map([("a", text("1")), ("b", text("2"))]));
        client.create(Profile { user_attributes: attributes, ..with_mpid(mpid) }).await.unwrap();
        client.update(mpid, set([("a", text("3"))])).await.unwrap();
    }
    client.delete(2).await.unwrap();
    let filter = EventFilter {
        types: vec!["profile.updated".into(), "profile.deleted".into()],
        mpids: vec![2, 3],
        ..Default::default()
    };
    let request = SubscribeRequest {
        start: earliest(),
        filter: Some(filter.clone()),
        read_mask: mask(&["mpid", "user_attributes"]),
        user_attribute_keys: vec!["b".into()],
        until_caught_up: true,
        ..subscribe_request()
    };
    let mut stream = client.subscribe(request.clone()).await.unwrap();
    let (_, events) = stream.catch_up().await;
    assert!(stream.next().await.unwrap().is_none(), "it ends with OK");

    assert_eq!(sequences_of(&events), [4, 6, 7]);
    let trimmed = Profile { user_attributes: Some(map([("b", text("2"))])), ..with_mpid(2) };
    assert_eq!(events[0].profile.as_ref(), Some(&trimmed));
    assert_eq!(events[0].changed_user_attributes, ["a"], "what changed is never trimmed");
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
    let whole = client.update(distinct().mpid, increment("n")).await.unwrap().profile.unwrap();
    client.delete(whole.mpid).await.unwrap();

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
    let server = TestServer::start().await;
    let client = server.client().await;
    write(&client, 1, 200).await;
    let of_two = of_profiles(&[2]);
    for (filter, head, expected) in [(None, 200, 200), (of_two, 201, 1)] {
        let request = SubscribeRequest { start: earliest(), filter, until_caught_up: true, ..subscribe_request() };
        let mut stream = client.subscribe(request).await.unwrap();
        assert_eq!(stream.opened().await.1.head_sequence, head);
        write(&client, 2, 1).await; // Must not be delivered, though it matches.
        let (_, events) = stream.catch_up().await;
        assert_eq!(events.len(), expected);
        assert!(stream.next().await.unwrap().is_none());
    }
}

#[tokio::test]
async fn pages_of_events_follow_each_other_and_a_stream_takes_their_cursor() {
    let server = TestServer::start().await;
    let client = server.client().await;
    write(&client, 1, 5).await;
    let mut request = ListEventsRequest { page_size: 2, ..list_request() };
    for (sequences, last) in [(vec![1, 2], false), (vec![3, 4], false), (vec![5], true)] {
        let page = client.list(request.clone()).await.unwrap();
        assert_eq!((sequences_of(&page.events), page.caught_up), (sequences, last));
        request.start = page_after(&page.cursor);
    }
    let Some(list_events_request::Start::Cursor(last)) = request.start else { unreachable!() };
    let mut stream = client.subscribe_from(after(&last)).await;
    write(&client, 1, 1).await;
    assert_eq!(stream.event().await.1.sequence, 6);
}

#[tokio::test]
async fn a_profiles_history_is_whole_across_deletion_and_rebirth() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..2 {
        write(&client, 1, 2).await;
        write(&client, 2, 3).await;
        client.delete(1).await.unwrap();
    }
    let filter = of_profiles(&[1]);
    let mut request = ListEventsRequest { filter, page_size: 4, ..list_request() };
    let first = client.list(request.clone()).await.unwrap();
    assert_eq!(sequences_of(&first.events), [1, 2, 6, 7]);
    assert!(!first.caught_up);
    request.start = page_after(&first.cursor);
    let second = client.list(request).await.unwrap();
    assert_eq!(sequences_of(&second.events), [8, 12]);
    assert!(second.caught_up);
}

/// What a filter lets through of the log: by pages of one, and by a stream, which must agree.
async fn filtered(client: &Client, filter: EventFilter) -> Vec<u64> {
    let filter = Some(filter);
    let pages = client.pages(ListEventsRequest { filter: filter.clone(), page_size: 1, ..list_request() }).await;
    let mut stream =
        client.subscribe(SubscribeRequest { start: earliest(), filter, ..subscribe_request() }).await.unwrap();
    let events = pages.concat();
    assert_eq!(stream.catch_up().await.1, events, "the unary twin lists the same");
    sequences_of(&events)
}

#[tokio::test]
async fn a_profiles_history_heeds_the_rest_of_the_filter() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let silent = ImportProfilesRequest { silent: true, ..record(by_mpid(1), increment("n")) };
    client.import(vec![silent.clone()]).await.unwrap(); // 1
    write(&client, 1, 1).await; // 2
    write(&client, 2, 2).await; // 3 and 4
    client.import(vec![silent]).await.unwrap(); // 5
    client.delete(1).await.unwrap(); // 6
    write(&client, 1, 1).await; // 7

    let history = |types: &[&str], omit_silent| {
        let types = types.iter().map(ToString::to_string).collect();
        filtered(&client, EventFilter { mpids: vec![1], types, omit_silent, ..EventFilter::default() })
    };
    assert_eq!(history(&[], false).await, [1, 2, 5, 6, 7]);
    assert_eq!(history(&["profile.created"], false).await, [1, 7]);
    assert_eq!(history(&["profile.updated"], false).await, [2, 5]);
    assert_eq!(history(&["profile.created", "profile.deleted"], false).await, [1, 6, 7]);
    assert_eq!(history(&[], true).await, [2, 6, 7]);
    assert_eq!(history(&["profile.updated"], true).await, [2]);
}

/// Also that of a profile which lost an identity, whose event stands in the taker's commit.
#[tokio::test]
async fn a_profiles_history_is_whole_across_a_take_of_its_identities() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let email = |name: &str| identity("email", &format!("{name}@x.com"));
    let take = |names: &[&str]| ProfilePatch {
        add_identities: names.iter().map(|name| email(name)).collect(),
        take_identities: true,
        ..ProfilePatch::default()
    };
    client.create(Profile { user_identities: vec![email("a"), email("b")], ..with_mpid(1) }).await.unwrap(); // 1
    client.create(Profile { user_identities: vec![email("c")], ..with_mpid(2) }).await.unwrap(); // 2
    write(&client, 1, 1).await; // 3
    client.update(2, take(&["a"])).await.unwrap(); // 4, in which 1 loses, and 5
    write(&client, 1, 1).await; // 6
    write(&client, 3, 1).await; // 7
    client.update(3, take(&["b", "c"])).await.unwrap(); // 8 and 9, in which 1 and 2 lose, and 10
    client.delete(1).await.unwrap(); // 11
    write(&client, 2, 1).await; // 12

    let log = client.log().await;
    for (mpid, length) in [(1, 6), (2, 4), (3, 2)] {
        let of_it: Vec<_> = log.iter().filter(|event| event.mpid == mpid).map(|event| event.sequence).collect();
        assert_eq!(of_it.len(), length);
        let history = filtered(&client, EventFilter { mpids: vec![mpid], ..EventFilter::default() }).await;
        assert_eq!(history, of_it, "profile {mpid}");
    }
}

/// The server reads at most 10,000 rows for a page: one without an event is not the last until nothing follows.
#[tokio::test]
async fn pages_go_on_past_very_many_events_that_do_not_match() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let updates = (0..10_001).map(|_| record(by_mpid(1), increment("n"))).collect();
    client.import(updates).await.unwrap();
    client.delete(1).await.unwrap();

    for mpids in [vec![], vec![1], vec![1, 2]] {
        let types = vec!["profile.deleted".into()];
        let deletions = filtered(&client, EventFilter { types, mpids: mpids.clone(), ..EventFilter::default() });
        assert_eq!(deletions.await, [10_002], "of {mpids:?}");
    }
}

#[tokio::test]
async fn a_silent_stream_has_heartbeats_whose_cursor_moves_on() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let request = SubscribeRequest { heartbeat_interval: seconds(1), filter: of_profiles(&[2]), ..subscribe_request() };
    let mut stream = client.subscribe(request).await.unwrap();
    let (opened_at, _) = stream.opened().await;
    assert!(matches!(stream.message().await.1, Message::CaughtUp(_)));
    write(&client, 1, 3).await; // None of it matches.

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
async fn workspaces_have_logs_of_their_own() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for (workspace, events) in [("a/b/c", 2), ("a/b/d", 3), ("a/b/c", 1)] {
        for _ in 0..events {
            let request = CreateProfileRequest { workspace: workspace.into(), ..create_request() };
            client.create_with(request).await.unwrap();
        }
    }
    for workspace in ["a/b/c", "a/b/d"] {
        let request = ListEventsRequest { workspace: workspace.into(), ..list_request() };
        let events = client.list(request).await.unwrap().events;
        assert_eq!(sequences_of(&events), [1, 2, 3], "{workspace}");
    }
    let request = ListEventsRequest { workspace: "never/written/to".into(), ..list_request() };
    let nothing = client.list(request).await.unwrap();
    assert!(nothing.events.is_empty() && nothing.caught_up);
}
