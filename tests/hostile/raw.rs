//! Connections that break the rules of good clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::io::InspectWriter;
use tokio_util::sync::CancellationToken;

/// The length of a gRPC frame's header.
const HEADER: usize = 5;
/// The window of a well-behaved attacker's connection.
const WIDE: u32 = 1 << 20;

/// The server, as the attacker sees it.
pub struct Target {
    pub addr: SocketAddr,
    /// The attack cancels this when it is in place.
    pub in_place: CancellationToken,
    /// Cancelled when the attack may end.
    pub enough: CancellationToken,
    sent: Arc<AtomicUsize>,
}

impl Target {
    pub fn new(addr: SocketAddr) -> Self {
        let (in_place, enough) = (CancellationToken::new(), CancellationToken::new());
        Self { addr, in_place, enough, sent: Arc::default() }
    }

    /// The bytes that the attacker has sent.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// The attack is in place. Waits until it may end.
    pub async fn hold(&self) {
        self.in_place.cancel();
        self.enough.cancelled().await;
    }

    /// A plain connection.
    pub async fn tcp(&self) -> std::io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        Ok(self.counted(TcpStream::connect(self.addr).await?))
    }

    /// A connection whose receive buffer is as small as the system allows.
    pub async fn tcp_that_reads_nothing(&self) -> std::io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1)?;
        Ok(self.counted(socket.connect(self.addr).await?))
    }

    fn counted(&self, stream: TcpStream) -> InspectWriter<TcpStream, impl FnMut(&[u8]) + Send + Unpin + use<>> {
        let sent = Arc::clone(&self.sent);
        InspectWriter::new(stream, move |bytes: &[u8]| {
            sent.fetch_add(bytes.len(), Ordering::Relaxed);
        })
    }

    /// A connection of HTTP/2 whose streams have a window of this many bytes.
    pub async fn h2(&self, window: u32) -> Result<Http2, h2::Error> {
        let stream = self.tcp().await.map_err(|_| h2::Error::from(h2::Reason::REFUSED_STREAM))?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window.max(WIDE));
        let (requests, connection) = builder.handshake(stream).await?;
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        tokio::spawn(async move {
            let _ = connection.await; // An error is an end too.
            drop(guard);
        });
        Ok(Http2 { addr: self.addr, requests, closed })
    }
}

/// A connection of HTTP/2.
#[derive(Clone)]
pub struct Http2 {
    addr: SocketAddr,
    requests: SendRequest<Bytes>,
    /// Cancelled when the connection has ended.
    pub closed: CancellationToken,
}

impl Http2 {
    /// Begins a call, and sends nothing of its body yet.
    pub async fn begin(&mut self, method: &str) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.begin_with(method, []).await
    }

    /// The same, with more headers.
    pub async fn begin_with(
        &mut self,
        method: &str,
        headers: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // The services of Cameo are named without their package.
        let package = if method.starts_with("grpc.") { "" } else { "cameo.v1." };
        let of_grpc = [("content-type", "application/grpc"), ("te", "trailers")].map(owned);
        let headers = of_grpc.into_iter().chain(headers);
        self.request(http::Method::POST, &format!("/{package}{method}"), headers, false).await
    }

    /// Makes a unary call, and returns its response, of which nothing is read yet.
    pub async fn call(&mut self, method: &str, message: &impl Message) -> Result<ResponseFuture, h2::Error> {
        self.call_with(method, [], message).await
    }

    /// The same, with more headers.
    pub async fn call_with(
        &mut self,
        method: &str,
        headers: impl IntoIterator<Item = (String, String)>,
        message: &impl Message,
    ) -> Result<ResponseFuture, h2::Error> {
        let (response, mut body) = self.begin_with(method, headers).await?;
        send(&mut body, frame(message)).await?;
        body.send_data(Bytes::new(), true)?;
        Ok(response)
    }

    /// Asks for what is at a path. Nothing of the response is read yet.
    pub async fn get(
        &mut self,
        path: &str,
        headers: impl IntoIterator<Item = (String, String)>,
    ) -> Result<ResponseFuture, h2::Error> {
        self.request(http::Method::GET, path, headers, true).await.map(|(response, _)| response)
    }

    /// Begins a request with a body, and sends nothing of the body yet.
    pub async fn post(
        &mut self,
        path: &str,
        headers: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.request(http::Method::POST, path, headers, false).await
    }

    /// Sends the head of a request, which may also be its end.
    async fn request(
        &mut self,
        method: http::Method,
        path: &str,
        headers: impl IntoIterator<Item = (String, String)>,
        is_end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let request = http::Request::builder().method(method).uri(format!("http://{}{path}", self.addr));
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let mut requests = self.requests.clone().ready().await?;
        requests.send_request(request.body(()).expect("a request"), is_end)
    }
}

/// A header as requests take it.
pub fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// Sends bytes as the peer's window allows.
pub async fn send(body: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let Some(room) = std::future::poll_fn(|context| body.poll_capacity(context)).await else {
            return Err(h2::Reason::CANCEL.into());
        };
        let room = room?.min(bytes.len());
        body.send_data(bytes.split_to(room), false)?;
    }
    Ok(())
}

/// Reads a response to its end, and lets the peer send on. Returns the bytes.
pub async fn drain(mut body: RecvStream) -> Result<usize, h2::Error> {
    let mut total = 0;
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
        total += length;
    }
    Ok(total)
}

/// A message with its header.
pub fn frame(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    [&header(encoded.len())[..], &encoded].concat().into()
}

/// The header of a message of this many bytes.
pub fn header(length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(length).expect("a short message").to_be_bytes();
    [0, a, b, c, d]
}

/// Writes, and says whether the peer still takes it.
pub async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok()
}
