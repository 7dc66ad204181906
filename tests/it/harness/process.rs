//! The real binary, in a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Client, within};

/// A server in its own process.
pub struct TestProcess {
    pub addr: SocketAddr,
    pub child: Child,
}

impl TestProcess {
    /// Starts a server with its store in `dir`, and returns when it listens.
    pub async fn start(dir: &Path, flags: &[&str]) -> Self {
        Self::start_as(&mut binary(), dir, flags).await
    }

    /// The same with a command of the caller's, which runs the binary.
    pub async fn start_as(binary: &mut Command, dir: &Path, flags: &[&str]) -> Self {
        let started = Self::try_start_as(binary, dir, flags).await;
        started.unwrap_or_else(|status| panic!("the server does not listen: {status}"))
    }

    /// The same; how the process ended if it does not listen.
    pub async fn try_start_as(binary: &mut Command, dir: &Path, flags: &[&str]) -> Result<Self, ExitStatus> {
        let log: &[&str] = if flags.contains(&"--log") { &[] } else { &["--log", "warn"] };
        let mut child = binary
            .args(["--addr", "127.0.0.1:0"])
            .args(log)
            .arg("--data-dir")
            .arg(dir)
            .args(flags)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(first) = within(lines.next_line()).await.unwrap() else {
            return Err(within(child.wait()).await.unwrap());
        };
        let addr = first.strip_prefix("cameo is listening on ").expect(&first).parse().unwrap();
        // The pipe stays open, because the server may print more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { addr, child })
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// Sends SIGKILL and waits for the process to end.
    pub async fn kill(&mut self) {
        within(self.child.kill()).await.unwrap();
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        within(self.child.wait()).await.unwrap()
    }

    /// Sends SIGTERM, which asks the server to drain.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}

/// The command that runs the binary under test, without the settings of the environment that the tests run in, and
/// without `/metrics`, whose default port may be taken.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cameo"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAMEO_")) {
        command.env_remove(name);
    }
    command.env("CAMEO_METRICS_ADDR", "off");
    command
}

/// Runs a command to its end.
pub async fn output(command: &mut Command) -> Output {
    within(command.kill_on_drop(true).output()).await.unwrap()
}
