//! `cameo serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::{FalseyValueParser, RangedU64ValueParser};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, FeedConfig, ServerConfig, StoreConfig};
use crate::model::Limits;
use crate::server::Server;
use crate::telemetry::{self, LogFormat};

/// Every flag has its variable: `CAMEO_` and the flag in capitals.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where to listen.
    #[arg(long, env = "CAMEO_ADDR", default_value_t = ServerConfig::default().addr)]
    addr: SocketAddr,
    /// Listen on an address that others can reach, without authentication and in the clear.
    #[arg(long, env = "CAMEO_INSECURE", value_parser = FalseyValueParser::new())]
    insecure: bool,
    /// Directory of the store; created if absent.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value_os_t = StoreConfig::default().data_dir)]
    data_dir: PathBuf,
    /// What to log, as in `RUST_LOG`.
    #[arg(long, env = "CAMEO_LOG", default_value = "info")]
    log: String,
    /// How a line of the log looks.
    #[arg(long, env = "CAMEO_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Seconds that a shutdown may take before open calls are cut off.
    #[arg(long, env = "CAMEO_DRAIN_TIMEOUT", default_value_t = ServerConfig::default().drain_timeout.as_secs())]
    drain_timeout: u64,
    /// Memory for pages of the store, in bytes.
    #[arg(long, env = "CAMEO_CACHE_BYTES", default_value_t = StoreConfig::default().cache_bytes)]
    cache_bytes: usize,
    /// Refuse writes when the disk has fewer bytes free.
    #[arg(long, env = "CAMEO_MIN_FREE_BYTES", default_value_t = StoreConfig::default().min_free_bytes)]
    min_free_bytes: u64,
    /// Writes that may wait in the queue.
    #[arg(long, env = "CAMEO_QUEUE_COMMANDS", value_parser = of_queue(), default_value_t = StoreConfig::default().queue_commands)]
    queue_commands: usize,
    /// Memory that waiting writes may take, in bytes.
    #[arg(long, env = "CAMEO_QUEUE_BYTES", value_parser = of_queue(), default_value_t = StoreConfig::default().queue_bytes)]
    queue_bytes: usize,
    /// Rows to check for damage per second, in the background; 0 turns it off.
    #[arg(long, env = "CAMEO_SCRUB_RATE", default_value_t = StoreConfig::default().scrub_rate)]
    scrub_rate: u32,
    /// Memory for the recent events of all workspaces that have subscribers, in bytes.
    #[arg(long, env = "CAMEO_RING_BYTES", default_value_t = FeedConfig::default().ring_bytes)]
    ring_bytes: usize,
    /// Seconds after which a subscriber that takes nothing is ended.
    #[arg(long, env = "CAMEO_STALL_TIMEOUT", value_parser = clap::value_parser!(u64).range(1..), default_value_t = FeedConfig::default().stall_timeout.as_secs())]
    stall_timeout: u64,
    /// Requests per second over HTTP for each workspace, and in a burst; 0 for no limit.
    #[arg(long, env = "CAMEO_HTTP_RATE", default_value_t = 0)]
    http_rate: u32,
    /// Limit: encoded bytes of a profile.
    #[arg(long, env = "CAMEO_MAX_PROFILE_BYTES", value_parser = of_limit(), default_value_t = Limits::default().profile_bytes)]
    max_profile_bytes: usize,
    /// Limit: attributes in each of a profile's two maps.
    #[arg(long, env = "CAMEO_MAX_ATTRIBUTES", value_parser = of_limit(), default_value_t = Limits::default().attributes)]
    max_attributes: usize,
    /// Limit: bytes of an attribute's key.
    #[arg(long, env = "CAMEO_MAX_ATTRIBUTE_KEY_BYTES", value_parser = of_limit(), default_value_t = Limits::default().attribute_key_bytes)]
    max_attribute_key_bytes: usize,
    /// Limit: encoded bytes of an attribute's value.
    #[arg(long, env = "CAMEO_MAX_ATTRIBUTE_VALUE_BYTES", value_parser = of_limit(), default_value_t = Limits::default().attribute_value_bytes)]
    max_attribute_value_bytes: usize,
    /// Limit: identities of a profile.
    #[arg(long, env = "CAMEO_MAX_IDENTITIES", value_parser = of_limit(), default_value_t = Limits::default().identities)]
    max_identities: usize,
    /// Limit: bytes of an identity's value.
    #[arg(long, env = "CAMEO_MAX_IDENTITY_VALUE_BYTES", value_parser = of_limit(), default_value_t = Limits::default().identity_value_bytes)]
    max_identity_value_bytes: usize,
    /// Limit: audience memberships of a profile.
    #[arg(long, env = "CAMEO_MAX_AUDIENCE_MEMBERSHIPS", value_parser = of_limit(), default_value_t = Limits::default().audience_memberships)]
    max_audience_memberships: usize,
    /// Limit: attributions of a profile.
    #[arg(long, env = "CAMEO_MAX_ATTRIBUTIONS", value_parser = of_limit(), default_value_t = Limits::default().attributions)]
    max_attributions: usize,
    /// Limit: workspaces.
    #[arg(long, env = "CAMEO_MAX_WORKSPACES", value_parser = of_limit(), default_value_t = Limits::default().workspaces)]
    max_workspaces: usize,
    /// Limit: bytes of a request.
    #[arg(long, env = "CAMEO_MAX_REQUEST_BYTES", value_parser = of_limit(), default_value_t = Limits::default().request_bytes)]
    max_request_bytes: usize,
    /// Limit: keys of a batch.
    #[arg(long, env = "CAMEO_MAX_BATCH_KEYS", value_parser = of_limit(), default_value_t = Limits::default().batch_keys)]
    max_batch_keys: usize,
    /// Limit: profiles or events of a page.
    #[arg(long, env = "CAMEO_MAX_PAGE_ITEMS", value_parser = of_limit(), default_value_t = Limits::default().page_items)]
    max_page_items: usize,
    /// Limit: bytes of the profiles or events in one answer; a page may pass it by its last item.
    #[arg(long, env = "CAMEO_MAX_RESPONSE_BYTES", value_parser = of_limit(), default_value_t = Limits::default().response_bytes)]
    max_response_bytes: usize,
}

pub(super) fn run(serve: Serve) -> anyhow::Result<()> {
    if !serve.addr.ip().is_loopback() && !serve.insecure {
        bail!(
            "{} can be reached by others, and there is no authentication: pass --insecure if that is meant",
            serve.addr
        );
    }
    telemetry::init(&serve.log, serve.log_format).context("--log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve_until_signal(serve.config()));
    runtime.shutdown_background(); // A read that hangs in the disk must not keep the process.
    ended
}

/// What the system sends when a file grows past the process's limit. By default it ends the process.
const SIGXFSZ: i32 = 25;

/// Up to 1 GiB, which is more than enough, and less than what a semaphore counts.
fn of_queue() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 30)
}

/// A limit of 0 would refuse everything.
fn of_limit() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

async fn serve_until_signal(config: Config) -> anyhow::Result<()> {
    // Before anybody can connect, so that no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // To catch it is enough: a file that may not grow is then an error of the write, like a full disk.
    let _file_limit = signal(SignalKind::from_raw(SIGXFSZ))?;
    let data_dir = config.store.data_dir.clone();
    let server = Server::bind(config).await?;
    greet(server.local_addr(), &data_dir);
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

/// Prints to standard output. The first line ends with the address, for a program that started us with port 0. Errors
/// are ignored: stdout may be closed.
fn greet(addr: SocketAddr, data_dir: &Path) {
    let subscribe =
        format!("grpcurl -plaintext -d '{{\"workspace\": \"acme/main/web\"}}' {addr} cameo.v1.EventService/Subscribe");
    let _ = writeln!(
        std::io::stdout(),
        "cameo is listening on {addr}\n  data     {}\n  try      grpcurl -plaintext {addr} list\n  listen   {subscribe}",
        data_dir.display()
    );
}

impl Serve {
    fn config(self) -> Config {
        Config {
            server: ServerConfig {
                addr: self.addr,
                drain_timeout: Duration::from_secs(self.drain_timeout),
                http_rate: NonZeroU32::new(self.http_rate),
            },
            store: StoreConfig {
                data_dir: self.data_dir,
                cache_bytes: self.cache_bytes,
                min_free_bytes: self.min_free_bytes,
                queue_commands: self.queue_commands,
                queue_bytes: self.queue_bytes,
                scrub_rate: self.scrub_rate,
            },
            feed: FeedConfig { ring_bytes: self.ring_bytes, stall_timeout: Duration::from_secs(self.stall_timeout) },
            limits: Limits {
                profile_bytes: self.max_profile_bytes,
                attributes: self.max_attributes,
                attribute_key_bytes: self.max_attribute_key_bytes,
                attribute_value_bytes: self.max_attribute_value_bytes,
                identities: self.max_identities,
                identity_value_bytes: self.max_identity_value_bytes,
                audience_memberships: self.max_audience_memberships,
                attributions: self.max_attributions,
                workspaces: self.max_workspaces,
                request_bytes: self.max_request_bytes,
                batch_keys: self.max_batch_keys,
                page_items: self.max_page_items,
                response_bytes: self.max_response_bytes,
            },
        }
    }
}
