//! A caller whose sight is limited tries to learn what it may not see.
//!
//! Servers hold the same profiles but for the values that are hidden from it: one has none, and those of the others
//! differ in text and in size. All
//! that the caller is told must be the same, but for etags, times, ids and cursors: these say that a profile changed,
//! which every caller may know.

use cameo::model::Limits;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use tonic::{Code, Status};

use crate::harness::*;

/// What the caller may see.
const SIGHT: [&str; 6] = ["--workspace", WORKSPACE, "--field", "user_attributes", "--attribute-key", "plan"];
/// The profile that changes.
const ADA: i64 = 1;
/// The profiles of a server: more than a page may hold of large ones.
const PROFILES: i64 = 12;
const PAGE_BYTES: usize = 2_000;
/// A name that it may not even hear of.
const HIDDEN_KEY: &str = "salary";

/// The hidden values of a server.
struct Secrets {
    text: String,
    audience_id: i64,
}

impl Secrets {
    /// The first server has none but what is added later.
    fn all() -> [Self; 3] {
        [
            Self { text: String::new(), audience_id: 0 },
            Self { text: "canary".into(), audience_id: 7 },
            Self { text: "canary-".repeat(90), audience_id: 1 << 40 },
        ]
    }

    fn profile(&self, mpid: i64) -> Profile {
        let plan = ("plan", text("gold"));
        if self.text.is_empty() {
            return with_attributes(mpid, [plan]);
        }
        Profile {
            is_opted_out: self.audience_id > 7,
            user_identities: vec![email(&format!("{}{mpid}", self.text))],
            audience_memberships: vec![member(self.audience_id, None)],
            ..with_attributes(mpid, [plan, (HIDDEN_KEY, text(&self.text))])
        }
    }
}

/// A server with these secrets, and the caller.
async fn office(secrets: &Secrets) -> (TestServer, Client, String) {
    let callers = CallersFile::new();
    let writer = callers.add("crm", &["writer", "steward"]).await;
    let limited = callers.add_with("mail", &["reader", "subscriber"], &SIGHT).await;
    let server =
        callers.server_with(|config| config.limits = Limits { response_bytes: PAGE_BYTES, ..Limits::default() }).await;
    let writer = Client::connect_with(server.addr, &writer).await;
    for mpid in 1..=PROFILES {
        writer.create(secrets.profile(mpid)).await.unwrap();
    }
    writer.update(ADA, set([(HIDDEN_KEY, text(&format!("{} more", secrets.text)))])).await.unwrap();
    let request_id = format!("canary-{}", secrets.audience_id);
    let patch = Some(set([("plan", text("silver"))]));
    writer.update_with(UpdateProfileRequest { request_id, patch, ..update_request(ADA) }).await.unwrap();
    writer.delete(PROFILES).await.unwrap();
    let client = Client::connect_with(server.addr, &limited).await;
    (server, client, limited)
}

/// Everything that the caller is told, without what is always its own.
async fn told(client: &Client) -> Vec<String> {
    let mut told = Vec::new();
    for mpid in [ADA, PROFILES, 999] {
        told.push(format!("{:?}", client.get(mpid).await.map(plain).map_err(|status| plain_error(&status))));
    }
    let keys: Vec<_> = (1..=PROFILES).map(by_mpid).collect();
    for result in client.profiles.clone().batch_get_profiles(batch_request(keys)).await.unwrap().into_inner().results {
        told.push(format!(
            "{:?}",
            result.result.map(|outcome| match outcome {
                batch_get_profiles_result::Result::Found(profile) => format!("{:?}", plain(profile)),
                batch_get_profiles_result::Result::Error(error) => format!("{error:?}"),
            })
        ));
    }
    let mut request = page_request();
    loop {
        let page = client.profiles.clone().list_profiles(request.clone()).await.unwrap().into_inner();
        told.push(format!("{:?}", page.profiles.into_iter().map(plain).collect::<Vec<_>>()));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut request = ListEventsRequest { start: Some(list_events_request::Start::Earliest(true)), ..list_request() };
    loop {
        let page = client.list(request.clone()).await.unwrap();
        for sequence in page.events.iter().map(|event| event.sequence) {
            let request = GetEventRequest { workspace: WORKSPACE.into(), sequence, ..GetEventRequest::default() };
            let event = client.events.clone().get_event(request).await.unwrap().into_inner().event.unwrap();
            told.push(format!("{:?}", plain_event(event)));
        }
        let is_last = page.caught_up;
        told.push(format!("{:?}", page.events.into_iter().map(plain_event).collect::<Vec<_>>()));
        if is_last {
            break;
        }
        request.start = page_after(&page.cursor);
    }
    let start = Some(list_events_request::Start::Snapshot(true));
    let page = client.list(ListEventsRequest { start, ..list_request() }).await.unwrap();
    told.push(format!("{:?}", page.snapshot_profiles.into_iter().map(plain).collect::<Vec<_>>()));
    for start in [earliest(), Some(subscribe_request::Start::Snapshot(true))] {
        let request = SubscribeRequest { start, until_caught_up: true, ..subscribe_request() };
        let mut stream = client.subscribe(request).await.unwrap();
        loop {
            match stream.message().await.1 {
                Message::Event(event) => told.push(format!("{:?}", plain_event(event))),
                Message::SnapshotProfile(profile) => told.push(format!("{:?}", plain(profile))),
                Message::CaughtUp(_) => break,
                _ => {}
            }
        }
    }
    told
}

fn plain(mut profile: Profile) -> Profile {
    profile.etag.clear();
    (profile.create_time, profile.update_time) = (None, None);
    profile
}

fn plain_event(mut event: Event) -> Event {
    event.id.clear();
    event.time = None;
    event.profile = event.profile.map(plain);
    event.previous = event.previous.map(plain);
    event
}

fn plain_error(status: &Status) -> (Code, String) {
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_is_told_does_not_depend_on_what_it_may_not_see() {
    let mut all = Vec::new();
    for secrets in Secrets::all() {
        let (_server, client, _) = office(&secrets).await;
        let told = told(&client).await;
        let text = told.concat();
        assert!(text.contains("silver") && text.contains("gold"), "the caller sees what it may");
        assert!(!text.contains("canary") && !text.contains(HIDDEN_KEY), "{text}");
        all.push(told);
    }
    for other in &all[1..] {
        for (none, some) in all[0].iter().zip(other) {
            assert_eq!(none, some);
        }
        assert_eq!(all[0].len(), other.len());
    }
}

/// Over HTTP too.
#[tokio::test(flavor = "multi_thread")]
async fn the_profile_api_shows_no_more() {
    let mut bodies = Vec::new();
    for secrets in Secrets::all() {
        let (server, _, token) = office(&secrets).await;
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let found = http(server.addr, "GET", &format!("{WORKSPACE}/{ADA}"), &headers, "").await;
        assert_eq!(found.status, 200);
        let text = String::from_utf8(found.body.to_vec()).unwrap();
        assert!(text.contains("silver") && !text.contains("canary") && !text.contains(HIDDEN_KEY), "{text}");
        assert!(!text.contains("opted_out") && !text.contains("identities"), "what is hidden has no value: {text}");
        let asked = http(server.addr, "GET", &format!("{WORKSPACE}/{ADA}?fields=user_identities"), &headers, "").await;
        assert_eq!(asked.status, 403);
        let mut body = found.json();
        for time in ["created_timestamp_ms", "last_stored_timestamp_ms"] {
            assert!(body[time].take().is_u64());
        }
        bodies.push(body);
        for value in [format!("{}{ADA}", secrets.text), "nobody".into()] {
            let question = serde_json::json!({"identity": {"type": "email", "value": value}}).to_string();
            let answer = http(server.addr, "POST", &format!("resolve/{WORKSPACE}"), &headers, &question).await;
            assert_eq!(answer.status, 403, "{value}");
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
}

/// A request that names what is hidden is refused for that alone: there is no second answer to compare it with.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_what_is_hidden_is_refused_whatever_the_store_holds() {
    let [_, secrets, _] = Secrets::all();
    let (_server, client, _) = office(&secrets).await;
    let of_mpid = |mpid| GetProfileRequest { key: Some(by_mpid(mpid)), ..get_request() };
    for mpid in [ADA, 999] {
        for path in ["user_identities", "audience_memberships", "is_opted_out", "device_identities", "attribution"] {
            denied(client.get_with(GetProfileRequest { read_mask: mask(&[path]), ..of_mpid(mpid) }).await);
        }
        let user_attribute_keys = vec![HIDDEN_KEY.into()];
        denied(client.get_with(GetProfileRequest { user_attribute_keys, ..of_mpid(mpid) }).await);
    }
    for value in [format!("{}{ADA}", secrets.text), "nobody".into()] {
        denied(client.get_by(email(&value)).await);
        let request = batch_request([by_identity(email(&value))]);
        let answer = client.profiles.clone().batch_get_profiles(request).await.unwrap().into_inner();
        let Some(batch_get_profiles_result::Result::Error(error)) = &answer.results[0].result else { panic!() };
        assert_eq!((error.code, &*error.message), (7, "keys[0]: the caller may not see \"user_identities\""));
    }
    for audience_id in [secrets.audience_id, 99] {
        let request = ListProfilesRequest { audience_id, ..page_request() };
        denied(client.profiles.clone().list_profiles(request).await);
        let workspace = || WORKSPACE.to_owned();
        let mut audiences = client.audiences.clone();
        denied(audiences.get_audience(GetAudienceRequest { workspace: workspace(), audience_id }).await);
        let request = ListAudienceMembersRequest { workspace: workspace(), audience_id, ..Default::default() };
        denied(audiences.list_audience_members(request).await);
        denied(audiences.list_audiences(ListAudiencesRequest { workspace: workspace(), ..Default::default() }).await);
    }
    for filter in filters(&secrets) {
        let filter = Some(filter);
        denied(client.list(ListEventsRequest { filter: filter.clone(), ..list_request() }).await);
        denied(client.subscribe(SubscribeRequest { filter: filter.clone(), ..subscribe_request() }).await.map(drop));
        let subscription = Some(Subscription { name: "spy".into(), filter, ..Subscription::default() });
        let request = CreateSubscriptionRequest { workspace: WORKSPACE.into(), subscription, ..Default::default() };
        denied(client.events.clone().create_subscription(request).await);
    }
}

/// Filters that would tell by what they let through.
fn filters(secrets: &Secrets) -> Vec<EventFilter> {
    let expressions = [
        "profile.user_attributes.salary == 'x'",
        "profile.user_attributes['salary'] == 'x'",
        "'salary' in profile.user_attributes",
        "has(previous.user_attributes.salary)",
        "size(profile.user_identities) > 0",
        "profile.is_opted_out",
        "previous.audience_memberships.exists(m, m.audience_id == 7)",
        "'salary' in event.changed_user_attributes",
        "'user_identities' in event.changed_fields",
        "size(event.entered_audience_ids) > 0",
        "event.request_id.startsWith('crm-')",
        "size(event.taken_from_mpids) > 0",
    ];
    let by_expression =
        expressions.map(|expression| EventFilter { expression: expression.into(), ..EventFilter::default() });
    let others = [
        EventFilter { audience_ids: vec![secrets.audience_id], ..EventFilter::default() },
        EventFilter { changed_fields: mask(&["user_identities"]), ..EventFilter::default() },
        EventFilter { changed_user_attributes: vec![HIDDEN_KEY.into()], ..EventFilter::default() },
        EventFilter { changed_fields: mask(&["user_attributes"]), ..EventFilter::default() },
    ];
    by_expression.into_iter().chain(others).collect()
}

fn denied<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    let status = outcome.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "PERMISSION_DENIED".into()), "{status:?}");
    assert!(!format!("{status:?}").contains("canary"));
}

/// A refusal that names nothing that is hidden: the caller has not named it itself.
fn denied_blindly<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    assert!(!outcome.as_ref().unwrap_err().message().contains(HIDDEN_KEY));
    denied(outcome);
}

/// An event has all account attributes from before it if one of them has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_keys_alone_is_not_told_that_another_account_attribute_changed() {
    let account = |key, value| ProfilePatch {
        set_account_user_attributes: Some(map([(key, text(value))])),
        ..ProfilePatch::default()
    };
    let mut all = Vec::new();
    for change in [account(HIDDEN_KEY, "canary"), set([(HIDDEN_KEY, text("canary"))])] {
        let callers = CallersFile::new();
        let writer = callers.add("crm", &["writer"]).await;
        let sight = ["--workspace", WORKSPACE, "--attribute-key", "plan", "--attribute-key", "tier"];
        let limited = callers.add_with("mail", &["reader", "subscriber"], &sight).await;
        let server = TestServer::start_with(callers.require()).await;
        let writer = Client::connect_with(server.addr, &writer).await;
        writer.create(with_attributes(ADA, [("plan", text("gold"))])).await.unwrap();
        for patch in [account("tier", "a"), change, account("tier", "b")] {
            writer.update(ADA, patch).await.unwrap();
        }
        let client = Client::connect_with(server.addr, &limited).await;
        let start = Some(list_events_request::Start::Earliest(true));
        let events = client.list(ListEventsRequest { start, ..list_request() }).await.unwrap().events;
        let account_of = |profile: &Option<Profile>| profile.as_ref().unwrap().account_user_attributes.clone();
        let [_, joined, hidden, changed] = &events[..] else { panic!("{events:?}") };
        let account_changed = ["account_user_attributes"];
        assert_eq!(joined.changed_fields.as_ref().unwrap().paths, account_changed);
        assert!(hidden.changed_fields.as_ref().is_none_or(|fields| fields.paths.is_empty()), "{hidden:?}");
        assert_eq!(account_of(&hidden.previous), None);
        assert_eq!(account_of(&hidden.profile), Some(map([("tier", text("a"))])));
        assert_eq!(changed.changed_fields.as_ref().unwrap().paths, account_changed);
        assert_eq!(account_of(&changed.previous), Some(map([("tier", text("a"))])));
        for expression in ["has(previous.account_user_attributes.tier)", "'plan' in event.changed_user_attributes"] {
            let filter = Some(EventFilter { expression: expression.into(), ..EventFilter::default() });
            denied(client.list(ListEventsRequest { filter, ..list_request() }).await);
        }
        all.push(told(&client).await);
    }
    assert_eq!(all[0], all[1]);
}

/// Somebody else's subscription is listed by its name: its filter may hold values, and how it moves tells what matches.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_subscription_of_others_that_tests_what_is_hidden_only_the_name_is_shown() {
    let callers = CallersFile::new();
    let other = callers.add("crm", &["subscriber"]).await;
    let limited = callers.add_with("mail", &["reader", "subscriber"], &SIGHT).await;
    let server = TestServer::start_with(callers.require()).await;
    let expression = "profile.user_attributes.salary == 'canary'".to_owned();
    let filter = Some(EventFilter { expression, ..EventFilter::default() });
    let subscription = Some(Subscription { name: "pay".into(), filter, ..Subscription::default() });
    let request = CreateSubscriptionRequest { workspace: WORKSPACE.into(), subscription, ..Default::default() };
    Client::connect_with(server.addr, &other).await.events.create_subscription(request).await.unwrap();
    let mut limited = Client::connect_with(server.addr, &limited).await.events;
    let workspace = || WORKSPACE.to_owned();
    let name = || "pay".to_owned();
    let get = GetSubscriptionRequest { workspace: workspace(), name: name() };
    let shown = limited.get_subscription(get).await.unwrap().into_inner().subscription;
    let list = ListSubscriptionsRequest { workspace: workspace(), ..Default::default() };
    let listed = limited.list_subscriptions(list).await.unwrap().into_inner().subscriptions;
    let only_the_name = Subscription { name: name(), ..Subscription::default() };
    assert_eq!((shown, listed), (Some(only_the_name.clone()), vec![only_the_name.clone()]));

    let start = Some(subscribe_request::Start::Subscription(name()));
    denied_blindly(limited.subscribe(SubscribeRequest { start, ..subscribe_request() }).await.map(drop));
    let start = Some(list_events_request::Start::Subscription(name()));
    denied_blindly(limited.list_events(ListEventsRequest { start, ..list_request() }).await);
    let (to, validate_only) = (Some(seek_subscription_request::To::Earliest(true)), true);
    let seek =
        SeekSubscriptionRequest { workspace: workspace(), name: name(), to, validate_only, ..Default::default() };
    denied_blindly(limited.seek_subscription(seek).await);
    let subscription = Some(only_the_name);
    let update = UpdateSubscriptionRequest { workspace: workspace(), subscription, ..Default::default() };
    denied_blindly(limited.update_subscription(update).await);
    let delete = DeleteSubscriptionRequest { workspace: workspace(), name: name(), ..Default::default() };
    denied_blindly(limited.delete_subscription(delete).await);
    let skipped = ListSkippedEventsRequest { workspace: workspace(), subscription: name(), ..Default::default() };
    denied_blindly(limited.list_skipped_events(skipped).await);
    let acknowledge =
        AcknowledgeRequest { workspace: workspace(), subscription: name(), stream: 1, ..Default::default() };
    denied_blindly(limited.acknowledge(acknowledge).await);
}
