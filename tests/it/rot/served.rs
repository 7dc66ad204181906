//! The server of a case, in a process of its own.
//!
//! On some damaged pages redb panics in a destructor while another panic unwinds. No code can catch that: the process
//! aborts, and a supervisor starts it again. So each server is the real binary, and such an abort ends only its case.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tonic::transport::Endpoint;

use crate::harness::*;

/// Every read goes to the store's file, and nothing but the calls of the test touches it.
const STRAIGHT_FROM_THE_FILE: [&str; 8] =
    ["--cache-bytes", "1MiB", "--scrub-rate", "0", "--min-free-bytes", "0", "--ring-bytes", "0"];
/// Far longer than any call takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the standard library prints before it aborts because of a second panic.
const SECOND_PANIC: &str = "panic in a destructor during cleanup";
/// How the binary's last line begins after a failed commit.
const STORE_FAILED: &str = "Error: the store failed";

/// A server that listens.
pub struct Served {
    process: TestProcess,
    dir: PathBuf,
}

/// How a server ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It drained when it was asked to.
    InOrder,
    /// It refused the file and did not listen.
    Refused,
    /// redb panicked twice.
    Aborted,
    /// A commit met a damaged page, so the store failed for good.
    StoreFailed,
    /// Any other end, which is never allowed.
    Otherwise(String),
}

impl Served {
    /// Starts a server on the store in `dir`. Returns how it ended if it does not listen.
    pub async fn open(dir: &Path) -> Result<Self, End> {
        let mut binary = binary();
        binary.stderr(Stdio::from(File::create(log(dir)).unwrap())).env_remove("RUST_BACKTRACE");
        match TestProcess::try_start_as(&mut binary, &data_dir(dir), &STRAIGHT_FROM_THE_FILE).await {
            Ok(process) => Ok(Self { process, dir: dir.to_owned() }),
            Err(status) => Err(end(status, dir, false)),
        }
    }

    /// A client that connects with its first call. If the server is gone, that call has no response.
    pub fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.process.addr)).unwrap();
        let channel = endpoint.timeout(PATIENCE).connect_lazy();
        Client::on(channel)
    }

    /// Stops the server, unless it has ended by itself.
    pub async fn stop(mut self) -> End {
        self.process.terminate();
        end(self.process.ended().await, &self.dir, true)
    }
}

/// The file for what the server prints to standard error.
fn log(dir: &Path) -> PathBuf {
    dir.join("log")
}

fn end(status: ExitStatus, dir: &Path, listened: bool) -> End {
    let log = std::fs::read_to_string(log(dir)).unwrap();
    let aborted = status.signal() == Some(Signal::ABORT.as_raw()) && log.contains(SECOND_PANIC);
    let names_the_file = log.contains(store_file(dir).to_str().unwrap());
    match status.code() {
        _ if aborted => End::Aborted,
        Some(0) if listened => End::InOrder,
        Some(1) if !listened && names_the_file => End::Refused,
        Some(1) if log.contains(STORE_FAILED) => End::StoreFailed,
        _ => End::Otherwise(format!("{status}: {log}")),
    }
}
