//! `cameo healthcheck`, for probes. Whatever responds at the address, the outcome is one line.

use std::error::Error;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect::{Connect, innermost};
use super::print;
use crate::config::units::{self, Address};

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
    #[command(flatten)]
    connect: Connect,
}

pub(super) fn run(healthcheck: &Healthcheck) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(check(healthcheck))
}

async fn check(Healthcheck { addr, service, timeout, connect }: &Healthcheck) -> anyhow::Result<()> {
    let mut connected = false;
    let ask = async {
        let channel = connect.connect(addr, "--addr").await?;
        connected = true;
        let request = HealthCheckRequest { service: service.clone() };
        let response = HealthClient::new(channel).check(request).await;
        response.map_err(|status| refusal(addr, service, connect.is_tls(), &status))
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
        ServingStatus::Serving => print::line(ServingStatus::Serving.as_str_name()),
        other => bail!("{addr} is not ready: {}", other.as_str_name()),
    }
    Ok(())
}

fn refusal(addr: &Address, service: &str, is_tls: bool, status: &Status) -> anyhow::Error {
    // With TLS 1.3 a client learns with its first call that the server does not take its certificate.
    if let Some(cause) = status.source().filter(|_| is_tls) {
        return anyhow!("{addr} closed the connection: {}. Check --addr and --tls-client-cert", innermost(cause));
    }
    if status.source().is_some() || NOT_GRPC.iter().any(|message| status.message().starts_with(message)) {
        return anyhow!(
            "{addr} is not a gRPC server: check the port in --addr. If it speaks TLS, pass --tls. \
             A cameo server closes a connection when too many are open"
        );
    }
    match status.code() {
        Code::Unimplemented => anyhow!("{addr} is a gRPC server without a health service, so it is not cameo"),
        Code::NotFound => anyhow!("{addr} has no service {service:?}: check --service"),
        code => anyhow!("{addr} refused the health check: {}", code.description()),
    }
}
