//! What is left of a log when its oldest events are gone, as callers see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cameo::config::Config;
use cameo::proto::v1::*;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::harness::*;

const EXPIRED: &str = "CURSOR_EXPIRED";

/// Removes every event as soon as the server looks.
fn keep_nothing(config: &mut Config) {
    config.store.retention_age = Duration::from_millis(1);
}

async fn subscribe_after(client: &Client, cursor: &str, filter: Option<EventFilter>) -> Result<Stream, Status> {
    client.subscribe(SubscribeRequest { start: after(cursor), filter, ..subscribe_request() }).await
}

async fn list_after(client: &Client, cursor: &str, filter: Option<EventFilter>) -> Result<ListEventsResponse, Status> {
    client.list(ListEventsRequest { start: page_after(cursor), filter, ..list_request() }).await
}

/// Asserts that a cursor is refused, with the sequences of the oldest and of the latest event, and returns the time of
/// the oldest.
async fn assert_expired(client: &Client, cursor: &str, oldest: u64, head: u64) -> String {
    let mut times = Vec::new();
    for filter in [None, of_profiles(&[ADA])] {
        let subscribe = subscribe_after(client, cursor, filter.clone()).await.map(|_| ()).unwrap_err();
        let list = list_after(client, cursor, filter).await.map(|_| ()).unwrap_err();
        for status in [subscribe, list] {
            assert_eq!((status.code(), &*reason(&status)), (Code::OutOfRange, EXPIRED));
            assert_eq!(metadata(&status, "oldest_sequence"), oldest.to_string());
            assert_eq!(metadata(&status, "head_sequence"), head.to_string());
            times.push(metadata(&status, "oldest_time"));
        }
    }
    times.dedup();
    assert_eq!(times.len(), 1, "{times:?}");
    times.remove(0)
}

/// Ten events, of which retention by bytes keeps the last six, in the same server and in the next.
#[tokio::test]
async fn the_edge_of_a_trimmed_log_is_exact() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (mut cursors, mut bytes) = (vec![String::new()], vec![0]);
    for _ in 0..10 {
        let request = upsert_request(ADA, increment("visits"));
        cursors.push(client.update_with(request).await.unwrap().cursor);
        bytes.push(client.status(WORKSPACE).await.unwrap().log.unwrap().log_bytes);
    }
    let whole = client.log().await;
    let held = bytes[10] - bytes[4];
    let dir = server.stop().await;
    let server = TestServer::reopen_with(dir, |config| {
        metrics_on(config);
        config.store.retention_bytes = held;
    })
    .await;
    let expected = LogEnds { oldest_sequence: 5, head_sequence: 10, log_bytes: held };
    assert_eq!(server.client().await.until_oldest(5).await, expected);
    let trimmed = [("cameo_events_trimmed_total", 4.0), ("cameo_commands_total{outcome=\"written\"}", 0.0)];
    server.until_metrics(|metrics| metrics.value("cameo_events_trimmed_total") > 0.0).await.assert(&trimmed);

    let mut server = server;
    for _ in 0..2 {
        let client = server.client().await;
        assert_eq!(client.status(WORKSPACE).await.unwrap().log, Some(expected));
        assert_eq!(client.log().await, whole[4..]);
        for filter in [None, of_profiles(&[ADA])] {
            let mut stream = subscribe_after(&client, &cursors[4], filter.clone()).await.unwrap();
            assert_eq!(stream.catch_up().await.1, whole[4..]);
            let page = list_after(&client, &cursors[4], filter).await.unwrap();
            assert_eq!((page.events, page.caught_up), (whole[4..].to_vec(), true));
        }
        assert_eq!(client.subscribe_from(earliest()).await.opened().await.1.after_sequence, 4);
        let oldest_time = assert_expired(&client, &cursors[3], 5, 10).await;
        assert_eq!(oldest_time, whole[4].time.unwrap().to_string());
        server = server.restart().await;
    }
}

#[tokio::test]
async fn a_log_that_retention_has_emptied_continues() {
    let server = TestServer::start_with(keep_nothing).await;
    let client = server.client().await;
    let mut cursors = Vec::new();
    for mpid in [ADA, GRACE, ALAN] {
        cursors.push(client.create(with_mpid(mpid)).await.unwrap().cursor);
    }
    let empty = LogEnds { oldest_sequence: 4, head_sequence: 3, log_bytes: 0 };
    assert_eq!(client.until_oldest(4).await, empty);
    let server = server.restart().await;
    let client = server.client().await;
    assert_eq!(client.status(WORKSPACE).await.unwrap().log, Some(empty));
    assert_eq!(assert_expired(&client, &cursors[1], 4, 3).await, "", "there is no oldest event");
    assert!(client.log().await.is_empty());
    let mut stream = subscribe_after(&client, &cursors[2], None).await.unwrap();
    assert_eq!(stream.catch_up().await.1, []);

    client.update(ADA, increment("visits")).await.unwrap();
    client.delete(GRACE).await.unwrap();

    assert_eq!(stream.sequences(2).await, [4, 5]);
    assert_eq!(client.get(ADA).await.unwrap().mpid, ADA);
    assert_eq!(client.get(ALAN).await.unwrap().mpid, ALAN);
    for (mpid, history) in [(ADA, vec![4]), (GRACE, vec![5]), (ALAN, vec![])] {
        let page = list_after(&client, &cursors[2], of_profiles(&[mpid])).await.unwrap();
        assert_eq!(sequences_of(&page.events), history);
    }
}

/// Ada's first four events are gone, and her seventh is damaged. Grace came after the trim.
#[tokio::test]
async fn a_list_says_whether_retention_has_removed_its_beginning() {
    use list_events_request::Start;
    let server = TestServer::start_with(keep_nothing).await;
    let client = server.client().await;
    let mut floor = String::new();
    for _ in 1..=4 {
        floor = client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap().cursor;
    }
    client.until_oldest(5).await;
    let server = TestServer::reopen(server.stop().await).await;
    let client = server.client().await;
    for _ in 5..=7 {
        client.update(ADA, increment("visits")).await.unwrap();
    }
    client.create(with_mpid(GRACE)).await.unwrap();
    client.update(GRACE, increment("visits")).await.unwrap();
    let dir = server.stop().await;
    edit(&dir, |transaction| damage_event(transaction, 7));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;

    let first_page = async |start: Option<Start>, mpids: &[i64]| {
        let request = ListEventsRequest { start, filter: of_profiles(mpids), ..list_request() };
        let page = client.list(request).await.unwrap();
        (sequences_of(&page.events), page.truncated, page.cursor)
    };
    for start in [None, Some(Start::Earliest(true)), Some(Start::Time(prost_types::Timestamp::default()))] {
        let (events, truncated, cursor) = first_page(start.clone(), &[ADA]).await;
        assert_eq!((events, truncated), (vec![5, 6], true), "{start:?}");
        let damaged = list_after(&client, &cursor, of_profiles(&[ADA])).await.unwrap_err();
        assert_eq!(reason(&damaged), "RECORD_CORRUPT");
        assert_eq!(list_after(&client, &metadata(&damaged, "cursor"), of_profiles(&[ADA])).await.unwrap().events, []);

        let (events, truncated, _) = first_page(start.clone(), &[GRACE]).await;
        assert_eq!((events, truncated), (vec![8, 9], false), "{start:?}");
        assert!(first_page(start, &[]).await.1);
    }
    assert!(!first_page(page_after(&floor), &[ADA]).await.1, "the caller has seen what is gone");
    assert!(!first_page(Some(Start::Snapshot(true)), &[]).await.1);
}

/// It is told, and nothing that it got before has a hole.
#[tokio::test]
async fn a_stream_that_retention_overtakes_ends_with_the_reason() {
    let settings = |config: &mut Config| {
        metrics_on(config);
        config.feed.ring_bytes = 0;
        config.store.retention_age = Duration::from_secs(2);
    };
    let server = TestServer::start_with(settings).await;
    let client = server.client().await;
    let mut stream = server.client().await.subscribe_from(earliest()).await;
    stream.opened().await;
    for mpid in 1..=STALLED_EVENTS {
        client.create(padded(mpid)).await.unwrap();
    }
    let head = u64::try_from(STALLED_EVENTS).unwrap();
    client.until_oldest(head + 1).await;

    let mut last = (0, String::new());
    let status = within(async {
        loop {
            match stream.next().await {
                Ok(Some(SubscribeResponse { cursor, message: Some(subscribe_response::Message::Event(event)) })) => {
                    assert_eq!(event.sequence, last.0 + 1);
                    last = (event.sequence, cursor);
                }
                Ok(message) => assert!(message.is_some(), "the stream ended with OK"),
                Err(status) => return status,
            }
        }
    })
    .await;

    assert!(last.0 < head, "{} of {head} events", last.0);
    assert_eq!((status.code(), &*reason(&status)), (Code::OutOfRange, EXPIRED), "{status:?}");
    assert_eq!(metadata(&status, "oldest_sequence"), (head + 1).to_string());
    assert_eq!(metadata(&status, "head_sequence"), head.to_string());
    server.metrics().await.assert(&[("cameo_streams_ended_total{reason=\"expired\"}", 1.0)]);
}

/// A server whose log has ten events, of which retention has removed the first four. `first` writes those.
async fn trimmed_after(first: [i64; 4], rest: [i64; 6]) -> TestServer {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut bytes = Vec::new();
    for mpid in first.into_iter().chain(rest) {
        client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
        bytes.push(client.status(WORKSPACE).await.unwrap().log.unwrap().log_bytes);
    }
    let held = bytes[9] - bytes[3];
    trimmed(server.stop().await, held).await
}

/// Reopens a log, and waits until retention by bytes has removed the first four of its events.
async fn trimmed(dir: Arc<TempDir>, held: u64) -> TestServer {
    let settings = |config: &mut Config| {
        config.store.retention_bytes = held;
        config.store.subscription_hold_bytes = held; // It waits for no subscription.
    };
    let server = TestServer::reopen_with(dir, settings).await;
    server.client().await.until_oldest(5).await;
    server
}

/// Only a page that would have begun with a removed event says so: of the log, or of the profile that it is about.
#[tokio::test]
async fn a_page_says_whether_retention_has_removed_what_it_would_have_begun_with() {
    use list_events_request::Start;
    let server = trimmed_after([ADA, ADA, ADA, ALAN], [ADA, GRACE, GRACE, ADA, ADA, ADA]).await;
    let client = server.client().await;
    let truncated = |start, filter| {
        let client = client.clone();
        async move { client.list(ListEventsRequest { start, filter, ..list_request() }).await.unwrap().truncated }
    };
    let log = client.log().await;
    let before_all = Some(Start::Time(prost_types::Timestamp::default()));
    for start in [None, Some(Start::Earliest(true)), before_all] {
        assert!(truncated(start.clone(), None).await, "{start:?}");
        for (mpid, expected) in [(ADA, true), (ALAN, true), (GRACE, false), (1, false)] {
            assert_eq!(truncated(start.clone(), of_profiles(&[mpid])).await, expected, "{mpid} from {start:?}");
        }
        assert!(truncated(start.clone(), of_profiles(&[GRACE, 1])).await, "of several, it is the log that counts");
    }
    let later = Some(Start::Time(log[3].time.unwrap()));
    assert!(!truncated(later, None).await);
    let first = client.list(ListEventsRequest { page_size: 1, ..list_request() }).await.unwrap();
    assert!(first.truncated);
    assert!(!truncated(page_after(&first.cursor), None).await, "the first page has said it");
    let whole = TestServer::start().await;
    whole.client().await.create(with_mpid(ADA)).await.unwrap();
    assert!(!whole.client().await.list(list_request()).await.unwrap().truncated);
}

/// It is lost from the first event that it misses, and behind by what the log still holds.
#[tokio::test]
async fn a_subscription_that_retention_overtakes_is_shown_as_lost() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut bytes = Vec::new();
    for event in 1..=10 {
        let cursor = client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap().cursor;
        bytes.push(client.status(WORKSPACE).await.unwrap().log.unwrap().log_bytes);
        let request = CreateSubscriptionRequest {
            workspace: WORKSPACE.into(),
            subscription: Some(Subscription { name: format!("after-{event}"), ..Default::default() }),
            start: Some(create_subscription_request::Start::Cursor(cursor)),
            ..Default::default()
        };
        client.events.clone().create_subscription(request).await.unwrap();
    }
    let server = trimmed(server.stop().await, bytes[9] - bytes[3]).await;
    let client = server.client().await;
    for (after, state, lag) in [(1, "LOST", 6), (3, "LOST", 6), (4, "ACTIVE", 6), (5, "ACTIVE", 5), (10, "ACTIVE", 0)] {
        let request = GetSubscriptionRequest { workspace: WORKSPACE.into(), name: format!("after-{after}") };
        let shown = client.events.clone().get_subscription(request).await.unwrap().into_inner().subscription.unwrap();
        assert!(shown.state().as_str_name().ends_with(state), "{after}: {:?}", shown.state());
        assert_eq!((shown.acknowledged_sequence, shown.lag_events), (after, lag));
        let lag_time = shown.lag_time.unwrap();
        assert_eq!(lag_time.seconds > 0 || lag_time.nanos > 0, lag > 0, "{after}: behind by {lag_time:?}");
    }
}

/// One command removes at most 256 events, and there is one look a second. So a backlog is not left to the looks.
#[tokio::test]
async fn a_backlog_is_removed_at_once() {
    const EVENTS: i64 = 4_000;
    let server = TestServer::start().await;
    let client = server.client().await;
    let records = (1..=EVENTS).map(|mpid| record(by_mpid(mpid), increment("visits")));
    client.import(records.collect()).await.unwrap();
    let head = client.status(WORKSPACE).await.unwrap().log.unwrap().head_sequence;
    assert_eq!(head, EVENTS.unsigned_abs());
    let server = TestServer::reopen_with(server.stop().await, keep_nothing).await;
    let begun = Instant::now();
    let log = server.client().await.until_oldest(head + 1).await;
    assert_eq!(log.log_bytes, 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn every_workspace_is_trimmed_and_each_by_its_own_size() {
    let server = TestServer::start_with(|config| config.store.retention_bytes = 30_000).await;
    let client = server.client().await;
    let names: Vec<_> = (0..12).map(|n| format!("acme/main/{n}")).collect();
    for name in &names {
        let profile = Some(with_attributes(ADA, [("pad", text(&"p".repeat(20_000)))]));
        for _ in 0..2 {
            let mut request =
                CreateProfileRequest { workspace: name.clone(), profile: profile.clone(), ..create_request() };
            request.profile.as_mut().unwrap().mpid = 0;
            client.create_with(request).await.unwrap();
        }
    }
    for name in &names {
        within(async {
            while client.status(name).await.unwrap().log.unwrap().oldest_sequence != 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Removing rows takes new pages first.
#[tokio::test]
async fn a_full_disk_is_not_trimmed_and_goes_on_once_there_is_room() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let full = |config: &mut Config| {
        keep_nothing(config);
        full_disk(config);
    };
    let server = TestServer::reopen_with(server.stop().await, full).await;
    let client = server.client().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await; // The looks themselves, which take time.
    assert_eq!(client.status(WORKSPACE).await.unwrap().log.unwrap().oldest_sequence, 1);
    assert_eq!(client.get(ADA).await.unwrap().mpid, ADA);
    let server = TestServer::reopen_with(server.stop().await, keep_nothing).await;
    server.client().await.until_oldest(2).await;
}

#[tokio::test]
async fn a_log_without_limits_keeps_everything() {
    let server = TestServer::start_with(|config| {
        config.store.retention_age = Duration::ZERO;
        config.store.retention_bytes = 0;
    })
    .await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await; // The looks, if there were any.
    assert_eq!(client.status(WORKSPACE).await.unwrap().log.unwrap().oldest_sequence, 1);
}

/// A retry whose first response was lost changes nothing, although the log no longer shows what it did.
#[tokio::test]
async fn a_request_is_not_made_twice_although_its_event_is_gone() {
    let server = TestServer::start_with(keep_nothing).await;
    let client = server.client().await;
    let request = || UpdateProfileRequest { request_id: "r".into(), ..upsert_request(ADA, increment("visits")) };
    let first = client.update_with(request()).await.unwrap();
    client.until_oldest(2).await;
    assert_eq!(client.update_with(request()).await.unwrap(), first);
    let second = client.update(ADA, increment("visits")).await.unwrap();
    let repeat = client.update_with(request()).await.unwrap();
    assert_eq!((repeat.cursor, repeat.outcome), (first.cursor, first.outcome));
    let known = repeat.profile.is_none() || repeat.profile == first.profile;
    assert!(known, "never the profile as it is now");
    assert_eq!(client.get(ADA).await.unwrap(), second.profile.unwrap());
}
