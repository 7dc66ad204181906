//! `cameo healthcheck`, for probes. Whatever responds at the address, the outcome is one line.

use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::units::{self, Address};
use crate::server;

/// How tonic begins its message about a response that is HTTP/2 but not gRPC.
const NOT_GRPC: [&str; 2] = ["grpc-status header missing", "protocol error"];

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Address of the server: a host name or an IP address, and a port.
    #[arg(long, env = "CAMEO_ADDR", value_parser = units::address, default_value = "127.0.0.1:50051")]
    addr: Address,
    /// Service to ask about, such as `cameo.v1.ProfileService`. Empty asks about the server as a whole.
    #[arg(long, env = "CAMEO_SERVICE", default_value = "")]
    service: String,
    /// Time to wait for the response.
    #[arg(long, env = "CAMEO_TIMEOUT", value_parser = units::duration, default_value = "2s")]
    timeout: Duration,
}

pub(super) fn run(healthcheck: &Healthcheck) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(check(healthcheck))
}

async fn check(Healthcheck { addr, service, timeout }: &Healthcheck) -> anyhow::Result<()> {
    let mut connected = false;
    let ask = async {
        let channel = connect(addr, "--addr").await?;
        connected = true;
        let request = HealthCheckRequest { service: service.clone() };
        let response = HealthClient::new(channel).check(request).await;
        response.map_err(|status| refusal(addr, service, &status))
    };
    let response = tokio::time::timeout(*timeout, ask).await;
    let within = humantime::format_duration(*timeout);
    let Ok(response) = response else {
        if connected {
            bail!(
                "{addr} accepts connections, but did not respond within {within}: it hangs, or it is not a gRPC server"
            );
        }
        bail!("cannot connect to {addr} within {within}: check --addr, or raise --timeout");
    };
    match response?.into_inner().status() {
        ServingStatus::Serving => println!("{}", ServingStatus::Serving.as_str_name()),
        other => bail!("{addr} is not ready: {}", other.as_str_name()),
    }
    Ok(())
}

/// Connects to the first of the host's addresses that accepts the connection. `flag` is where the address comes from.
pub(super) async fn connect(addr: &Address, flag: &str) -> anyhow::Result<Channel> {
    let resolved = server::resolve(addr).await;
    let mut failed = anyhow!("{addr} has no address");
    for resolved in resolved.map_err(|cause| anyhow!("cannot find the host of {addr}: {cause}. Check {flag}"))? {
        match Endpoint::from_shared(format!("http://{resolved}"))?.connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => failed = anyhow!("cannot connect to {addr}: {}. Check {flag}", innermost(&error)),
        }
    }
    Err(failed)
}

/// What the system said, without the layers of the client above it.
fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e dyn Display {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

fn refusal(addr: &Address, service: &str, status: &Status) -> anyhow::Error {
    if status.source().is_some() || NOT_GRPC.iter().any(|message| status.message().starts_with(message)) {
        return anyhow!(
            "{addr} is not a gRPC server: check the port in --addr. \
             A cameo server closes a connection when too many are open"
        );
    }
    match status.code() {
        Code::Unimplemented => anyhow!("{addr} is a gRPC server without a health service, so it is not cameo"),
        Code::NotFound => anyhow!("{addr} has no service {service:?}: check --service"),
        code => anyhow!("{addr} refused the health check: {}", code.description()),
    }
}
