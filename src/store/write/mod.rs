//! The way into the store: a queue with two lanes, and the one thread that serves it.
//!
//! `lane` bounds what waits, `writer` takes batches of it and answers them, and `batch` fills one transaction and
//! commits it.

mod batch;
mod lane;
mod writer;

pub(super) use batch::Disk;
pub(super) use lane::{Lane, Ticket};
pub(super) use writer::{IMPORT_BATCH_COMMANDS, Job, Waiting, Writer};
