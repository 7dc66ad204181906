//! The services. With `http` and `server` the only modules that know a transport. Each method parses, asks, answers.
//!
//! - [`profile_service`], [`event_service`], [`admin_service`]: one file per service; `import` is a stream of the first.
//! - [`status`]: the one map from refusals to gRPC statuses.
//! - [`codec`]: sends what is already encoded.
//! - [`layer`]: what holds for every call.

pub mod admin_service;
pub mod codec;
pub mod event_service;
mod import;
pub mod layer;
pub mod profile_service;
pub mod status;

/// The generated servers.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod server {
    tonic::include_proto!("server/cameo.v1");
}
