//! Every setting and its default: one small struct per concern. No I/O.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::Limits;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where and how to listen.
    pub server: ServerConfig,
    /// Where and how to store.
    pub store: StoreConfig,
    /// How streams behave.
    pub feed: FeedConfig,
    /// What callers may send.
    pub limits: Limits,
}

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Port 0 lets the system choose.
    pub addr: SocketAddr,
    /// How long a shutdown may take before what is left is cut off.
    pub drain_timeout: Duration,
    /// Requests per second over HTTP, for each workspace; `None` for no limit.
    pub http_rate: Option<NonZeroU32>,
}

/// Where and how to store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Made if it is not there.
    pub data_dir: PathBuf,
    /// Memory for the pages of the store.
    pub cache_bytes: usize,
    /// Writes are refused when the disk has less free.
    pub min_free_bytes: u64,
    /// Writes that may wait; further ones are refused.
    pub queue_commands: usize,
    /// Memory that they may take.
    pub queue_bytes: usize,
    /// Rows that the scrubber verifies each second; 0 for none.
    pub scrub_rate: u32,
}

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub struct FeedConfig {
    /// Memory for recent events, kept encoded, of all workspaces that have subscribers; 0 to keep none.
    pub ring_bytes: usize,
    /// A subscriber that takes nothing for so long, while there is something to take, is ended.
    pub stall_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 50051)),
            drain_timeout: Duration::from_secs(10),
            http_rate: None,
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            data_dir: "cameo-data".into(),
            cache_bytes: 1 << 30,
            min_free_bytes: 64 << 20,
            queue_commands: 4_096,
            queue_bytes: 64 << 20,
            scrub_rate: 2_000,
        }
    }
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self { ring_bytes: 64 << 20, stall_timeout: Duration::from_secs(300) }
    }
}
