//! What subscribers see of a restore: their cursors go on up to the place of the backup, and no further.

use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use tonic::{Code, Status};

use super::{Paths, back_up, restore};
use crate::harness::*;

/// The messages of a stream up to `caught_up`.
pub async fn messages_from(
    client: &Client,
    start: Option<subscribe_request::Start>,
) -> Result<Vec<SubscribeResponse>, Status> {
    let request = SubscribeRequest { start, until_caught_up: true, ..subscribe_request() };
    let mut stream = client.subscribe(request).await?;
    let mut messages = Vec::new();
    while let Some(message) = stream.next().await? {
        messages.push(message);
    }
    Ok(messages)
}

/// The events among some messages, each with its cursor.
pub fn events_of(messages: &[SubscribeResponse]) -> Vec<(String, Event)> {
    let event = |message: &SubscribeResponse| match &message.message {
        Some(Message::Event(event)) => Some((message.cursor.clone(), event.clone())),
        _ => None,
    };
    messages.iter().filter_map(event).collect()
}

/// A store of which five writes are in a backup and three are lost, and a server on what was restored, which has one
/// write of its own.
pub struct Lost {
    pub paths: Paths,
    pub server: TestProcess,
    client: Client,
    /// The cursors of the old log: before the first event, and after each of the eight.
    old: Vec<String>,
    /// A cursor of the old log in the middle of a snapshot at the place of the backup, and one after that.
    in_snapshot: [String; 2],
    log: Vec<Event>,
}

/// The place of the backup.
const RESTORED: usize = 5;
const SUBSCRIPTION: &str = "crm";

async fn a_snapshot_cursor(client: &Client) -> String {
    let start = Some(subscribe_request::Start::Snapshot(true));
    let messages = messages_from(client, start).await.unwrap();
    let profiles = messages.iter().filter(|message| matches!(message.message, Some(Message::SnapshotProfile(_))));
    profiles.map(|message| message.cursor.clone()).next().unwrap()
}

fn name_of_subscription() -> (String, String) {
    (WORKSPACE.into(), SUBSCRIPTION.into())
}

pub async fn a_restored_store() -> Lost {
    let paths = Paths::new();
    let mut process = TestProcess::start(&paths.data, &[]).await;
    let mut client = process.client().await;
    for mpid in 1..=5 {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    let (workspace, name) = name_of_subscription();
    let subscription = Some(Subscription { name, ..Subscription::default() });
    let start = Some(create_subscription_request::Start::Earliest(true));
    let create = CreateSubscriptionRequest { workspace, subscription, start, ..Default::default() };
    client.events.create_subscription(create).await.unwrap();
    let of_backup = a_snapshot_cursor(&client).await;
    back_up(&process, &paths.file).await;
    for _ in 0..3 {
        client.update(1, increment("lost")).await.unwrap();
    }
    let messages = messages_from(&client, earliest()).await.unwrap();
    let log = client.log().await;
    let begin = messages[0].cursor.clone();
    let old = [begin].into_iter().chain(events_of(&messages).into_iter().map(|(cursor, _)| cursor)).collect();
    let in_snapshot = [of_backup, a_snapshot_cursor(&client).await];
    process.kill().await;

    restore(&paths.file, &paths.restored).await;

    let server = TestProcess::start(&paths.restored, &[]).await;
    let client = server.client().await;
    client.update(2, increment("new")).await.unwrap();
    Lost { paths, server, client, old, in_snapshot, log }
}

/// No loss and no repetition from any place that the backup holds, and then the events of the new log.
#[tokio::test]
async fn subscribers_go_on_after_a_restore_from_cursors_up_to_the_backup() {
    let Lost { client, old, in_snapshot, log, .. } = &a_restored_store().await;
    let new = client.log().await;
    assert_eq!(new[..RESTORED], log[..RESTORED]);
    assert_eq!(new.len(), RESTORED + 1);
    assert_ne!(new[RESTORED].id, log[RESTORED].id, "another event has the sequence of the lost one");
    for (place, cursor) in old[..=RESTORED].iter().enumerate() {
        let messages = messages_from(client, after(cursor)).await.unwrap();
        let events: Vec<_> = events_of(&messages).into_iter().map(|(_, event)| event).collect();
        assert_eq!(events, new[place..]);
        let listed = client.list(ListEventsRequest { start: page_after(cursor), ..list_request() }).await.unwrap();
        assert_eq!(listed.events, new[place..]);
        let read = GetProfileRequest { key: Some(by_mpid(1)), min_cursor: cursor.clone(), ..get_request() };
        client.get_with(read).await.unwrap();
        assert!(messages.iter().all(|message| !old.contains(&message.cursor)), "its cursors name the new log");
    }
    let rest = messages_from(client, after(&in_snapshot[0])).await.unwrap();
    assert_eq!(events_of(&rest).into_iter().map(|(_, event)| event).collect::<Vec<_>>(), new[RESTORED..]);
    let profiles = rest.iter().filter(|message| matches!(message.message, Some(Message::SnapshotProfile(_))));
    assert_eq!(profiles.count(), 4, "the snapshot goes on after the first of five profiles");
}

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(result: Result<T, Status>) {
    let status = result.as_ref().unwrap_err();
    assert_eq!(metadata(status, "restored_sequence"), RESTORED.to_string());
    assert!(status.message().contains("restored from a backup"), "{}", status.message());
    assert_refused(result, Code::FailedPrecondition, "CURSOR_FOREIGN", "");
}

#[tokio::test]
async fn a_cursor_into_what_a_restore_lost_is_refused_wherever_cursors_are_taken() {
    let Lost { client, old, in_snapshot, .. } = &a_restored_store().await;
    for _ in 0..5 {
        client.update(2, increment("new")).await.unwrap(); // The new log is longer than the old one was.
    }
    let [_, of_future] = &in_snapshot;
    let mut events = client.events.clone();
    for cursor in old[RESTORED + 1..].iter().chain([of_future]) {
        assert_lost(messages_from(client, after(cursor)).await);
        let read = GetProfileRequest { key: Some(by_mpid(1)), min_cursor: cursor.clone(), ..get_request() };
        assert_lost(client.get_with(read).await);
        let (workspace, subscription) = name_of_subscription();
        let to = Some(seek_subscription_request::To::Cursor(cursor.clone()));
        let (seek_in, name) = (workspace.clone(), subscription.clone());
        let seek = SeekSubscriptionRequest { workspace: seek_in, name, to, ..Default::default() };
        assert_lost(events.seek_subscription(seek).await);
        let cursor = cursor.clone();
        let acknowledge = AcknowledgeRequest { workspace, subscription, stream: 1, cursor, ..Default::default() };
        assert_lost(events.acknowledge(acknowledge).await);
    }
    for cursor in &old[RESTORED + 1..] {
        assert_lost(client.list(ListEventsRequest { start: page_after(cursor), ..list_request() }).await);
    }
}

/// A subscription is in the backup, and so is its place.
#[tokio::test]
async fn a_durable_subscription_goes_on_after_a_restore() {
    let Lost { client, old, .. } = &a_restored_store().await;
    let start = Some(subscribe_request::Start::Subscription(SUBSCRIPTION.into()));
    let mut stream = client.subscribe(SubscribeRequest { start, ..subscribe_request() }).await.unwrap();
    let (_, opened) = stream.opened().await;
    assert_eq!(stream.sequences(RESTORED + 1).await, [1, 2, 3, 4, 5, 6]);
    let (workspace, subscription) = name_of_subscription();
    let acknowledge = AcknowledgeRequest {
        workspace,
        subscription,
        stream: opened.stream,
        cursor: old[3].clone(),
        ..Default::default()
    };
    client.events.clone().acknowledge(acknowledge).await.unwrap();
}

/// A second restore remembers both logs.
#[tokio::test]
async fn a_store_that_was_restored_twice_knows_the_cursors_of_both_logs() {
    let Lost { paths, server, client, old, .. } = a_restored_store().await;
    let of_second = client.update(2, increment("new")).await.unwrap().cursor;
    let second = paths.file.with_extension("second");
    back_up(&server, &second).await;
    let lost = client.update(2, increment("new")).await.unwrap().cursor;
    let directory = paths.restored.with_extension("second");
    restore(&second, &directory).await;
    let server = TestProcess::start(&directory, &[]).await;
    let client = server.client().await;
    assert_eq!(events_of(&messages_from(&client, after(&old[RESTORED])).await.unwrap()).len(), 2);
    assert_eq!(events_of(&messages_from(&client, after(&of_second)).await.unwrap()).len(), 0);
    assert_lost(messages_from(&client, after(&old[RESTORED + 1])).await);
    let refused = messages_from(&client, after(&lost)).await;
    assert_eq!(metadata(refused.as_ref().unwrap_err(), "restored_sequence"), "7");
}
