//! What the tests share. A test file imports all of it with `use crate::harness::*`.
//!
//! - [`server`]: a server in this process. [`process`]: the real binary in a process of its own.
//! - [`callers`]: callers with credentials. [`idp`]: an identity provider, whose keys sign JWTs.
//! - [`client`]: a connection, with a short method for each RPC. [`stream`]: what a subscriber reads.
//!   [`http`]: requests over plain HTTP. [`exposition`]: what `/metrics` says. [`collector`]: the traces that it gets.
//!   [`tls`]: certificates, and clients that speak TLS.
//!   [`raw`]: requests that no good client sends. [`unread`]: responses that are not read.
//! - [`people`]: whose profiles the tests are about. [`profiles`]: profiles, patches and their parts.
//!   [`sample`]: a whole profile. [`requests`]: requests that are complete but for what a test is about.
//! - [`refusals`]: what an error says. [`store_file`]: damage to the file of a stopped server.
//! - [`patience`]: a deadline for everything that a test waits for.

mod callers;
mod client;
mod collector;
mod exposition;
mod http;
mod idp;
mod patience;
mod people;
mod process;
mod profiles;
mod raw;
mod refusals;
mod requests;
mod sample;
mod server;
mod store_file;
mod stream;
mod tls;
mod unread;

pub use callers::*;
pub use client::*;
pub use collector::*;
pub use exposition::*;
pub use http::*;
pub use idp::*;
pub use patience::*;
pub use people::*;
pub use process::*;
pub use profiles::*;
pub use raw::*;
pub use refusals::*;
pub use requests::*;
pub use sample::*;
pub use server::*;
pub use store_file::*;
pub use stream::*;
pub use tls::*;
pub use unread::*;
