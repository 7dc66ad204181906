//! Which service responds at which path.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use super::ServerError;
use crate::config::Config;
use crate::feed::Feed;
use crate::grpc::admin_service::Admin;
use crate::grpc::event_service::Events;
use crate::grpc::layer::is_grpc;
use crate::grpc::profile_service::Profiles;
use crate::grpc::server::admin_service_server::AdminServiceServer;
use crate::grpc::server::event_service_server::EventServiceServer;
use crate::grpc::server::profile_service_server::ProfileServiceServer;
use crate::http;
use crate::model::Micros;
use crate::proto::DESCRIPTORS;
use crate::store::Store;

/// Every service of the server. Imports and HTTP requests end when `stop` is cancelled.
pub(super) fn build(
    health: HealthServer<impl Health>,
    store: &Arc<Store>,
    feed: &Feed,
    config: &Config,
    start: Micros,
    stop: &CancellationToken,
) -> Result<Router, ServerError> {
    let limits = config.limits;
    let profiles = ProfileServiceServer::new(Profiles::new(Arc::clone(store), limits, stop.clone()));
    let events = EventServiceServer::new(Events::new(Arc::clone(store), feed.clone(), limits));
    let admin = AdminServiceServer::new(Admin::new(Arc::clone(store), config, start));
    let grpc = Routes::new(health)
        .add_service(profiles.max_decoding_message_size(limits.request_bytes))
        .add_service(events.max_decoding_message_size(limits.request_bytes))
        .add_service(admin.max_decoding_message_size(limits.request_bytes))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let http = http::router(Arc::clone(store), limits, config.server.http_rate, stop.clone());
    Ok(grpc.into_axum_router().fallback(not_found).merge(http))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn not_found(request: Request) -> Response {
    if is_grpc(request.headers()) {
        return Status::unimplemented("").into_http(); // `RefusalLayer` gives it its reason.
    }
    http::not_found()
}
