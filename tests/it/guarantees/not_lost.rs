//! *No write is lost silently.* If a write does not succeed, the caller is told and nothing changed.

use cameo::proto::v1::*;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::harness::*;

/// Reads Ada's visits and writes one more, unless somebody else wrote meanwhile.
async fn read_and_add_one(client: &Client) -> Result<UpdateProfileResponse, Status> {
    let profile = client.get(ADA).await?;
    let patch = Some(set([("visits", number(number_of(&profile, "visits") + 1.0))]));
    client.update_with(UpdateProfileRequest { patch, etag: profile.etag, ..update_request(ADA) }).await
}

/// No write is lost silently: 64 writers with etags on one profile lose no update.
#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_lost_among_64_writers_with_etags() {
    const WRITERS: usize = 64;
    const WRITES_OF_EACH: usize = 4;
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            for _ in 0..WRITES_OF_EACH {
                while let Err(status) = read_and_add_one(&client).await {
                    assert_eq!(reason(&status), "ETAG_MISMATCH");
                }
            }
        });
    }
    within(writers.join_all()).await;
    assert_number(&client.get(ADA).await.unwrap(), "visits", 64.0 * 4.0);
    let log = client.log().await;
    assert_eq!(log.len(), 1 + WRITERS * WRITES_OF_EACH);
    assert!(
        log.windows(2).all(|pair| pair[1].previous.as_ref().unwrap().etag == pair[0].profile.as_ref().unwrap().etag)
    );
}

/// No write is lost silently: each gets its response, also when those that wait are too large for one commit, which
/// takes 8 MiB. Each request here is small, but its profile is large.
#[tokio::test(flavor = "multi_thread")]
async fn writes_too_large_for_one_commit_are_all_answered() {
    const PROFILES: i64 = 8;
    const WRITES: i64 = 80;
    let server = TestServer::start().await;
    let client = server.client().await;
    for mpid in 1..=PROFILES {
        client.create(large(mpid)).await.unwrap();
    }

    let mpids = || (0..WRITES).map(|n| n % PROFILES + 1);
    let updates = join_all(mpids().map(|mpid| client.update(mpid, increment("visits"))));
    let repeats = join_all(mpids().map(|mpid| client.update(mpid, ProfilePatch::default())));
    let import = client.import(mpids().map(|mpid| record(by_mpid(mpid), increment("visits"))).collect());
    let (updates, repeats, imported) = tokio::join!(updates, repeats, import);

    assert!(updates.iter().all(|response| response.as_ref().unwrap().outcome() == WriteOutcome::Updated));
    assert!(repeats.iter().all(|response| response.as_ref().unwrap().outcome() == WriteOutcome::Unchanged));
    assert_eq!(imported.unwrap().updated, WRITES);
    for mpid in 1..=PROFILES {
        // Ten by calls, ten by the import.
        assert_number(&client.get(mpid).await.unwrap(), "visits", 20.0);
    }
}

/// No write is lost silently: on a full disk the caller is told, nothing changed, and reads go on.
#[tokio::test]
async fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let server = TestServer::start().await;
    let client = server.client().await;
    client.create(with_mpid(ADA)).await.unwrap();
    let dir = server.stop().await;

    let server = TestServer::reopen_with(dir, full_disk).await;
    let client = server.client().await;
    let refused = client.update(ADA, increment("visits")).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "STORAGE_FULL"));
    assert_eq!(attribute(&client.get(ADA).await.unwrap(), "visits"), None);
    assert_eq!(client.log().await.len(), 1);
    assert_eq!(client.subscribe_from(earliest()).await.sequences(1).await, [1]);
}

/// No write is lost silently, and none is made twice: a repeat gets the first response, also after a restart.
#[tokio::test]
async fn a_repeated_request_gets_the_first_answer() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let create = CreateProfileRequest { request_id: "create".into(), ..create_request() };
    let created = client.create_with(create.clone()).await.unwrap();
    let mpid = created.profile.as_ref().unwrap().mpid;
    let patch = Some(increment("visits"));
    let update = UpdateProfileRequest { request_id: "update".into(), patch, ..update_request(mpid) };
    let updated = client.update_with(update.clone()).await.unwrap();
    client.update(mpid, increment("visits")).await.unwrap();
    let delete = DeleteProfileRequest { request_id: "delete".into(), ..delete_request(mpid) };
    let deleted = client.delete_with(delete.clone()).await.unwrap();

    let server = server.restart().await;
    let client = server.client().await;
    assert_eq!(client.create_with(create).await.unwrap(), created);
    assert_eq!(client.update_with(update).await.unwrap(), updated);
    assert_eq!(client.delete_with(delete).await.unwrap(), deleted);
    assert_eq!(client.log().await.len(), 4);
}
