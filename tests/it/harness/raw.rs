//! Requests that no good client sends: bytes as the test writes them, and bodies without an end.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{HttpResponse, http2_request, within};

/// The path of a lookup over gRPC.
pub const GET_PROFILE: &str = "/cameo.v1.ProfileService/GetProfile";

/// The path of a subscription over gRPC.
pub const SUBSCRIBE: &str = "/cameo.v1.EventService/Subscribe";

/// A message with its header of gRPC, not compressed.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let encoded = message.encode_to_vec();
    let length = u32::try_from(encoded.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &encoded].concat()
}

/// A request of gRPC, without its body.
pub fn grpc_post(path: &str) -> hyper::http::request::Builder {
    hyper::Request::post(path).header("content-type", "application/grpc").header("te", "trailers")
}

/// Sends a request of gRPC with exactly this body.
pub async fn grpc_request(addr: SocketAddr, path: &str, body: Vec<u8>) -> HttpResponse {
    http2_request(addr, grpc_post(path).body(Full::new(Bytes::from(body))).unwrap()).await
}

/// The frames of a body, as they come.
type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>> + Send>>;

/// A body that begins with these bytes and never ends.
pub fn endless(bytes: Vec<u8>) -> StreamBody<Frames> {
    StreamBody::new(Box::pin(stream::iter([Ok(Frame::data(bytes.into()))]).chain(stream::pending())))
}

/// A connection that takes bytes as they are.
pub struct RawConnection(TcpStream);

impl RawConnection {
    pub async fn open(addr: SocketAddr) -> Self {
        Self(within(TcpStream::connect(addr)).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Some bytes of what comes next.
    pub async fn some(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 4_096];
        let length = within(self.0.read(&mut bytes)).await.unwrap();
        bytes.truncate(length);
        bytes
    }

    /// Everything until the server closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = within(self.0.read_to_end(&mut bytes)).await; // A reset is an end too.
        bytes
    }
}

/// Sends a request of HTTP/1.1, byte for byte, and returns the status and the whole response. The request must ask for
/// the connection to be closed.
pub async fn http1_bytes(addr: SocketAddr, request: &str) -> (u16, String) {
    let mut connection = RawConnection::open(addr).await;
    connection.send(request).await;
    let response = String::from_utf8_lossy(&connection.rest().await).into_owned();
    let status = response.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {response:?}"));
    (status.parse().unwrap(), response)
}
