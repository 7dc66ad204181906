//! What operators see of the server: its logs, the [`audit`] log, the [`metrics`] that a monitoring system collects, and
//! [`traces`]. All of them name the [`code`] of a call in the same way.

pub mod audit;
pub mod code;
pub mod lines;
mod logs;
pub mod metrics;
pub mod traces;

pub(crate) use logs::init;
