//! `cameo healthcheck`, for probes.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::units::{self, Address};

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

async fn check(healthcheck: &Healthcheck) -> anyhow::Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{}", healthcheck.addr))?;
    let ask = async {
        let channel = endpoint.connect().await.with_context(|| format!("cannot reach {}", healthcheck.addr))?;
        let request = HealthCheckRequest { service: healthcheck.service.clone() };
        let response = HealthClient::new(channel).check(request).await.context("no response to the health check")?;
        anyhow::Ok(response.into_inner().status())
    };
    let status = tokio::time::timeout(healthcheck.timeout, ask).await.context("no response in time")??;
    if status != ServingStatus::Serving {
        bail!("{}", status.as_str_name());
    }
    println!("{}", status.as_str_name());
    Ok(())
}
