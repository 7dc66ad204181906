//! Values that are read when they are scraped. The module that serves `/metrics` asks the store and the feed for them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What is read for one scrape. `None` is a value that is not known, and is left out.
#[derive(Debug, Default)]
#[allow(missing_docs)] // The help of each metric explains its field.
pub struct Reading {
    pub store_failed: bool,
    pub workspaces: u64,
    pub file_bytes: Option<u64>,
    pub disk_free_bytes: Option<u64>,
    pub disk_required_free_bytes: u64,
    pub cache_hits: Option<u64>,
    pub cache_misses: Option<u64>,
    pub cache_evictions: Option<u64>,
    pub cache_bytes: Option<u64>,
    pub cache_limit_bytes: u64,
    pub ring_bytes: u64,
    pub ring_limit_bytes: u64,
    pub scrub_passes: u64,
    pub scrub_rows: u64,
    pub damaged_records: u64,
    pub queues: Vec<QueueReading>,
    pub logs: Vec<LogReading>,
    pub subscribers: Vec<SubscribersReading>,
}

/// One lane of the queue of writes.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct QueueReading {
    pub lane: &'static str,
    pub commands: u64,
    pub bytes: u64,
    pub limit_commands: u64,
    pub limit_bytes: u64,
}

/// The ends of one workspace's log.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct LogReading {
    pub workspace: String,
    pub oldest: u64,
    pub head: u64,
}

/// The subscribers of one workspace.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct SubscribersReading {
    pub workspace: String,
    pub streams: u64,
    pub lag_max: u64,
    pub lag_sum: u64,
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(encoder);
        self.store(&mut writer)?;
        self.cache(&mut writer)?;
        self.queues(&mut writer)?;
        self.workspaces(&mut writer)
    }
}

impl Reading {
    fn store(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.gauge(
            "cameo_store_failed",
            "1 if the store has failed and the process must end",
            u64::from(self.store_failed),
        )?;
        writer.gauge("cameo_workspaces", "Workspaces that have been written to", self.workspaces)?;
        writer.gauge("cameo_store_file_bytes", "Size of the store's file", self.file_bytes)?;
        writer.gauge("cameo_disk_free_bytes", "Free space of the disk that holds the store", self.disk_free_bytes)?;
        let help = "Free space below which writes are refused";
        writer.gauge("cameo_disk_required_free_bytes", help, self.disk_required_free_bytes)?;
        writer.counter("cameo_scrub_passes", "Walks of the scrubber over the whole store", self.scrub_passes)?;
        writer.counter("cameo_scrub_rows", "Rows that the scrubber has verified", self.scrub_rows)?;
        writer.gauge("cameo_damaged_records", "Damaged records that the scrubber has found", self.damaged_records)
    }

    fn cache(&self, writer: &mut Writer<'_>) -> fmt::Result {
        writer.counter("cameo_cache_hits", "Pages of the store that were found in memory", self.cache_hits)?;
        writer.counter("cameo_cache_misses", "Pages of the store that were read from the file", self.cache_misses)?;
        writer.counter(
            "cameo_cache_evictions",
            "Pages that were dropped from memory because the cache was full",
            self.cache_evictions,
        )?;
        writer.gauge("cameo_cache_bytes", "Memory that pages of the store take", self.cache_bytes)?;
        writer.gauge("cameo_cache_limit_bytes", "Memory that pages of the store may take", self.cache_limit_bytes)?;
        writer.gauge("cameo_ring_bytes", "Memory that recent events take", self.ring_bytes)?;
        writer.gauge("cameo_ring_limit_bytes", "Memory that recent events may take", self.ring_limit_bytes)
    }

    fn queues(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut family = |name, help, value: fn(&QueueReading) -> u64| {
            writer.family(name, help, "lane", self.queues.iter().map(|queue| (queue.lane, value(queue))))
        };
        let help = "Writes that wait in the queue or are being written";
        family("cameo_queue_commands", help, |queue| queue.commands)?;
        family("cameo_queue_limit_commands", "Writes that the queue may hold", |queue| queue.limit_commands)?;
        family("cameo_queue_bytes", "Memory of the writes in the queue", |queue| queue.bytes)?;
        family("cameo_queue_limit_bytes", "Memory that the writes in the queue may take", |queue| queue.limit_bytes)
    }

    fn workspaces(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut logs = |name, help, value: fn(&LogReading) -> u64| {
            writer.family(name, help, "workspace", self.logs.iter().map(|log| (&*log.workspace, value(log))))
        };
        logs("cameo_log_head_sequence", "Sequence of the latest event", |log| log.head)?;
        logs("cameo_log_oldest_sequence", "Sequence of the oldest event that is held", |log| log.oldest)?;
        let mut subscribers = |name, help, value: fn(&SubscribersReading) -> u64| {
            writer.family(name, help, "workspace", self.subscribers.iter().map(|of| (&*of.workspace, value(of))))
        };
        subscribers("cameo_subscribers", "Open streams of the workspace", |of| of.streams)?;
        let help = "Events between the head and the subscriber that is furthest behind";
        subscribers("cameo_subscriber_lag_max_events", help, |of| of.lag_max)?;
        let help = "Events between the head and each subscriber, all added up";
        subscribers("cameo_subscriber_lag_sum_events", help, |of| of.lag_sum)
    }
}

/// Writes metrics whose values are at hand.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    /// A registry ends the help of a metric with a full stop, and so does this.
    fn describe<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, &format!("{help}."), None, kind)
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<u64>>) -> fmt::Result {
        let Some(value) = value.into() else { return Ok(()) };
        ConstGauge::new(value).encode(self.describe(name, help, MetricType::Gauge)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Into<Option<u64>>) -> fmt::Result {
        let Some(value) = value.into() else { return Ok(()) };
        ConstCounter::new(value).encode(self.describe(name, help, MetricType::Counter)?)
    }

    /// A gauge for each value of a label.
    fn family<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl ExactSizeIterator<Item = (&'v str, u64)>,
    ) -> fmt::Result {
        if values.len() == 0 {
            return Ok(());
        }
        let mut metric = self.describe(name, help, MetricType::Gauge)?;
        for (value, number) in values {
            ConstGauge::new(number).encode(metric.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}
