//! A server in this process, on port 0 and a temporary directory, and the settings that tests change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cameo::config::Config;
use cameo::model::Limits;
use cameo::server::{Server, ServerError};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ADA, Client, Exposition, GRACE, Stream, data_dir, padded, store_file, with_mpid, within};

/// A server in this process.
pub struct TestServer {
    pub addr: SocketAddr,
    /// Where `/metrics` is served; `None` unless the test turns it on with [`metrics_on`].
    pub metrics_addr: Option<SocketAddr>,
    pub dir: Arc<TempDir>,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl TestServer {
    /// Starts a server with the default settings and an empty store.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with changed settings and an empty store.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::reopen_with(Arc::new(TempDir::new().unwrap()), change).await
    }

    /// Starts a server with the default settings on the store in `dir`.
    pub async fn reopen(dir: Arc<TempDir>) -> Self {
        Self::reopen_with(dir, |_| {}).await
    }

    /// Starts a server with changed settings on the store in `dir`.
    pub async fn reopen_with(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Self {
        Self::try_reopen_with(dir, change).await.unwrap()
    }

    /// The same; an error if the server refuses the store.
    pub async fn try_reopen_with(dir: Arc<TempDir>, change: impl FnOnce(&mut Config)) -> Result<Self, ServerError> {
        let mut config = Config::default();
        config.server.addr = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        config.telemetry.metrics_addr = None;
        config.store.data_dir = data_dir(dir.path());
        change(&mut config);
        let server = within(Server::bind(config)).await?;
        let (addr, metrics_addr) = (server.local_addr(), server.metrics_addr());
        let (shutdown, signal) = oneshot::channel();
        let task = tokio::spawn(server.run(async {
            let _ = signal.await;
        }));
        Ok(Self { addr, metrics_addr, dir, shutdown, task })
    }

    /// Opens a connection.
    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Exposition {
        Exposition::scrape(self.metrics_addr.expect("the test turned metrics on")).await
    }

    /// Scrapes `/metrics` until they are as expected, and returns them.
    pub async fn until_metrics(&self, expected: impl Fn(&Exposition) -> bool) -> Exposition {
        within(async {
            loop {
                let metrics = self.metrics().await;
                if expected(&metrics) {
                    return metrics;
                }
            }
        })
        .await
    }

    /// Stops the server in order, and returns the directory of its store.
    pub async fn stop(self) -> Arc<TempDir> {
        self.try_stop().await.unwrap()
    }

    /// The same; an error if the server has ended by itself.
    pub async fn try_stop(self) -> Result<Arc<TempDir>, ServerError> {
        let _ = self.shutdown.send(()); // Errors are ignored: the server may have ended.
        within(self.task).await.unwrap()?;
        Ok(self.dir)
    }

    /// Stops the server and starts another on the same store, with the default settings.
    pub async fn restart(self) -> Self {
        Self::reopen(self.stop().await).await
    }

    /// A server, and a stream on a connection of its own that took nothing for longer than the stall timeout, although
    /// [`STALLED_EVENTS`] large events are waiting.
    pub async fn with_stalled_subscriber() -> (Self, Stream) {
        Self::with_stalled_subscriber_and(|_| {}).await
    }

    /// The same with changed settings.
    pub async fn with_stalled_subscriber_and(change: impl FnOnce(&mut Config)) -> (Self, Stream) {
        let stall = |config: &mut Config| {
            config.feed.stall_timeout = STALL_TIMEOUT;
            change(config);
        };
        let server = Self::start_with(stall).await;
        let client = server.client().await;
        let mut stream = server.client().await.subscribe_from(None).await;
        stream.opened().await;
        for mpid in 1..=STALLED_EVENTS {
            client.create(padded(mpid)).await.unwrap();
        }
        tokio::time::sleep(2 * STALL_TIMEOUT).await; // The stall itself, which takes time.
        (server, stream)
    }

    /// A server whose log lost its end, because an older copy of the store was put back; and a cursor into the part
    /// that is lost. Nothing else makes a cursor point past the head. The log holds the creation of Ada's profile.
    pub async fn with_lost_future() -> (Self, String) {
        let server = Self::start().await;
        server.client().await.create(with_mpid(ADA)).await.unwrap();
        let dir = server.stop().await;
        let file = store_file(dir.path());
        let copy = std::fs::read(&file).unwrap();
        let server = Self::reopen(dir).await;
        let cursor = server.client().await.create(with_mpid(GRACE)).await.unwrap().cursor;
        let dir = server.stop().await;
        std::fs::write(&file, copy).unwrap();
        (Self::reopen(dir).await, cursor)
    }
}

/// How long the subscriber of [`TestServer::with_stalled_subscriber`] may take nothing.
const STALL_TIMEOUT: Duration = Duration::from_millis(300);
/// How many events wait for it: more than the windows of its connection hold.
pub const STALLED_EVENTS: i64 = 40;

/// Serves `/metrics`, on a port that the system chooses.
pub fn metrics_on(config: &mut Config) {
    config.telemetry.metrics_addr = Some(SocketAddr::from(([127, 0, 0, 1], 0)).into());
}

/// A disk that is always too full to write.
pub fn full_disk(config: &mut Config) {
    config.store.min_free_bytes = u64::MAX;
}

/// A queue that holds one write.
pub fn queue_of_one(config: &mut Config) {
    config.store.queue_commands = 1;
}

/// Memory for recent events; without any, every stream reads the store.
pub fn ring(bytes: usize) -> impl FnOnce(&mut Config) {
    move |config| config.feed.ring_bytes = bytes
}

/// How many requests over HTTP a workspace may send per second.
pub fn http_rate(per_second: u32) -> impl FnOnce(&mut Config) {
    move |config| config.server.http_rate = per_second
}

/// How many rows the scrubber verifies per second; 0 turns it off.
pub fn scrub_rate(rows: u32) -> impl FnOnce(&mut Config) {
    move |config| config.store.scrub_rate = rows
}

/// Other limits than the default ones.
pub fn limits(change: impl FnOnce(&mut Limits)) -> impl FnOnce(&mut Config) {
    move |config| change(&mut config.limits)
}

/// Every read goes to the store's file, and nothing but the calls of the test touches it.
pub fn straight_from_the_file(config: &mut Config) {
    config.store.cache_bytes = 1 << 20;
    config.store.scrub_rate = 0;
    config.store.min_free_bytes = 0;
    config.feed.ring_bytes = 0;
}
