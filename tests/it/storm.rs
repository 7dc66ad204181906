//! A storm of subscribers, and the validator that reads what they recorded.
//!
//! - [`violation`]: what can be wrong. [`validator`], and [`overtaken`] of it: what finds it.
//! - [`truth`]: the reader of the truth. [`log`] and [`snapshot`]: what the log makes of the profiles. [`changes`],
//!   [`merges`] and [`audiences`]: what its events must say. [`erasures`] and [`retention`]: what is left of them.
//! - [`recording`]: what a subscriber asked for and read. [`view`]: what it must see. [`seen`]: what all of them did.
//! - [`run`]: the storm. [`writers`], [`members`] and [`erasers`]: what is written in it. [`clients`]: its subscribers, of which
//!   some are [`durable`]. [`draw`]: what they ask for.
//!   [`conditions`]: the CEL among it. [`gone`]: how a restart ends their calls.
//! - [`stories`]: short stories that the checker of the log is told.

mod audiences;
mod changes;
mod clients;
mod conditions;
mod draw;
mod durable;
mod erasers;
mod erasures;
mod gone;
mod log;
mod members;
mod merges;
mod overtaken;
mod recording;
mod retention;
mod run;
mod seen;
mod snapshot;
mod stories;
mod truth;
mod validator;
mod view;
pub mod violation;
mod writers;

pub use run::{Size, storm};
pub use seen::WINDS;
pub use stories::{Step, told};
