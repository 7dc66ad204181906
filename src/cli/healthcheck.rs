//! `cameo healthcheck`, for probes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::ServerConfig;

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// Where the server listens.
    #[arg(long, env = "CAMEO_ADDR", default_value_t = ServerConfig::default().addr)]
    addr: SocketAddr,
    /// The service to ask about, such as cameo.v1.ProfileService; empty for the server as a whole.
    #[arg(long, env = "CAMEO_SERVICE", default_value = "")]
    service: String,
    /// Seconds to wait for the answer.
    #[arg(long, env = "CAMEO_TIMEOUT", default_value_t = 2)]
    timeout: u64,
}

pub(super) fn run(healthcheck: &Healthcheck) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(check(healthcheck))
}

async fn check(healthcheck: &Healthcheck) -> anyhow::Result<()> {
    let timeout = Duration::from_secs(healthcheck.timeout);
    let endpoint = Endpoint::from_shared(format!("http://{}", healthcheck.addr))?;
    let ask = async {
        let channel = endpoint.connect().await.with_context(|| format!("cannot reach {}", healthcheck.addr))?;
        let request = HealthCheckRequest { service: healthcheck.service.clone() };
        let answer = HealthClient::new(channel).check(request).await.context("no answer to the health check")?;
        anyhow::Ok(answer.into_inner().status())
    };
    let status = tokio::time::timeout(timeout, ask).await.context("no answer in time")??;
    if status != ServingStatus::Serving {
        bail!("{}", status.as_str_name());
    }
    println!("{}", status.as_str_name());
    Ok(())
}
