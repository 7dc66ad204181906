//! Which service responds at which path.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Service;

use super::ServerError;
use crate::config::Config;
use crate::feed::Feed;
use crate::grpc::admin_service::Admin;
use crate::grpc::audience_service::Audiences;
use crate::grpc::event_service::{Events, stream};
use crate::grpc::identity_service::Identities;
use crate::grpc::profile_service::Profiles;
use crate::grpc::server::admin_service_server::AdminServiceServer;
use crate::grpc::server::audience_service_server::AudienceServiceServer;
use crate::grpc::server::event_service_server::EventServiceServer;
use crate::grpc::server::identity_service_server::IdentityServiceServer;
use crate::grpc::server::profile_service_server::ProfileServiceServer;
use crate::http;
use crate::model::Micros;
use crate::proto::DESCRIPTORS;
use crate::store::Store;

type Answer = Response<tonic::body::Body>;

/// Accepts gzip and zstd, and takes messages of so many bytes. The generated servers share no trait for it.
macro_rules! service {
    ($service:expr, $request_bytes:expr) => {
        $service.accept_compressed(Gzip).accept_compressed(Zstd).max_decoding_message_size($request_bytes)
    };
}

/// Every service of the server.
#[derive(Clone)]
pub(super) struct Services {
    profiles: ProfileServiceServer<Profiles>,
    events: EventServiceServer<Events>,
    /// The services that are called rarely.
    others: Routes,
    http: Router,
}

/// Makes the services. Imports, HTTP requests and compactions end when `stop` is cancelled.
pub(super) fn build(
    health: HealthServer<impl Health>,
    store: &Arc<Store>,
    feed: &Feed,
    config: &Config,
    start: Micros,
    stop: &CancellationToken,
) -> Result<Services, ServerError> {
    let limits = config.limits;
    let import_idle_timeout = config.server.import_idle_timeout;
    let profiles = Profiles::new(Arc::clone(store), limits, import_idle_timeout, stop.clone());
    let profiles = ProfileServiceServer::new(profiles);
    let events = EventServiceServer::new(Events::new(Arc::clone(store), feed.clone(), limits));
    let identities = IdentityServiceServer::new(Identities::new(Arc::clone(store), limits));
    let audiences = AudienceServiceServer::new(Audiences::new(Arc::clone(store), limits));
    let admin = AdminServiceServer::new(Admin::new(Arc::clone(store), config, start, stop.clone()));
    let bytes = limits.request_bytes;
    let mut others = Routes::new(service!(health, bytes))
        .add_service(service!(admin, bytes))
        .add_service(service!(identities, bytes))
        .add_service(service!(audiences, bytes));
    if config.auth.reflection {
        others = others
            .add_service(service!(reflection().build_v1()?, bytes))
            .add_service(service!(reflection().build_v1alpha()?, bytes));
    }
    Ok(Services {
        profiles: service!(profiles, bytes),
        events: service!(events, bytes),
        others,
        http: http::router(Arc::clone(store), limits, config.server.http_rate, stop.clone()),
    })
}

impl Services {
    /// Calls the gRPC service that the path names. The two that serve lookups and streams take no detour through the
    /// router.
    pub fn grpc<B>(&self, request: Request<B>) -> Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let is_of = |service| {
            let path = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(service));
            path.is_some_and(|method| method.starts_with('/'))
        };
        if is_of(ProfileServiceServer::<Profiles>::NAME) {
            self.profiles.clone().call(request)
        } else if is_of(EventServiceServer::<Events>::NAME) {
            let called = self.events.clone().call(request);
            Box::pin(async move { called.await.map(stream::opened) })
        } else {
            Box::pin(self.others.clone().call(request))
        }
    }

    /// Calls the Profile API over HTTP.
    pub async fn http<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let called = self.http.clone().call(request).await;
        called.unwrap_or_else(|never| match never {}).map(tonic::body::Body::new)
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
