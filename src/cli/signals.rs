//! The signals that end the server: the first one drains it, and a second one ends the process at once.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The signal for a file that grows past the process's limit. By default it ends the process.
const SIGXFSZ: i32 = 25;
/// What a shell adds to a signal's number to make an exit status of it.
const SHELL: i32 = 128;

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Catching this signal is enough: the write then fails, as it does on a full disk.
    _file_limit: Signal,
}

impl Signals {
    async fn next(&mut self) -> (&'static str, SignalKind) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
        }
    }
}

/// From now on catches the signals. The future completes with the name of the first one.
pub(super) fn catch() -> io::Result<impl Future<Output = &'static str>> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        _file_limit: signal(SignalKind::from_raw(SIGXFSZ))?,
    };
    let (first, caught) = oneshot::channel();
    // A task of its own, so that a second signal is handled whatever the server is doing.
    tokio::spawn(async move {
        let _ = first.send(signals.next().await.0); // An error means that the server has ended.
        let (name, signal) = signals.next().await;
        tracing::warn!(signal = name, "a second signal: the process ends without draining");
        std::process::exit(SHELL + signal.as_raw_value());
    });
    Ok(async {
        match caught.await {
            Ok(name) => name,
            Err(_) => std::future::pending().await, // The runtime ends.
        }
    })
}
