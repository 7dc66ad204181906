//! What a request may contain, and what a change means.
//!
//! Everything here is pure: no I/O, no clock, no transport. A value is parsed once, at the edge, into a type that is
//! valid by construction. Deeper code does not check it again.
//!
//! - [`limits`]: the limits of the API that no setting changes.
//! - [`invalid`]: why a request is refused before it reaches the store.
//! - [`workspace`], [`mpid`], [`identity`], [`profile_key`], [`etag`]: how things are identified.
//! - [`sequence`], [`cursor`], [`page_token`], [`workspace_page`], [`subscription_page`], [`audience_page`]: places
//!   in a log or a list.
//! - [`subscription`]: durable subscriptions and their settings. [`shard`]: shares of the profiles.
//! - [`profile`], [`patch`]: what may be stored, and how it changes. `room` refuses a patch that fits into no profile,
//!   `distinct` finds the new values of a list, and `weight` is the memory that a parsed value takes while it waits in
//!   the queue.
//! - [`audience`]: named sets of profiles. [`identity_settings`]: how a workspace resolves identities.
//! - [`merge`]: how two profiles become one.
//! - [`change`]: what an event says about a change. [`transition`]: the profile before and after it.
//! - [`grant`]: what a caller may see of profiles.
//! - [`mask`], [`filter`], [`expression`]: what a reader wants to see. A mask works on wire bytes, with [`wire`]. An
//!   expression is a condition on profiles in CEL.

pub mod audience;
pub mod audience_page;
pub mod change;
pub mod client;
pub mod cursor;
mod distinct;
pub mod etag;
pub mod expression;
pub mod filter;
pub mod grant;
pub mod identity;
pub mod identity_settings;
pub mod invalid;
pub mod limits;
pub mod mask;
pub mod merge;
pub mod mpid;
pub mod page_token;
pub mod patch;
pub mod profile;
pub mod profile_key;
mod room;
pub mod sequence;
pub mod shard;
pub mod subscription;
pub mod subscription_page;
pub mod time;
pub mod transition;
mod weight;
pub mod wire;
pub mod workspace;
pub mod workspace_page;

pub use crate::config::Limits;
pub use audience::AudienceId;
pub use change::EventKind;
pub use client::Client;
pub use cursor::{Cursor, LogId, Position};
pub use etag::Etag;
pub use expression::Expression;
pub use filter::Filter;
pub use grant::Grant;
pub use identity::IdentityKey;
pub use identity_settings::IdentitySettings;
pub use invalid::Invalid;
pub use mask::Mask;
pub use mpid::Mpid;
pub use patch::Patch;
pub use profile::NewProfile;
pub use profile_key::ProfileKey;
pub use sequence::{Place, Sequence};
pub use shard::Shard;
pub use subscription::{Settings, SubscriptionName};
pub use time::Micros;
pub use transition::Transition;
pub use workspace::Workspace;
