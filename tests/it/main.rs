//! The tests: one binary, one harness, real sockets. `harness` is the map of what they share.
//!
//! - [`guarantees`]: each guarantee of the API, by name.
//! - [`profiles`], [`patches`], [`bulk`], [`imports`], [`events`]: what the RPCs do.
//! - [`authorization`]: who may do what. [`audit`]: what is written down of it. [`quotas`]: how much.
//!   [`rotations`]: credentials that are replaced under load.
//! - [`audiences`]: their members, and what becomes of both.
//! - [`starts`], [`subscriptions`]: where a stream starts, and durable subscriptions.
//! - [`backup`]: a store is backed up amid writes, restored, and checked.
//! - [`compacting`]: a store is compacted, by its server and without one.
//! - [`edges`]: what reaches a service, in which protocol, and for how long.
//! - [`damage`]: damaged records, as callers see them.
//! - [`fuzz`]: the seeds of the fuzz targets.
//! - [`http`]: the Profile API over HTTP.
//! - [`reasons`]: a request for each reason of an error.
//! - [`refusals`]: bad input is refused and changes nothing.
//! - [`reflection`]: what the server says of its API.
//! - [`limits`]: a value at each limit, and one past it.
//! - [`model`]: random calls, compared with a model.
//! - [`status`]: what the server tells its operators.
//! - [`metrics`]: `/metrics`, `/healthz` and `/readyz`.
//! - [`process`]: the real binary and its signals.
//! - [`settings`]: flags, variables, the settings file, and the document that lists them.
//! - [`logs`]: what the operator reads when a call fails.
//! - [`traces`]: what a collector of traces gets.
//! - [`tokens`]: `cameo token`, and what a server makes of its file.
//! - [`retention`]: what is left of a log when its oldest events are gone.
//! - [`rot`]: damaged bits and pages of the store's file, by the hundred.
//! - [`reconnects`]: the [`storm`]: many subscribers that reconnect at random, and one validator of all that they read.
//!   [`checker`]: what its checker expects of erasures.
//! - [`tls`]: handshakes that succeed and that fail, and certificates that change.
//! - [`wire`]: bytes that are not a request.

mod audiences;
mod audit;
mod authorization;
mod backup;
mod bulk;
mod checker;
mod compacting;
mod damage;
mod edges;
mod erasure;
mod events;
mod exports;
mod fuzz;
mod guarantees;
mod harness;
mod http;
mod identities;
mod imports;
mod limits;
mod logs;
mod merges;
mod metrics;
mod model;
mod patches;
mod process;
mod profiles;
mod quotas;
mod reasons;
mod reconnects;
mod reflection;
mod refusals;
mod retention;
mod rot;
mod rotations;
mod settings;
mod starts;
mod status;
mod storm;
mod subscriptions;
mod tls;
mod tokens;
mod traces;
mod wire;
