//! What operators see of the server: its logs, the [`audit`] log, the [`metrics`] that a monitoring system collects, and
//! [`traces`].

pub mod audit;
pub mod lines;
mod logs;
pub mod metrics;
pub mod traces;

pub(crate) use logs::init;
