//! The calls of the server, for one workspace.

use std::time::Duration;

use anyhow::anyhow;
use tonic::{Status, Streaming};

use super::ledger::Acknowledgement;
use crate::cli::connect::{self, Connect};
use crate::config::units::Address;
use crate::proto::v1::event_service_client::EventServiceClient;
use crate::proto::v1::subscribe_request::Start;
use crate::proto::v1::{
    AcknowledgeRequest, CreateSubscriptionRequest, DeleteSubscriptionRequest, SubscribeRequest, SubscribeResponse,
    Subscription,
};

/// How long a call may take, other than the stream.
const CALL_TIME: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// The largest message that is taken: more than an event with a profile and its previous values.
const MAX_MESSAGE: usize = 64 << 20;

/// The server that has the subscriptions.
pub struct Server {
    client: EventServiceClient<connect::Server>,
    workspace: String,
}

impl Server {
    /// Connects with the first call.
    ///
    /// # Errors
    /// If a file of TLS or of the token cannot be used.
    pub fn new(addr: &Address, connect: &Connect, workspace: String) -> anyhow::Result<Self> {
        let server = connect.connect_lazily(addr, CONNECT_TIME)?;
        let client = EventServiceClient::new(server).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { client, workspace })
    }

    /// Opens the stream of a subscription.
    pub async fn subscribe(&self, subscription: &str) -> Result<Streaming<SubscribeResponse>, Status> {
        let request = SubscribeRequest {
            workspace: self.workspace.clone(),
            start: Some(Start::Subscription(subscription.to_owned())),
            ..Default::default()
        };
        let opened = tokio::time::timeout(CALL_TIME, self.client.clone().subscribe(request)).await;
        let opened = opened.map_err(|_| Status::deadline_exceeded("the stream did not open"))?;
        Ok(opened?.into_inner())
    }

    /// Acknowledges. The future holds what it needs.
    pub fn acknowledge(
        &self,
        subscription: &str,
        Acknowledgement { stream, cursor, skipped }: Acknowledgement,
    ) -> impl Future<Output = Result<(), Status>> + use<> {
        let (workspace, subscription) = (self.workspace.clone(), subscription.to_owned());
        let message = AcknowledgeRequest { workspace, subscription, stream, cursor, skipped };
        let mut client = self.client.clone();
        async move { client.acknowledge(bounded(message)).await.map(drop) }
    }

    /// Creates a subscription that starts now.
    ///
    /// # Errors
    /// Why it was not created.
    pub async fn create(&self, name: &str) -> anyhow::Result<()> {
        let subscription = Subscription { name: name.to_owned(), ..Default::default() };
        let request = CreateSubscriptionRequest {
            workspace: self.workspace.clone(),
            subscription: Some(subscription),
            ..Default::default()
        };
        let created = self.client.clone().create_subscription(bounded(request)).await;
        created.map(drop).map_err(|status| anyhow!("cannot create a subscription: {}", said(&status)))
    }

    /// Deletes a subscription.
    ///
    /// # Errors
    /// Why it was not deleted.
    pub async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let request = DeleteSubscriptionRequest {
            workspace: self.workspace.clone(),
            name: name.to_owned(),
            allow_missing: true,
            ..Default::default()
        };
        let deleted = self.client.clone().delete_subscription(bounded(request)).await;
        deleted.map(drop).map_err(|status| anyhow!("cannot delete the subscription {name}: {}", said(&status)))
    }
}

fn bounded<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIME);
    request
}

/// What the server said, or that there is none.
fn said(status: &Status) -> String {
    format!("{}: {}", status.code().description(), status.message())
}
