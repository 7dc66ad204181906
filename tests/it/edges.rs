//! The edges of the server: what reaches a service, in which protocol, and for how long.
//!
//! - [`heads`]: methods and content types. [`hosts`]: the host that a request names.
//! - [`web`]: gRPC-Web and CORS. [`compression`]: gzip and zstd inside gRPC.
//! - [`receive`]: requests as they arrive, and how large they may be.
//! - [`bounds`]: how many calls and connections there may be. [`times`]: how long they may take.
//! - [`memory`]: what clients that read nothing may keep.
//! - [`shutdown`]: open requests do not hold it.

mod bounds;
mod compression;
mod heads;
mod hosts;
mod memory;
mod receive;
mod shutdown;
mod times;
mod web;
