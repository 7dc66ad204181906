//! The write path: a queue with two lanes, and the one thread that serves it.
//!
//! - `job` is what callers send to the writer.
//! - `lane` bounds the commands that wait.
//! - `queue` chooses the commands of the next batch: workspaces take `turns`.
//! - `writer` serves the queue and replies to the callers.
//! - `batch` decides and writes the commands of one batch, and commits them in one transaction.
//!
//! Deliberately absent: what a command does, which `apply` decides.

mod batch;
mod job;
mod lane;
mod queue;
#[cfg(test)]
mod tests;
mod turns;
mod writer;

pub(super) use job::{Job, Waiting};
pub use lane::LaneUse;
pub(super) use lane::{Lane, Ticket};
pub(super) use queue::IMPORT_BATCH_COMMANDS;
pub(super) use writer::Writer;
