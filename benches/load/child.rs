//! The servers, each in its own process, and their CPU time and memory.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use cameo::config::StoreConfig;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// The unit of the times in `/proc/PID/stat`. Linux uses it on every architecture that Rust supports.
const TICKS_PER_SECOND: u32 = 100;
/// The positions of user and system time in `/proc/PID/stat`. Position 0 is the field after the name of the program.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;

/// How long a server may take until it listens, and how long to wait between attempts to connect.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_INTERVAL: Duration = Duration::from_millis(20);

/// A server. Dropping it kills the process.
pub struct Child {
    pub addr: SocketAddr,
    pid: u32,
    process: tokio::process::Child,
    /// A reference ends when this is closed, which also happens when this program is killed.
    _stdin: Option<ChildStdin>,
    /// Kept open so that the server can print. Later output is short and is not read.
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts Cameo on a store, with the default settings of everything else.
    pub async fn cameo(store: &StoreConfig) -> anyhow::Result<Self> {
        Self::cameo_with(store, &[]).await
    }

    /// The same with more flags.
    pub async fn cameo_with(store: &StoreConfig, flags: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
        command
            .args(["serve", "--addr", "127.0.0.1:0", "--metrics-addr", "off", "--log", "warn", "--data-dir"])
            .arg(&store.data_dir);
        command.arg("--cache-bytes").arg(store.cache_bytes.to_string());
        command.arg("--scrub-rate").arg(store.scrub_rate.to_string()).args(flags);
        Self::listening(spawn(&mut command)?, None).await
    }

    /// Waits for the first line of output, which ends with the address.
    pub async fn listening(mut process: tokio::process::Child, stdin: Option<ChildStdin>) -> anyhow::Result<Self> {
        let mut stdout = BufReader::new(process.stdout.take().context("the output is a pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line).await?;
        let addr = line.split_whitespace().last().context("the server did not start")?.parse()?;
        Self::new(addr, process, stdin, stdout)
    }

    /// A server at a known address, which does not print it.
    pub fn at(addr: SocketAddr, mut process: tokio::process::Child) -> anyhow::Result<Self> {
        let stdout = BufReader::new(process.stdout.take().context("the output is a pipe")?);
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

    /// The CPU time of the server so far, over all threads.
    pub fn processor_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let after_name = stat.rsplit_once(')').context("a name")?.1;
        let field = |n: usize| -> anyhow::Result<u32> {
            Ok(after_name.split_whitespace().nth(n).context("a number")?.parse()?)
        };
        Ok(Duration::from_secs(1) * (field(USER_TIME)? + field(SYSTEM_TIME)?) / TICKS_PER_SECOND)
    }

    /// The resident memory of the server, in KiB.
    pub fn resident_kib(&self) -> anyhow::Result<u32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a resident size")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Shuts the server down, and waits for it to end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid.try_into()?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        self.process.wait().await?;
        Ok(())
    }
}

/// Starts a process whose output is a pipe, and which is killed when it is dropped.
pub fn spawn(command: &mut Command) -> anyhow::Result<tokio::process::Child> {
    command.stdout(Stdio::piped()).kill_on_drop(true).spawn().with_context(|| format!("{command:?}"))
}

/// Whether a program is on the `PATH`.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A free port, for a server that cannot choose one and say which.
pub fn free_addr() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Connects to a server that has just been started.
pub async fn patiently<T>(server: &str, connect: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + START_TIMEOUT;
    loop {
        match connect().await {
            Err(_) if Instant::now() < end => tokio::time::sleep(START_INTERVAL).await,
            connection => return connection.with_context(|| format!("{server} does not listen")),
        }
    }
}
