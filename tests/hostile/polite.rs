//! The polite caller: small calls, one after another, on a connection of its own.
//!
//! It has a thread and a runtime of its own, so that it does not wait for the attacker's tasks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cameo::proto::v1::event_service_client::EventServiceClient;
use cameo::proto::v1::profile_service_client::ProfileServiceClient;
use cameo::proto::v1::*;
use hdrhistogram::Histogram;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::store::{OTHER, SMALL, by_mpid, set};

/// A call that takes longer has hung.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a call is made on a new connection if the connection itself fails, as the clients of gRPC do.
const ATTEMPTS: usize = 3;
/// Keys of a polite batch.
const BATCH: i64 = 20;

/// What the polite caller calls.
#[derive(Debug, Clone, Copy)]
pub enum Polite {
    /// Looks a small profile of this workspace up.
    Lookup(&'static str),
    /// Reads a few small profiles of this workspace at once.
    Batch(&'static str),
    /// Sets an attribute of a small profile of this workspace.
    Update(&'static str),
    /// Imports one record.
    Import,
    /// Reads the whole log of the small workspace.
    CatchUp,
    /// Opens a connection and checks the server's health on it.
    HealthCheck,
    /// Opens a connection and looks a profile up on it.
    Connect(&'static str),
}

impl Polite {
    /// Whether each call has a connection of its own.
    fn connects(self) -> bool {
        matches!(self, Self::HealthCheck | Self::Connect(_))
    }
}

/// What the polite caller presents, if the server asks for something.
#[derive(Debug, Clone)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(|token| format!("Bearer {token}").parse().expect("a token")))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// How the calls went.
pub struct Calls {
    /// Microseconds.
    times: Histogram<u64>,
    /// Calls that were refused or hung, and the first reason.
    pub failed: u64,
    pub first_failure: Option<String>,
}

impl Calls {
    pub fn count(&self) -> u64 {
        self.times.len()
    }

    pub fn p99(&self) -> Duration {
        Duration::from_micros(self.times.value_at_quantile(0.99))
    }
}

/// Calls until `stop` is cancelled.
pub async fn call_until(stop: CancellationToken, addr: SocketAddr, polite: Polite, credential: Credential) -> Calls {
    let calls = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(call(&stop, addr, polite, credential))
    });
    calls.await.expect("the caller does not panic")
}

async fn call(stop: &CancellationToken, addr: SocketAddr, polite: Polite, credential: Credential) -> Calls {
    let times = Histogram::new(3).expect("three digits");
    let mut calls = Calls { times, failed: 0, first_failure: None };
    let mut caller = Caller { addr, channel: connect(addr).await.ok(), credential };
    for mpid in SMALL.cycle() {
        if stop.is_cancelled() {
            break;
        }
        let start = Instant::now();
        let hung = |_| Err(Status::new(Code::DeadlineExceeded, "hung"));
        let outcome = tokio::time::timeout(PATIENCE, caller.call(polite, mpid)).await.unwrap_or_else(hung);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        calls.times.record(micros).expect("an endless histogram");
        if let Err(status) = outcome {
            calls.failed += 1;
            calls.first_failure.get_or_insert_with(|| format!("{:?}: {}", status.code(), status.message()));
        }
    }
    calls
}

async fn connect(addr: SocketAddr) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an address");
    endpoint.connect().await.map_err(|error| Status::from_error(error.into()))
}

struct Caller {
    addr: SocketAddr,
    channel: Option<Channel>,
    credential: Credential,
}

impl Caller {
    async fn call(&mut self, polite: Polite, mpid: i64) -> Result<(), Status> {
        for _ in 1..ATTEMPTS {
            match self.once(polite, mpid).await {
                // A refusal of the server's has no source. What has one came from the connection.
                Err(status) if polite.connects() && std::error::Error::source(&status).is_some() => {}
                outcome => return outcome,
            }
        }
        self.once(polite, mpid).await
    }

    async fn once(&mut self, polite: Polite, mpid: i64) -> Result<(), Status> {
        let channel = match (polite, &self.channel) {
            (polite, Some(channel)) if !polite.connects() => channel.clone(),
            _ => connect(self.addr).await?,
        };
        let mut profiles = ProfileServiceClient::with_interceptor(channel.clone(), self.credential.clone());
        let key = Some(by_mpid(mpid));
        match polite {
            Polite::Lookup(workspace) | Polite::Connect(workspace) => {
                let request = GetProfileRequest { workspace: workspace.into(), key, ..Default::default() };
                profiles.get_profile(request).await.map(drop)
            }
            Polite::Batch(workspace) => {
                let keys = SMALL.take(usize::try_from(BATCH).unwrap_or_default()).map(by_mpid).collect();
                let request = BatchGetProfilesRequest { workspace: workspace.into(), keys, ..Default::default() };
                profiles.batch_get_profiles(request).await.map(drop)
            }
            Polite::Update(workspace) => {
                let patch = Some(set(&[("seen".into(), mpid.to_string())]));
                let workspace = workspace.into();
                profiles
                    .update_profile(UpdateProfileRequest { workspace, key, patch, ..Default::default() })
                    .await
                    .map(drop)
            }
            Polite::Import => {
                let patch = Some(set(&[("seen".into(), mpid.to_string())]));
                let record = ImportProfilesRequest { workspace: OTHER.into(), key, patch, ..Default::default() };
                profiles.import_profiles(futures_util::stream::iter([record])).await.map(drop)
            }
            Polite::CatchUp => catch_up(channel).await,
            Polite::HealthCheck => HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop),
        }
    }
}

async fn catch_up(channel: Channel) -> Result<(), Status> {
    let start = Some(subscribe_request::Start::Earliest(true));
    let request = SubscribeRequest { workspace: OTHER.into(), start, ..Default::default() };
    let mut stream = EventServiceClient::new(channel).subscribe(request).await?.into_inner();
    while let Some(response) = stream.message().await? {
        if matches!(response.message, Some(subscribe_response::Message::CaughtUp(_))) {
            return Ok(());
        }
    }
    Err(Status::new(Code::Unknown, "the stream ended early"))
}
