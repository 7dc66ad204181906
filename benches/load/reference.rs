//! The service that lookups are compared with: `GetProfile` from a map in memory.
//!
//! It is the fastest that a gRPC service with tonic can be. Its responses are the same bytes as Cameo's. They are
//! encoded in advance and copied once. Its transport has the same settings as Cameo's.
//!
//! It is a second process of this program. It reads the responses from its standard input, prints its address, and ends
//! when its input is closed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io::{BufReader, Read};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cameo::proto::v1::GetProfileRequest;
use cameo::proto::v1::profile_key::Key;
use prost::Message;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::TcpListener;
use tokio::process::{ChildStdin, Command};
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tower::Service;

use crate::child::{Child, spawn};
use crate::client::RawCodec;
use crate::profiles::{mpid, user_identities};

/// Sent instead of an index: no more responses follow.
const END: u64 = u64::MAX;
/// The buffer of each end of the pipe, in bytes.
const PIPE_BUFFER: usize = 1 << 20;

/// A reference that is being filled with responses.
pub struct Filling {
    process: tokio::process::Child,
    stdin: BufWriter<ChildStdin>,
}

impl Filling {
    pub fn start() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = spawn(command.arg("--serve-reference").stdin(Stdio::piped()))?;
        let stdin = BufWriter::with_capacity(PIPE_BUFFER, process.stdin.take().expect("it was piped"));
        Ok(Self { process, stdin })
    }

    pub async fn add(&mut self, index: u64, answer: &[u8]) -> anyhow::Result<()> {
        self.stdin.write_u64(index).await?;
        self.stdin.write_u32(answer.len().try_into()?).await?;
        Ok(self.stdin.write_all(answer).await?)
    }

    pub async fn done(mut self) -> anyhow::Result<Child> {
        self.stdin.write_u64(END).await?;
        self.stdin.flush().await?;
        Child::listening(self.process, Some(self.stdin.into_inner())).await
    }
}

#[derive(Debug, Default)]
struct Answers {
    by_mpid: HashMap<i64, Bytes>,
    by_identity: HashMap<String, i64>,
}

/// Reads the responses that [`Filling`] sends, and serves them.
pub async fn serve() -> anyhow::Result<()> {
    let mut stdin = BufReader::with_capacity(PIPE_BUFFER, std::io::stdin());
    let answers = Arc::new(Answers::read(&mut stdin)?);
    // No more input follows. The input is closed when the parent is done or has ended.
    let closed = tokio::task::spawn_blocking(move || stdin.read(&mut [0]));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("the reference is listening on {}", listener.local_addr()?);
    // The settings of `cameo::server`.
    tonic::transport::Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(100 << 20)
        .max_concurrent_streams(200)
        .http2_max_local_error_reset_streams(Some(1024))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(Reference(answers))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
            let _ = closed.await;
        })
        .await?;
    Ok(())
}

impl Answers {
    fn read(input: &mut impl Read) -> anyhow::Result<Self> {
        let mut answers = Self::default();
        loop {
            let index = u64::from_be_bytes(number(input)?);
            if index == END {
                return Ok(answers);
            }
            let mut answer = vec![0; usize::try_from(u32::from_be_bytes(number(input)?))?];
            input.read_exact(&mut answer)?;
            answers.by_mpid.insert(mpid(index), answer.into());
            answers.by_identity.extend(user_identities(index).map(|identity| (identity.value, mpid(index))));
        }
    }

    fn find(&self, request: &[u8]) -> Option<Bytes> {
        let mpid = match GetProfileRequest::decode(request).ok()?.key?.key? {
            Key::Mpid(mpid) => mpid,
            Key::Identity(identity) => *self.by_identity.get(&identity.value)?,
        };
        self.by_mpid.get(&mpid).cloned()
    }
}

fn number<const N: usize>(input: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut number = [0; N];
    input.read_exact(&mut number)?;
    Ok(number)
}

#[derive(Debug, Clone)]
struct Reference(Arc<Answers>);

impl NamedService for Reference {
    const NAME: &'static str = "cameo.v1.ProfileService";
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// There is only one method, so the path is ignored.
impl Service<http::Request<Body>> for Reference {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move { Ok(tonic::server::Grpc::new(RawCodec).unary(method, request).await) })
    }
}

impl UnaryService<Bytes> for Reference {
    type Response = Bytes;
    type Future = std::future::Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answer = self.0.find(request.get_ref()).map(Response::new);
        std::future::ready(answer.ok_or_else(|| Status::not_found("no such profile")))
    }
}
