//! Who may do what: every RPC and every route, by every kind of caller.
//!
//! - [`rows`]: the expectation, a row for each RPC. [`hidden`]: what a caller with limited sight cannot learn.
//! - [`logins`]: credentials that are not accepted. [`certificates`]: callers that are named by theirs.
//! - [`strangers`]: callers without a credential, many of them.

mod certificates;
mod hidden;
mod logins;
mod rows;
mod strangers;

use std::collections::BTreeSet;

use cameo::proto::DESCRIPTORS;
use cameo::proto::v1::*;
use futures_util::future::join_all;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::*;
use rows::{Needs, Row};

const ROLES: [&str; 5] = ["reader", "subscriber", "writer", "steward", "operator"];
/// Where no caller of these tests may do anything.
const FORBIDDEN: &str = "globex/main/web";
/// A workspace that does not exist.
const UNKNOWN: &str = "globex/main/none";

/// A caller with roles in [`WORKSPACE`].
async fn here(callers: &CallersFile, roles: &[&str]) -> String {
    callers.add(&roles.join("-"), roles).await
}

/// Every kind of caller: what it has, and its token.
async fn everyone(callers: &CallersFile) -> Vec<(BTreeSet<Needs>, String)> {
    let mut everyone = Vec::new();
    for role in ROLES {
        everyone.push(([Needs::Role(role)].into(), here(callers, &[role]).await));
        let token = callers.add_with("everywhere", &[role], &["--workspace", "*/*/*"]).await;
        everyone.push(([Needs::Role(role), Needs::All(role)].into(), token));
    }
    // [`hidden`] has what such a caller may not name.
    let limited = ["--workspace", WORKSPACE, "--field", "audience_memberships", "--attribute-key", "plan"];
    for role in ["reader", "subscriber"] {
        everyone.push(([Needs::Role(role)].into(), callers.add_with("limited", &[role], &limited).await));
    }
    everyone
}

fn is_denied(outcome: &Result<(), Status>) -> bool {
    outcome.as_ref().is_err_and(|status| status.code() == Code::PermissionDenied)
}

#[test]
fn every_rpc_has_a_row() {
    let mut expected = BTreeSet::new();
    for file in FileDescriptorSet::decode(DESCRIPTORS).unwrap().file {
        for service in &file.service {
            for method in &service.method {
                expected.insert(format!("{}/{}", service.name(), method.name()));
            }
        }
    }
    let rows: Vec<_> = rows::all().into_iter().map(|row| row.name.to_owned()).collect();
    assert_eq!(rows.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(rows.len(), expected.len(), "no row is there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_by_every_kind_of_caller() {
    let callers = CallersFile::new();
    let everyone = everyone(&callers).await;
    let server = TestServer::start_with(callers.require()).await;
    for (has, token) in everyone {
        let client = Client::connect_with(server.addr, &token).await;
        for Row { name, needs, call } in rows::all() {
            let outcome = within(call(client.clone(), WORKSPACE.into())).await;
            assert_ne!(outcome.as_ref().err().map(Status::code), Some(Code::Unauthenticated), "{name}");
            assert_eq!(is_denied(&outcome), !has.contains(&needs), "{name} by {has:?}: {outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_without_a_credential() {
    let callers = CallersFile::new();
    here(&callers, &["reader"]).await;
    let server = TestServer::start_with(callers.require()).await;
    let nobody = server.client().await;
    for Row { name, call, .. } in rows::all() {
        let status = within(call(nobody.clone(), WORKSPACE.into())).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "UNAUTHENTICATED".into()), "{name}");
    }
}

/// A caller learns nothing of a workspace that is not its own, not even whether it exists.
#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_workspace_cannot_be_told_from_one_that_does_not_exist() {
    let callers = CallersFile::new();
    let owner = callers.add_with("owner", &ROLES, &["--workspace", FORBIDDEN]).await;
    let stranger = here(&callers, &ROLES).await;
    let server = TestServer::start_with(callers.require()).await;
    let owner = Client::connect_with(server.addr, &owner).await;
    let create = CreateProfileRequest { workspace: FORBIDDEN.into(), ..create_request() };
    owner.create_with(create).await.unwrap();
    let stranger = Client::connect_with(server.addr, &stranger).await;
    for Row { name, call, .. } in rows::all() {
        let refusal = async |workspace: &str| within(call(stranger.clone(), workspace.into())).await.unwrap_err();
        let (there, nowhere) = (refusal(FORBIDDEN).await, refusal(UNKNOWN).await);
        assert_eq!(there.code(), Code::PermissionDenied, "{name}");
        assert_eq!((there.message(), there.details()), (nowhere.message(), nowhere.details()), "{name}");
    }
}

/// Merging is the steward's, by whichever call.
#[tokio::test(flavor = "multi_thread")]
async fn to_identify_with_merges_needs_the_steward_too() {
    let callers = CallersFile::new();
    let (writer, both) = (here(&callers, &["writer"]).await, here(&callers, &["writer", "steward"]).await);
    let server = TestServer::start_with(callers.require()).await;
    let request = || IdentifyProfileRequest {
        identities: vec![email("ada")],
        on_conflict: OnConflict::Merge.into(),
        ..Default::default()
    };
    let writer = Client::connect_with(server.addr, &writer).await;
    assert_eq!(writer.identify(request()).await.unwrap_err().code(), Code::PermissionDenied);
    Client::connect_with(server.addr, &both).await.identify(request()).await.unwrap();
}

/// The state of the store is about all workspaces.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_one_workspace_sees_the_log_of_that_and_not_the_store() {
    let callers = CallersFile::new();
    let [writer, operator] = [here(&callers, &["writer"]).await, here(&callers, &["operator"]).await];
    let everywhere = callers.add_with("root", &["operator"], &["--workspace", "*/*/*"]).await;
    let server = TestServer::start_with(callers.require()).await;
    Client::connect_with(server.addr, &writer).await.create(with_mpid(ADA)).await.unwrap();
    let operator = Client::connect_with(server.addr, &operator).await;
    let status = operator.status(WORKSPACE).await.unwrap();
    assert!(status.log.is_some() && status.store.is_none() && status.scrub.is_none(), "{status:?}");
    assert_eq!(operator.status("").await.unwrap_err().code(), Code::PermissionDenied);
    let operator = Client::connect_with(server.addr, &everywhere).await;
    let status = operator.status("").await.unwrap();
    assert!(status.store.is_some() && status.scrub.is_some(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_names_the_caller_that_made_it() {
    let callers = CallersFile::new();
    let writer = callers.add_with("crm", &["writer"], &["--workspace", "acme/*/*"]).await;
    let subscriber = here(&callers, &["subscriber"]).await;
    let server = TestServer::start_with(callers.require()).await;
    Client::connect_with(server.addr, &writer).await.create(with_mpid(ADA)).await.unwrap();
    let events = Client::connect_with(server.addr, &subscriber).await.list(list_request()).await.unwrap().events;
    assert_eq!(events[0].actor, "crm");
}

/// The rate over HTTP belongs to the workspace: nobody else may use it up.
#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_workspace_of_others_do_not_count_in_its_rate() {
    let callers = CallersFile::new();
    let owner = callers.add("owner", &["reader", "writer"]).await;
    let stranger = callers.add_with("stranger", &["reader"], &["--workspace", FORBIDDEN]).await;
    let server = callers.server_with(|config| http_rate(1)(config)).await;
    Client::connect_with(server.addr, &owner).await.create(with_mpid(ADA)).await.unwrap();
    let get = async |workspace: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        http(server.addr, "GET", &format!("{workspace}/{ADA}"), &[("authorization", &bearer)], "").await
    };
    let too_many = async |workspace: &str| loop {
        let responses = join_all((0..16).map(|_| get(workspace, &stranger))).await;
        if let Some(refused) = responses.iter().find(|response| response.status == 429) {
            return refused.json()["detail"].clone();
        }
        assert!(responses.iter().all(|response| response.status == 403));
    };
    let (there, nowhere) = (within(too_many(WORKSPACE)).await, within(too_many(UNKNOWN)).await);
    assert_eq!(there, nowhere, "it does not tell whether the workspace exists");
    assert_eq!(get(WORKSPACE, &owner).await.status, 200, "its own rate is left to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_over_http_ask_for_the_reader() {
    let callers = CallersFile::new();
    let reader = here(&callers, &["reader"]).await;
    let others = here(&callers, &["writer", "subscriber", "steward", "operator"]).await;
    let stranger = callers.add_with("stranger", &ROLES, &["--workspace", FORBIDDEN]).await;
    let server = TestServer::start_with(callers.require()).await;
    let question = r#"{"identity": {"type": "email", "value": "a"}}"#;
    let lookup = (hyper::Method::GET, format!("/userprofile/v1/{WORKSPACE}/1"), "");
    let resolve = (hyper::Method::POST, format!("/userprofile/v1/resolve/{WORKSPACE}"), question);
    for (method, path, body) in [lookup, resolve] {
        let status = async |token: Option<&str>| {
            let mut request = hyper::Request::builder().method(&method).uri(&path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            http_request(server.addr, request.body(body.to_owned()).unwrap()).await
        };
        let nobody = status(None).await;
        assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, "Bearer"), "{path}");
        assert_eq!(nobody.json()["reason"], "UNAUTHENTICATED");
        for token in [&others, &stranger] {
            let denied = status(Some(token)).await;
            assert_eq!((denied.status, &denied.json()["reason"]), (403, &"PERMISSION_DENIED".into()), "{path}");
        }
        assert_eq!(status(Some(&reader)).await.status, 404, "{path}");
    }
}

/// A caller with few rights could otherwise use up the ids of another, which it may guess.
#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_request_ids_of_its_own() {
    let callers = CallersFile::new();
    let [crm, shop] = [callers.add("crm", &["writer"]).await, callers.add("shop", &["writer"]).await];
    let server = TestServer::start_with(callers.require()).await;
    let [crm, shop] = [Client::connect_with(server.addr, &crm).await, Client::connect_with(server.addr, &shop).await];
    let request = |mpid| CreateProfileRequest {
        profile: Some(with_mpid(mpid)),
        request_id: "order-77".into(),
        ..create_request()
    };
    crm.create_with(request(ADA)).await.unwrap();
    shop.create_with(request(GRACE)).await.unwrap();
    crm.create_with(request(ADA)).await.expect("it is a repeat");
    let reused = crm.create_with(request(99)).await.unwrap_err();
    assert_eq!(reason(&reused), "REQUEST_ID_REUSED");
}

/// Strangers may open streams of health and of reflection, and must not fill the place of calls with them.
#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_credential_take_no_place_of_calls() {
    let callers = CallersFile::new();
    let token = here(&callers, &["subscriber"]).await;
    let server = callers.server_with(|config| config.server.max_calls = 4).await;
    let mut health = HealthClient::new(channel(server.addr).await);
    let watch = HealthCheckRequest::default;
    let _open = health.watch(watch()).await.unwrap();
    let refused = health.watch(watch()).await.unwrap_err();
    assert_eq!(reason(&refused), "OVERLOADED");
    let subscriber = Client::connect_with(server.addr, &token).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(subscriber.subscribe_from(None).await);
    }
    assert!(subscriber.subscribe(subscribe_request()).await.is_err(), "there are as many as there may be");
}
