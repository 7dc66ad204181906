//! Imports: what a stream of records comes to, and what ends it.
//!
//! - [`records`]: what each record does, and what the response says of it.
//! - [`interrupted`]: imports that break off, and what remains of them.
//! - [`flow`]: how fast records are taken, and what else goes on meanwhile.

mod flow;
mod interrupted;
mod records;

use cameo::proto::v1::*;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::harness::*;

/// A record that counts a visit.
fn visit(mpid: i64) -> ImportProfilesRequest {
    record(by_mpid(mpid), increment("visits"))
}

/// An import whose test decides when the next record is sent.
struct Sender {
    records: mpsc::Sender<ImportProfilesRequest>,
    response: JoinHandle<Result<ImportProfilesResponse, Status>>,
}

impl Sender {
    fn start(client: &Client) -> Self {
        let (records, receiver) = mpsc::channel(1);
        let receiver =
            stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.map(|record| (record, receiver)) },
            );
        let mut profiles = client.profiles.clone();
        let response = tokio::spawn(async move { Ok(profiles.import_profiles(receiver).await?.into_inner()) });
        Self { records, response }
    }

    async fn send(&self, record: ImportProfilesRequest) {
        within(self.records.send(record)).await.unwrap();
    }

    /// Ends the stream of records, and waits for the response.
    async fn finish(self) -> ImportProfilesResponse {
        drop(self.records);
        self.response.await.unwrap().unwrap()
    }

    /// Waits for the refusal, although the stream of records is open.
    async fn refusal(self) -> Status {
        self.response.await.unwrap().unwrap_err()
    }
}
