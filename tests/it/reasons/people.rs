//! Refusals of what is asked of people: identities, merges and audiences.

use std::future::Future;

use cameo::proto::v1::*;
use tonic::Status;

use crate::harness::*;

pub async fn identity_taken() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.create(owner_of(email("ada"), GRACE)).await.unwrap_err()
}

pub async fn identity_conflict() -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.create(owner_of(email("grace"), GRACE)).await.unwrap();
    let identities = vec![email("ada"), email("grace")];
    let on_conflict = OnConflict::Fail.into();
    client.identify(IdentifyProfileRequest { identities, on_conflict, ..Default::default() }).await.unwrap_err()
}

/// Grace was merged into Ada.
pub async fn after_a_merge<F: Future<Output = Status>>(refused: impl FnOnce(Client) -> F) -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(ada()).await.unwrap();
    client.create(owner_of(email("grace"), GRACE)).await.unwrap();
    client.merge(ADA, GRACE).await.unwrap();
    refused(client).await
}

/// Calls a server on which audience 7 is registered.
pub async fn with_an_audience<R: Future<Output = Status>>(call: impl FnOnce(Client) -> R) -> Status {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.register(7, "crm").await.unwrap();
    call(client).await
}

/// So many members leave it that a call comes in between.
pub async fn audience_deleting(client: Client) -> Status {
    let patch = ProfilePatch { join_audiences: vec![member(7, None)], ..ProfilePatch::default() };
    let member = |mpid| record(by_mpid(mpid), patch.clone());
    client.import((1..=3_000).map(member).collect()).await.unwrap();
    client.unregister(7).await.unwrap();
    let keys = vec![by_mpid(1)];
    client.add_members(AddAudienceMembersRequest { audience_id: 7, keys, ..Default::default() }).await.unwrap_err()
}

pub async fn merge_not_reversible(client: Client) -> Status {
    client.create(with_mpid(ALAN)).await.unwrap();
    client.update(ALAN, take([email("grace")])).await.unwrap();
    client.unmerge(GRACE).await.unwrap_err()
}
