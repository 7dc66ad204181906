//! Connections, and calls in a closed loop: each client has one call in flight, and makes the next call after the
//! response.
//!
//! Client and server share the processors, so the client does as little as possible. It does not decode responses, and
//! reads only what is needed to check them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::figures::{Latency, float, latency};
use crate::profiles::Dice;

/// A codec for messages that are already encoded.
#[derive(Debug, Clone, Copy)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining()))) // A reference: no bytes are copied.
    }
}

pub async fn connect(addr: SocketAddr, connections: usize) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// What a call presents.
pub type Credential = MetadataValue<Ascii>;

/// The requests of the clients.
pub trait Work: Send + Sync + 'static {
    const PATH: &'static str;
    /// What a response is checked against.
    type Expected: Send;

    fn request(&self, dice: &mut Dice) -> (Bytes, Self::Expected);

    fn is_right(&self, answer: &[u8], expected: &Self::Expected) -> bool;

    /// What each call presents. `None` for nothing.
    fn credential(&self) -> Option<&Credential> {
        None
    }
}

/// Work whose calls present a credential.
pub struct With<W> {
    pub work: W,
    pub credential: Credential,
}

impl<W: Work> Work for With<W> {
    const PATH: &'static str = W::PATH;
    type Expected = W::Expected;

    fn request(&self, dice: &mut Dice) -> (Bytes, W::Expected) {
        self.work.request(dice)
    }

    fn is_right(&self, answer: &[u8], expected: &W::Expected) -> bool {
        self.work.is_right(answer, expected)
    }

    fn credential(&self) -> Option<&Credential> {
        Some(&self.credential)
    }
}

/// The results of all clients of a turn.
pub struct Outcome {
    pub calls: u64,
    pub elapsed: Duration,
    pub latency: Latency,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        float(self.calls) / self.elapsed.as_secs_f64()
    }
}

/// Makes a call, and checks its response.
pub async fn call<W: Work>(grpc: &mut Grpc<Channel>, work: &W, dice: &mut Dice) -> anyhow::Result<Bytes> {
    let (request, expected) = work.request(dice);
    let request = presenting(request, work.credential());
    grpc.ready().await?;
    let answer = grpc.unary(request, PathAndQuery::from_static(W::PATH), RawCodec).await?.into_inner();
    ensure!(work.is_right(&answer, &expected), "{} returned a wrong response of {} bytes", W::PATH, answer.len());
    Ok(answer)
}

/// A request that presents a credential, if there is one.
pub fn presenting<T>(message: T, credential: Option<&Credential>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(credential) = credential {
        request.metadata_mut().insert("authorization", credential.clone());
    }
    request
}

/// One client: it has one call in flight.
pub trait Caller: Send + 'static {
    /// Makes a call, and checks its response.
    fn call(&mut self, dice: &mut Dice) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A client that calls over gRPC.
pub struct GrpcCaller<W> {
    grpc: Grpc<Channel>,
    work: Arc<W>,
}

impl<W: Work> Caller for GrpcCaller<W> {
    async fn call(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        call(&mut self.grpc, &*self.work, dice).await?;
        Ok(())
    }
}

/// As many clients as asked for, spread over the channels.
pub fn callers<W: Work>(channels: &[Channel], clients: usize, work: &Arc<W>) -> impl Iterator<Item = GrpcCaller<W>> {
    let channels = channels.iter().cycle().take(clients);
    channels.map(|channel| GrpcCaller { grpc: Grpc::new(channel.clone()), work: Arc::clone(work) })
}

/// Runs all clients for `duration`.
pub async fn closed_loop<C: Caller>(
    callers: impl IntoIterator<Item = C>,
    duration: Duration,
    seed: u64,
) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for (client, caller) in (0..).zip(callers) {
        running.spawn(one_client(caller, Dice::new((seed << 32) + client), start + duration));
    }
    gather(start, running).await
}

async fn one_client(mut caller: impl Caller, mut dice: Dice, end: Instant) -> anyhow::Result<Latency> {
    let mut latency = latency();
    let mut began = Instant::now();
    while began < end {
        caller.call(&mut dice).await?;
        let answered = Instant::now();
        latency.record((answered - began).as_micros().try_into()?)?;
        began = answered;
    }
    Ok(latency)
}

/// The results of all clients, after the last one has ended.
pub async fn gather(start: Instant, mut running: JoinSet<anyhow::Result<Latency>>) -> anyhow::Result<Outcome> {
    let mut all = latency();
    while let Some(latency) = running.join_next().await {
        all.add(latency??)?;
    }
    Ok(Outcome { calls: all.len(), elapsed: start.elapsed(), latency: all })
}
