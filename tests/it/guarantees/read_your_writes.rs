//! *Read your writes.* A read that begins after the response to a write sees that write.

use cameo::proto::v1::*;
use tokio::task::JoinSet;

use crate::harness::*;

/// Read your writes: by mpid, by identity, with `min_cursor` and in the log, on any connection.
#[tokio::test(flavor = "multi_thread")]
async fn read_your_writes() {
    const WRITERS: i64 = 16;
    const WRITES_OF_EACH: usize = 40;
    let server = TestServer::start().await;
    let mut writers = JoinSet::new();
    for mpid in 1..=WRITERS {
        let (writer, reader) = (server.client().await, server.client().await);
        writers.spawn(async move {
            for n in 0..WRITES_OF_EACH {
                let name = identity("customer_id", &format!("{mpid}-{n}"));
                let patch = ProfilePatch { add_identities: vec![name.clone()], ..increment("visits") };
                let written = writer.update_with(upsert_request(mpid, patch)).await.unwrap();
                let profile = written.profile.unwrap();
                assert_eq!(reader.get(mpid).await.unwrap(), profile);
                assert_eq!(reader.get_by(name).await.unwrap(), profile);
                let key = Some(by_mpid(mpid));
                let request = GetProfileRequest { key, min_cursor: written.cursor.clone(), ..get_request() };
                assert_eq!(reader.get_with(request).await.unwrap(), profile);
                let (start, filter) = (page_after(&written.cursor), of_profiles(&[mpid]));
                let later = reader.list(ListEventsRequest { start, filter, ..list_request() }).await.unwrap();
                assert!(later.events.is_empty(), "the cursor is that of the write's own event");
            }
        });
    }
    writers.join_all().await;
}
