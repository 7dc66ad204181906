//! *Truthful cursors.* No matching event at or before a cursor is undelivered, whatever message carries the cursor.

use std::time::Duration;

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;

use crate::harness::*;

fn sequence_of(response: &SubscribeResponse) -> Option<u64> {
    match &response.message {
        Some(Message::Event(event)) => Some(event.sequence),
        _ => None,
    }
}

/// All messages of a stream that ends when it has caught up.
async fn messages(client: &Client, request: SubscribeRequest) -> Vec<SubscribeResponse> {
    let mut messages = Vec::new();
    let mut stream = client.subscribe(request).await.unwrap();
    while let Some(message) = stream.next().await.unwrap() {
        messages.push(message);
    }
    messages
}

/// Truthful cursors: a subscriber may resume from the cursor of any message of a filtered stream, and loses nothing
/// that matches.
#[tokio::test]
async fn truthful_cursors_on_every_message() {
    const PROFILES: i64 = 5;
    const UPDATES_OF_EACH: usize = 24;
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..UPDATES_OF_EACH {
        for mpid in 1..=PROFILES {
            client.update_with(upsert_request(mpid, increment("visits"))).await.unwrap();
        }
    }
    let filter = of_profiles(&[3]);
    let request = SubscribeRequest { start: earliest(), filter, until_caught_up: true, ..subscribe_request() };
    let all = messages(&client, request.clone()).await;
    assert_eq!(all.iter().filter_map(sequence_of).count(), UPDATES_OF_EACH);
    for (at, message) in all.iter().enumerate() {
        let request = SubscribeRequest { start: after(&message.cursor), ..request.clone() };
        let resumed: Vec<_> = messages(&client, request).await.iter().filter_map(sequence_of).collect();
        let rest: Vec<_> = all[at + 1..].iter().filter_map(sequence_of).collect();
        assert_eq!(resumed, rest, "resumed from message {at}");
    }
}

/// Truthful cursors: also on a heartbeat that comes before the stream has caught up. One does when the reader holds the
/// stream up for longer than the interval.
#[tokio::test]
async fn truthful_cursors_of_heartbeats_while_catching_up() {
    /// Some 8 MiB of events that match, each too large for the server to read two at a time.
    const UPDATES_OF_EACH: u64 = 40;
    const HEARTBEAT_SECONDS: i64 = 1;
    const READER_RESTS: Duration = Duration::from_secs(2);
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(large(ADA)).await.unwrap();
    client.create(with_mpid(GRACE)).await.unwrap();
    for _ in 0..UPDATES_OF_EACH {
        client.update(ADA, increment("visits")).await.unwrap();
        client.update(GRACE, increment("visits")).await.unwrap(); // Does not match.
    }
    let request = SubscribeRequest {
        start: earliest(),
        filter: of_profiles(&[ADA]),
        heartbeat_interval: seconds(HEARTBEAT_SECONDS),
        ..subscribe_request()
    };
    let mut stream = server.client().await.subscribe(request.clone()).await.unwrap();

    tokio::time::sleep(READER_RESTS).await; // The reader holds the stream up, which takes time.

    let (mut sequences, mut heartbeats) = (Vec::new(), Vec::new());
    within(async {
        loop {
            match stream.message().await {
                (_, Message::Event(event)) => sequences.push(event.sequence),
                (cursor, Message::Heartbeat(_)) => heartbeats.push((cursor, sequences.len())),
                (_, Message::CaughtUp(_)) => break,
                _ => {}
            }
        }
    })
    .await;
    let expected: Vec<_> = std::iter::once(1).chain((0..UPDATES_OF_EACH).map(|n| 3 + 2 * n)).collect();
    assert_eq!(sequences, expected);
    assert!(heartbeats.iter().any(|(_, before)| *before < sequences.len()), "one came while there was more to deliver");
    for (cursor, before) in heartbeats {
        let request = SubscribeRequest { start: after(&cursor), read_mask: mask(&["mpid"]), ..request.clone() };
        let (_, rest) = client.subscribe(request).await.unwrap().catch_up().await;
        assert_eq!(sequences_of(&rest), sequences[before..], "resumed from a heartbeat after {before} events");
    }
}
