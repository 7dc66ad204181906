//! What operators see of the server: its logs, and the [`metrics`] that a monitoring system collects.

mod logs;
pub mod metrics;

pub(crate) use logs::init;
