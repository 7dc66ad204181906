//! Every service of the server on one store, without connections: a call goes to the routes as the edge of the server
//! hands it on.
//!
//! The store holds a few profiles and no subscription. Callers of [`Service::grpc`] have it validate and never write, so
//! that an input does the same each time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use cameo::auth::Caller;
use cameo::call::Call;
use cameo::config::{Config, QuotaConfig};
use cameo::feed::Feed;
use cameo::grpc::admin_service::Admin;
use cameo::grpc::audience_service::Audiences;
use cameo::grpc::event_service::{Events, stream};
use cameo::grpc::identity_service::Identities;
use cameo::grpc::profile_service::Profiles;
use cameo::grpc::server::admin_service_server::AdminServiceServer;
use cameo::grpc::server::audience_service_server::AudienceServiceServer;
use cameo::grpc::server::event_service_server::EventServiceServer;
use cameo::grpc::server::identity_service_server::IdentityServiceServer;
use cameo::grpc::server::profile_service_server::ProfileServiceServer;
use cameo::http::router;
use cameo::quota::Quotas;
use cameo::store::Store;
use cameo::telemetry::metrics::{Calls, Method};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt;

use super::samples;

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// The memory of the store's cache. The store is small, and the fuzzer's memory is limited.
const CACHE_BYTES: usize = 16 << 20;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The one service of a process.
pub static SERVICE: LazyLock<Service> = LazyLock::new(Service::start);

pub struct Service {
    runtime: Runtime,
    grpc: Routes,
    http: Router,
}

/// What a call got.
pub struct Reply {
    pub status: Status,
    /// The messages. Of a stream, those that came first.
    pub messages: Vec<Bytes>,
}

impl Service {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_time().build().expect("threads have runtimes");
        let guard = runtime.enter();
        let directory = tempfile::tempdir().expect("the system has a place for temporary files");
        let mut config = Config::default();
        directory.path().clone_into(&mut config.store.data_dir);
        (config.store.cache_bytes, config.store.scrub_rate) = (CACHE_BYTES, 0);
        let feed = Feed::new(config.feed);
        let publisher = feed.clone();
        let store = Store::open(&config.store, move |log, commit| publisher.publish(log, commit));
        let store = Arc::new(store.expect("the directory is empty"));
        drop(directory); // The store keeps its open file, and nothing else is left behind when the process ends.
        drop(guard);
        let service = Self { runtime, grpc: routes(&store, &feed, &config), http: http_routes(&store, &config) };
        service.fill();
        service
    }

    /// Makes the profiles 1 to 3, of which 3 is absorbed by 1, and the audience 7 of 1 and 2.
    fn fill(&self) {
        for mpid in 1..=3 {
            self.write("ProfileService/CreateProfile", &samples::create(mpid));
        }
        self.write("AudienceService/CreateAudience", &samples::audience());
        self.write("AudienceService/AddAudienceMembers", &samples::members([1, 2]));
        self.write("IdentityService/MergeProfiles", &samples::merge(1, 3));
    }

    fn write(&self, rpc: &str, request: &impl Message) {
        let reply = self.grpc(&format!("/cameo.v1.{rpc}"), &[&request.encode_to_vec()], false);
        assert_eq!(reply.status.code(), Code::Ok, "{:?}", reply.status);
    }

    /// Calls an RPC, which sends these messages. Of a `stream` only what comes first is read.
    pub fn grpc(&self, path: &str, messages: &[&[u8]], stream: bool) -> Reply {
        let body: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
        let request = Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
        let request = request.extension(call(path)).body(Full::from(body)).expect("the path is one of the API");
        self.runtime.block_on(async {
            let Ok(response) = self.grpc.clone().prepare().oneshot(request).await;
            let (head, mut body) = stream::opened(response).into_parts();
            let (mut data, mut end) = (Vec::new(), head.headers);
            while let Some(frame) = body.frame().await {
                match frame.expect("no connection breaks").into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => end = frame.into_trailers().unwrap_or_default(),
                }
                if stream {
                    break;
                }
            }
            Reply { status: status(&end), messages: unframed(data.into()) }
        })
    }

    /// Calls the Profile API over HTTP. Returns the response and its body.
    pub fn http(&self, mut request: Request<Body>) -> (Response<()>, Bytes) {
        let call = call(request.uri().path());
        request.extensions_mut().insert(call);
        self.runtime.block_on(async {
            let Ok(response) = self.http.clone().oneshot(request).await;
            let (head, body) = response.into_parts();
            (Response::from_parts(head, ()), body.collect().await.expect("it is in memory").to_bytes())
        })
    }
}

fn routes(store: &Arc<Store>, feed: &Feed, config: &Config) -> Routes {
    let (store, limits, stop) = (|| Arc::clone(store), config.limits, CancellationToken::new());
    let idle = config.server.import_idle_timeout;
    let bytes = limits.request_bytes;
    macro_rules! service {
        ($service:expr) => {
            $service.max_decoding_message_size(bytes)
        };
    }
    Routes::new(service!(ProfileServiceServer::new(Profiles::new(store(), limits, idle, stop.clone()))))
        .add_service(service!(EventServiceServer::new(Events::new(store(), feed.clone(), limits))))
        .add_service(service!(IdentityServiceServer::new(Identities::new(store(), limits))))
        .add_service(service!(AudienceServiceServer::new(Audiences::new(store(), limits))))
        .add_service(service!(AdminServiceServer::new(Admin::new(store(), config, store().now(), stop))))
}

/// Without a limit of their rate.
fn http_routes(store: &Arc<Store>, config: &Config) -> Router {
    router(Arc::clone(store), config.limits, 0, CancellationToken::new())
}

fn call(path: &str) -> Arc<Call> {
    let call = Call::begin(&Calls::default(), Method::of_path(path), false, PEER, None);
    let quotas = Quotas::new(&QuotaConfig::default());
    call.made_by(Arc::new(Caller::anyone()), &quotas).expect("anyone may do anything");
    call
}

/// The status of a call. A stream that goes on has none yet.
fn status(end: &HeaderMap) -> Status {
    Status::from_header_map(end).unwrap_or_else(|| Status::new(Code::Ok, ""))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("inputs are small");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

fn unframed(mut data: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while data.len() >= PREFIX {
        let prefix = data.split_to(PREFIX);
        let length = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes"));
        messages.push(data.split_to(usize::try_from(length).expect("32 bits fit")));
    }
    assert!(data.is_empty(), "a message is cut");
    messages
}
