//! etcd: puts under random keys, and one `Watch` call for each subscriber.

use std::sync::Arc;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cameo::model::wire;
use futures_util::{StreamExt, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Streaming};

use super::{Last, Log, Reader, Spread, Start, Tally, Writer, varint};
use crate::child::{Child, free_addr, is_installed, patiently, spawn};
use crate::client::{RawCodec, connect};
use crate::fixture::Fixture;
use crate::profiles::Dice;

const PROGRAM: &str = "etcd";
/// All keys begin with it, and a watch covers all of them.
const PREFIX: &str = "profile/";
/// What follows the last of them.
const END: &str = "profile0";
/// The revision of an empty store.
const EMPTY: u64 = 1;
/// Bytes that it may store. Its default of 2 GB is less than a million events.
const QUOTA: u64 = 16 << 30;
/// Puts in flight while it is filled.
const IN_FLIGHT: usize = 512;

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The header of a response, which has the revision of the store after the request.
#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// `etcdserverpb.PutResponse`.
#[derive(Clone, PartialEq, Message)]
struct PutAnswer {
    #[prost(message, tag = "1")]
    header: Option<Header>,
}

/// `etcdserverpb.WatchCreateRequest`.
#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    range_end: String,
    #[prost(int64, tag = "3")]
    start_revision: i64,
}

/// `etcdserverpb.WatchRequest`.
#[derive(Clone, PartialEq, Message)]
struct Watch {
    #[prost(message, tag = "1")]
    create: Option<Create>,
}

/// `etcdserverpb.WatchResponse`, without its events.
#[derive(Clone, PartialEq, Message)]
struct Watched {
    #[prost(message, tag = "1")]
    header: Option<Header>,
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
}

/// Field numbers: the events of a `WatchResponse`, the key-value of an event, and the revision that wrote it.
const EVENTS: u32 = 11;
const KV: u32 = 2;
const MOD_REVISION: u32 = 3;

pub struct Etcd {
    server: Child,
    _files: TempDir,
    profiles: u64,
    messages: Arc<[Bytes]>,
}

impl Etcd {
    /// `None` if it is not installed.
    pub async fn start(fixture: &Fixture, messages: &[Bytes]) -> anyhow::Result<Option<Self>> {
        if !is_installed(PROGRAM) {
            return Ok(None);
        }
        let (clients, peers) = (free_addr()?, free_addr()?);
        let (clients_url, peers_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let files = TempDir::new_in(fixture.dir())?;
        let mut command = Command::new(PROGRAM);
        command.args(["--log-level", "fatal", "--data-dir"]).arg(files.path());
        command.args(["--listen-client-urls", &clients_url, "--advertise-client-urls", &clients_url]);
        command.args(["--listen-peer-urls", &peers_url, "--initial-advertise-peer-urls", &peers_url]);
        command.args(["--initial-cluster", &format!("default={peers_url}")]);
        command.args(["--quota-backend-bytes", &QUOTA.to_string()]);
        let server = Child::at(clients, spawn(&mut command)?)?;
        patiently("etcd", async || connect(clients, 1).await).await?;
        Ok(Some(Self { server, _files: files, profiles: fixture.profiles, messages: messages.into() }))
    }

    /// Writes as many events as fast as it takes them.
    pub async fn fill(&self, events: u64) -> anyhow::Result<()> {
        let channels = connect(self.server.addr, 1).await?;
        let mut puts = stream::iter(0..events)
            .map(|nth| {
                let mut putter = self.putter(&channels[0]);
                async move { putter.write(&mut Dice::new(nth)).await }
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some(put) = puts.next().await {
            put?;
        }
        Ok(())
    }

    fn putter(&self, channel: &Channel) -> Putter {
        Putter { grpc: Grpc::new(channel.clone()), profiles: self.profiles, messages: Arc::clone(&self.messages) }
    }
}

#[tonic::async_trait]
impl Log for Etcd {
    fn name(&self) -> &'static str {
        "etcd"
    }

    fn server(&self) -> &Child {
        &self.server
    }

    fn before_first(&self) -> u64 {
        EMPTY
    }

    async fn readers(&self, start: Start, spread: Spread) -> anyhow::Result<Vec<Box<dyn Reader>>> {
        let channels = connect(self.server.addr, spread.connections).await?;
        let mut readers: Vec<Box<dyn Reader>> = Vec::new();
        for (_, channel) in (0..spread.subscribers).zip(channels.iter().cycle()) {
            readers.push(Box::new(Watcher::open(channel, start).await?));
        }
        Ok(readers)
    }

    async fn writers(&self, writers: usize) -> anyhow::Result<Vec<Box<dyn Writer>>> {
        let channels = connect(self.server.addr, 1).await?;
        Ok((0..writers).map(|_| -> Box<dyn Writer> { Box::new(self.putter(&channels[0])) }).collect())
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        self.server.stop().await
    }
}

struct Watcher {
    stream: Streaming<Bytes>,
    revision: u64,
}

impl Watcher {
    async fn open(channel: &Channel, start: Start) -> anyhow::Result<Self> {
        let start_revision = if start == Start::Earliest { EMPTY.cast_signed() + 1 } else { 0 };
        let create = Create { key: PREFIX.into(), range_end: END.into(), start_revision };
        let request = Bytes::from(Watch { create: Some(create) }.encode_to_vec());
        // The call lasts as long as its request.
        let requests = stream::iter([request]).chain(stream::pending());
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let mut stream = grpc.streaming(Request::new(requests), path, RawCodec).await?.into_inner();
        let created = Watched::decode(stream.message().await?.context("the watch is open")?)?;
        ensure!(created.created && !created.canceled, "etcd created the watch");
        let head = created.header.context("a header")?.revision.cast_unsigned();
        Ok(Self { stream, revision: if start == Start::Earliest { EMPTY } else { head } })
    }
}

#[tonic::async_trait]
impl Reader for Watcher {
    async fn receive(&mut self, last: &Last, tally: &mut Tally) -> anyhow::Result<()> {
        while last.is_after(self.revision) {
            let message = self.stream.message().await?.context("the watch is open")?;
            for field in wire::fields(&message) {
                let field = field?;
                if field.tag == EVENTS {
                    let revision = revision(field.value)?;
                    tally.took(revision, self.revision)?;
                    self.revision = revision;
                }
            }
        }
        Ok(())
    }
}

fn revision(event: &[u8]) -> anyhow::Result<u64> {
    for field in wire::fields(wire::find(event, KV)?.context("a key-value")?) {
        let field = field?;
        if field.tag == MOD_REVISION {
            return varint(field.whole);
        }
    }
    anyhow::bail!("an event has a revision")
}

struct Putter {
    grpc: Grpc<Channel>,
    profiles: u64,
    messages: Arc<[Bytes]>,
}

#[tonic::async_trait]
impl Writer for Putter {
    async fn write(&mut self, dice: &mut Dice) -> anyhow::Result<u64> {
        let key = format!("{PREFIX}{}", dice.below(self.profiles));
        let request = Put { key, value: dice.choose(&self.messages).clone() };
        self.grpc.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let request = Request::new(Bytes::from(request.encode_to_vec()));
        let answer = self.grpc.unary(request, path, RawCodec).await?.into_inner();
        Ok(PutAnswer::decode(answer)?.header.context("a header")?.revision.cast_unsigned())
    }
}
