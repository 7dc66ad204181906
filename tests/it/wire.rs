//! Bytes that are not a request end the call or the connection, but never the process.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::harness::*;

/// The path of every method of the API.
fn methods() -> Vec<String> {
    let files = FileDescriptorSet::decode(cameo::proto::DESCRIPTORS).unwrap().file;
    let services = files.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let methods = services.flat_map(|(package, service)| {
        service.method.iter().map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    methods.collect()
}

/// A codec that sends bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        *self
    }
    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(out, item);
        Ok(())
    }
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(buf, bytes::Buf::remaining(buf));
        Ok(Some(()))
    }
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Sends a message to a method, and returns whether the server refused it.
async fn send(channel: Channel, method: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = method.parse().unwrap();
    let response = grpc.server_streaming(Request::new(Bytes::from(message)), path, Raw).await?;
    // The headers of the response are enough: a stream would never end.
    drop(response);
    Ok(())
}

/// Asserts that the call succeeded, or was refused with a reason that the caller can act on.
fn assert_refused_or_served(response: &Result<(), Status>) {
    let Err(status) = response else { return };
    let expected = [Code::InvalidArgument, Code::NotFound, Code::AlreadyExists, Code::ResourceExhausted];
    assert!(expected.contains(&status.code()), "{status:?}");
    assert!(!reason(status).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_and_truncated_messages_end_the_call() {
    const DAMAGED_MESSAGES: u32 = 500;
    const NOISE_BYTES: usize = 64;
    let server = TestServer::start().await;
    let channel = channel(server.addr).await;
    let request = cameo::proto::v1::CreateProfileRequest { profile: Some(sample()), ..create_request() };
    let whole = request.encode_to_vec();
    let methods = methods();
    for end in 0..whole.len() {
        for method in &methods {
            assert_refused_or_served(&send(channel.clone(), method, whole[..end].to_vec()).await);
        }
    }

    let runtime = tokio::runtime::Handle::current();
    let random = tokio::task::spawn_blocking(move || {
        let damage = (proptest::collection::vec(any::<u8>(), 0..NOISE_BYTES), 0..whole.len(), 0..methods.len());
        TestRunner::new(Config::with_cases(DAMAGED_MESSAGES)).run(&damage, |(noise, at, method)| {
            let mut damaged = whole.clone();
            let end = (at + noise.len()).min(damaged.len());
            damaged.splice(at..end, noise.clone());
            for message in [noise, damaged] {
                assert_refused_or_served(&runtime.block_on(send(channel.clone(), &methods[method], message)));
            }
            Ok(())
        })
    });
    random.await.unwrap().unwrap();

    server.client().await.create(with_mpid(ADA)).await.unwrap();
}

#[tokio::test]
async fn an_undecodable_request_says_so() {
    let server = TestServer::start().await;
    let channel = channel(server.addr).await;
    let status = send(channel, &methods()[0], vec![0xff; 9]).await.unwrap_err();
    assert_eq!((status.code(), &*reason(&status)), (Code::InvalidArgument, "FIELD_INVALID"));
}

#[tokio::test]
async fn bytes_that_are_not_http_end_the_connection() {
    /// How an HTTP/2 connection begins.
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const CONNECTIONS: usize = 50;
    const NOISE_BYTES: usize = 2_000;
    let server = TestServer::start().await;
    let mut runner = TestRunner::deterministic();
    for round in 0..CONNECTIONS {
        let noise = proptest::collection::vec(any::<u8>(), 1..NOISE_BYTES).new_tree(&mut runner).unwrap().current();
        let bytes = if round % 2 == 0 { noise } else { [PREFACE, &noise].concat() };
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        let _ = socket.write_all(&bytes).await; // The server may close the connection first.
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = within(socket.read_to_end(&mut rest)).await;
    }
    server.client().await.create(with_mpid(ADA)).await.unwrap();
}

/// Calls that tonic itself refuses have a reason too.
#[tokio::test]
async fn bad_frames_and_unknown_methods_have_a_reason() {
    let server = TestServer::start().await;
    let get = "/cameo.v1.ProfileService/GetProfile";
    let cases: [(&str, &[u8], Code, &str); 5] = [
        (get, &[], Code::InvalidArgument, "FIELD_INVALID"),
        (get, &[0, 0, 0, 0, 9, 1], Code::InvalidArgument, "FIELD_INVALID"),
        (get, &[7, 0, 0, 0, 0], Code::InvalidArgument, "FIELD_INVALID"),
        ("/cameo.v1.ProfileService/NoSuchMethod", &[0, 0, 0, 0, 0], Code::Unimplemented, "METHOD_UNKNOWN"),
        ("/no/service", &[0, 0, 0, 0, 0], Code::Unimplemented, "METHOD_UNKNOWN"),
    ];
    for (path, frame, code, expected) in cases {
        let status = send_frame(&server, path, frame).await;
        assert_eq!((status.code(), &*reason(&status)), (code, expected), "{path} {frame:?}");
    }
}

/// Makes a call whose body is exactly these bytes, and returns its refusal.
async fn send_frame(server: &TestServer, path: &str, frame: &[u8]) -> Status {
    use tower::{Service, ServiceExt};
    let mut channel = channel(server.addr).await;
    let request = http::Request::post(format!("http://{}{path}", server.addr))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::copy_from_slice(frame)));
    let response = within(channel.ready().await.unwrap().call(request.body(body).unwrap())).await.unwrap();
    Status::from_header_map(response.headers()).expect("a refusal is in the headers")
}
