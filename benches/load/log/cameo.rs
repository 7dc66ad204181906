//! Cameo's log: updates of random profiles, and one `Subscribe` call for each subscriber.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use cameo::config::StoreConfig;
use cameo::model::wire;
use cameo::proto::field::{event, profile, subscribe_response, update_profile_response};
use cameo::proto::v1::{SubscribeRequest, SubscribeResponse, subscribe_request, subscribe_response::Message};
use http::uri::PathAndQuery;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::{HEARTBEAT, Last, Log, Reader, Spread, Start, Tally, Writer, varint};
use crate::child::Child;
use crate::client::{RawCodec, call, connect};
use crate::fixture::Fixture;
use crate::profiles::{Dice, WORKSPACE};
use crate::update::Update;

pub struct Cameo {
    server: Child,
    work: Arc<Update>,
}

impl Cameo {
    pub async fn start(fixture: &Fixture) -> anyhow::Result<Self> {
        Self::with(&fixture.store, fixture.profiles).await
    }

    /// Starts it without the scrubber, which would fill the cache meanwhile.
    pub async fn start_unscrubbed(fixture: &Fixture) -> anyhow::Result<Self> {
        Self::with(&StoreConfig { scrub_rate: 0, ..fixture.store.clone() }, fixture.profiles).await
    }

    async fn with(store: &StoreConfig, profiles: u64) -> anyhow::Result<Self> {
        Ok(Self { server: Child::cameo(store).await?, work: Arc::new(Update { profiles }) })
    }

    /// The messages of the first and of the latest events, `count` of each.
    pub async fn messages(&self, count: usize) -> anyhow::Result<(Vec<Bytes>, Vec<Bytes>)> {
        let channels = connect(self.server.addr, 1).await?;
        let mut stream = open(&channels[0], Start::Earliest).await?;
        let (mut first, mut latest) = (Vec::new(), Vec::new());
        loop {
            let message = stream.message().await?.context("the stream is open")?;
            if wire::find(&message, subscribe_response::EVENT)?.is_none() {
                match SubscribeResponse::decode(message)?.message {
                    Some(Message::CaughtUp(_)) => break,
                    _ => continue,
                }
            }
            let copy = Bytes::copy_from_slice(&message); // It must not keep what was received with it.
            if first.len() < count {
                first.push(copy.clone());
            }
            latest.push(copy);
            if latest.len() == 2 * count {
                latest.drain(..count);
            }
        }
        latest.drain(..latest.len().saturating_sub(count));
        Ok((first, latest))
    }
}

#[tonic::async_trait]
impl Log for Cameo {
    fn name(&self) -> &'static str {
        "Cameo"
    }

    fn server(&self) -> &Child {
        &self.server
    }

    async fn readers(&self, start: Start, spread: Spread) -> anyhow::Result<Vec<Box<dyn Reader>>> {
        let channels = connect(self.server.addr, spread.connections).await?;
        let mut readers: Vec<Box<dyn Reader>> = Vec::new();
        for (_, channel) in (0..spread.subscribers).zip(channels.iter().cycle()) {
            let mut stream = open(channel, start).await?;
            let sequence = if start == Start::Now { head(&mut stream).await? } else { 0 };
            readers.push(Box::new(Subscriber { stream, sequence }));
        }
        Ok(readers)
    }

    async fn writers(&self, writers: usize) -> anyhow::Result<Vec<Box<dyn Writer>>> {
        let channels = connect(self.server.addr, 1).await?;
        let writer = |_| -> Box<dyn Writer> {
            Box::new(Updater { grpc: Grpc::new(channels[0].clone()), work: Arc::clone(&self.work) })
        };
        Ok((0..writers).map(writer).collect())
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

async fn open(channel: &Channel, start: Start) -> anyhow::Result<Streaming<Bytes>> {
    let request = SubscribeRequest {
        workspace: WORKSPACE.into(),
        start: (start == Start::Earliest).then_some(subscribe_request::Start::Earliest(true)),
        heartbeat_interval: Some(HEARTBEAT.try_into()?),
        ..SubscribeRequest::default()
    };
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/cameo.v1.EventService/Subscribe");
    let request = Request::new(Bytes::from(request.encode_to_vec()));
    Ok(grpc.server_streaming(request, path, RawCodec).await?.into_inner())
}

/// Reads until the stream has caught up. Returns the sequence of the latest event.
async fn head(stream: &mut Streaming<Bytes>) -> anyhow::Result<u64> {
    loop {
        let message = stream.message().await?.context("the stream is open")?;
        if let Some(Message::CaughtUp(caught_up)) = SubscribeResponse::decode(message)?.message {
            return Ok(caught_up.head_sequence);
        }
    }
}

struct Subscriber {
    stream: Streaming<Bytes>,
    sequence: u64,
}

#[tonic::async_trait]
impl Reader for Subscriber {
    async fn receive(&mut self, last: &Last, tally: &mut Tally) -> anyhow::Result<()> {
        while last.is_after(self.sequence) {
            let message = self.stream.message().await?.context("the stream is open")?;
            let Some(event) = wire::find(&message, subscribe_response::EVENT)? else { continue };
            let sequence = sequence(event)?;
            tally.took(sequence, self.sequence)?;
            self.sequence = sequence;
        }
        Ok(())
    }
}

/// The sequence of an event. Reads only the start of the event: the profiles come later.
fn sequence(event: &[u8]) -> anyhow::Result<u64> {
    for field in wire::fields(event) {
        let field = field?;
        if field.tag == event::SEQUENCE {
            return varint(field.whole);
        }
    }
    anyhow::bail!("an event has a sequence")
}

struct Updater {
    grpc: Grpc<Channel>,
    work: Arc<Update>,
}

#[tonic::async_trait]
impl Writer for Updater {
    async fn write(&mut self, dice: &mut Dice) -> anyhow::Result<u64> {
        let answer = call(&mut self.grpc, &*self.work, dice).await?;
        let updated = wire::find(&answer, update_profile_response::PROFILE)?.context("a profile")?;
        let etag = std::str::from_utf8(wire::find(updated, profile::ETAG)?.context("an etag")?)?;
        // It begins with the sequence of the event that made this version.
        let (sequence, _) = etag.split_once('-').context("an etag of two parts")?;
        Ok(u64::from_str_radix(sequence, 16)?)
    }
}
