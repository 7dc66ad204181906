//! Where and how to store.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::units;

/// The most that a queue may hold, in commands or in bytes: more than is of use, and less than a semaphore counts.
const QUEUE_RANGE: RangeInclusive<u64> = 1..=1 << 30;
/// Reads of each class that run at a time on a machine with few cores. Most of them wait for the disk.
const LEAST_READS: usize = 4;
/// The most reads of each class at a time. The runtime has 512 threads for all classes and other work.
const MOST_READS: usize = 100;

/// Where and how to store.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreConfig {
    /// Directory of the store. It is created if it does not exist.
    #[arg(long, env = "CAMEO_DATA_DIR", default_value = "cameo-data")]
    pub data_dir: PathBuf,
    /// Memory for pages of the store.
    #[arg(long, env = "CAMEO_CACHE_BYTES", value_parser = units::size::<usize>, default_value = "1GiB")]
    pub cache_bytes: usize,
    /// Free space of the disk below which writes are refused. Reads still work.
    #[arg(long, env = "CAMEO_MIN_FREE_BYTES", value_parser = units::size::<u64>, default_value = "64MiB")]
    pub min_free_bytes: u64,
    /// Writes that may wait in the queue. A further write is refused as `OVERLOADED`, and so is the write of a workspace
    /// that already holds more of the queue, in writes or in memory, than is left free. So a workspace alone may fill
    /// half of the queue, and there is always room for another.
    #[arg(long, env = "CAMEO_QUEUE_COMMANDS", value_parser = queue_commands, default_value = "4096")]
    pub queue_commands: usize,
    /// Memory that waiting writes may take. A write counts with the memory that it takes once it is parsed, which may
    /// be many times what was sent.
    #[arg(long, env = "CAMEO_QUEUE_BYTES", value_parser = queue_bytes, default_value = "64MiB")]
    pub queue_bytes: usize,
    /// Reads of each kind that run at a time: lists, batches, events for subscribers, and status calls. Further reads
    /// wait, and workspaces take turns. 0 means twice the number of cores, and at least 4.
    #[arg(long, env = "CAMEO_READ_CONCURRENCY", value_parser = read_concurrency, default_value = "0")]
    pub read_concurrency: usize,
    /// Rows that are checked for damage each second, in the background. 0 turns the check off.
    #[arg(long, env = "CAMEO_SCRUB_RATE", default_value = "2000")]
    pub scrub_rate: u32,
    /// How long a log keeps an event. 0 sets no limit.
    #[arg(long, env = "CAMEO_RETENTION_AGE", value_parser = units::duration, default_value = "7d")]
    pub retention_age: Duration,
    /// Size of the log of each workspace above which its oldest events are removed. 0 sets no limit.
    #[arg(long, env = "CAMEO_RETENTION_BYTES", value_parser = units::size::<u64>, default_value = "10GiB")]
    pub retention_bytes: u64,
    /// How long an event is kept for a subscription that has not acknowledged it. Less than `--retention-age` changes
    /// nothing, and 0 sets no limit.
    #[arg(long, env = "CAMEO_SUBSCRIPTION_HOLD_AGE", value_parser = units::duration, default_value = "30d")]
    pub subscription_hold_age: Duration,
    /// Size of the log of each workspace above which events are removed that a subscription has not acknowledged. Less
    /// than `--retention-bytes` changes nothing, and 0 sets no limit.
    #[arg(long, env = "CAMEO_SUBSCRIPTION_HOLD_BYTES", value_parser = units::size::<u64>, default_value = "20GiB")]
    pub subscription_hold_bytes: u64,
}

impl StoreConfig {
    /// Reads of each class that run at a time.
    #[must_use]
    pub fn reads(&self) -> usize {
        match self.read_concurrency {
            0 => LEAST_READS.max(2 * std::thread::available_parallelism().map_or(1, usize::from)),
            reads => reads,
        }
    }
}

fn read_concurrency(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MOST_READS);
    number.ok_or_else(|| format!("it must be a whole number, from 0 to {MOST_READS}"))
}

fn queue_commands(text: &str) -> Result<usize, String> {
    in_queue_range(text.parse().ok()).ok_or_else(|| "it must be a whole number, from 1 to 1073741824".to_owned())
}

fn queue_bytes(text: &str) -> Result<usize, String> {
    in_queue_range(Some(units::size(text)?)).ok_or_else(|| "it must be 1 byte to 1GiB".to_owned())
}

fn in_queue_range(number: Option<usize>) -> Option<usize> {
    number.filter(|number| QUEUE_RANGE.contains(&(*number as u64)))
}
