//! A client of HTTP/2 that reads nothing more than its windows hold.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

/// A connection whose responses are not read.
pub struct Unread {
    addr: SocketAddr,
    requests: SendRequest<Bytes>,
    /// Ends with the connection.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

impl Unread {
    /// Opens a connection whose streams may receive no bytes.
    pub async fn open(addr: SocketAddr) -> Self {
        Self::with_window(addr, 0).await
    }

    /// Opens a connection whose streams may receive so many bytes.
    pub async fn with_window(addr: SocketAddr, bytes: u32) -> Self {
        let stream = within(TcpStream::connect(addr)).await.unwrap();
        let handshake = h2::client::Builder::new().initial_window_size(bytes).handshake(stream);
        let (requests, connection) = within(handshake).await.unwrap();
        Self { addr, requests, connection: tokio::spawn(connection) }
    }

    /// Begins a call, and sends nothing of its message.
    pub async fn begin(&mut self, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        self.requests = within(self.requests.clone().ready()).await.unwrap();
        let request = grpc_post(&format!("http://{}{path}", self.addr)).body(()).unwrap();
        self.requests.send_request(request, false).unwrap()
    }

    /// Sends a request that has no body.
    pub async fn ask(&mut self, request: hyper::Request<()>) -> ResponseFuture {
        self.requests = within(self.requests.clone().ready()).await.unwrap();
        self.requests.send_request(request, true).unwrap().0
    }

    /// Sends a call.
    pub async fn send(&mut self, path: &str, message: &impl Message) -> ResponseFuture {
        let (response, mut body) = self.begin(path).await;
        body.send_data(frame(message).into(), true).unwrap();
        response
    }

    /// Makes a call, and waits until its response has begun.
    pub async fn call(&mut self, path: &str, message: &impl Message) -> RecvStream {
        within(self.send(path, message).await).await.unwrap().into_body()
    }
}
