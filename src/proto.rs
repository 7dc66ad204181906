//! The generated messages and clients of `proto/cameo`; the comments there are the API reference.

/// Package `cameo.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)] // Generated.
pub mod v1 {
    tonic::include_proto!("cameo.v1");
}

/// Every file of the API with its imports and comments, as reflection serves it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
