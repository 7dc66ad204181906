//! The write path: a queue with two lanes, and the one thread that serves it.
//!
//! - `lane` bounds the commands that wait.
//! - `writer` takes batches off the queue and replies to the callers.
//! - `batch` decides and writes the commands of one batch, and commits them in one transaction.
//!
//! Deliberately absent: what a command does, which `apply` decides.

mod batch;
mod lane;
mod writer;

pub(super) use batch::Disk;
pub use lane::LaneUse;
pub(super) use lane::{Lane, Ticket};
pub(super) use writer::{IMPORT_BATCH_COMMANDS, Job, Waiting, Writer};
