//! What operators see of the server: its logs, the [`audit`] log, and the [`metrics`] that a monitoring system collects.

pub mod audit;
pub mod lines;
mod logs;
pub mod metrics;

pub(crate) use logs::init;
