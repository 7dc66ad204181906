//! The servers, each a process of its own, and what the system says of them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use cameo::config::StoreConfig;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// Of the times in `/proc/PID/stat`: what Linux says on every architecture that Rust has.
const TICKS_PER_SECOND: u32 = 100;

/// A server. Killed when it is dropped.
pub struct Child {
    pub addr: SocketAddr,
    pid: u32,
    process: tokio::process::Child,
    /// A reference ends when this is closed, also if we are killed.
    _stdin: Option<ChildStdin>,
    /// Nobody reads what it prints later, which is little; but it must be able to print.
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Cameo, on this store, with its defaults.
    pub async fn cameo(store: &StoreConfig) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
        command.args(["serve", "--addr", "127.0.0.1:0", "--log", "warn", "--data-dir"]).arg(&store.data_dir);
        command.arg("--cache-bytes").arg(store.cache_bytes.to_string());
        Self::listening(spawn(&mut command)?, None).await
    }

    /// Waits for the first line, which ends with the address.
    pub async fn listening(mut process: tokio::process::Child, stdin: Option<ChildStdin>) -> anyhow::Result<Self> {
        let mut stdout = BufReader::new(process.stdout.take().context("its output is ours")?);
        let mut line = String::new();
        stdout.read_line(&mut line).await?;
        let addr = line.split_whitespace().last().context("the server did not start")?.parse()?;
        Self::new(addr, process, stdin, stdout)
    }

    /// One that listens where it was told to, and need not say so.
    pub fn at(addr: SocketAddr, mut process: tokio::process::Child) -> anyhow::Result<Self> {
        let stdout = BufReader::new(process.stdout.take().context("its output is ours")?);
        Self::new(addr, process, None, stdout)
    }

    fn new(
        addr: SocketAddr,
        process: tokio::process::Child,
        stdin: Option<ChildStdin>,
        stdout: BufReader<ChildStdout>,
    ) -> anyhow::Result<Self> {
        let pid = process.id().context("the server has ended")?;
        Ok(Self { addr, pid, process, _stdin: stdin, _stdout: stdout })
    }

    /// Time that its threads have run, on all processors together.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let after_name = stat.rsplit_once(')').context("a name")?.1;
        let field = |n: usize| -> anyhow::Result<u32> {
            Ok(after_name.split_whitespace().nth(n).context("a number")?.parse()?)
        };
        Ok(Duration::from_secs(1) * (field(11)? + field(12)?) / TICKS_PER_SECOND) // User and system.
    }

    /// Resident memory, in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a resident size")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Ends it in order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid.try_into()?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        self.process.wait().await?;
        Ok(())
    }
}

pub fn spawn(command: &mut Command) -> anyhow::Result<tokio::process::Child> {
    command.stdout(Stdio::piped()).kill_on_drop(true).spawn().with_context(|| format!("{command:?}"))
}
