//! `cameo serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::variables;
use crate::config::Config;
use crate::server::Server;
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// File with settings, in TOML: each key is a flag without its dashes. Variables win over the file, and flags over
    /// both.
    #[arg(long = "config", env = "CAMEO_CONFIG", value_name = "FILE")]
    settings_file: Option<PathBuf>,
    #[command(flatten)]
    pub config: Config,
}

impl Serve {
    pub fn settings_file(&self) -> Option<&Path> {
        self.settings_file.as_deref()
    }
}

pub(super) fn run(config: Config) -> anyhow::Result<()> {
    telemetry::init(&config.telemetry).map_err(|cause| {
        let filter = &config.telemetry.log;
        anyhow!("--log {filter:?} is not a filter for logs, such as info or cameo=debug,warn: {cause}")
    })?;
    variables::warn_of_unknown(&super::command());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve_until_signal(config));
    runtime.shutdown_background(); // A read that hangs in the disk must not keep the process alive.
    ended
}

/// The signal for a file that grows past the process's limit. By default it ends the process.
const SIGXFSZ: i32 = 25;

async fn serve_until_signal(config: Config) -> anyhow::Result<()> {
    // Before a client can connect, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Catching the signal is enough: the write then fails, as it does on a full disk.
    let _file_limit = signal(SignalKind::from_raw(SIGXFSZ))?;
    let data_dir = config.store.data_dir.clone();
    let server = Server::bind(config).await?;
    greet(server.local_addr(), server.metrics_addr(), &data_dir);
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
    };
    server.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Prints to standard output. The first line ends with the address, for programs that start the server with port 0.
/// Errors are ignored: stdout may be closed.
fn greet(addr: SocketAddr, metrics: Option<SocketAddr>, data_dir: &Path) {
    let subscribe =
        format!("grpcurl -plaintext -d '{{\"workspace\": \"acme/main/web\"}}' {addr} cameo.v1.EventService/Subscribe");
    let metrics = metrics.map_or_else(String::new, |metrics| format!("  metrics  http://{metrics}/metrics\n"));
    let _ = writeln!(
        std::io::stdout(),
        "cameo is listening on {addr}\n  data     {}\n{metrics}  try      grpcurl -plaintext {addr} list\n  listen   {subscribe}",
        data_dir.display()
    );
}
