//! The server under attack, its budgets and its memory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const MIB: usize = 1 << 20;
/// Memory that the server may take beyond its budgets.
pub const ALLOWANCE: usize = 100 * MIB;
/// Each budget of memory: its flag and its size. They are small, so that little is needed to fill them.
const BUDGETS: [(&str, usize); 5] = [
    ("--receive-bytes", 16 * MIB),
    ("--send-bytes", 32 * MIB),
    ("--cache-bytes", 32 * MIB),
    ("--queue-bytes", 16 * MIB),
    ("--ring-bytes", 16 * MIB),
];
/// The time limits are short, so that their effects can be seen.
const TIMES: [(&str, &str); 4] =
    [("--handshake-timeout", "1s"), ("--receive-timeout", "5s"), ("--send-timeout", "3s"), ("--stall-timeout", "2s")];
/// How long the server may take to start.
const START: Duration = Duration::from_secs(30);

/// A server in a process of its own.
pub struct Server {
    pub addr: SocketAddr,
    child: Child,
}

/// The memory that an attack may take: all budgets, and [`ALLOWANCE`].
pub fn allowed() -> usize {
    BUDGETS.iter().map(|(_, bytes)| bytes).sum::<usize>() + ALLOWANCE
}

impl Server {
    /// Starts the server on the store in `dir`, with more flags. It may open `files` files at a time.
    pub async fn start(dir: &Path, files: Option<u32>, flags: &[String]) -> Self {
        let mut command = command(files);
        command.args(["--addr", "127.0.0.1:0", "--metrics-addr", "off", "--log", "error", "--data-dir"]).arg(dir);
        for (flag, bytes) in BUDGETS {
            command.arg(flag).arg(bytes.to_string());
        }
        command.args(TIMES.iter().flat_map(|(flag, time)| [flag, time])).args(flags);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = tokio::time::timeout(START, lines.next_line()).await.expect("it starts in time");
        let first = first.expect("a line").expect("the server prints where it listens");
        let addr = first.strip_prefix("cameo is listening on ").expect(&first).parse().expect("an address");
        // The pipe stays open, because the server may print more.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { addr, child }
    }

    /// Ends it in order, so that its store is complete.
    pub async fn stop(mut self) {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.id()).expect("an id")).expect("an id");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a signal is sent");
        self.child.wait().await.expect("it ends");
    }

    pub async fn kill(mut self) {
        self.child.kill().await.expect("it ends");
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> usize {
        self.memory("VmRSS:")
    }

    /// The most resident memory since [`Server::forget_peak`].
    pub fn peak(&self) -> usize {
        self.memory("VmHWM:")
    }

    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").expect("the peak is reset");
    }

    /// Whether it is still there.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    fn memory(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
    }
}

/// The command that runs the binary, without the settings of this process's environment.
fn command(files: Option<u32>) -> Command {
    let binary = env!("CARGO_BIN_EXE_cameo");
    let mut command = match files {
        None => Command::new(binary),
        Some(files) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), binary]);
            shell
        }
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAMEO_")) {
        command.env_remove(name);
    }
    command
}
