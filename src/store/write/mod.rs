//! The way into the store: a queue with two lanes, and the one thread that serves it.
//!
//! `lane` bounds what waits, `writer` takes batches of it and answers them, `batch` fills one transaction and commits
//! it, and `logs` is what the writer knows of the workspaces and the ends of their logs.

mod batch;
mod lane;
mod logs;
mod writer;

pub(super) use batch::Disk;
pub(super) use lane::{Lane, Ticket};
pub(super) use logs::{Logs, Workspaces};
pub(super) use writer::{IMPORT_BATCH_COMMANDS, Job, Waiting, Writer};
