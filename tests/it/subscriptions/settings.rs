//! The settings of a subscription: where they apply, and how they change.

use super::*;

const VIP: i64 = 7;

/// Settings that each leave something out of a log that [`with_people`] made.
fn settings() -> Subscription {
    Subscription {
        filter: Some(EventFilter { audience_ids: vec![VIP], ..Default::default() }),
        read_mask: mask(&["mpid", "user_attributes"]),
        user_attribute_keys: vec!["plan".into()],
        shard: Some(Shard { index: 1, count: 2 }),
        on_expired: OnExpired::Earliest.into(),
        ..named(CRM)
    }
}

/// Forty profiles, every second in an audience, with two attributes each.
async fn with_people() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=40 {
        let audience_memberships = if mpid % 2 == 0 { vec![member(VIP, None)] } else { Vec::new() };
        let profile = with_attributes(mpid, [("plan", text("pro")), ("color", text("red"))]);
        client.create(Profile { audience_memberships, ..profile }).await.unwrap();
    }
    (server, client)
}

fn update(subscription: Subscription, paths: &[&str]) -> UpdateSubscriptionRequest {
    let (workspace, subscription) = (WORKSPACE.into(), Some(subscription));
    UpdateSubscriptionRequest { workspace, subscription, update_mask: mask(paths), ..Default::default() }
}

/// What a stream delivers, and what a page lists, is what a page with these settings of its own lists.
#[tokio::test]
async fn a_stream_and_a_page_heed_every_setting_of_their_subscription() {
    let (_server, client) = with_people().await;
    client.create_subscription(settings(), from_earliest()).await.unwrap();
    let Subscription { filter, read_mask, user_attribute_keys, shard, .. } = settings();
    let asked = ListEventsRequest { filter, read_mask, user_attribute_keys, shard, ..list_request() };
    let expected = client.list(asked).await.unwrap().events;
    assert!((1..20).contains(&expected.len()), "some, but not of the other shard");
    let profiles = expected.iter().map(|event| event.profile.as_ref().unwrap());
    assert!(profiles.clone().all(|profile| attribute(profile, "color").is_none() && profile.etag.is_empty()));

    let start = Some(list_events_request::Start::Subscription(CRM.into()));
    assert_eq!(client.list(ListEventsRequest { start, ..list_request() }).await.unwrap().events, expected);
    assert_eq!(client.read(CRM).await.unwrap().catch_up().await.1, expected);
}

#[tokio::test]
async fn a_request_that_names_a_subscription_has_no_settings_of_its_own() {
    let (_server, client) = with_events(1).await;
    let (invalid, field) = (Code::InvalidArgument, "FIELD_INVALID");
    let Subscription { filter, read_mask, user_attribute_keys: keys, shard, .. } = settings();
    let subscribe = || {
        let start = Some(subscribe_request::Start::Subscription(CRM.into()));
        SubscribeRequest { start, ..subscribe_request() }
    };
    let list = || {
        let start = Some(list_events_request::Start::Subscription(CRM.into()));
        ListEventsRequest { start, ..list_request() }
    };
    for (name, subscribe, list) in [
        ("filter", SubscribeRequest { filter: filter.clone(), ..subscribe() }, ListEventsRequest { filter, ..list() }),
        (
            "read_mask",
            SubscribeRequest { read_mask: read_mask.clone(), ..subscribe() },
            ListEventsRequest { read_mask, ..list() },
        ),
        (
            "user_attribute_keys",
            SubscribeRequest { user_attribute_keys: keys.clone(), ..subscribe() },
            ListEventsRequest { user_attribute_keys: keys, ..list() },
        ),
        ("shard", SubscribeRequest { shard, ..subscribe() }, ListEventsRequest { shard, ..list() }),
    ] {
        assert_refused(client.subscribe(subscribe).await.map(|_| ()), invalid, field, name);
        assert_refused(client.list(list).await, invalid, field, name);
    }
}

/// They are of the stream, and not of the subscription.
#[tokio::test]
async fn a_stream_of_a_subscription_has_its_own_heartbeats_and_may_end_at_the_head() {
    let (_server, client) = with_events(2).await;
    let request = SubscribeRequest {
        start: Some(subscribe_request::Start::Subscription(CRM.into())),
        heartbeat_interval: seconds(2),
        until_caught_up: true,
        ..subscribe_request()
    };
    let mut stream = client.subscribe(request).await.unwrap();
    assert_eq!(stream.opened().await.1.heartbeat_interval, seconds(2));
    assert_eq!(sequences_of(&stream.catch_up().await.1), [1, 2]);
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let before = client.create_subscription(named(CRM), None).await.unwrap();
    let Subscription { filter, read_mask, user_attribute_keys, shard, on_expired, .. } = settings();
    let unchanged = || before.clone();
    let all = Subscription {
        filter: filter.clone(),
        read_mask: read_mask.clone(),
        user_attribute_keys: user_attribute_keys.clone(),
        shard,
        on_expired,
        ..unchanged()
    };
    for (paths, expected) in [
        (vec!["filter"], Subscription { filter: filter.clone(), ..unchanged() }),
        (vec!["read_mask"], Subscription { read_mask, ..unchanged() }),
        (vec!["user_attribute_keys"], Subscription { user_attribute_keys, ..unchanged() }),
        (vec!["shard"], Subscription { shard, ..unchanged() }),
        (vec!["on_expired"], Subscription { on_expired, ..unchanged() }),
        (vec!["filter", "on_expired"], Subscription { filter, on_expired, ..unchanged() }),
        (vec!["*"], all.clone()),
        (vec![], all),
    ] {
        let updated = client.events.clone().update_subscription(update(settings(), &paths)).await.unwrap();
        assert_eq!(updated.into_inner().subscription.as_ref(), Some(&expected), "{paths:?}");
        assert_eq!(client.subscription(CRM).await.unwrap(), expected, "{paths:?}");
        client.events.clone().update_subscription(update(named(CRM), &[])).await.unwrap();
        assert_eq!(client.subscription(CRM).await.unwrap(), before, "no path stands for all of them");
    }
}

#[tokio::test]
async fn what_is_only_validated_leaves_a_subscription_and_its_stream_alone() {
    let (_server, client) = with_events(1).await;
    let mut stream = client.read(CRM).await.unwrap();
    read(&mut stream, 1).await;
    let before = client.subscription(CRM).await.unwrap();
    let request = UpdateSubscriptionRequest { validate_only: true, ..update(settings(), &[]) };
    let would = client.events.clone().update_subscription(request).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(would.filter, settings().filter);
    let (workspace, name) = (WORKSPACE.into(), CRM.into());
    let request = DeleteSubscriptionRequest { workspace, name, validate_only: true, ..Default::default() };
    client.events.clone().delete_subscription(request).await.unwrap();

    let after = client.subscription(CRM).await.unwrap();
    assert_eq!((&after.filter, &after.shard), (&before.filter, &before.shard));
    assert_eq!(after.stream.map(|stream| stream.number), before.stream.map(|stream| stream.number));
    visit(&client).await;
    assert_eq!(stream.event().await.1.sequence, 2);
}
