//! `cameo forward` and `cameo listen`, with a server that is written by hand. [`joined`]: with one that is not.

mod joined;

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use cameo::proto::v1::subscribe_response::Message;
use cameo::proto::v1::*;
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::Empty;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tonic::server::Grpc;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};
use tonic_prost::ProstCodec;

use crate::harness::*;

/// A server whose subscriptions all have one event. It tells what it is asked.
fn server() -> (SocketAddr, UnboundedReceiver<String>) {
    let (asked, asks) = mpsc::unbounded_channel();
    let router = Router::new()
        .route("/cameo.v1.EventService/Subscribe", post(subscribe))
        .route(
            "/cameo.v1.EventService/Acknowledge",
            unary(asked.clone(), |one: AcknowledgeRequest| {
                (
                    format!("{} {} {} {}", one.workspace, one.subscription, one.stream, one.cursor),
                    AcknowledgeResponse::default(),
                )
            }),
        )
        .route(
            "/cameo.v1.EventService/CreateSubscription",
            unary(asked.clone(), |one: CreateSubscriptionRequest| {
                (format!("create {}", one.subscription.unwrap().name), CreateSubscriptionResponse::default())
            }),
        )
        .route(
            "/cameo.v1.EventService/DeleteSubscription",
            unary(asked, |one: DeleteSubscriptionRequest| {
                (format!("delete {}", one.name), DeleteSubscriptionResponse::default())
            }),
        );
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = incoming.local_addr().unwrap();
    tokio::spawn(tonic::transport::Server::builder().add_routes(Routes::from(router)).serve_with_incoming(incoming));
    (addr, asks)
}

async fn subscribe(request: Request<Body>) -> http::Response<tonic::body::Body> {
    let stream = tower::service_fn(async |_: tonic::Request<SubscribeRequest>| {
        let event = Event { id: "e1".into(), sequence: 1, mpid: 7, ..Default::default() };
        let sent = [Message::Opened(Opened { stream: 4, ..Default::default() }), Message::Event(event)];
        let sent = sent.map(|message| Ok(SubscribeResponse { cursor: "AX".into(), message: Some(message) }));
        Ok::<_, Status>(Response::new(stream::iter(sent).chain(stream::pending())))
    });
    Grpc::new(ProstCodec::default()).server_streaming(stream, request).await
}

fn unary<Q, R>(asked: UnboundedSender<String>, respond: fn(Q) -> (String, R)) -> axum::routing::MethodRouter
where
    Q: prost::Message + Default + 'static,
    R: prost::Message + Default + 'static,
{
    post(move |request: Request<Body>| async move {
        let unary = tower::service_fn(move |request: tonic::Request<Q>| {
            let (said, response) = respond(request.into_inner());
            asked.send(said).unwrap();
            std::future::ready(Ok::<_, Status>(Response::new(response)))
        });
        Grpc::new(ProstCodec::<R, Q>::default()).unary(unary, request).await
    })
}

/// A receiver that responds with this status.
async fn receiver(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let respond = service_fn(move |_| {
                let response = http::Response::builder().status(status).body(Empty::<bytes::Bytes>::new()).unwrap();
                std::future::ready(Ok::<_, Infallible>(response))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), respond));
        }
    });
    url
}

async fn flags(words: &str, status: u16) -> (tokio::process::Command, UnboundedReceiver<String>) {
    let ((addr, asks), url) = (server(), receiver(status).await);
    let mut command = binary();
    command.args(words.replace("URL", &url).split(' ')).args(["--workspace", "a/b/c", "--addr", &addr.to_string()]);
    (command, asks)
}

/// Ends the command with SIGTERM after it has acknowledged, and returns what it asked before and after.
async fn until_sigterm(mut command: tokio::process::Command, mut asks: UnboundedReceiver<String>) -> Vec<String> {
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut asked = Vec::new();
    while !asked.last().is_some_and(|last: &String| last.ends_with("4 AX")) {
        asked.push(within(asks.recv()).await.unwrap());
    }
    kill_process(Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    assert!(within(child.wait()).await.unwrap().success());
    asked.extend(std::iter::from_fn(|| asks.try_recv().ok()));
    asked
}

#[tokio::test]
async fn forward_acknowledges_what_was_delivered() {
    let (command, asks) = flags("forward --subscription crm --to URL --unsigned", 200).await;
    assert_eq!(until_sigterm(command, asks).await, ["a/b/c crm 4 AX"]);
}

#[tokio::test]
async fn listen_has_a_subscription_of_its_own() {
    let (command, asks) = flags("listen --forward-to URL --unsigned", 200).await;
    let asked = until_sigterm(command, asks).await;
    let name = asked[0].strip_prefix("create ").unwrap();
    assert!(name.starts_with("listen-"), "{name}");
    assert_eq!(asked[1..], [format!("a/b/c {name} 4 AX"), format!("delete {name}")]);
}

#[tokio::test]
async fn a_receiver_that_is_gone_ends_it() {
    let (mut command, mut asks) = flags("forward --subscription crm --to URL --unsigned", 410).await;
    let ended = output(&mut command).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).ends_with("Error: the receiver wants no more events (HTTP 410)\n"));
    assert!(asks.try_recv().is_err(), "nothing is acknowledged");
}

#[tokio::test]
async fn requests_are_signed_unless_told_otherwise() {
    let fresh = output(binary().args(["forward", "--new-secret"])).await;
    let secret = String::from_utf8(fresh.stdout).unwrap();
    assert!(fresh.status.success() && secret.starts_with("whsec_"));
    let words = ["forward", "--subscription", "s", "--workspace", "a/b/c", "--to", "http://127.0.0.1:1/"];
    let refused = output(binary().args(words)).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--secrets-file"));

    let (mut command, asks) = flags("forward --subscription crm --to URL", 200).await;
    command.env("CAMEO_WEBHOOK_SECRET", secret);
    until_sigterm(command, asks).await;
}
