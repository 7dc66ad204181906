//! A storm of subscribers, and the validator that reads what they recorded.
//!
//! - [`violation`]: what can be wrong. [`validator`], and [`overtaken`] of it: what finds it.
//! - [`truth`]: the reader of the truth. [`log`] and [`snapshot`]: what the log makes of the profiles.
//!   [`retention`]: what is left of it.
//! - [`recording`]: what a subscriber asked for and read. [`seen`]: what all of them did.
//! - [`run`]: the storm. [`writers`]: what is written in it. [`clients`]: its subscribers, of which
//!   some are [`durable`]. [`draw`]: what they ask for.
//!   [`conditions`]: the CEL among it. [`gone`]: how a restart ends their calls.

mod clients;
mod conditions;
mod draw;
mod durable;
mod gone;
mod log;
mod overtaken;
mod recording;
mod retention;
mod run;
mod seen;
mod snapshot;
mod truth;
mod validator;
pub mod violation;
mod writers;

pub use run::{Size, storm};
