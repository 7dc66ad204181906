//! Damaged records, as callers see them: everything before them is delivered, and everything after them can be read.

use std::path::Path;

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use tempfile::TempDir;
use tonic::{Code, Status};

use crate::harness::*;

/// A server whose log holds twenty events, of which these are damaged. Each event created the profile with its number.
async fn with_damaged_events(damaged: &[u64]) -> TestServer {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=20 {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    let dir = server.stop().await;
    edit(&dir, |transaction| damaged.iter().for_each(|event| damage_event(transaction, *event)));
    TestServer::reopen(dir).await
}

fn assert_corrupt(status: &Status) {
    assert_eq!((status.code(), &*reason(status)), (Code::DataLoss, "RECORD_CORRUPT"));
}

/// Reads to the end of the log, and resumes after each damage. Returns the events, and how often the stream broke off.
async fn read_over_damage(client: &Client, mut start: Option<subscribe_request::Start>) -> (Vec<u64>, usize) {
    let (mut seen, mut breaks) = (Vec::new(), 0);
    loop {
        let request = SubscribeRequest { start, until_caught_up: true, ..subscribe_request() };
        let mut stream = client.subscribe(request).await.unwrap();
        let broken_off = loop {
            match stream.next().await {
                Ok(Some(SubscribeResponse { message: Some(Message::Event(event)), .. })) => seen.push(event.sequence),
                Ok(Some(_)) => {}
                Ok(None) => return (seen, breaks),
                Err(status) => break status,
            }
        };
        assert_corrupt(&broken_off);
        start = after(&metadata(&broken_off, "cursor"));
        breaks += 1;
    }
}

#[tokio::test]
async fn a_stream_delivers_what_precedes_the_damage_and_names_the_cursor_that_leads_past_it() {
    let server = with_damaged_events(&[4, 11, 12, 13]).await;
    let client = server.client().await;
    let expected: Vec<_> = (1..=20).filter(|sequence| ![4, 11, 12, 13].contains(sequence)).collect();
    assert_eq!(read_over_damage(&client, earliest()).await, (expected.clone(), 2));

    let (mut listed, mut request, mut breaks) = (Vec::new(), ListEventsRequest { page_size: 3, ..list_request() }, 0);
    loop {
        let cursor = match client.list(request.clone()).await {
            Ok(page) => {
                listed.extend(page.events.iter().map(|event| event.sequence));
                if page.caught_up {
                    break;
                }
                page.cursor
            }
            Err(status) => {
                assert_corrupt(&status);
                breaks += 1;
                metadata(&status, "cursor")
            }
        };
        request.start = page_after(&cursor);
    }
    assert_eq!((listed, breaks), (expected, 2));
}

#[tokio::test]
async fn a_damaged_oldest_event_stops_only_readers_that_begin_with_it() {
    let server = with_damaged_events(&[1]).await;
    let client = server.client().await;
    let mut live = client.subscribe_from(None).await;
    assert_eq!(live.opened().await.1.head_sequence, 20);
    let cursor = client.create(with_mpid(21)).await.unwrap().cursor;
    assert_eq!(live.event().await.1.sequence, 21);
    let key = Some(by_mpid(21));
    let request = GetProfileRequest { key, min_cursor: cursor, ..get_request() };
    assert_eq!(client.get_with(request).await.unwrap().mpid, 21);
    assert_eq!(read_over_damage(&client, earliest()).await, ((2..=21).collect(), 1));
}

#[tokio::test]
async fn a_damaged_end_of_the_log_does_not_end_a_stream_with_ok() {
    let server = with_damaged_events(&[19, 20]).await;
    let client = server.client().await;
    assert_eq!(read_over_damage(&client, earliest()).await, ((1..=18).collect(), 1));
    client.create(with_mpid(21)).await.unwrap();
    assert_eq!(read_over_damage(&client, earliest()).await.0.last(), Some(&21));
}

/// A damaged page may hold many events. The search for its end is by leaps, and must not leap over sound events.
#[tokio::test]
async fn no_sound_event_behind_much_damage_is_skipped() {
    let server = TestServer::start().await;
    let records = (1..=300).map(|mpid| record(by_mpid(mpid), increment("visits"))).collect();
    server.client().await.import(records).await.unwrap();
    let dir = server.stop().await;
    let damaged = 10..=109;
    edit(&dir, |transaction| damaged.clone().for_each(|event| damage_event(transaction, event)));
    let server = TestServer::reopen(dir).await;
    let expected = (1..=300).filter(|sequence| !damaged.contains(sequence)).collect();
    assert_eq!(read_over_damage(&server.client().await, earliest()).await, (expected, 1));
}

/// The profiles of a snapshot, read in pages of so many and past each damage, and how often it broke off.
async fn snapshot_over_damage(client: &Client, page_size: i32, from: &str) -> (Vec<i64>, usize) {
    let (mut seen, mut breaks) = (Vec::new(), 0);
    let snapshot = Some(list_events_request::Start::Snapshot(true));
    let start = if from.is_empty() { snapshot } else { page_after(from) };
    let mut request = ListEventsRequest { start, page_size, ..list_request() };
    within(async {
        loop {
            let cursor = match client.list(request.clone()).await {
                Ok(page) if page.caught_up || !page.events.is_empty() => return (seen, breaks),
                Ok(page) => {
                    seen.extend(mpids_of(&page.snapshot_profiles));
                    page.cursor
                }
                Err(status) => {
                    assert_corrupt(&status);
                    breaks += 1;
                    metadata(&status, "cursor")
                }
            };
            request.start = page_after(&cursor);
        }
    })
    .await
}

#[tokio::test]
async fn a_snapshot_goes_on_past_damaged_profiles() {
    let server = with_damaged_events(&[]).await;
    let dir = server.stop().await;
    edit(&dir, |transaction| [1, 7, 8, 20].iter().for_each(|mpid| damage_profile(transaction, *mpid)));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    let sound: Vec<_> = (2..20).filter(|mpid| ![7, 8].contains(mpid)).collect();
    for page_size in [1, 3, 100] {
        assert_eq!(snapshot_over_damage(&client, page_size, "").await, (sound.clone(), 3), "in pages of {page_size}");
    }
}

/// There is no profile 0, so the position before profile 1 is after profile -1.
#[tokio::test]
async fn a_snapshot_goes_on_past_damage_right_before_the_profile_1() {
    let server = TestServer::start().await;
    for mpid in [-3, -2, -1, 1, 2] {
        server.client().await.create(with_mpid(mpid)).await.unwrap();
    }
    let dir = server.stop().await;
    edit(&dir, |transaction| [-2, -1].iter().for_each(|mpid| damage_profile(transaction, *mpid)));
    let server = TestServer::reopen(dir).await;
    assert_eq!(snapshot_over_damage(&server.client().await, 1, "").await, (vec![-3, 1, 2], 1));
}

/// What a profile was is in the first event after the snapshot's place. Without that, the profile alone is missing.
#[tokio::test]
async fn a_snapshot_goes_on_past_a_profile_whose_change_is_damaged() {
    let server = with_damaged_events(&[]).await;
    let client = server.client().await;
    let start = Some(list_events_request::Start::Snapshot(true));
    let begun = client.list(ListEventsRequest { start, page_size: 2, ..list_request() }).await.unwrap();
    assert_eq!(mpids_of(&begun.snapshot_profiles), [1, 2]);
    for mpid in [5, 6, 12] {
        client.update(mpid, increment("visits")).await.unwrap(); // 21, 22, 23
    }
    let dir = server.stop().await;
    edit(&dir, |transaction| [21, 23].iter().for_each(|event| damage_event(transaction, *event)));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    let sound: Vec<_> = (3..=20).filter(|mpid| ![5, 12].contains(mpid)).collect();
    for page_size in [1, 3, 100] {
        let (seen, breaks) = snapshot_over_damage(&client, page_size, &begun.cursor).await;
        assert_eq!(seen, sound, "in pages of {page_size}");
        assert_eq!(breaks, 3, "two of the snapshot, and one where the events begin");
    }
}

/// The time of a damaged event is not known, but it is no later than that of the next.
#[tokio::test]
async fn a_time_finds_its_event_although_others_are_damaged() {
    let server = with_damaged_events(&[]).await;
    let log = server.client().await.log().await;
    let dir = server.stop().await;
    let damaged = [5, 8, 10, 11, 12, 15];
    edit(&dir, |transaction| damaged.iter().for_each(|event| damage_event(transaction, *event)));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    for event in log.iter().filter(|event| !damaged.contains(&event.sequence)) {
        let start = Some(subscribe_request::Start::Time(event.time.unwrap()));
        let opened = client.subscribe_from(start).await.opened().await.1;
        let begins = (opened.after_sequence + 1..=20).find(|sequence| !damaged.contains(sequence));
        let first = log.iter().find(|other| other.time == event.time && !damaged.contains(&other.sequence)).unwrap();
        assert_eq!(begins, Some(first.sequence));
    }
}

#[tokio::test]
async fn a_list_of_profiles_goes_on_past_the_damage() {
    let server = with_damaged_events(&[]).await;
    let dir = server.stop().await;
    edit(&dir, |transaction| [1, 7, 8, 20].iter().for_each(|mpid| damage_profile(transaction, *mpid)));
    let server = TestServer::reopen(dir).await;
    let client = server.client().await;
    let (mut seen, mut request, mut breaks) = (Vec::new(), page_request(), 0);
    loop {
        request.page_token = match client.page(request.clone()).await {
            Ok(page) => {
                seen.extend(page.profiles.iter().map(|profile| profile.mpid));
                page.next_page_token
            }
            Err(status) => {
                assert_corrupt(&status);
                breaks += 1;
                metadata(&status, "next_page_token")
            }
        };
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (2..20).filter(|mpid| ![7, 8].contains(mpid)).collect::<Vec<_>>());
    assert_eq!(breaks, 3);
}

/// A file that cannot be served is refused before the server listens.
#[tokio::test]
async fn a_file_that_is_no_store_is_refused_by_name_before_the_port_is_open() {
    let dir = TempDir::new().unwrap();
    let file: &Path = &dir.path().join(STORE_FILE);
    for bytes in [vec![], b"not a store".to_vec(), vec![0; 65_536]] {
        std::fs::write(file, &bytes).unwrap();
        let refused = output(binary().args(["--addr", "127.0.0.1:0", "--data-dir"]).arg(dir.path())).await;
        assert!(!refused.status.success());
        assert!(refused.stdout.is_empty(), "it never listened");
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains(file.to_str().unwrap()) && told.contains("move it away"), "{told}");
        assert_eq!(std::fs::read(file).unwrap(), bytes, "it is left as it was");
    }
}
