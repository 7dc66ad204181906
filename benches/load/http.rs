//! Lookups over HTTP/1.1, compared with `GetProfile` on the same server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::child::Child;
use crate::client::{Caller, Outcome, closed_loop};
use crate::figures::count;
use crate::fixture::Fixture;
use crate::lookup::{By, CLIENTS, CONNECTIONS, Lookup};
use crate::plan::Plan;
use crate::profiles::{Dice, WORKSPACE, mpid};
use crate::report::Report;
use crate::side::{Calls, GrpcCalls, Side, take_turns, warm_up};

/// Clients that call over HTTP, each on its own connection.
struct HttpCalls {
    addr: SocketAddr,
    profiles: u64,
}

/// A client that looks uniformly random profiles up.
struct HttpCaller {
    requests: SendRequest<Empty<Bytes>>,
    host: String,
    profiles: u64,
}

#[tonic::async_trait]
impl Calls for HttpCalls {
    async fn run(&self, duration: Duration, seed: u64) -> anyhow::Result<Outcome> {
        let mut callers = Vec::new();
        for _ in 0..CLIENTS {
            callers.push(HttpCaller::connect(self.addr, self.profiles).await?);
        }
        closed_loop(callers, duration, seed).await
    }
}

impl HttpCaller {
    async fn connect(addr: SocketAddr, profiles: u64) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // Ends with `requests`.
        Ok(Self { requests, host: addr.to_string(), profiles })
    }
}

impl Caller for HttpCaller {
    async fn call(&mut self, dice: &mut Dice) -> anyhow::Result<()> {
        let mpid = mpid(dice.below(self.profiles));
        let request = Request::get(format!("/userprofile/v1/{WORKSPACE}/{mpid}"));
        let request = request.header(header::HOST, &self.host).body(Empty::new())?;
        self.requests.ready().await?;
        let (head, body) = self.requests.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let right = head.status == StatusCode::OK && body.starts_with(format!("{{\"mpid\":{mpid},").as_bytes());
        ensure!(right, "GET of {mpid} returned {} and {} bytes, which is wrong", head.status, body.len());
        Ok(())
    }
}

pub async fn measure(fixture: &Fixture, plan: Plan, report: &mut Report) -> anyhow::Result<()> {
    let cameo = Child::cameo(&fixture.store).await?;
    let by_http = HttpCalls { addr: cameo.addr, profiles: fixture.profiles };
    let by_grpc = GrpcCalls::connect(&cameo, CONNECTIONS, CLIENTS, Lookup::new(By::Mpid, fixture)).await?;
    let mut sides = [
        Side::new(format!("HTTP, {CLIENTS} connections"), &cameo, by_http),
        Side::new(format!("gRPC, {CONNECTIONS} connections"), &cameo, by_grpc),
    ];
    take_turns(&mut sides, warm_up(fixture), plan).await?;
    let [http, grpc] = &sides;
    let ratio = http.ratio_to(grpc);
    let measured = format!("{ratio:.2} ({} calls/s)", count(http.rate()));
    report.claim("Lookup by mpid over HTTP: calls/s, relative to gRPC on the same server", measured, "");
    let columns = ["Transport", "calls/s", "relative to gRPC", "p50", "p99", "server CPU per call"];
    let rows = [http.row(format!("{ratio:.2}")), grpc.row("1".into())];
    report.table(&format!("Lookups by mpid over HTTP and gRPC, {CLIENTS} calls in flight"), &columns, &rows);
    drop(sides);
    cameo.stop().await
}
