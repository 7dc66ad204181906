//! Who is this? Identities lead to one profile, find it by priority, and never make two.

use cameo::proto::v1::*;
use futures_util::future::join_all;
use tonic::Code;
use tonic_types::StatusExt;

use crate::harness::*;

fn customer(id: &str) -> Identity {
    identity("customer_id", id)
}

fn device(id: &str) -> Identity {
    identity("android_id", id)
}

fn identify(identities: &[Identity]) -> IdentifyProfileRequest {
    IdentifyProfileRequest { identities: identities.to_vec(), ..IdentifyProfileRequest::default() }
}

fn on_conflict(on_conflict: OnConflict, identities: &[Identity]) -> IdentifyProfileRequest {
    IdentifyProfileRequest { on_conflict: on_conflict.into(), ..identify(identities) }
}

fn person(mpid: i64, identities: &[Identity]) -> Profile {
    let (device_identities, user_identities) = identities.iter().cloned().partition(Identity::is_device);
    Profile { device_identities, user_identities, ..with_mpid(mpid) }
}

fn matched(index: i32, kind: &str, reason: MatchReason) -> IdentityMatch {
    IdentityMatch { index, r#type: kind.into(), reason: reason.into() }
}

fn involved(mpid: i64, indexes: &[i32], outcome: InvolvedOutcome) -> InvolvedProfile {
    InvolvedProfile { mpid, indexes: indexes.to_vec(), outcome: outcome.into() }
}

#[tokio::test]
async fn identities_that_nobody_owns_make_a_profile_and_then_lead_to_it() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let known = [email("ada"), customer("a"), device("phone")];
    let patch = Some(set([("plan", text("pro"))]));

    let made = client.identify(IdentifyProfileRequest { patch, ..identify(&known) }).await.unwrap();

    assert_eq!((made.created, made.outcome()), (true, WriteOutcome::Created));
    assert_eq!((&made.r#match, &made.others, &*made.linked), (&None, &vec![], &[0, 1, 2][..]));
    let profile = made.profile.unwrap();
    assert_eq!(profile.user_identities, known[..2]);
    assert_eq!(profile.device_identities, [known[2].clone()]);
    assert_eq!(profile.user_attributes, Some(map([("plan", text("pro"))])));
    assert_eq!(client.log().await.len(), 1, "one write");

    for identity in known {
        let found = client.identify(identify(std::slice::from_ref(&identity))).await.unwrap();
        assert_eq!((found.profile.as_ref(), found.outcome()), (Some(&profile), WriteOutcome::Unchanged));
        assert_eq!(found.r#match, Some(matched(0, &identity.r#type, MatchReason::OnlyOwner)));
        assert_eq!(found.cursor, made.cursor, "that of the profile's latest event");
    }
    assert_eq!(client.log().await.len(), 1, "a call that changes nothing makes no event");
}

#[tokio::test]
async fn new_identities_are_linked_in_the_same_write_as_the_patch() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(person(ADA, &[email("ada")])).await.unwrap();

    let request = identify(&[device("phone"), email("ada"), customer("a")]);
    let found = client.identify(IdentifyProfileRequest { patch: Some(increment("visits")), ..request }).await.unwrap();

    assert_eq!((found.created, found.outcome(), &*found.linked), (false, WriteOutcome::Updated, &[0, 2][..]));
    assert_eq!(found.r#match, Some(matched(1, "email", MatchReason::OnlyOwner)));
    let log = client.log().await;
    assert_eq!(log.len(), 2);
    let changed = &log[1].changed_fields.as_ref().unwrap().paths;
    assert_eq!(*changed, ["device_identities", "user_identities", "user_attributes"]);
    assert_eq!(log[1].profile, found.profile);
}

#[tokio::test]
async fn the_identity_of_the_highest_priority_decides() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(person(ADA, &[device("phone")])).await.unwrap();
    client.create(person(GRACE, &[email("grace")])).await.unwrap();
    client.create(person(ALAN, &[customer("t")])).await.unwrap();
    let all = [device("phone"), email("grace"), customer("t")];

    let found = client.identify(identify(&all)).await.unwrap();

    assert_eq!(found.profile.unwrap().mpid, ALAN);
    assert_eq!(found.r#match, Some(matched(2, "customer_id", MatchReason::HighestPriority)));
    let kept = InvolvedOutcome::Kept;
    assert_eq!(found.others, [involved(ADA, &[0], kept), involved(GRACE, &[1], kept)]);
    assert_eq!(found.outcome, i32::from(WriteOutcome::Unchanged));

    let settings =
        IdentitySettings { priority: ["android_uuid", "email"].map(Into::into).into(), ..Default::default() };
    let settings = client.set_identity_settings(settings).await.unwrap();
    assert_eq!(settings.priority, ["android_id", "email"], "by the names that are used for matching");
    let found = client.identify(identify(&all)).await.unwrap();
    assert_eq!(found.r#match, Some(matched(0, "android_id", MatchReason::HighestPriority)));
    assert_eq!(found.profile.unwrap().mpid, ADA);

    let server = server.restart().await;
    let found = server.client().await.identify(identify(&all)).await.unwrap();
    assert_eq!(found.profile.unwrap().mpid, ADA, "the settings outlive a restart");
}

#[tokio::test]
async fn a_conflict_is_kept_merged_or_refused_as_the_caller_says() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(person(ADA, &[email("ada")])).await.unwrap();
    client.create(person(GRACE, &[device("phone"), device("tablet")])).await.unwrap();
    let both = [email("ada"), device("phone"), customer("a")];

    let refused = client.identify(on_conflict(OnConflict::Fail, &both)).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "IDENTITY_CONFLICT"));
    let violation = &refused.get_details_precondition_failure().unwrap().violations[0];
    assert_eq!((&*violation.subject, &*violation.description), ("profiles/1906", "owns identities[1]"));
    assert_eq!(client.log().await.len(), 2, "nothing changed");

    let merge = on_conflict(OnConflict::Merge, &both);
    let would = client.identify(IdentifyProfileRequest { validate_only: true, ..merge.clone() }).await.unwrap();
    assert_eq!(would.others, [involved(GRACE, &[1], InvolvedOutcome::Merged)]);
    assert_eq!(client.log().await.len(), 2, "it only explained");

    let merged = client.identify(merge).await.unwrap();
    assert_eq!((&merged.others, &merged.linked), (&would.others, &vec![2]));
    let survivor = merged.profile.unwrap();
    assert_eq!(survivor.device_identities, [device("phone"), device("tablet")]);
    let log = client.log().await;
    assert_eq!(log[2..].iter().map(|event| &*event.r#type).collect::<Vec<_>>(), ["profile.merged", "profile.updated"]);
    assert_eq!(client.get(GRACE).await.unwrap(), survivor);
}

#[tokio::test]
async fn persons_with_different_unique_identities_are_never_taken_for_each_other() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let settings = IdentitySettings { unique_types: vec!["customerid".into()], ..Default::default() };
    client.set_identity_settings(settings).await.unwrap();
    client.create(person(ADA, &[customer("a"), email("shared")])).await.unwrap();

    let other = client.identify(identify(&[email("shared"), customer("b")])).await.unwrap();
    assert!(other.created, "the email belongs to another person");
    assert_eq!(other.others, [involved(ADA, &[0], InvolvedOutcome::Contradicts)]);
    assert_eq!(other.linked, [1]);
    let other = other.profile.unwrap().mpid;

    client.create(person(GRACE, &[device("phone")])).await.unwrap();
    let all = [customer("b"), email("shared"), device("phone")];
    let merged = client.identify(on_conflict(OnConflict::Merge, &all)).await.unwrap();
    assert_eq!(merged.profile.unwrap().mpid, other);
    let (kept, absorbed) = (InvolvedOutcome::Contradicts, InvolvedOutcome::Merged);
    assert_eq!(merged.others, [involved(ADA, &[1], kept), involved(GRACE, &[2], absorbed)]);

    let refused = client.merge(other, ADA).await.unwrap_err();
    assert_eq!(&*reason(&refused), "IDENTITY_CONFLICT");
    let two = client.identify(identify(&[customer("a"), customer("b")])).await.unwrap_err();
    assert_eq!((violated_field(&two).as_str(), two.code()), ("identities[1]", Code::InvalidArgument));
    let second = ProfilePatch { add_identities: vec![customer("c")], ..ProfilePatch::default() };
    assert_eq!(reason(&client.update(ADA, second).await.unwrap_err()), "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn a_type_that_never_links_and_a_type_that_is_full_are_left_out() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let settings = IdentitySettings {
        never_link_types: vec!["android_id".into()],
        type_limits: [("email".to_owned(), 2)].into(),
        ..IdentitySettings::default()
    };
    client.set_identity_settings(settings).await.unwrap();

    let emails = [email("a"), device("kiosk"), email("b"), email("c")];
    let made = client.identify(identify(&emails)).await.unwrap();
    let unlinked = |index, reason: UnlinkedReason| UnlinkedIdentity { index, reason: reason.into() };
    let left_out = [unlinked(1, UnlinkedReason::NeverLinks), unlinked(3, UnlinkedReason::TypeFull)];
    assert_eq!((&made.linked, &*made.unlinked), (&vec![0, 2], &left_out[..]));

    let again = client.identify(identify(&emails)).await.unwrap();
    assert_eq!((again.outcome(), &*again.unlinked), (WriteOutcome::Unchanged, &left_out[..]));
    let only_kiosk = client.identify(identify(&[device("kiosk")])).await.unwrap_err();
    assert_eq!(violated_field(&only_kiosk), "identities");
    let linked = client.create(person(ADA, &[device("kiosk")])).await.unwrap_err();
    assert_eq!(reason(&linked), "FIELD_INVALID");
}

#[tokio::test]
async fn a_malformed_call_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    let one = identify(&[customer("x")]);
    let long = identity("customer_id", &"x".repeat(1_025));
    let patched = |patch| IdentifyProfileRequest { patch: Some(patch), ..one.clone() };
    let with = |identities| ProfilePatch { add_identities: identities, ..ProfilePatch::default() };
    let removes = ProfilePatch { remove_identities: vec![customer("x")], ..ProfilePatch::default() };
    for (request, field) in [
        (identify(&[]), "identities"),
        (identify(&[customer("x"), customer("x")]), "identities[1]"),
        (identify(&[email("a"), identity("email", " A@example.com")]), "identities[1]"),
        (identify(&[customer("")]), "identities[0].value"),
        (identify(&[long]), "identities[0].value"),
        (identify(&vec![customer("x"); 101]), "identities"),
        (patched(with(vec![customer("y")])), "patch.add_identities"),
        (patched(ProfilePatch { take_identities: true, ..ProfilePatch::default() }), "patch.take_identities"),
        (patched(removes), "patch.remove_identities"),
        (IdentifyProfileRequest { on_conflict: 9, ..one.clone() }, "on_conflict"),
    ] {
        let refused = client.identify(request).await.unwrap_err();
        assert_eq!((refused.code(), violated_field(&refused)), (Code::InvalidArgument, field.to_owned()));
    }
    assert_eq!(client.log().await.len(), 1);
}

/// The second of two calls may find what the first has made, so each is answered by the same profile.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_with_overlapping_identities_make_one_profile_for_each_identity() {
    const PERSONS: usize = 100;
    let server = TestServer::start().await;
    let client = server.client().await;
    let call = |nth: usize| {
        let (client, person) = (client.clone(), nth % PERSONS);
        // Each call knows two of the three identities of a person.
        let known = [customer(&format!("c{person}")), email(&format!("e{person}")), device(&format!("d{person}"))];
        let known: Vec<_> = known.into_iter().enumerate().filter(|(at, _)| *at != nth / PERSONS % 3).collect();
        let request = identify(&known.into_iter().map(|(_, identity)| identity).collect::<Vec<_>>());
        async move { client.identify(on_conflict(OnConflict::Merge, &request.identities)).await.unwrap() }
    };
    for round in 0..10 {
        within(join_all((round * 1_000..(round + 1) * 1_000).map(call))).await;
    }

    let profiles = client.all_profiles(0).await;
    assert_eq!(profiles.len(), PERSONS);
    for profile in profiles {
        assert_eq!((profile.user_identities.len(), profile.device_identities.len()), (2, 1), "{profile:?}");
        let of = |identity: &Identity| identity.value.chars().filter(char::is_ascii_digit).collect::<String>();
        let mut all = profile.user_identities.iter().chain(&profile.device_identities).map(of);
        let first = all.next().unwrap();
        assert!(all.all(|person| person == first), "those of one person");
    }
}

#[tokio::test]
async fn a_repeat_of_a_call_gets_the_same_explanation() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(person(ADA, &[email("ada")])).await.unwrap();
    client.create(person(GRACE, &[device("phone")])).await.unwrap();
    let request = on_conflict(OnConflict::Merge, &[email("ada"), device("phone"), customer("a")]);
    let request = IdentifyProfileRequest { request_id: "once".into(), ..request };

    let first = client.identify(request.clone()).await.unwrap();
    client.update(ADA, increment("visits")).await.unwrap();
    assert_eq!(client.identify(request.clone()).await.unwrap(), first);

    let other = IdentifyProfileRequest { identities: vec![email("ada")], ..request };
    assert_eq!(reason(&client.identify(other).await.unwrap_err()), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn the_profiles_that_lose_identities_are_named_on_both_sides() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(person(ADA, &[email("ada"), device("phone")])).await.unwrap();
    client.create(person(GRACE, &[email("grace")])).await.unwrap();
    client.create(with_mpid(ALAN)).await.unwrap();
    let patch = ProfilePatch {
        add_identities: vec![email("ada"), email("grace")],
        take_identities: true,
        ..ProfilePatch::default()
    };

    let taken = client.update(ALAN, patch).await.unwrap();

    let left = |mpid, identities_left| TakenFrom { mpid, identities_left };
    assert_eq!(taken.taken_from, [left(ADA, 1), left(GRACE, 0)]);
    let log = client.log().await;
    let told = |event: &Event| (event.mpid, event.taken_by_mpid, event.taken_from_mpids.clone());
    let events: Vec<_> = log[3..].iter().map(told).collect();
    assert_eq!(events, [(ADA, ALAN, vec![]), (GRACE, ALAN, vec![]), (ALAN, 0, vec![ADA, GRACE])]);
    assert_eq!(client.get(GRACE).await.unwrap().user_identities, [], "still there, by its mpid");
    assert_eq!(client.get_by(email("grace")).await.unwrap().mpid, ALAN);
}

#[tokio::test]
async fn settings_have_versions_and_masks() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let get = || async {
        let request = GetIdentitySettingsRequest { workspace: WORKSPACE.into() };
        client.identities.clone().get_identity_settings(request).await.unwrap().into_inner().settings.unwrap()
    };
    assert_eq!(get().await, IdentitySettings::default());
    let first = IdentitySettings { unique_types: vec!["email".into()], ..Default::default() };
    let first = client.set_identity_settings(first).await.unwrap();
    assert!(!first.etag.is_empty() && first.update_time.is_some());
    assert_eq!(get().await, first);

    let update = |settings, paths: &[&str]| {
        let update_mask = mask(paths);
        let request = UpdateIdentitySettingsRequest {
            workspace: WORKSPACE.into(),
            settings: Some(settings),
            update_mask,
            ..UpdateIdentitySettingsRequest::default()
        };
        let mut identities = client.identities.clone();
        async move { identities.update_identity_settings(request).await }
    };
    let more = IdentitySettings { priority: vec!["email".into()], etag: first.etag.clone(), ..Default::default() };
    let second = update(more.clone(), &["priority"]).await.unwrap().into_inner().settings.unwrap();
    assert_eq!((&second.priority, &second.unique_types), (&more.priority, &first.unique_types));
    assert_eq!(reason(&update(more.clone(), &["priority"]).await.unwrap_err()), "ETAG_MISMATCH");
    let unchanged = IdentitySettings { etag: String::new(), ..more };
    assert_eq!(update(unchanged, &["priority"]).await.unwrap().into_inner().settings.unwrap(), second);

    let types = |types: &[&str]| types.iter().map(ToString::to_string).collect::<Vec<_>>();
    let priority = |named: &[&str]| IdentitySettings { priority: types(named), ..Default::default() };
    let limits = |limits: &[(&str, i32)]| IdentitySettings {
        type_limits: limits.iter().map(|(kind, limit)| ((*kind).to_owned(), *limit)).collect(),
        ..IdentitySettings::default()
    };
    for (settings, field) in [
        (priority(&["Email"]), "settings.priority[0]"),
        (priority(&["customer_id", "customerid"]), "settings.priority[1]"),
        (priority(&["email"; 101]), "settings.priority"),
        (limits(&[("email", 0)]), "settings.type_limits[\"email\"]"),
        (limits(&[("customer_id", 1), ("customerid", 2)]), "settings.type_limits[\"customer_id\"]"),
    ] {
        assert_eq!(violated_field(&update(settings, &[]).await.unwrap_err()), field);
    }
    let unknown = update(IdentitySettings::default(), &["etag"]).await.unwrap_err();
    assert_eq!(reason(&unknown), "MASK_INVALID");
    assert_eq!(get().await, second);
}
