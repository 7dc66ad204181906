//! Erased means erased: no value of the person comes back from anything that the service answers.

use std::fmt::Debug;
use std::fs::File;
use std::process::Stdio;

use cameo::proto::v1::subscribe_request::Start;
use cameo::proto::v1::*;
use tempfile::{NamedTempFile, TempDir};
use tonic::Code;

use crate::harness::*;

/// Every value of the person begins with this.
const CANARY: &str = "canary";
const AUDIENCE: i64 = 77;

fn canary(what: &str) -> String {
    format!("{CANARY}-{what}")
}

/// A profile of which everything is a canary.
fn bird(mpid: i64, name: &str) -> Profile {
    let value = |what: &str| canary(&format!("{name}-{what}"));
    Profile {
        user_identities: vec![identity("customer_id", &value("id")), email(&value("mail"))],
        device_identities: vec![identity("android_id", &value("phone"))],
        user_attributes: Some(map([(&*value("key"), text(&value("value")))])),
        account_user_attributes: Some(map([("tier", text(&value("tier")))])),
        audience_memberships: vec![AudienceMembership {
            audience_name: value("audience"),
            ..member(AUDIENCE, Some(FAR_FUTURE))
        }],
        attribution: vec![Attribution {
            partner: value("partner"),
            campaign: value("campaign"),
            ..Attribution::default()
        }],
        ..with_mpid(mpid)
    }
}

#[track_caller]
fn assert_no_canary(what: &str, said: &impl Debug) {
    let said = format!("{said:?}");
    assert!(!said.contains(CANARY), "{what}: {said}");
}

/// Everything that the service says of the log and of these profiles.
async fn search(client: &Client, mpids: &[i64]) {
    assert_no_canary("the list", &client.all_profiles(0).await);
    let log = client.log().await;
    assert_no_canary("the log", &log);
    for event in &log {
        let request = GetEventRequest { workspace: WORKSPACE.into(), sequence: event.sequence, ..Default::default() };
        assert_no_canary("an event", &client.events.clone().get_event(request).await);
    }
    for start in [Start::Earliest(true), Start::Snapshot(true)] {
        let request = SubscribeRequest { until_caught_up: true, start: Some(start), ..subscribe_request() };
        let mut stream = client.events.clone().subscribe(request).await.unwrap().into_inner();
        while let Some(message) = within(stream.message()).await.unwrap() {
            assert_no_canary("a stream", &message);
        }
    }
    let members = EventFilter { audience_ids: vec![AUDIENCE], ..EventFilter::default() };
    let request = ListEventsRequest { filter: Some(members), ..list_request() };
    assert_no_canary("a filtered log", &client.list(request).await);
    for mpid in mpids {
        assert_no_canary("a lookup", &client.get(*mpid).await);
        let request = ListEventsRequest { filter: of_profiles(&[*mpid]), ..list_request() };
        assert_no_canary("a history", &client.list(request).await);
        assert_no_canary("an export", &client.export(*mpid).await);
        let stale = UpdateProfileRequest { etag: "stale".into(), ..update_request(*mpid) };
        assert_no_canary("a refusal", &client.update_with(stale).await.unwrap_err());
        assert_no_canary("the merges", &client.unmerge(*mpid).await.err());
    }
}

#[tokio::test]
async fn erased_means_erased() {
    let dir = TempDir::new().unwrap();
    let log = NamedTempFile::new().unwrap();
    let mut command = binary();
    command.stderr(Stdio::from(File::create(log.path()).unwrap()));
    let flags = ["--log", "trace", "--log-format", "json"];
    let mut process = TestProcess::start_as(&mut command, dir.path(), &flags).await;
    let client = process.client().await;

    // Alan has an identity that the person takes, and is part of the person for a time.
    let owned = identity("customer_id", &canary("taken"));
    client.create(Profile { user_identities: vec![owned.clone(), email("alan")], ..with_mpid(ALAN) }).await.unwrap();
    let profile = Some(bird(ADA, "ada"));
    let request_id = canary("request");
    client
        .create_with(CreateProfileRequest { profile, request_id: request_id.clone(), ..create_request() })
        .await
        .unwrap();
    client.update(ADA, take([owned])).await.unwrap();
    client.create(bird(GRACE, "grace")).await.unwrap();
    client.update(GRACE, set([("note", text(&canary("note")))])).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();
    client.merge(ALAN, ADA).await.unwrap();
    client.update(ALAN, set([("color", text("blue"))])).await.unwrap();
    client.unmerge(ADA).await.unwrap();
    assert_eq!(reason(&client.create(bird(UNKNOWN_MPID, "ada")).await.unwrap_err()), "IDENTITY_TAKEN");
    client.update(ADA, set([("last", text(&canary("last")))])).await.unwrap();
    let before = client.log().await;

    let erased = client.erase(ADA).await.unwrap();

    assert_eq!((erased.outcome(), &*erased.mpids), (WriteOutcome::Erased, &[ADA, GRACE][..]));
    search(&client, &[ADA, GRACE, ALAN]).await;
    for gone in [ADA, GRACE] {
        assert_eq!(reason(&client.get(gone).await.unwrap_err()), "PROFILE_NOT_FOUND");
    }
    let alan = client.get(ALAN).await.unwrap();
    assert_eq!(alan.user_identities, [email("alan")]);
    assert_eq!(alan.user_attributes, Some(map([("color", text("blue"))])), "his own stays");
    let after = client.log().await;
    assert_eq!(after.len(), before.len() + 1);
    for (was, is) in before.iter().zip(&after) {
        assert_eq!((&was.id, was.sequence, was.time, was.mpid), (&is.id, is.sequence, is.time, is.mpid));
        let is_of_person = [ADA, GRACE].contains(&is.mpid);
        assert_eq!(is.r#type == "profile.erased", is_of_person, "{is:?}");
        let absorbed = if is_of_person && was.r#type != "profile.merged" { 0 } else { was.merged_mpid };
        assert_eq!(is.merged_mpid, absorbed, "only what a merge absorbed is named: a reader removes it");
    }
    assert_eq!((&*after.last().unwrap().r#type, after.last().unwrap().mpid), ("profile.erased", ADA));

    let again = CreateProfileRequest { profile: Some(with_mpid(ADA)), request_id, ..create_request() };
    assert_eq!(reason(&client.create_with(again).await.unwrap_err()), "REQUEST_ID_REUSED");
    process.kill().await;
    let mut process = TestProcess::start(dir.path(), &[]).await;
    search(&process.client().await, &[ADA, GRACE, ALAN]).await;
    process.kill().await;
    let lines = std::fs::read_to_string(log.path()).unwrap();
    assert!(lines.contains("a call ended"), "the log tells of each call");
    assert_no_canary("the log file", &lines);
}

#[tokio::test]
async fn an_erased_mpid_may_be_created_anew_and_its_history_begins_again() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client
        .erase_with(EraseProfileRequest { key: Some(by_identity(email("ada"))), ..Default::default() })
        .await
        .unwrap();

    client.create(ada()).await.unwrap();

    let server = server.restart().await;
    let log = server.client().await.log().await;
    let types: Vec<_> = log.iter().map(|event| &*event.r#type).collect();
    assert_eq!(types, ["profile.erased", "profile.erased", "profile.created"]);
    assert_eq!(server.client().await.get_by(email("ada")).await.unwrap().mpid, ADA);
}

/// Twice, because the first erasure leaves nothing of the merge that tells who was a part of it.
#[tokio::test]
async fn an_erasure_leaves_alone_who_was_a_part_of_the_person_for_a_time() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(bird(GRACE, "grace")).await.unwrap();
    let before = client.log().await;
    for _ in 0..2 {
        client.create(ada()).await.unwrap();
        client.merge(ADA, GRACE).await.unwrap();
        client.unmerge(GRACE).await.unwrap();
        client.erase(ADA).await.unwrap();
    }

    let after = client.log().await;

    assert_eq!(after[0], before[0]);
    let restored = after.iter().filter(|event| event.r#type == "profile.unmerged");
    assert!(restored.clone().count() == 2 && restored.clone().all(|event| event.mpid == GRACE && !event.redacted));
}

/// A profile was deleted with all that it had absorbed, and later another person got an mpid of those.
#[tokio::test]
async fn an_erasure_leaves_alone_who_has_an_mpid_of_an_absorbed_profile_now() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for name in [ADA, GRACE, ALAN] {
        client.create(with_mpid(name)).await.unwrap();
    }
    client.merge(GRACE, ADA).await.unwrap();
    client.merge(ALAN, GRACE).await.unwrap();
    client.delete(ALAN).await.unwrap();
    for name in [ADA, GRACE] {
        client.create(with_mpid(name)).await.unwrap();
    }
    let theirs = client.update(GRACE, set([("plan", text("pro"))])).await.unwrap().profile;

    client.erase(ADA).await.unwrap();

    let log = client.log().await;
    let of_grace: Vec<_> = log.iter().rev().filter(|event| event.mpid == GRACE).collect();
    assert_eq!(of_grace[0].profile, theirs);
    assert_eq!((of_grace[1].redacted, of_grace[2].redacted), (false, true), "her life, and that of the other");
}

/// An mpid may have been absorbed, deleted, created anew and absorbed again.
#[tokio::test]
async fn an_erasure_removes_every_profile_that_had_an_mpid_when_it_was_absorbed() {
    let server = TestServer::start().await;
    let client = server.client().await;
    for _ in 0..2 {
        for (mpid, name) in [(ADA, "ada"), (GRACE, "grace")] {
            client.create(bird(mpid, name)).await.unwrap();
        }
        client.merge(ADA, GRACE).await.unwrap();
        client.delete(ADA).await.unwrap();
    }

    client.erase(ADA).await.unwrap();

    search(&client, &[ADA, GRACE]).await;
}

/// The erasure of another removes from an event what Grace took by it. The event of the loser still tells.
#[tokio::test]
async fn an_erasure_finds_what_was_taken_by_an_event_that_was_redacted() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let taken = identity("customer_id", &canary("taken"));
    for profile in [ada(), with_mpid(GRACE), owner_of(taken.clone(), ALAN)] {
        client.create(profile).await.unwrap();
    }
    client.merge(GRACE, ADA).await.unwrap();
    client.update(GRACE, take([taken])).await.unwrap();
    client.unmerge(ADA).await.unwrap();
    client.erase(ADA).await.unwrap();

    client.erase(GRACE).await.unwrap();

    search(&client, &[ADA, GRACE, ALAN]).await;
}

/// Alan owned an identity, was absorbed by Grace while Ada was a part of her, and Katherine took it from Grace.
#[tokio::test]
async fn an_identity_that_was_erased_does_not_come_back_with_a_restored_profile() {
    const KATHERINE: i64 = 1918;
    let server = TestServer::start().await;
    let client = server.client().await;
    let taken = identity("customer_id", &canary("taken"));
    for profile in [ada(), with_mpid(GRACE), owner_of(taken.clone(), ALAN), with_mpid(KATHERINE)] {
        client.create(profile).await.unwrap();
    }
    client.merge(GRACE, ADA).await.unwrap();
    client.merge(GRACE, ALAN).await.unwrap();
    client.update(KATHERINE, take([taken])).await.unwrap();
    client.unmerge(ADA).await.unwrap();
    client.erase(ADA).await.unwrap();
    client.erase(KATHERINE).await.unwrap();

    let restored = client.unmerge(ALAN).await.unwrap().profile.unwrap();

    assert_eq!(restored.user_identities, []);
    search(&client, &[ADA, GRACE, ALAN, KATHERINE]).await;
}

/// Katherine took an identity from Grace, and Alan took it from her. Then Grace absorbed him.
#[tokio::test]
async fn an_identity_that_a_profile_owned_when_it_was_absorbed_comes_back_although_an_earlier_owner_was_erased() {
    const KATHERINE: i64 = 1918;
    let server = TestServer::start().await;
    let client = server.client().await;
    let taken = identity("customer_id", "7");
    for profile in [owner_of(taken.clone(), GRACE), with_mpid(ALAN), with_mpid(KATHERINE)] {
        client.create(profile).await.unwrap();
    }
    client.update(KATHERINE, take([taken.clone()])).await.unwrap();
    client.update(ALAN, take([taken.clone()])).await.unwrap();
    client.merge(GRACE, ALAN).await.unwrap();
    client.erase(KATHERINE).await.unwrap();

    let restored = client.unmerge(ALAN).await.unwrap().profile.unwrap();

    assert_eq!(restored.user_identities, [taken]);
}

/// Ada was a part of Grace, and took from her what Alan had brought with him and took away again. No later event has
/// what Grace is.
#[tokio::test]
async fn what_a_profile_is_after_a_merge_was_undone_stays_although_its_identities_were_taken() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let taken = identity("customer_id", &canary("taken"));
    for profile in [ada(), with_attributes(GRACE, [("plan", text("pro"))])] {
        client.create(profile).await.unwrap();
    }
    client.update(ADA, add([taken.clone()])).await.unwrap();
    client.create(with_mpid(ALAN)).await.unwrap();
    client.merge(GRACE, ADA).await.unwrap();
    client.unmerge(ADA).await.unwrap();
    client.update(ALAN, take([taken.clone()])).await.unwrap();
    client.update(ADA, take([taken])).await.unwrap();

    client.erase(ADA).await.unwrap();

    search(&client, &[ADA, GRACE, ALAN]).await;
    let history = ListEventsRequest { filter: of_profiles(&[GRACE]), ..list_request() };
    let events = client.list(history).await.unwrap().events;
    let parted = events.iter().find(|event| event.r#type == "profile.unmerged").unwrap();
    assert_eq!(parted.profile.as_ref(), Some(&client.get(GRACE).await.unwrap()));
}

#[tokio::test]
async fn a_deleted_profile_can_be_erased_by_its_mpid() {
    let server = TestServer::start_with(metrics_on).await;
    let client = server.client().await;
    client.create(bird(ADA, "ada")).await.unwrap();
    client.delete(ADA).await.unwrap();

    let erased = client.erase(ADA).await.unwrap();

    assert_eq!((erased.outcome(), erased.events), (WriteOutcome::Erased, 2));
    search(&client, &[ADA]).await;
    assert_no_canary("the metrics", &server.metrics().await);
    assert_eq!(client.log().await.len(), 2, "there was no profile any more");
    assert_eq!(reason(&client.erase(ADA).await.unwrap_err()), "PROFILE_NOT_FOUND", "nothing is left");
}

#[tokio::test]
async fn an_erasure_is_refused_like_a_delete() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    let of = |mpid| EraseProfileRequest { key: Some(by_mpid(mpid)), ..EraseProfileRequest::default() };
    let refused: [(_, Code, &str); 4] = [
        (EraseProfileRequest::default(), Code::InvalidArgument, "FIELD_INVALID"),
        (of(UNKNOWN_MPID), Code::NotFound, "PROFILE_NOT_FOUND"),
        (EraseProfileRequest { etag: "stale".into(), ..of(ADA) }, Code::Aborted, "ETAG_MISMATCH"),
        (
            EraseProfileRequest { etag: "any".into(), allow_missing: true, ..of(UNKNOWN_MPID) },
            Code::Aborted,
            "ETAG_MISMATCH",
        ),
    ];
    for (request, code, expected) in refused {
        assert_refused(client.erase_with(request).await, code, expected, "");
    }
    let missing = EraseProfileRequest { allow_missing: true, ..of(UNKNOWN_MPID) };
    assert_eq!(client.erase_with(missing).await.unwrap().outcome(), WriteOutcome::Unchanged);
    let preview = client.erase_with(EraseProfileRequest { validate_only: true, ..of(ADA) }).await.unwrap();
    assert_eq!((preview.outcome(), preview.events, &*preview.cursor), (WriteOutcome::Erased, 1, ""));
    assert_eq!(client.get_by(email("ada")).await.unwrap().mpid, ADA, "nothing changed");
    assert_eq!(client.log().await.len(), 1);

    let once = EraseProfileRequest { request_id: "once".into(), ..of(ADA) };
    let first = client.erase_with(once.clone()).await.unwrap();
    assert_eq!(client.erase_with(once).await.unwrap(), first, "a repeat gets the first answer");
}

#[tokio::test]
async fn a_profile_with_many_events_is_erased_in_several_commits() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let (profile, request_id) = (Some(bird(ADA, "ada")), "first".to_owned());
    let first = CreateProfileRequest { profile, request_id, ..create_request() };
    client.create_with(first.clone()).await.unwrap();
    for round in 0..5 {
        let patch = |nth| set([("note", text(&canary(&format!("{round}-{nth}"))))]);
        client.import((0..500).map(|nth| record(by_mpid(ADA), patch(nth))).collect()).await.unwrap();
    }
    assert_eq!(client.log().await.len(), 2_501);

    client.erase(ADA).await.unwrap();

    let log = client.log().await;
    assert!(log.iter().all(|event| event.r#type == "profile.erased"), "all of them");
    assert_no_canary("the log", &log);
    assert_eq!(reason(&client.create_with(first).await.unwrap_err()), "REQUEST_ID_REUSED", "by the first commit too");
}

/// What is in the connection already, on its way to the subscriber, cannot be called back. Nothing else is sent.
#[tokio::test]
async fn a_slow_stream_sends_nothing_that_was_read_before_an_erasure() {
    const EVENTS: usize = 60;
    let server = TestServer::start().await;
    let client = server.client().await;
    let mut stream = client.subscribe_from(earliest()).await;
    stream.opened().await;
    for nth in 0..EVENTS {
        client.update(ADA, set([("note", text(&canary(&"x".repeat(50_000 + nth))))])).await.ok();
        if nth == 0 {
            client.create(bird(ADA, "ada")).await.unwrap();
        }
    }

    client.erase(ADA).await.unwrap();

    let mut is_erased = false;
    let mut events = 0;
    loop {
        let (_, event) = stream.event().await;
        let is_tombstone = event.r#type == "profile.erased";
        assert!(is_tombstone || !is_erased, "nothing comes back after the first that was erased");
        is_erased |= is_tombstone;
        events += 1;
        if event.sequence == EVENTS as u64 + 1 {
            break;
        }
    }
    assert!(is_erased && events > EVENTS / 2);
}
