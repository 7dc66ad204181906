//! Each guarantee of the API, by name.
//!
//! - [`durable`]: *Durable before visible.* What a loss of power does is tested in the store.
//! - [`ordered_and_unique`]: *Ordered, no holes*, and *Unique*.
//! - [`atomic`]: *Atomic*, of one write.
//! - [`truthful_cursors`]: *Truthful cursors.*
//! - [`read_your_writes`]: *Read your writes.*
//! - [`slow`]: *Slow is not an error.*
//! - [`not_lost`]: *No write is lost silently.*

mod atomic;
mod durable;
mod not_lost;
mod ordered_and_unique;
mod read_your_writes;
mod slow;
mod truthful_cursors;
