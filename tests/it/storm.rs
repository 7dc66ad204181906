//! A storm of subscribers, and the validator that reads what they recorded.
//!
//! - [`violation`]: what can be wrong. [`validator`]: what finds it.
//! - [`log`]: the truth, and what it makes of the profiles. [`recording`]: what a subscriber asked for and read.
//! - [`run`]: the storm. [`writers`]: what is written in it. [`clients`]: its subscribers. [`draw`]: what they ask for.
//!   [`conditions`]: the CEL among it. [`gone`]: how a restart ends their calls.

mod clients;
mod conditions;
mod draw;
mod gone;
mod log;
mod recording;
mod run;
mod validator;
pub mod violation;
mod writers;

pub use run::{Size, storm};
