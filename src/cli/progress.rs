//! A line on standard error that shows how far a command has come. It is shown only to a person at a terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often the line changes at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// The line. It is cleared when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    is_shown: bool,
    changed: Option<Instant>,
}

impl Progress {
    pub fn new() -> Self {
        Self { is_shown: stderr().is_terminal(), changed: None }
    }

    /// Shows a text in place of the one before, unless that is too new.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        if self.changed.is_none_or(|changed| changed.elapsed() >= INTERVAL) {
            self.show_now(text);
        }
    }

    /// Shows a text in place of the one before.
    pub fn show_now(&mut self, text: impl FnOnce() -> String) {
        if !self.is_shown {
            return;
        }
        self.changed = Some(Instant::now());
        let _ = write!(stderr(), "\r\x1b[K{}", text()); // Errors are ignored: stderr may be closed.
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.changed.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

/// How much of a whole is done, in percent. A whole that grew meanwhile is not done before its end.
pub(super) fn percent(done: u64, whole: u64) -> u64 {
    (done.saturating_mul(100)).checked_div(whole).unwrap_or_default().min(99)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_to_the_full_before_its_end() {
        assert_eq!(
            [(0, 0), (0, 9), (1, 3), (3, 3), (9, 3)].map(|(done, whole)| percent(done, whole)),
            [0, 0, 33, 99, 99]
        );
    }
}
