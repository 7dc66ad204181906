//! Cameo: profiles in an embedded store, looked up over gRPC, and every change of them pushed to subscribers.
//!
//! This is the map, from the bottom up. A module uses only modules above it in this list; `.ci/arrows.py` checks that.
//!
//! - [`proto`]: the generated messages and clients. They are the data model: the store holds their wire bytes.
//! - [`compression`]: gzip and zstd, of whole messages.
//! - [`watch`]: files that are read again when they change.
//! - [`config`]: every setting with its flag, variable and default. One struct per concern.
//! - [`telemetry`]: the logs, and the metrics and traces that the modules below make.
//! - [`model`]: what a request may say, and what a change means. Pure: no I/O, no clock, no transport.
//! - [`clock`]: the clocks of this machine.
//! - [`command`]: what the store is asked to write.
//! - [`store`]: the only module that knows redb. One writer thread, snapshot readers, a log per workspace. Each command
//!   is decided by a file in `store::apply`.
//! - [`feed`]: subscribers. Each is a loop that reads the log from its cursor.
//! - [`refusal`]: why a call did not succeed. The one map from errors to reasons, below the transports.
//! - [`auth`]: who a caller is, and what it may do and see. [`quota`]: how much it may ask for.
//! - [`call`]: a call while it is served. Failures of the server are logged there.
//! - [`grpc`]: the services. Each method parses, asks the store or the feed, and renders the result or the refusal.
//! - [`http`]: the Profile API over HTTP: the lookups, with its paths and its JSON.
//! - [`server`]: wires the parts: bind, local address, run, drain.
//! - [`cli`]: the commands of the binary.
//!
//! # Where does a change go?
//!
//! - A new RPC: its service in `proto/cameo/v1/`, then a method in [`grpc`] that parses into types of [`model`].
//! - A new setting: a field of the struct of its concern in [`config`].
//! - A new command, which every new write needs: a variant of [`command::Change`], and a file in `src/store/apply/`,
//!   whose `mod.rs` lists the places.
//! - A new reason for a refusal: `proto/cameo/v1/error_reason.proto`, a variant of the error of the layer that refuses,
//!   and an arm in [`refusal`].
//!
//! `docs/architecture.md` has each of these step by step, with the tests and documents that follow.

pub mod auth;
pub mod call;
pub mod cli;
pub mod clock;
pub mod command;
pub mod compression;
pub mod config;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod model;
pub mod proto;
pub mod quota;
pub mod refusal;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod watch;
