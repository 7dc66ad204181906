//! The gRPC services. Each method parses the request, asks the store or the feed, and renders the result.
//!
//! - [`profile_service`], [`identity_service`], [`audience_service`], [`event_service`], [`admin_service`]: one file or
//!   folder per service.
//! - [`status`]: renders a refusal as a gRPC status, and reads deadlines.
//! - [`codec`]: sends responses that are already encoded.
//! - `large`: decodes large requests apart from the other calls.

pub mod admin_service;
pub mod audience_service;
pub mod codec;
pub mod event_service;
pub mod identity_service;
pub mod large;
pub mod profile_service;
pub mod status;

/// The generated servers.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod server {
    tonic::include_proto!("server/cameo.v1");
}
