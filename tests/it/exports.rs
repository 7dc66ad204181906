//! `ExportSubject`: everything that the service holds on one person.

use cameo::proto::v1::*;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::*;

const AUDIENCE: i64 = 7;

fn strings<'a>(events: &'a Value, field: &str) -> Vec<&'a str> {
    events.as_array().unwrap().iter().map(|event| event[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_export_has_the_profile_its_memberships_its_merges_and_its_history() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let joined = vec![member(AUDIENCE, Some(FAR_FUTURE))];
    client.create(Profile { audience_memberships: joined, ..ada() }).await.unwrap();
    client.create(owner_of(email("grace"), GRACE)).await.unwrap();
    client.update(GRACE, set([("plan", text("pro"))])).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();
    client.create(owner_of(email("alan"), ALAN)).await.unwrap();

    let exported = client.export(GRACE).await.unwrap();

    assert_eq!((&exported["workspace"], &exported["mpid"]), (&json!(WORKSPACE), &json!(ADA.to_string())));
    assert!(exported["exportTime"].as_str().is_some_and(|time| time.starts_with("20")));
    let profile = client.get(ADA).await.unwrap();
    assert_eq!(exported["profile"]["etag"], profile.etag);
    assert_eq!(exported["profile"]["userAttributes"], json!({"plan": "pro"}));
    assert_eq!(exported["memberships"][0]["audienceId"], AUDIENCE.to_string());
    let merge = &exported["merges"][0];
    assert_eq!((&merge["mergedMpid"], &merge["intoMpid"]), (&json!(GRACE.to_string()), &json!(ADA.to_string())));
    assert_eq!(merge["absorbedProfile"]["userIdentities"][0]["value"], "grace@example.com");
    let history = &exported["history"];
    assert_eq!(strings(history, "sequence"), ["1", "4", "2", "3"], "of the survivor, then of the absorbed profile");
    let types = ["profile.created", "profile.merged", "profile.created", "profile.updated"];
    assert_eq!(strings(history, "type"), types);
}

#[tokio::test]
async fn a_long_history_comes_in_several_parts_that_make_one_document() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.import((0..700).map(|_| record(by_mpid(ADA), increment("visits"))).collect()).await.unwrap();
    let request = ExportSubjectRequest { workspace: WORKSPACE.into(), key: Some(by_mpid(ADA)) };
    let mut parts = client.profiles.clone().export_subject(request).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(part) = within(parts.message()).await.unwrap() {
        assert!(part.document.len() < 1 << 20, "each is small");
        count += 1;
    }
    assert!(count > 3, "{count} parts");

    let history = client.export(ADA).await.unwrap()["history"].clone();

    let expected: Vec<_> = (1..=700).map(|sequence| sequence.to_string()).collect();
    assert_eq!(strings(&history, "sequence"), expected);
}

#[tokio::test]
async fn a_deleted_profile_is_exported_by_its_mpid_and_one_that_never_was_is_not() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.delete(ADA).await.unwrap();

    let exported = client.export(ADA).await.unwrap();

    assert_eq!((&exported["profile"], &exported["memberships"]), (&Value::Null, &json!([])));
    assert_eq!(strings(&exported["history"], "type"), ["profile.created", "profile.deleted"]);
    assert_refused(client.export(UNKNOWN_MPID).await, Code::NotFound, "PROFILE_NOT_FOUND", "");
    assert_refused(client.export(0).await, Code::InvalidArgument, "FIELD_INVALID", "key.mpid");
}

#[tokio::test]
async fn an_export_has_nothing_of_an_earlier_person_whose_mpid_an_absorbed_profile_has() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(owner_of(email("earlier"), GRACE)).await.unwrap();
    client.delete(GRACE).await.unwrap();
    client.create(owner_of(email("grace"), GRACE)).await.unwrap();
    client.create(ada()).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();

    let exported = client.export(ADA).await.unwrap();

    let history = &exported["history"];
    assert_eq!(strings(history, "sequence"), ["4", "5", "3"]);
    assert!(exported.to_string().contains("grace@example.com") && !exported.to_string().contains("earlier"));
    client.delete(ADA).await.unwrap();
    let history = &client.export(ADA).await.unwrap()["history"];
    assert_eq!(strings(history, "sequence").len(), 6, "of a deleted profile, all that the log tells: {history}");
}
