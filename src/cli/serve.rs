//! `cameo serve`.

use std::io::{Write, stderr, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{signals, variables};
use crate::config::Config;
use crate::config::telemetry::AuditLog;
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
    let _audit = telemetry::init(&config.telemetry)?; // It writes the last lines when the server has stopped.
    variables::warn_of_unknown(&super::command());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve_until_signal(config));
    runtime.shutdown_background(); // A read that hangs in the disk must not keep the process alive.
    ended
}

async fn serve_until_signal(config: Config) -> anyhow::Result<()> {
    let signal = signals::catch()?; // Before a client can connect, so that no signal is lost.
    let (data_dir, is_tls, hints) = (config.store.data_dir.clone(), config.tls.tls_cert.is_some(), Hints::of(&config));
    // Standard output then holds the lines of JSON and nothing else.
    let audits_to_stdout = matches!(config.telemetry.audit_log, Some(AuditLog::Stdout));
    let server = Server::bind(config).await?;
    let (addr, metrics_addr) = (server.local_addr(), server.metrics_addr());
    tracing::info!(%addr, metrics_addr = metrics_addr.map(tracing::field::display), is_tls, "listening");
    let greeting = greeting(addr, metrics_addr, &hints, &data_dir);
    // Errors are ignored: the streams may be closed.
    let _ = if audits_to_stdout { stderr().write_all(&greeting) } else { stdout().write_all(&greeting) };
    let shutdown = async {
        let signal = signal.await;
        tracing::info!(signal, "draining");
    };
    server.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

/// How to call the server.
struct Hints {
    /// How its address begins.
    http: &'static str,
    /// How grpcurl connects.
    tls: &'static str,
    /// What grpcurl presents with a call.
    token: &'static str,
}

impl Hints {
    fn of(config: &Config) -> Self {
        let (http, tls) = match (&config.tls.tls_cert, config.tls.tls_require_client_cert) {
            (None, _) => ("http", "-plaintext"),
            (Some(_), false) => ("https", "-cacert CA_FILE"),
            (Some(_), true) => ("https", "-cacert CA_FILE -cert CERT_FILE -key KEY_FILE"),
        };
        let needs_token = config.auth.callers.is_some() || config.auth.jwks.is_some();
        let token = if needs_token { " -H \"authorization: Bearer $CAMEO_TOKEN\"" } else { "" };
        Self { http, tls, token }
    }
}

/// The first line ends with the address, for programs that start the server with port 0.
fn greeting(
    addr: SocketAddr,
    metrics: Option<SocketAddr>,
    Hints { http, tls, token }: &Hints,
    data_dir: &Path,
) -> Vec<u8> {
    let request = r#"-d '{"workspace": "acme/main/web"}'"#;
    let metrics = metrics.map_or_else(String::new, |metrics| format!("  metrics  {http}://{metrics}/metrics\n"));
    let greeting = format!(
        "cameo is listening on {addr}\n  data     {}\n{metrics}  try      grpcurl {tls} {addr} list\n  \
         listen   grpcurl {tls}{token} {request} {addr} cameo.v1.EventService/Subscribe\n",
        data_dir.display()
    );
    greeting.into_bytes()
}
