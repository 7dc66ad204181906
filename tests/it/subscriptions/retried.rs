//! A retry with the same request id gets the first result.

use super::*;

/// A retry with the same request id gets the first result.
#[tokio::test]
async fn a_create_can_be_retried() {
    let (_server, client) = with_events(1).await;
    let refused = client.create_subscription(named(CRM), None).await;
    assert_refused(refused, Code::AlreadyExists, "SUBSCRIPTION_EXISTS", "");
    let create = |request_id: &str, validate_only| CreateSubscriptionRequest {
        workspace: WORKSPACE.into(),
        subscription: Some(named("erp")),
        request_id: request_id.into(),
        validate_only,
        ..Default::default()
    };
    let validated = client.events.clone().create_subscription(create("", true)).await.unwrap().into_inner();
    assert_eq!(validated.subscription.unwrap().name, "erp");
    assert_refused(client.subscription("erp").await, Code::NotFound, "SUBSCRIPTION_NOT_FOUND", "");
    for _ in 0..2 {
        let created = client.events.clone().create_subscription(create("once", false)).await.unwrap().into_inner();
        assert_eq!(created.subscription.unwrap().acknowledged_sequence, 1);
    }
}

#[tokio::test]
async fn a_retried_seek_says_again_how_far_it_went() {
    use seek_subscription_request::To;
    let (_server, client) = with_events(5).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 4).await;
    client.acknowledge(number, &cursors[3]).await.unwrap();
    let back = SeekSubscriptionRequest {
        workspace: WORKSPACE.into(),
        name: CRM.into(),
        to: Some(To::Earliest(true)),
        request_id: "back".into(),
        ..Default::default()
    };
    let on = SeekSubscriptionRequest { to: Some(To::Now(true)), request_id: "on".into(), ..back.clone() };
    let attempts = [(back.clone(), (4, 0), 0), (on.clone(), (0, 5), 5), (back, (4, 0), 5), (on, (0, 5), 5)];
    for (request, went, place) in attempts {
        let response = client.events.clone().seek_subscription(request).await.unwrap().into_inner();
        assert_eq!((response.replayed_events, response.passed_events), went);
        assert_eq!(response.subscription.unwrap().acknowledged_sequence, place, "no retry moves it");
    }
}
