//! What a request may say, and what a change means.
//!
//! Everything here is pure: no I/O, no clock, no transport. A value is parsed once, at the edge, into a type that
//! cannot be wrong, and nothing deeper checks again.
//!
//! - [`limits`]: every limit on what a caller may send.
//! - [`invalid`]: why a request is refused at the door.
//! - [`workspace`], [`mpid`], [`identity`], [`profile_key`], [`etag`], [`sequence`], [`cursor`], [`page_token`]: the
//!   names of things and places.
//! - [`profile`], [`patch`]: what may be stored, and how it changes; by way of `room`, which refuses what fits nowhere,
//!   and `weight`, what a parsed value takes of the queue.
//! - [`change`]: what an event says of a change.
//! - [`mask`], [`filter`]: what a reader wants to see; they work on wire bytes, by way of [`wire`].

pub mod change;
pub mod cursor;
pub mod etag;
pub mod filter;
pub mod identity;
pub mod invalid;
pub mod limits;
pub mod mask;
pub mod mpid;
pub mod page_token;
pub mod patch;
pub mod profile;
pub mod profile_key;
mod room;
pub mod sequence;
pub mod time;
mod weight;
pub mod wire;
pub mod workspace;

pub use crate::config::Limits;
pub use change::EventKind;
pub use cursor::{Cursor, LogId};
pub use etag::Etag;
pub use filter::Filter;
pub use identity::IdentityKey;
pub use invalid::Invalid;
pub use mask::Mask;
pub use mpid::Mpid;
pub use patch::Patch;
pub use profile::NewProfile;
pub use profile_key::ProfileKey;
pub use sequence::{Place, Sequence};
pub use time::Micros;
pub use workspace::Workspace;
