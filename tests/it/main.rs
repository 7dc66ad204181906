//! The tests: one binary, one harness, real sockets.
//!
//! - [`guarantees`]: each guarantee of the API, by name.
//! - [`profiles`], [`patches`], [`bulk`], [`imports`], [`events`]: what the RPCs do.
//! - [`damage`]: records that have rotted.
//! - [`http`]: the Profile API over HTTP.
//! - [`reasons`]: a request for each reason of an error.
//! - [`refusals`]: what bad input gets, and that it changes nothing.
//! - [`limits`]: each limit, at it and one past it.
//! - [`model`]: random calls against a model.
//! - [`status`]: what the server tells its operators.
//! - [`process`]: the real binary: signals, flags, crashes.
//! - [`logs`]: what the operator reads.
//! - [`settings`]: flags, variables, the settings file.
//! - [`rot`]: damaged bits and pages of the store's file.
//! - [`wire`]: bytes that are not a request.

mod bulk;
mod damage;
mod events;
mod guarantees;
mod harness;
mod http;
mod imports;
mod limits;
mod logs;
mod model;
mod patches;
mod process;
mod profiles;
mod reasons;
mod refusals;
mod rot;
mod settings;
mod status;
mod wire;
