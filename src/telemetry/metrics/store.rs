//! The work of the store: its writes, and the reads that run on its pool.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::SECONDS;
use super::tally::{Tally, label};

label! {
    /// What became of a command, which is one write.
    "outcome" CommandOutcome {
        /// It changed something, or repeats a request that did.
        Written = "written",
        /// It had nothing to change, or was only validated.
        Unchanged = "unchanged",
        /// It was refused for what it asked.
        Refused = "refused",
        /// The queue had no room for it.
        Overloaded = "overloaded",
        /// The disk is nearly full.
        DiskFull = "disk_full",
        /// It needed a damaged record, or our code panicked.
        Corrupt = "corrupt",
        /// The store failed. Whether the write was kept is unknown.
        Failed = "failed",
    }
}

/// Counts the work of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    commands: Tally<CommandOutcome>,
    batch: Histogram,
    commit: Histogram,
    events: Counter,
    trimmed: Counter,
    reads: Gauge,
}

/// A read that runs, or waits to run, on the read pool.
#[derive(Debug)]
#[must_use]
pub struct RunningRead(Gauge);

impl Default for StoreMetrics {
    fn default() -> Self {
        let batches = exponential_buckets(1.0, 2.0, 13); // Up to 4,096, the largest batch.
        Self(Arc::new(Inner {
            commands: Tally::default(),
            batch: Histogram::new(batches),
            commit: Histogram::new(SECONDS),
            events: Counter::default(),
            trimmed: Counter::default(),
            reads: Gauge::default(),
        }))
    }
}

impl StoreMetrics {
    /// A command has an outcome.
    pub fn command(&self, outcome: CommandOutcome) {
        self.0.commands.count(outcome);
    }

    /// A batch of this many commands was decided.
    #[allow(clippy::cast_precision_loss)] // A batch is small.
    pub fn batch(&self, commands: usize) {
        self.0.batch.observe(commands as f64);
    }

    /// A batch was committed in this time.
    pub fn commit(&self, duration: Duration) {
        self.0.commit.observe(duration.as_secs_f64());
    }

    /// This many events are on disk.
    pub fn events(&self, committed: usize) {
        self.0.events.inc_by(committed as u64);
    }

    /// This many events were removed from their logs.
    pub fn trimmed(&self, events: usize) {
        self.0.trimmed.inc_by(events as u64);
    }

    /// How many commands changed something.
    #[cfg(test)]
    #[must_use]
    pub fn commands_written(&self) -> u64 {
        self.0.commands.get(CommandOutcome::Written)
    }

    /// How many events were removed from their logs.
    #[cfg(test)]
    #[must_use]
    pub fn events_trimmed(&self) -> u64 {
        self.0.trimmed.get()
    }

    /// A read was handed to the pool.
    pub fn read(&self) -> RunningRead {
        self.0.reads.inc();
        RunningRead(self.0.reads.clone())
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Inner { commands, batch, commit, events, trimmed, reads } = &*self.0;
        commands.register(
            registry,
            "cameo_commands",
            "Writes, by what became of them. Each record of an import is one",
        );
        registry.register("cameo_batch_commands", "Commands of a batch, which share one commit", batch.clone());
        let help = "Time that the disk took to commit a batch";
        registry.register("cameo_commit_duration_seconds", help, commit.clone());
        registry.register("cameo_events_committed", "Events that were committed", events.clone());
        registry.register("cameo_events_trimmed", "Events that retention removed from their logs", trimmed.clone());
        registry.register("cameo_reads_in_flight", "Reads that run or wait on the read pool", reads.clone());
    }
}

impl Drop for RunningRead {
    fn drop(&mut self) {
        self.0.dec();
    }
}
