//! What the fuzz targets do with an input, and what must then hold. An input that breaks a property panics.
//!
//! Each target has a function `run`:
//! - [`requests`]: any bytes as the request of any RPC, decoded, parsed and run as the server does it.
//! - [`http_query`]: any HTTP request, to the Profile API.
//! - [`cursor`], [`page_token`]: any text as a place in a log or a list.
//! - [`mask`]: any mask, on any profile and event.
//! - [`expression`]: any text as a condition in CEL.
//! - [`jwt`]: any text as a bearer token.
//!
//! `service` is a server without connections, with the `samples` in its store. `sealed` gives bytes the checksum that no fuzzer would find.
//!
//! Everything here goes through what the crate `cameo` offers to all. `tests/it/fuzz.rs` includes this file and runs the
//! committed seeds, so that a target cannot rot between two runs of the fuzzer.

pub mod cursor;
pub mod expression;
pub mod http_query;
pub mod jwt;
pub mod mask;
pub mod page_token;
pub mod requests;
mod samples;
mod sealed;
mod service;
