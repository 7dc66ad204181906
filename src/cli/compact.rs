//! `cameo compact`: of a closed store by itself, and of an open one through its server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use tonic::{Code, Status};

use super::connect::Connect;
use super::print;
use crate::config::StoreConfig;
use crate::config::units::{self, Address};
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::{CompactRequest, CompactResponse};
use crate::server::{Compacted, compact_offline};

/// Memory for pages of the store. Each is read once.
const CACHE_BYTES: usize = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct Compact {
    /// Directory of the store, which no server may have open. It is not used with `--server`.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value = "cameo-data")]
    data_dir: PathBuf,
    /// Address of the server that has the store open, such as `127.0.0.1:50051`. It serves reads and writes meanwhile.
    #[arg(long, env = "CAMEO_SERVER", value_name = "ADDR", value_parser = units::address)]
    server: Option<Address>,
    #[command(flatten)]
    connect: Connect,
}

pub(super) fn run(compact: &Compact) -> anyhow::Result<()> {
    match &compact.server {
        Some(addr) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(online(addr, &compact.connect))
        }
        None => offline(&compact.data_dir),
    }
}

fn offline(directory: &Path) -> anyhow::Result<()> {
    let config = StoreConfig {
        data_dir: directory.to_owned(),
        cache_bytes: CACHE_BYTES,
        scrub_rate: 0,
        ..StoreConfig::default()
    };
    let Compacted { bytes_before, bytes_after, duration, pause: _ } = compact_offline(&config)?;
    summarize(&directory.display().to_string(), bytes_before, bytes_after, duration);
    Ok(())
}

async fn online(addr: &Address, connect: &Connect) -> anyhow::Result<()> {
    let mut client = AdminServiceClient::new(connect.connect(addr, "--server").await?);
    let response = client.compact(CompactRequest {}).await.map_err(|status| refusal(addr, &status))?;
    let CompactResponse { bytes_before, bytes_after, duration, write_pause } = response.into_inner();
    let known = |duration: Option<prost_types::Duration>| duration.and_then(|duration| duration.try_into().ok());
    summarize(&addr.to_string(), bytes_before, bytes_after, known(duration).unwrap_or_default());
    let pause: Duration = known(write_pause).unwrap_or_default();
    print::line(format_args!("Writes were paused for {} ms at the end.", pause.as_millis()));
    Ok(())
}

fn summarize(of: &str, before: u64, after: u64, duration: Duration) {
    let (before, after) = (units::shown(before), units::shown(after));
    let seconds = duration.as_secs_f64();
    print::line(format_args!(
        "Compacted the store of {of} in {seconds:.1} s: its file took {before} of disk, and takes {after} now."
    ));
    print::line("Nothing remains in the file that was removed before: no deleted profile and no overwritten value.");
}

fn refusal(addr: &Address, status: &Status) -> anyhow::Error {
    match status.code() {
        Code::Unimplemented => anyhow!("{addr} does not serve compactions: it is not cameo, or an older version"),
        code => anyhow!("{addr} did not compact its store: {}: {}", code.description(), status.message()),
    }
}
