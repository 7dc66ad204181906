//! Streams that compete for a subscription, and those that only seem to.

use super::*;

/// A name stands for one subscription in each workspace.
#[tokio::test]
async fn subscriptions_of_one_name_in_two_workspaces_are_apart() {
    let (_server, client) = with_events(2).await;
    let workspace: String = OTHER_WORKSPACE.into();
    for _ in 0..3 {
        client.create_with(CreateProfileRequest { workspace: workspace.clone(), ..create_request() }).await.unwrap();
    }
    let request = CreateSubscriptionRequest {
        workspace: workspace.clone(),
        subscription: Some(named(CRM)),
        start: from_earliest(),
        ..Default::default()
    };
    client.events.clone().create_subscription(request).await.unwrap();
    let mut here = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut here, 2).await;
    let start = Some(subscribe_request::Start::Subscription(CRM.into()));
    let request = SubscribeRequest { workspace: workspace.clone(), start, ..subscribe_request() };
    let mut there = client.subscribe(request).await.unwrap();
    let (number_there, cursors_there) = read(&mut there, 3).await;

    client.acknowledge(number, &cursors[0]).await.unwrap();
    let request = AcknowledgeRequest {
        workspace: workspace.clone(),
        stream: number_there,
        cursor: cursors_there[2].clone(),
        ..acknowledge_request()
    };
    client.acknowledge_with(request).await.unwrap();
    let shown = client.subscription(CRM).await.unwrap();
    assert_eq!((shown.acknowledged_sequence, shown.stream.unwrap().sent_sequence), (1, 2));
    let request = GetSubscriptionRequest { workspace: workspace.clone(), name: CRM.into() };
    let shown = client.events.clone().get_subscription(request).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!((shown.acknowledged_sequence, shown.stream.unwrap().sent_sequence), (3, 3));

    let request = DeleteSubscriptionRequest { workspace, name: CRM.into(), ..Default::default() };
    client.events.clone().delete_subscription(request).await.unwrap();
    assert_eq!(reason(&there.failure().await), "SUBSCRIPTION_NOT_FOUND");
    visit(&client).await;
    assert_eq!(here.event().await.1.sequence, 3, "it goes on");
}

/// The reader of a subscription that was deleted is still at work on its events, when another reads a new subscription of
/// that name.
#[tokio::test]
async fn a_reader_of_a_deleted_subscription_moves_no_new_one() {
    let (_server, client) = with_events(3).await;
    let (loser, cursors) = read(&mut client.read(CRM).await.unwrap(), 3).await;
    client.delete_subscription(CRM, false).await.unwrap();
    client.create_subscription(named(CRM), from_earliest()).await.unwrap();
    let mut stream = client.read(CRM).await.unwrap();
    let (number, _) = read(&mut stream, 3).await;

    let refused = client.acknowledge(loser, &cursors[2]).await;

    assert_refused(refused, Code::Aborted, "SUBSCRIPTION_TAKEN_OVER", "");
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 0);
    client.acknowledge(number, &cursors[0]).await.unwrap();
}

/// A caller that did not get the response to its delete sends it again. Meanwhile another has created the subscription
/// anew.
#[tokio::test]
async fn a_repeated_delete_ends_no_stream_of_a_new_subscription() {
    let (_server, client) = with_events(1).await;
    let delete = || async {
        let (workspace, name, request_id) = (WORKSPACE.into(), CRM.into(), "once".into());
        let request = DeleteSubscriptionRequest { workspace, name, request_id, ..Default::default() };
        client.events.clone().delete_subscription(request).await.unwrap();
    };
    delete().await;
    client.create_subscription(named(CRM), from_earliest()).await.unwrap();
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 1).await;

    delete().await;

    client.acknowledge(number, &cursors[0]).await.unwrap();
    visit(&client).await;
    assert_eq!(stream.sequences(1).await, [2], "it goes on");
}

#[tokio::test]
async fn a_stream_that_is_refused_takes_over_none() {
    let server = TestServer::start_with(|config| config.feed.max_streams_per_client = 1).await;
    let client = server.client().await;
    visit(&client).await;
    client.create_subscription(named(CRM), from_earliest()).await.unwrap();
    let mut open = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut open, 1).await;
    let refused = client.read(CRM).await.map(|_| ());
    assert_refused(refused, Code::ResourceExhausted, "QUOTA_EXCEEDED", "");
    client.acknowledge(number, &cursors[0]).await.unwrap();
    visit(&client).await;
    assert_eq!(open.event().await.1.sequence, 2);
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_takes_no_place_of_its_client() {
    let server = TestServer::start_with(|config| config.feed.max_streams_per_client = 1).await;
    let client = server.client().await;
    visit(&client).await;
    let other = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
    let foreign = client.create_with(other).await.unwrap().cursor;
    for _ in 0..3 {
        let request = SubscribeRequest { start: after(&foreign), ..subscribe_request() };
        let refused = client.subscribe(request).await.map(|_| ());
        assert_refused(refused, Code::FailedPrecondition, "CURSOR_FOREIGN", "");
        let refused = client.read("missing").await.map(|_| ());
        assert_refused(refused, Code::NotFound, "SUBSCRIPTION_NOT_FOUND", "");
    }
    assert_eq!(client.subscribe_from(earliest()).await.event().await.1.sequence, 1);
}
