//! Durable subscriptions: created, read by name, acknowledged, moved and deleted.
//!
//! - [`damaged`]: what a reader does about damage in the log.
//! - [`settings`]: where the settings apply, and how they change.
//! - [`rivals`]: streams that compete for a subscription, and those that only seem to.
//! - [`shown`]: what operators are shown.

mod damaged;
mod retried;
mod rivals;
mod settings;
mod shown;

use cameo::proto::v1::acknowledge_request::Skip;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use prost_types::{FieldMask, Timestamp};
use tonic::{Code, Status};

use crate::harness::*;

const CRM: &str = "crm";

/// The calls of these tests.
impl Client {
    async fn create_subscription(
        &self,
        subscription: Subscription,
        start: Option<create_subscription_request::Start>,
    ) -> Result<Subscription, Status> {
        let (workspace, subscription) = (WORKSPACE.into(), Some(subscription));
        let request = CreateSubscriptionRequest { workspace, subscription, start, ..Default::default() };
        Ok(self.events.clone().create_subscription(request).await?.into_inner().subscription.unwrap())
    }

    async fn subscription(&self, name: &str) -> Result<Subscription, Status> {
        let request = GetSubscriptionRequest { workspace: WORKSPACE.into(), name: name.into() };
        Ok(self.events.clone().get_subscription(request).await?.into_inner().subscription.unwrap())
    }

    async fn read(&self, name: &str) -> Result<Stream, Status> {
        let start = Some(subscribe_request::Start::Subscription(name.into()));
        self.subscribe(SubscribeRequest { start, ..subscribe_request() }).await
    }

    async fn acknowledge(&self, stream: u64, cursor: &str) -> Result<String, Status> {
        self.acknowledge_with(AcknowledgeRequest { stream, cursor: cursor.into(), ..acknowledge_request() }).await
    }

    async fn acknowledge_with(&self, request: AcknowledgeRequest) -> Result<String, Status> {
        Ok(self.events.clone().acknowledge(request).await?.into_inner().acknowledged_cursor)
    }

    async fn seek(
        &self,
        to: seek_subscription_request::To,
        validate_only: bool,
    ) -> Result<SeekSubscriptionResponse, Status> {
        let (workspace, name, to) = (WORKSPACE.into(), CRM.into(), Some(to));
        let request = SeekSubscriptionRequest { workspace, name, to, validate_only, ..Default::default() };
        Ok(self.events.clone().seek_subscription(request).await?.into_inner())
    }

    async fn delete_subscription(&self, name: &str, allow_missing: bool) -> Result<(), Status> {
        let (workspace, name) = (WORKSPACE.into(), name.into());
        let request = DeleteSubscriptionRequest { workspace, name, allow_missing, ..Default::default() };
        self.events.clone().delete_subscription(request).await.map(|_| ())
    }

    async fn skipped(&self, page_size: i32, page_token: &str) -> Result<ListSkippedEventsResponse, Status> {
        let (workspace, subscription, page_token) = (WORKSPACE.into(), CRM.into(), page_token.into());
        let request = ListSkippedEventsRequest { workspace, subscription, page_size, page_token };
        Ok(self.events.clone().list_skipped_events(request).await?.into_inner())
    }

    async fn event(&self, sequence: u64) -> Result<Event, Status> {
        let request = GetEventRequest { workspace: WORKSPACE.into(), sequence, ..Default::default() };
        Ok(self.events.clone().get_event(request).await?.into_inner().event.unwrap())
    }
}

fn named(name: &str) -> Subscription {
    Subscription { name: name.into(), ..Default::default() }
}

fn acknowledge_request() -> AcknowledgeRequest {
    AcknowledgeRequest { workspace: WORKSPACE.into(), subscription: CRM.into(), ..Default::default() }
}

#[allow(clippy::unnecessary_wraps)] // It is an optional field.
fn from_earliest() -> Option<create_subscription_request::Start> {
    Some(create_subscription_request::Start::Earliest(true))
}

/// A server with a subscription from the start of a log of so many events.
async fn with_events(events: usize) -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..events {
        visit(&client).await;
    }
    client.create_subscription(named(CRM), from_earliest()).await.unwrap();
    (server, client)
}

async fn visit(client: &Client) {
    client.update_with(upsert_request(ADA, increment("visits"))).await.unwrap();
}

/// The number of a stream, and the cursors of its next events.
async fn read(stream: &mut Stream, events: usize) -> (u64, Vec<String>) {
    let number = stream.opened().await.1.stream;
    let mut cursors = Vec::new();
    for _ in 0..events {
        cursors.push(stream.event().await.0);
    }
    (number, cursors)
}

/// A subscriber reads by name, acknowledges, and continues after what it acknowledged: also after a restart.
#[tokio::test]
async fn a_stream_continues_after_what_was_acknowledged() {
    let (server, client) = with_events(5).await;
    let (number, cursors) = read(&mut client.read(CRM).await.unwrap(), 3).await;
    assert_eq!(client.acknowledge(number, &cursors[1]).await.unwrap(), cursors[1]);

    assert_eq!(client.read(CRM).await.unwrap().sequences(3).await, [3, 4, 5]);

    let server = server.restart().await;
    let client = server.client().await;
    let mut stream = client.read(CRM).await.unwrap();
    assert_eq!(stream.opened().await.1.after_sequence, 2);
    assert_eq!(stream.sequences(3).await, [3, 4, 5]);
}

#[tokio::test]
async fn an_acknowledgement_is_cumulative_and_never_goes_back() {
    let (_server, client) = with_events(5).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 5).await;
    for (asked, acknowledged) in [(2, 2), (2, 2), (0, 2), (4, 4), (3, 4)] {
        assert_eq!(client.acknowledge(number, &cursors[asked]).await.unwrap(), cursors[acknowledged]);
        assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, acknowledged as u64 + 1);
    }
}

/// Many subscribers of one name acknowledge at once: the place is the furthest that any of them named.
#[tokio::test]
async fn concurrent_acknowledgements_end_at_the_furthest() {
    const EVENTS: usize = 50;
    let (_server, client) = with_events(EVENTS).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, EVENTS).await;
    let all = cursors.iter().rev().map(|cursor| client.acknowledge(number, cursor));
    let acknowledged = futures_util::future::join_all(all).await;
    for (cursor, acknowledged) in cursors.iter().rev().zip(acknowledged) {
        let sequence = |cursor: &String| cursors.iter().position(|known| known == cursor).unwrap();
        assert!(sequence(&acknowledged.unwrap()) >= sequence(cursor));
    }
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_cursor, cursors[EVENTS - 1]);
}

#[tokio::test]
async fn the_newest_stream_wins_and_the_older_one_may_acknowledge_nothing() {
    let (_server, client) = with_events(3).await;
    let mut older = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut older, 3).await;
    assert!(matches!(older.message().await.1, Message::CaughtUp(_)));

    let mut newer = client.read(CRM).await.unwrap();
    let (newer_number, newer_cursors) = read(&mut newer, 1).await;

    let ended = older.failure().await;
    assert_eq!((ended.code(), &*reason(&ended)), (Code::Aborted, "SUBSCRIPTION_TAKEN_OVER"));
    assert_eq!(metadata(&ended, "cursor"), cursors[2], "it carries its cursor");
    assert!(newer_number > number);
    let refused = client.acknowledge(number, &cursors[2]).await;
    assert_refused(refused, Code::Aborted, "SUBSCRIPTION_TAKEN_OVER", "");
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 0);
    client.acknowledge(newer_number, &newer_cursors[0]).await.unwrap();
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 1);
}

/// The stream is in its snapshot, and its client takes nothing of that.
#[tokio::test]
async fn nothing_is_acknowledged_that_was_not_sent() {
    let (server, client) = with_events(2).await;
    let (_, cursors) = read(&mut client.read(CRM).await.unwrap(), 2).await;
    client.delete_subscription(CRM, false).await.unwrap();
    let start = Some(create_subscription_request::Start::Snapshot(true));
    client.create_subscription(named(CRM), start).await.unwrap();
    let mut unread = Unread::open(server.addr).await;
    let start = Some(subscribe_request::Start::Subscription(CRM.into()));
    let _held = unread.call(SUBSCRIBE, &SubscribeRequest { start, ..subscribe_request() }).await;
    let number = client.subscription(CRM).await.unwrap().stream.unwrap().number;
    let refused = client.acknowledge(number, &cursors[1]).await;
    assert_refused(refused, Code::InvalidArgument, "FIELD_INVALID", "cursor");
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 2, "it is at the snapshot");
    let other = CreateProfileRequest { workspace: OTHER_WORKSPACE.into(), ..create_request() };
    let foreign = client.create_with(other).await.unwrap().cursor;
    assert_refused(client.acknowledge(number, &foreign).await, Code::FailedPrecondition, "CURSOR_FOREIGN", "");
}

#[tokio::test]
async fn skipped_events_are_listed_with_their_reasons_and_can_be_read_again() {
    let (server, client) = with_events(5).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (stream, cursors) = read(&mut stream, 5).await;
    let skip = |sequence, reason: &str| Skip { sequence, reason: reason.into() };
    let skipped = vec![skip(2, "HTTP 500"), skip(4, "HTTP 410")];
    let request = AcknowledgeRequest { stream, cursor: cursors[3].clone(), skipped, ..acknowledge_request() };
    client.acknowledge_with(request.clone()).await.unwrap();
    client.acknowledge_with(request).await.unwrap(); // A retry lists nothing twice.
    assert_eq!(client.subscription(CRM).await.unwrap().skipped_events, 2);

    let server = server.restart().await;
    let client = server.client().await;
    let first = client.skipped(1, "").await.unwrap();
    let second = client.skipped(1, &first.next_page_token).await.unwrap();
    let listed: Vec<_> = [&first, &second].into_iter().flat_map(|page| &page.skipped_events).collect();
    let said: Vec<_> = listed.iter().map(|event| (event.sequence, event.reason.as_str())).collect();
    assert_eq!(said, [(2, "HTTP 500"), (4, "HTTP 410")]);
    assert!(second.next_page_token.is_empty() && listed.iter().all(|event| event.time.is_some()));
    assert_eq!(client.event(2).await.unwrap(), client.log().await[1]);

    client.delete_subscription(CRM, false).await.unwrap();
    client.create_subscription(named(CRM), None).await.unwrap();
    assert!(client.skipped(10, "").await.unwrap().skipped_events.is_empty(), "they went with the subscription");
}

#[tokio::test]
async fn an_event_that_the_log_does_not_have() {
    let (_server, client) = with_events(2).await;
    let missing = client.event(3).await.unwrap_err();
    assert_eq!((missing.code(), &*reason(&missing)), (Code::NotFound, "EVENT_NOT_FOUND"));
    let bounds = (metadata(&missing, "oldest_sequence"), metadata(&missing, "head_sequence"));
    assert_eq!(bounds, ("1".into(), "2".into()));
    assert_refused(client.event(0).await, Code::InvalidArgument, "FIELD_INVALID", "sequence");
}

#[tokio::test]
async fn a_seek_says_first_what_it_replays_and_then_moves_the_place() {
    use seek_subscription_request::To;
    let (_server, client) = with_events(5).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 4).await;
    client.acknowledge(number, &cursors[3]).await.unwrap();

    let would = client.seek(To::Cursor(cursors[0].clone()), true).await.unwrap();
    assert_eq!((would.replayed_events, would.passed_events), (3, 0));
    assert_eq!(would.subscription.unwrap().acknowledged_sequence, 1);
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 4, "it was only validated");
    assert_eq!(stream.event().await.1.sequence, 5, "and its stream goes on");

    let did = client.seek(To::Earliest(true), false).await.unwrap();
    assert_eq!((did.replayed_events, did.passed_events), (4, 0));
    assert_eq!(reason(&stream.failure().await), "SUBSCRIPTION_TAKEN_OVER");
    let refused = client.acknowledge(number, &cursors[3]).await;
    assert_refused(refused, Code::Aborted, "SUBSCRIPTION_TAKEN_OVER", "");
    assert_eq!(client.read(CRM).await.unwrap().sequences(5).await, [1, 2, 3, 4, 5]);

    assert_eq!(client.seek(To::Now(true), false).await.unwrap().passed_events, 5);
    let third = client.log().await[2].time;
    let moved = client.seek(To::Time(third.unwrap()), false).await.unwrap();
    assert_eq!(moved.replayed_events, 3, "with the third event");
    assert_eq!(client.read(CRM).await.unwrap().sequences(3).await, [3, 4, 5]);
    client.seek(To::Snapshot(true), false).await.unwrap();
    assert!(client.read(CRM).await.unwrap().opened().await.1.snapshot);
}

#[tokio::test]
async fn a_subscription_keeps_its_settings_and_new_ones_end_its_stream() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in [ADA, GRACE] {
        client.create(with_attributes(mpid, [("plan", text("pro"))])).await.unwrap();
    }
    let settings = Subscription {
        filter: of_profiles(&[GRACE]),
        read_mask: mask(&["mpid"]),
        on_expired: OnExpired::Earliest.into(),
        ..named(CRM)
    };
    let created = client.create_subscription(settings.clone(), from_earliest()).await.unwrap();
    assert_eq!((&created.filter, &created.read_mask), (&settings.filter, &settings.read_mask));
    assert_eq!((created.on_expired(), created.state()), (OnExpired::Earliest, SubscriptionState::Active));
    assert!(created.create_time.is_some() && created.stream.is_none());
    let mut stream = client.read(CRM).await.unwrap();
    stream.opened().await;
    let event = stream.event().await.1;
    assert_eq!((event.mpid, event.profile.unwrap()), (GRACE, Profile { mpid: GRACE, ..Default::default() }));

    let request = UpdateSubscriptionRequest {
        workspace: WORKSPACE.into(),
        subscription: Some(Subscription { filter: of_profiles(&[ADA]), ..named(CRM) }),
        update_mask: Some(FieldMask { paths: vec!["filter".into()] }),
        ..Default::default()
    };
    let updated = client.events.clone().update_subscription(request).await.unwrap().into_inner();
    let updated = updated.subscription.unwrap();
    assert_eq!(updated.read_mask, settings.read_mask, "the mask was not named");
    assert_eq!(updated.create_time, created.create_time);
    assert_eq!(reason(&stream.failure().await), "SUBSCRIPTION_TAKEN_OVER");
    assert_eq!(client.read(CRM).await.unwrap().event().await.1.mpid, ADA);
}

#[tokio::test]
async fn a_list_shows_how_far_each_is_behind_and_who_reads_it() {
    let (_server, client) = with_events(3).await;
    client.create_subscription(named("erp"), None).await.unwrap();
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 2).await;
    client.acknowledge(number, &cursors[0]).await.unwrap();

    let list = |page_size, page_token: String| {
        let request = ListSubscriptionsRequest { workspace: WORKSPACE.into(), page_size, page_token };
        let mut events = client.events.clone();
        async move { events.list_subscriptions(request).await.unwrap().into_inner() }
    };
    let first = list(1, String::new()).await;
    let second = list(1, first.next_page_token.clone()).await;
    assert!(second.next_page_token.is_empty());
    let (crm, erp) = (&first.subscriptions[0], &second.subscriptions[0]);
    assert_eq!((&*crm.name, crm.lag_events, crm.acknowledged_sequence), (CRM, 2, 1));
    assert!(crm.lag_time.is_some_and(|lag| lag.seconds > 0 || lag.nanos > 0));
    let open = crm.stream.as_ref().unwrap();
    assert_eq!((open.number, open.sent_sequence), (number, 3));
    assert!(open.peer.starts_with("127.0.0.1:") && open.open_time.is_some());
    assert_eq!((&*erp.name, erp.lag_events, erp.stream.is_none()), ("erp", 0, true));
    assert_eq!(erp.lag_time, seconds(0));
    drop(stream);
    assert_eq!(list(10, String::new()).await.subscriptions.len(), 2);
}

#[tokio::test]
async fn a_deleted_subscription_ends_its_stream() {
    let (_server, client) = with_events(1).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 1).await;
    client.delete_subscription(CRM, false).await.unwrap();

    let ended = stream.failure().await;
    assert_eq!((ended.code(), &*reason(&ended)), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND"));
    let missing = |refused: Result<(), Status>| assert_refused(refused, Code::NotFound, "SUBSCRIPTION_NOT_FOUND", "");
    missing(client.acknowledge(number, &cursors[0]).await.map(|_| ()));
    missing(client.subscription(CRM).await.map(|_| ()));
    missing(client.read(CRM).await.map(|_| ()));
    missing(client.skipped(1, "").await.map(|_| ()));
    missing(client.delete_subscription(CRM, false).await);
    client.delete_subscription(CRM, true).await.unwrap();
}

#[tokio::test]
async fn a_subscription_may_be_created_before_its_workspace() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create_subscription(named(CRM), None).await.unwrap();
    let mut stream = client.read(CRM).await.unwrap();
    stream.opened().await;
    visit(&client).await;
    assert_eq!(stream.event().await.1.sequence, 1);
}

#[tokio::test]
async fn a_subscription_may_start_with_a_snapshot_and_resume_in_the_middle_of_it() {
    const PROFILES: i64 = 300;
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=PROFILES {
        client.create(with_mpid(mpid)).await.unwrap();
    }
    let start = Some(create_subscription_request::Start::Snapshot(true));
    client.create_subscription(named(CRM), start).await.unwrap();
    let mut stream = client.read(CRM).await.unwrap();
    let number = stream.opened().await.1.stream;
    let mut last = String::new();
    for mpid in 1..=10 {
        let (cursor, message) = stream.message().await;
        assert!(matches!(message, Message::SnapshotProfile(profile) if profile.mpid == mpid));
        last = cursor;
    }
    client.acknowledge(number, &last).await.unwrap();
    client.update(PROFILES, increment("visits")).await.unwrap(); // After the snapshot.

    let server = server.restart().await;
    let client = server.client().await;
    let mut stream = client.read(CRM).await.unwrap();
    let opened = stream.opened().await.1;
    assert_eq!((opened.snapshot, opened.after_sequence), (true, PROFILES.cast_unsigned()));
    for expected in 11..=PROFILES {
        let Message::SnapshotProfile(profile) = stream.message().await.1 else { panic!("a profile") };
        assert_eq!((profile.mpid, profile.user_attributes), (expected, None));
    }
    let complete = SnapshotComplete { sequence: PROFILES.cast_unsigned() };
    assert_eq!(stream.message().await.1, Message::SnapshotComplete(complete));
    assert_eq!(stream.event().await.1.sequence, PROFILES.cast_unsigned() + 1);
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    let (server, client) = with_events(2).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 2).await;
    let (invalid, field) = (Code::InvalidArgument, "FIELD_INVALID");
    for name in ["", "a b", "ü", &"a".repeat(65)] {
        assert_refused(client.create_subscription(named(name), None).await, invalid, field, "subscription.name");
        assert_refused(client.subscription(name).await, invalid, field, "name");
    }
    let shard = Some(Shard { index: 2, count: 2 });
    let refused = client.create_subscription(Subscription { shard, ..named("x") }, None).await;
    assert_refused(refused, invalid, field, "subscription.shard.index");
    let refused = client.create_subscription(Subscription { on_expired: 9, ..named("x") }, None).await;
    assert_refused(refused, invalid, field, "subscription.on_expired");
    let refused = client.create_subscription(Subscription { read_mask: mask(&["emial"]), ..named("x") }, None).await;
    assert_refused(refused, invalid, "MASK_INVALID", "read_mask");

    let request = |change: fn(&mut AcknowledgeRequest)| {
        let mut request = AcknowledgeRequest { stream: number, cursor: cursors[1].clone(), ..acknowledge_request() };
        change(&mut request);
        client.acknowledge_with(request)
    };
    assert_refused(request(|it| it.stream = 0).await, invalid, field, "stream");
    assert_refused(request(|it| it.cursor.clear()).await, invalid, "CURSOR_MALFORMED", "cursor");
    assert_refused(request(|it| it.subscription.clear()).await, invalid, field, "subscription");
    let many = request(|it| it.skipped = vec![Skip { sequence: 1, ..Default::default() }; 101]).await;
    assert_refused(many, invalid, "LIMIT_EXCEEDED", "skipped");
    let none = request(|it| it.skipped = vec![Skip::default()]).await;
    assert_refused(none, invalid, field, "skipped[0].sequence");
    let later = request(|it| it.skipped = vec![Skip { sequence: 3, ..Default::default() }]).await;
    assert_refused(later, invalid, field, "skipped[0].sequence");
    let long = request(|it| it.skipped = vec![Skip { sequence: 1, reason: "x".repeat(1_025) }]).await;
    assert_refused(long, invalid, "LIMIT_EXCEEDED", "skipped[0].reason");
    assert_eq!(client.subscription(CRM).await.unwrap().acknowledged_sequence, 0, "nothing has changed");

    let start = Some(subscribe_request::Start::Subscription(CRM.into()));
    let with_filter = SubscribeRequest { start, filter: of_profiles(&[ADA]), ..subscribe_request() };
    assert_refused(client.subscribe(with_filter).await.map(|_| ()), invalid, field, "filter");
    let unknown_setting = UpdateSubscriptionRequest {
        workspace: WORKSPACE.into(),
        subscription: Some(named(CRM)),
        update_mask: Some(FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    let refused = client.events.clone().update_subscription(unknown_setting).await;
    assert_refused(refused, invalid, "MASK_INVALID", "update_mask");
    let nowhere = SeekSubscriptionRequest { workspace: WORKSPACE.into(), name: CRM.into(), ..Default::default() };
    assert_refused(client.events.clone().seek_subscription(nowhere).await, invalid, field, "to");
    let time = Timestamp { seconds: 0, nanos: -1 };
    let refused = client.seek(seek_subscription_request::To::Time(time), false).await;
    assert_refused(refused, invalid, field, "time");
    assert_refused(client.skipped(-1, "").await, invalid, field, "page_size");
    assert_refused(client.skipped(1, "garbled").await, invalid, field, "page_token");
    let server = server.stop().await;
    let few = TestServer::reopen_with(server, limits(|limits| limits.subscriptions = 1)).await;
    let refused = few.client().await.create_subscription(named("one-more"), None).await;
    assert_refused(refused, Code::ResourceExhausted, "QUOTA_EXCEEDED", "");
}

/// `ListEvents` lists what follows the acknowledged place, and leaves the open stream alone.
#[tokio::test]
async fn a_page_may_start_where_a_subscription_is() {
    let (_server, client) = with_events(3).await;
    let mut stream = client.read(CRM).await.unwrap();
    let (number, cursors) = read(&mut stream, 3).await;
    client.acknowledge(number, &cursors[0]).await.unwrap();
    let start = Some(list_events_request::Start::Subscription(CRM.into()));
    let page = client.list(ListEventsRequest { start, ..list_request() }).await.unwrap();
    assert_eq!(sequences_of(&page.events), [2, 3]);
    client.acknowledge(number, &cursors[2]).await.unwrap();
}
