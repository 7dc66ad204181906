//! Requests over HTTP, each on a connection of its own. Those that end with `_on` have the caller's connection, such as
//! one with TLS.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::HeaderValue;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::within;

/// A response, read to its end.
#[derive(Debug)]
pub struct HttpResponse {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl HttpResponse {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request to the Profile API. `target` is the part of the path after `/userprofile/v1/`.
pub async fn http(addr: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> HttpResponse {
    let mut request = hyper::Request::builder().method(method).uri(format!("/userprofile/v1/{target}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http_request(addr, request.body(body.to_owned()).unwrap()).await
}

/// Sends any request. Its host is `localhost` unless it says otherwise.
pub async fn http_request<B>(addr: SocketAddr, request: hyper::Request<B>) -> HttpResponse
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    http_request_on(within(TcpStream::connect(addr)).await.unwrap(), request).await
}

/// The same on this connection.
pub async fn http_request_on<B>(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: hyper::Request<B>,
) -> HttpResponse
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    request.headers_mut().entry("host").or_insert(HeaderValue::from_static("localhost"));
    within(async {
        let connection = TokioIo::new(connection);
        let (mut client, connection) = hyper::client::conn::http1::handshake(connection).await.unwrap();
        tokio::spawn(connection);
        let (parts, body) = client.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body }
    })
    .await
}

/// Sends a request over HTTP/2. The response is read up to its trailers, which then stand among the headers.
pub async fn http2_request<B>(addr: SocketAddr, request: hyper::Request<B>) -> HttpResponse
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    http2_request_on(within(TcpStream::connect(addr)).await.unwrap(), addr, request).await
}

/// The same on this connection.
pub async fn http2_request_on<B>(
    connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    addr: SocketAddr,
    mut request: hyper::Request<B>,
) -> HttpResponse
where
    B: hyper::body::Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    uri.scheme = Some("http".parse().unwrap());
    uri.authority.get_or_insert_with(|| addr.to_string().parse().unwrap());
    *request.uri_mut() = hyper::Uri::from_parts(uri).unwrap();
    within(async {
        let connection = TokioIo::new(connection);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), connection);
        let (mut client, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let (parts, body) = client.send_request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        let mut headers = parts.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        HttpResponse { status: parts.status.as_u16(), headers, body: body.to_bytes() }
    })
    .await
}
