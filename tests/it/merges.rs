//! Two profiles become one, and two again.

use std::collections::BTreeMap;

use cameo::proto::v1::*;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::*;

const VIP: i64 = 7;
const SALE: i64 = 8;

/// A profile without what the server sets.
fn given(profile: Profile) -> Profile {
    Profile { create_time: None, update_time: None, etag: String::new(), ..profile }
}

fn ada_whole() -> Profile {
    Profile {
        user_identities: vec![email("ada"), identity("customer_id", "a")],
        user_attributes: Some(map([("name", text("Ada")), ("plan", text("pro")), ("city", text("London"))])),
        account_user_attributes: Some(map([("tier", text("gold"))])),
        audience_memberships: vec![member(VIP, Some(FAR_FUTURE)), member(SALE, None)],
        attribution: vec![attribution("search")],
        ..with_mpid(ADA)
    }
}

fn grace_whole() -> Profile {
    Profile {
        is_opted_out: true,
        limit_ad_tracking: Some(true),
        device_identities: vec![identity("android_id", "phone")],
        user_identities: vec![email("grace")],
        user_attributes: Some(map([("plan", text("free")), ("rank", text("admiral")), ("name", text("Ada"))])),
        account_user_attributes: Some(map([("tier", text("gold")), ("since", text("1906"))])),
        audience_memberships: vec![member(VIP, None)],
        attribution: vec![attribution("search"), attribution("mail")],
        ..with_mpid(GRACE)
    }
}

fn attribution(partner: &str) -> Attribution {
    Attribution { partner: partner.into(), ..Attribution::default() }
}

fn conflict(field: &str, from_absorbed: bool) -> MergeConflict {
    MergeConflict { field: field.into(), from_absorbed }
}

async fn two() -> (TestServer, Client) {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada_whole()).await.unwrap();
    client.create(grace_whole()).await.unwrap();
    (server, client)
}

#[tokio::test]
async fn the_survivor_has_what_both_had() {
    let (server, client) = two().await;

    let merged = client.merge(ADA, GRACE).await.unwrap();

    let survivor = merged.profile.clone().unwrap();
    let (ada, grace) = (ada_whole(), grace_whole());
    let expected = Profile {
        is_opted_out: true,
        limit_ad_tracking: Some(true),
        device_identities: grace.device_identities.clone(),
        user_identities: [ada.user_identities.clone(), grace.user_identities.clone()].concat(),
        user_attributes: Some(map([
            ("city", text("London")),
            ("name", text("Ada")),
            ("plan", text("pro")),
            ("rank", text("admiral")),
        ])),
        account_user_attributes: Some(map([("since", text("1906")), ("tier", text("gold"))])),
        audience_memberships: vec![member(VIP, None), member(SALE, None)],
        attribution: vec![attribution("search"), attribution("mail")],
        ..with_mpid(ADA)
    };
    assert_eq!(given(survivor.clone()), expected);
    assert_eq!(merged.merged_mpid, GRACE);
    let conflicts = [
        conflict("is_opted_out", true),
        conflict("user_attributes[\"plan\"]", false),
        conflict("audience_memberships[7]", true),
    ];
    assert_eq!(merged.conflicts, conflicts);

    let log = client.log().await;
    let event = &log[2];
    assert_eq!(log.len(), 3, "one event");
    assert_eq!((&*event.r#type, event.mpid, event.merged_mpid), ("profile.merged", ADA, GRACE));
    assert_eq!(event.profile.as_ref(), Some(&survivor));
    assert_eq!(event.merged_profile.clone().map(given), Some(grace));
    assert_eq!((&event.entered_audience_ids, &event.exited_audience_ids), (&vec![], &vec![]));
    for mpid in [ADA, GRACE] {
        let filter = Some(EventFilter { mpids: vec![mpid], ..EventFilter::default() });
        let history = client.list(ListEventsRequest { filter, ..list_request() }).await.unwrap().events;
        let last = history.last().map(|event| Event { r#match: 0, ..event.clone() });
        assert_eq!(last.as_ref(), Some(event), "in the history of both");
        assert_eq!(history.len(), 2);
    }
    let server = server.restart().await;
    assert_eq!(server.client().await.get(GRACE).await.unwrap(), survivor);
}

#[tokio::test]
async fn the_absorbed_mpid_names_the_survivor_everywhere() {
    let (server, client) = two().await;
    client.create(with_mpid(ALAN)).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();
    client.merge(ALAN, ADA).await.unwrap();

    let get = |mpid| GetProfileRequest { key: Some(by_mpid(mpid)), ..get_request() };
    for absorbed in [ADA, GRACE] {
        let found = client.profiles.clone().get_profile(get(absorbed)).await.unwrap().into_inner();
        assert_eq!((found.profile.unwrap().mpid, found.redirected_from), (ALAN, absorbed));
    }
    let found = client.profiles.clone().get_profile(get(ALAN)).await.unwrap().into_inner();
    assert_eq!(found.redirected_from, 0);
    let keys = [GRACE, ALAN].map(by_mpid).into();
    let batch = BatchGetProfilesRequest { workspace: WORKSPACE.into(), keys, ..Default::default() };
    let batch = client.profiles.clone().batch_get_profiles(batch).await.unwrap().into_inner().results;
    let redirects: Vec<_> = batch.iter().map(|result| result.redirected_from).collect();
    assert_eq!(redirects, [GRACE, 0]);
    assert_eq!(batch[0].result, batch[1].result);

    let updated = client.update(GRACE, set([("via", text("grace"))])).await.unwrap();
    assert_eq!((updated.profile.unwrap().mpid, updated.redirected_from), (ALAN, GRACE));
    assert_eq!(client.get_by(email("grace")).await.unwrap().mpid, ALAN);
    assert_eq!(client.all_profiles(0).await.len(), 1, "only survivors are listed");
    let taken = client.create(with_mpid(GRACE)).await.unwrap_err();
    assert_eq!(reason(&taken), "PROFILE_EXISTS");
    let target = format!("{WORKSPACE}/{GRACE}");
    let found = http(server.addr, "GET", &target, &[], "").await;
    assert_eq!((found.status, found.json()["mpid"].as_i64()), (200, Some(ALAN)));

    client.delete(GRACE).await.unwrap();
    for gone in [ADA, GRACE, ALAN] {
        assert_eq!(reason(&client.get(gone).await.unwrap_err()), "PROFILE_NOT_FOUND");
        assert_eq!(reason(&client.unmerge(gone).await.unwrap_err()), "MERGE_NOT_FOUND");
    }
    client.create(with_mpid(GRACE)).await.unwrap();
}

#[tokio::test]
async fn the_value_that_changed_last_survives_if_the_caller_prefers_it() {
    let (_server, client) = two().await;
    client.update(ADA, set([("plan", text("basic"))])).await.unwrap();
    client.update(GRACE, set([("name", text("Grace"))])).await.unwrap();
    client.update(ADA, set([("rank", text("countess"))])).await.unwrap();
    let request = MergeProfilesRequest {
        into: Some(by_mpid(ADA)),
        from: Some(by_mpid(GRACE)),
        prefer_newer: true,
        ..MergeProfilesRequest::default()
    };

    let merged = client.merge_with(request).await.unwrap();

    let attributes: BTreeMap<_, _> = merged.profile.unwrap().user_attributes.unwrap().fields;
    let value = |key: &str| attributes[key].clone();
    assert_eq!([value("plan"), value("name"), value("rank")], ["basic", "Grace", "countess"].map(text));
    let attributes = merged.conflicts.iter().filter(|conflict| conflict.field.starts_with("user_attributes"));
    let taken: Vec<_> = attributes.map(|conflict| (&*conflict.field, conflict.from_absorbed)).collect();
    let expected = [
        ("user_attributes[\"name\"]", true),
        ("user_attributes[\"plan\"]", false),
        ("user_attributes[\"rank\"]", false),
    ];
    assert_eq!(taken, expected);
}

#[tokio::test]
async fn merge_and_unmerge_give_both_profiles_back() {
    let (_server, client) = two().await;
    client.merge(ADA, GRACE).await.unwrap();

    let unmerged = client.unmerge(GRACE).await.unwrap();

    assert_eq!((unmerged.survivor_mpid, &*unmerged.kept_fields), (ADA, &[][..]));
    assert_eq!(given(client.get(ADA).await.unwrap()), ada_whole());
    assert_eq!(given(client.get(GRACE).await.unwrap()), grace_whole());
    assert_eq!(client.get(GRACE).await.unwrap(), unmerged.profile.unwrap());
    assert_eq!(client.get_by(email("grace")).await.unwrap().mpid, GRACE);
    let log = client.log().await;
    let told = |event: &Event| (event.r#type.clone(), event.mpid, event.merged_mpid, event.previous.is_some());
    let unmerged = String::from("profile.unmerged");
    let expected = [(unmerged.clone(), ADA, GRACE, true), (unmerged, GRACE, ADA, false)];
    assert_eq!(log[3..].iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(reason(&client.unmerge(GRACE).await.unwrap_err()), "MERGE_NOT_FOUND", "twice");
}

#[tokio::test]
async fn what_has_changed_since_a_merge_stays_with_the_survivor_and_is_named() {
    let (_server, client) = two().await;
    client.merge(ADA, GRACE).await.unwrap();
    let patch = ProfilePatch {
        join_audiences: vec![member(VIP, Some(FAR_FUTURE))],
        add_identities: vec![email("new")],
        is_opted_out: Some(false),
        ..set([("rank", text("rear admiral"))])
    };
    client.update(ADA, patch).await.unwrap();

    let unmerged = client.unmerge(GRACE).await.unwrap();

    let kept = ["is_opted_out", "user_attributes[\"rank\"]", "audience_memberships[7]"];
    assert_eq!(unmerged.kept_fields, kept);
    assert_eq!(given(client.get(GRACE).await.unwrap()), grace_whole());
    let survivor = client.get(ADA).await.unwrap();
    assert_eq!(survivor.user_attributes.unwrap().fields["rank"], text("rear admiral"));
    let identities = [ada_whole().user_identities, vec![email("new")]].concat();
    assert_eq!(survivor.user_identities, identities);
}

#[tokio::test]
async fn a_merge_that_cannot_be_undone_exactly_is_refused_field_by_field() {
    let (_server, client) = two().await;
    client.create(with_mpid(ALAN)).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();
    let takes = vec![email("grace"), identity("android_id", "phone")];
    let takes = ProfilePatch { add_identities: takes, take_identities: true, ..ProfilePatch::default() };
    client.update(ALAN, takes).await.unwrap();
    let before = client.log().await;

    let refused = client.unmerge(GRACE).await.unwrap_err();

    assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "MERGE_NOT_REVERSIBLE"));
    let violations = refused.get_details_precondition_failure().unwrap().violations;
    let said: Vec<_> = violations.iter().map(|said| (&*said.subject, &*said.description)).collect();
    let owner = "belongs to profiles/1912";
    assert_eq!(said, [("device_identities[0]", owner), ("user_identities[0]", owner)]);
    assert_eq!(client.log().await, before);

    client.merge(ALAN, ADA).await.unwrap();
    let refused = client.unmerge(GRACE).await.unwrap_err();
    let violations = refused.get_details_precondition_failure().unwrap().violations;
    assert_eq!(
        (&*violations[0].subject, &*violations[0].description),
        ("profiles/1815", "was merged into profiles/1912")
    );
    client.unmerge(ADA).await.unwrap();
    assert_eq!(client.get(GRACE).await.unwrap().mpid, ADA, "what it had absorbed leads to it again");
}

#[tokio::test]
async fn a_merge_that_makes_no_sense_is_refused_and_changes_nothing() {
    let (_server, client) = two().await;
    client.create(with_mpid(ALAN)).await.unwrap();
    client.merge(ADA, ALAN).await.unwrap();
    let before = client.log().await;
    let keys = |into, from| MergeProfilesRequest { into, from, ..MergeProfilesRequest::default() };
    let mpids = |into, from| keys(Some(by_mpid(into)), Some(by_mpid(from)));
    let etags = |into_etag: &str, from_etag: &str| MergeProfilesRequest {
        into_etag: into_etag.into(),
        from_etag: from_etag.into(),
        ..mpids(ADA, GRACE)
    };
    for (request, expected) in [
        (mpids(ADA, ADA), "MERGE_SELF"),
        (keys(Some(by_mpid(ADA)), Some(by_identity(email("ada")))), "MERGE_SELF"),
        (mpids(ADA, ALAN), "MERGE_CYCLE"),
        (mpids(ALAN, ADA), "MERGE_CYCLE"),
        (mpids(ADA, UNKNOWN_MPID), "PROFILE_NOT_FOUND"),
        (mpids(UNKNOWN_MPID, ADA), "PROFILE_NOT_FOUND"),
        (keys(Some(by_mpid(ADA)), None), "FIELD_INVALID"),
        (etags("other", ""), "ETAG_MISMATCH"),
        (etags("", "other"), "ETAG_MISMATCH"),
    ] {
        assert_eq!(reason(&client.merge_with(request).await.unwrap_err()), expected);
    }
    assert_eq!(reason(&client.unmerge(GRACE).await.unwrap_err()), "MERGE_NOT_FOUND", "it was never merged");
    assert_eq!(reason(&client.unmerge(0).await.unwrap_err()), "FIELD_INVALID");
    assert_eq!(client.log().await, before);
}

#[tokio::test]
async fn a_merge_that_makes_the_survivor_too_large_is_refused() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let many = |mpid, from: usize| {
        let user_identities = (from..from + 51).map(|nth| email(&format!("e{nth}"))).collect();
        Profile { user_identities, ..with_mpid(mpid) }
    };
    client.create(many(ADA, 0)).await.unwrap();
    client.create(many(GRACE, 51)).await.unwrap();

    let refused = client.merge(ADA, GRACE).await.unwrap_err();

    assert_eq!((refused.code(), &*reason(&refused)), (Code::InvalidArgument, "LIMIT_EXCEEDED"));
    assert_eq!(violated_field(&refused), "from");
    assert_eq!(client.log().await.len(), 2);
}

#[tokio::test]
async fn a_filter_tells_of_a_merge_whichever_of_the_two_it_selects() {
    let (_server, client) = two().await;
    client.create(with_mpid(ALAN)).await.unwrap();
    client.merge(ALAN, ADA).await.unwrap();
    let of = |filter: EventFilter| {
        let (client, request) = (client.clone(), ListEventsRequest { filter: Some(filter), ..list_request() });
        async move {
            let merged = |event: &&Event| event.r#type == "profile.merged";
            let events = client.list(request).await.unwrap().events;
            events.iter().find(merged).map(Event::r#match)
        }
    };
    let audience = |id| EventFilter { audience_ids: vec![id], ..EventFilter::default() };
    let mpid = |mpid| EventFilter { mpids: vec![mpid], ..EventFilter::default() };
    let only = |audience_id, mpid| EventFilter { mpids: vec![mpid], ..audience(audience_id) };

    assert_eq!(of(audience(SALE)).await, Some(FilterMatch::Entered), "the survivor got the membership");
    assert_eq!(of(audience(99)).await, None);
    assert_eq!(of(mpid(ALAN)).await, Some(FilterMatch::Unspecified));
    assert_eq!(of(mpid(ADA)).await, Some(FilterMatch::Left), "the survivor is not one of its profiles");
    assert_eq!(of(mpid(GRACE)).await, None);
    assert_eq!(of(only(SALE, ADA)).await, Some(FilterMatch::Left));
    assert_eq!(of(only(99, ADA)).await, None);
    let was = EventFilter {
        expression: "profile.user_attributes.name == 'Ada' && profile.mpid == 1815".into(),
        ..Default::default()
    };
    assert_eq!(of(was).await, Some(FilterMatch::Left), "only the absorbed profile matched");
}
