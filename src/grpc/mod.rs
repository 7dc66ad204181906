//! The services. With `http` and `server` the only modules that know a transport. Each method parses, asks, answers.
//!
//! - [`profile_service`], [`event_service`], [`admin_service`]: one file or folder per service.
//! - [`status`]: renders a refusal as a gRPC status.
//! - [`codec`]: sends what is already encoded.
//! - [`layer`]: what holds for every call.

pub mod admin_service;
pub mod codec;
pub mod event_service;
pub mod layer;
pub mod profile_service;
pub mod status;

/// The generated servers.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod server {
    tonic::include_proto!("server/cameo.v1");
}
