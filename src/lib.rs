//! Cameo: profiles in an embedded store, looked up by gRPC, and every change of them pushed to subscribers.
//!
//! A map, in reading order; each module uses only those above it:
//!
//! - [`proto`]: the generated messages and clients. They are the data model: what is stored is their wire bytes.
//! - [`model`]: what a request may say, and what a change means. Pure; no I/O.
//! - [`clock`]: the clocks of this machine. Nothing else asks them.
//! - [`config`]: every setting and its default.
//! - [`command`]: what the store is asked to write.
//! - [`store`]: the only module that knows redb. One writer thread, snapshot readers, a log per workspace.
//! - [`feed`]: subscribers, each a pull loop over the log.
//! - [`grpc`]: the services, and the one map from errors to gRPC statuses.
//! - [`http`]: the Profile API over HTTP: the lookups, in its paths and its JSON.
//! - [`server`]: wires the parts: bind, local address, shutdown.
//! - [`cli`]: the commands, and `telemetry`, their logs.

pub mod call;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod model;
pub mod proto;
pub mod refusal;
pub mod server;
pub mod store;
mod telemetry;
