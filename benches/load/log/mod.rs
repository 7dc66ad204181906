//! A log that subscribers follow: what fan-out, replay and idle streams are measured on.
//!
//! - [`cameo`]: a workspace's events, one stream for each subscriber.
//! - [`etcd`]: the revisions of a key-value store, one Watch call for each subscriber.
//! - [`nats`]: a stream of JetStream with files, one ordered consumer for each subscriber.
//!
//! All three answer a write after it is on disk, and send messages of the same bytes. The clients check that each
//! subscriber gets every event once and in order, and read nothing else.

pub mod cameo;
pub mod etcd;
pub mod nats;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::cameo::clock::machine_time;
use anyhow::ensure;
use bytes::Bytes;
use prost::encoding::decode_varint;

use crate::child::Child;
use crate::fixture::Fixture;
use crate::profiles::Dice;

/// The longest that all three allow between heartbeats, so that idle streams are idle.
pub const HEARTBEAT: Duration = Duration::from_secs(60);

/// A running service.
#[tonic::async_trait]
pub trait Log: Send + Sync {
    fn name(&self) -> &'static str;

    fn server(&self) -> &Child;

    /// The sequence before that of the first event.
    fn before_first(&self) -> u64 {
        0
    }

    /// Opens as many subscribers, and returns when all of them would get an event that is written now.
    async fn readers(&self, start: Start, spread: Spread) -> anyhow::Result<Vec<Box<dyn Reader>>>;

    /// Opens writers that have one write in flight each.
    async fn writers(&self, writers: usize) -> anyhow::Result<Vec<Box<dyn Writer>>>;

    async fn stop(self: Box<Self>) -> anyhow::Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    Earliest,
}

/// Subscribers, and the connections that they share.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub subscribers: usize,
    pub connections: usize,
}

impl Spread {
    /// How many subscribers each connection has.
    fn shares(self) -> impl Iterator<Item = usize> {
        (0..self.connections).map(move |nth| (self.subscribers + nth) / self.connections)
    }
}

/// A subscriber, or all of those that share a connection.
#[tonic::async_trait]
pub trait Reader: Send {
    /// Receives until every subscriber has the event with the sequence `last`.
    async fn receive(&mut self, last: &Last, tally: &mut Tally) -> anyhow::Result<()>;
}

#[tonic::async_trait]
pub trait Writer: Send {
    /// Writes an event, and returns its sequence when it is on disk.
    async fn write(&mut self, dice: &mut Dice) -> anyhow::Result<u64>;
}

/// The sequence of the last event of a turn. It is set before that event is written.
#[derive(Debug, Clone)]
pub struct Last(Arc<AtomicU64>);

impl Last {
    pub fn unknown() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    pub fn known(sequence: u64) -> Self {
        Self(Arc::new(AtomicU64::new(sequence)))
    }

    pub fn set(&self, sequence: u64) {
        self.0.store(sequence, Ordering::Release);
    }

    pub fn is_after(&self, sequence: u64) -> bool {
        sequence < self.0.load(Ordering::Acquire)
    }
}

/// What was received.
#[derive(Debug)]
pub struct Tally {
    /// One event in so many is sampled.
    every: u64,
    pub events: u64,
    /// Sequences of sampled events, and when they were received, in microseconds since 1970.
    pub samples: Vec<(u64, i64)>,
}

impl Tally {
    pub fn sampling(every: u64) -> Self {
        Self { every, events: 0, samples: Vec::new() }
    }

    /// Counts the event that came after the one with the sequence `after`.
    fn took(&mut self, sequence: u64, after: u64) -> anyhow::Result<()> {
        ensure!(sequence == after + 1, "event {sequence} came after {after}");
        self.events += 1;
        if sequence.is_multiple_of(self.every) {
            self.samples.push((sequence, now()));
        }
        Ok(())
    }
}

/// Microseconds since 1970.
pub fn now() -> i64 {
    machine_time().unwrap_or_default().get()
}

/// The value of a varint field.
fn varint(field: &[u8]) -> anyhow::Result<u64> {
    Ok(decode_varint(&mut &field[1..])?)
}

/// The other logs that are installed here. Their writers write the given messages.
pub async fn others(fixture: &Fixture, messages: &[Bytes]) -> anyhow::Result<Vec<Box<dyn Log>>> {
    let mut logs: Vec<Box<dyn Log>> = Vec::new();
    if let Some(etcd) = etcd::Etcd::start(fixture, messages).await? {
        logs.push(Box::new(etcd));
    }
    if let Some(nats) = nats::Nats::start(fixture, messages).await? {
        logs.push(Box::new(nats));
    }
    Ok(logs)
}
